"""A guarded command ends with its parent, and is otherwise as good as unguarded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pocoflow.guard import GuardedProcess, guarded_popen
from tests.support.wait import is_running, process_state, wait_until

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")

# Runs, until it is told not to, and ignores the polite ways to tell it.
STUBBORN = "trap '' TERM INT; echo ready; while :; do sleep 0.05; done"

PARENT = """
import os, subprocess, sys
from pathlib import Path
from pocoflow.guard import guarded_popen

def start(script, **kwargs):
    process = guarded_popen(["sh", "-c", script], **kwargs)
    print(process.command_pid, flush=True)
    return process
"""


@pytest.fixture
def run() -> Iterator[Callable[..., GuardedProcess]]:
    """Start guarded shell scripts, and stop them after the test."""
    started: list[GuardedProcess] = []

    def run(script: str, **kwargs: object) -> GuardedProcess:
        started.append(guarded_popen(["sh", "-c", script], **kwargs))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.stop()
        if process.stdout:
            process.stdout.close()


@pytest.fixture
def parent() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a Python process that starts guarded commands with `start(script)` and prints their pids."""
    started: list[subprocess.Popen[str]] = []

    def parent(code: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", f"{PARENT}\n{code}\nsys.stdin.read()"]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True))
        return started[-1]

    yield parent
    for process in started:
        process.kill()
        process.communicate()


def next_pid(parent: subprocess.Popen[str]) -> int:
    assert parent.stdout
    return int(parent.stdout.readline())


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_the_exit_code_of_the_command_is_passed_on(run):
    assert run("exit 7").wait(10) == 7


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT])
def test_death_by_a_signal_looks_as_if_unguarded(run, number):
    assert run(f"kill -{int(number)} $$").wait(10) == -number


def test_output_reaches_the_given_stdout(run):
    process = run("echo out; echo err >&2", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    assert process.communicate(timeout=10)[0] == "out\nerr\n"


def test_environment_folder_and_file_descriptors_reach_the_command(run, tmp_path):
    read_end, write_end = os.pipe()
    with open(read_end, encoding="utf8") as pipe:
        run(
            f'echo "$GREETING $PWD" > /dev/fd/{write_end}',
            env={"GREETING": "hello"},
            cwd=tmp_path,
            pass_fds=[write_end],
        )
        os.close(write_end)

        assert pipe.read() == f"hello {tmp_path}\n"


def test_standard_input_is_empty_unless_given(run):
    assert run("read line").wait(10) == 1


def test_a_missing_command_is_reported_as_popen_does():
    with pytest.raises(FileNotFoundError) as caught:
        guarded_popen(["no-such-command-anywhere"])

    assert caught.value.filename == "no-such-command-anywhere"


def test_a_missing_working_folder_is_reported_as_popen_does(tmp_path):
    with pytest.raises(FileNotFoundError):
        guarded_popen(["true"], cwd=tmp_path / "missing")


def test_command_pid_is_the_command(run, tmp_path):
    process = run(f"echo $$ > {tmp_path}/pid; exec sleep 60")

    assert wait_until(lambda: lines_of(tmp_path / "pid")) == [str(process.command_pid)]


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "QUIT", "USR1", "USR2"])
def test_signals_are_passed_on(run, tmp_path, name):
    log = tmp_path / "log"
    process = run(f"trap 'exit 42' {name}; echo ready > {log}; while :; do sleep 0.05; done")
    wait_until(lambda: lines_of(log))

    process.send_signal(getattr(signal, f"SIG{name}"))

    assert process.wait(10) == 42


def test_a_signal_is_for_the_command_and_not_for_its_children(run, tmp_path):
    # A Celery worker finishes its tasks when told to end; its children, told the same, would drop them.
    log = tmp_path / "log"
    work = "for i in 1 2 3 4 5 6; do sleep 0.05; done"
    child = f"trap 'echo told >> {log}; exit' TERM; echo child >> {log}; {work}"
    process = run(f'trap : TERM; sh -c "{child}; echo finished >> {log}" & wait; wait')
    wait_until(lambda: lines_of(log))

    process.terminate()
    process.wait(10)

    assert lines_of(log) == ["child", "finished"]


def test_ctrl_c_reaches_the_command_once(run, tmp_path):
    log = tmp_path / "log"
    script = (
        f"trap 'echo int >> {log}' INT; trap 'exit 3' TERM; echo ready >> {log}; while :; do sleep 0.05; done"
    )
    process = run(script, start_new_session=True)
    wait_until(lambda: lines_of(log))

    os.killpg(process.pid, signal.SIGINT)  # what a terminal does to its foreground group
    wait_until(lambda: len(lines_of(log)) > 1)
    process.terminate()

    assert process.wait(10) == 3
    assert lines_of(log) == ["ready", "int"]


def test_kill_ends_the_command_and_its_children(run, tmp_path):
    log = tmp_path / "log"
    process = run(f"sleep 60 & echo $! > {log}; wait")
    child = int(wait_until(lambda: lines_of(log))[0])

    process.kill()

    assert process.wait(10) == -signal.SIGKILL
    wait_until(lambda: not is_running(child) and not is_running(process.command_pid))


def test_a_command_can_be_frozen_and_thawed(run):
    process = run("exec sleep 60")

    process.send_signal(signal.SIGSTOP)
    wait_until(lambda: process_state(process.command_pid) == "T")
    assert process.poll() is None
    process.send_signal(signal.SIGCONT)

    wait_until(lambda: process_state(process.command_pid) == "S")


def test_stop_ends_a_stubborn_command_within_its_grace(run):
    process = run(STUBBORN, grace_s=0.2, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()

    assert process.stop() == -signal.SIGKILL
    assert not is_running(process.command_pid)


def test_stop_may_be_repeated(run):
    process = run("exec sleep 60")

    assert process.stop() == process.stop() == -signal.SIGTERM


def test_stop_uses_the_signal_asked_for(run):
    assert run("exec sleep 60", stop_signal=signal.SIGINT).stop() == -signal.SIGINT


def test_stop_thaws_a_frozen_command_to_end_it(run):
    process = run("exec sleep 60", grace_s=30)
    process.send_signal(signal.SIGSTOP)

    assert process.stop() == -signal.SIGTERM


def test_stop_removes_the_folder(run, tmp_path):
    folder = tmp_path / "data"
    (folder / "inner").mkdir(parents=True)

    run("exec sleep 60", cwd=folder, remove=folder).stop()

    assert not folder.exists()


def test_a_command_that_ends_by_itself_keeps_the_folder(run, tmp_path):
    run("exit 0", remove=tmp_path).wait(10)

    assert tmp_path.exists()


def test_what_a_command_leaves_behind_ends_with_it(run, tmp_path):
    log = tmp_path / "log"
    process = run(f"sleep 60 & echo $! > {log}")

    process.wait(10)

    wait_until(lambda: not is_running(int(lines_of(log)[0])))


@as_root
def test_root_can_run_the_command_as_somebody_else(run):
    process = run("id -u; id -g; id -G", user=65534, stdout=subprocess.PIPE, text=True)

    assert process.communicate(timeout=10)[0].split() == ["65534", "65534", "65534"]


def test_a_command_ends_when_its_parent_is_killed(parent):
    process = parent("start('exec sleep 60')")
    pid = next_pid(process)

    process.kill()

    wait_until(lambda: not is_running(pid))


def test_a_command_ends_when_its_parent_ends_normally(parent):
    process = parent("start('exec sleep 60')")
    pid = next_pid(process)

    process.communicate()

    wait_until(lambda: not is_running(pid))


def test_children_of_a_command_end_when_its_parent_is_killed(parent, tmp_path):
    log = tmp_path / "log"
    process = parent(f"start('sleep 60 & echo $! > {log}; wait')")
    pids = [next_pid(process), int(wait_until(lambda: lines_of(log))[0])]

    process.kill()

    wait_until(lambda: not any(map(is_running, pids)))


def test_a_stubborn_command_is_killed_after_its_grace(parent):
    process = parent(
        f'start("""{STUBBORN}""", grace_s=0.2, stdout=subprocess.PIPE).stdout.readline(); print(flush=True)'
    )
    pid = next_pid(process)
    process.stdout.readline()

    process.kill()

    wait_until(lambda: not is_running(pid))


def test_no_guard_stays_when_the_parent_is_killed(parent):
    process = parent("print(start('exec sleep 60').pid, flush=True)")
    pids = [next_pid(process), next_pid(process)]

    process.kill()

    wait_until(lambda: not any(map(is_running, pids)))


def test_a_folder_goes_with_its_command_when_the_parent_is_killed(parent, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    process = parent(f"start('exec sleep 60', remove=Path({str(folder)!r}))")
    next_pid(process)

    process.kill()

    wait_until(lambda: not folder.exists())


@pytest.mark.parametrize(
    "sibling",
    [
        "pid = subprocess.Popen(['sleep', '60'], close_fds=False, start_new_session=True).pid",
        "pid = os.fork()\nif not pid: os.execlp('sleep', 'sleep', '60')",
        "import time\npid = os.fork()\nif not pid: time.sleep(60)",
    ],
    ids=["spawned with open descriptors", "forked with exec", "forked without exec"],
)
def test_a_sibling_that_outlives_the_parent_does_not_keep_the_command(parent, sibling):
    process = parent(f"start('exec sleep 60')\n{sibling}\nprint(pid, flush=True)")
    command, survivor = next_pid(process), next_pid(process)

    process.kill()

    wait_until(lambda: not is_running(command))
    assert is_running(survivor)
    os.kill(survivor, signal.SIGKILL)


def test_a_parent_that_blocks_signals_still_sees_the_end(parent):
    process = parent(
        "import signal, threading\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))\n"
        "print(start('exit 5').wait(10), flush=True)"
    )
    next_pid(process)

    assert next_pid(process) == 5


def test_a_parent_with_many_open_files_can_start_a_command(parent):
    process = parent(
        "import resource\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 2048), hard))\n"
        "files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]\n"
        "print(start('exit 5').wait(10), flush=True)"
    )
    next_pid(process)

    assert next_pid(process) == 5
