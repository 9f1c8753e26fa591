"""`pocoflow dev` as a user runs it: a real broker, real workers, and nothing left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.wait import wait_until

ROOT = Path(__file__).resolve().parents[2]
DEV = [sys.executable, "-m", "pocoflow", "dev"]


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "river.md"
    path.write_text("The river rises in the hills. It crosses the plain. It ends in the sea.\n" * 5)
    return path


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "POCOFLOW_DATABASE_URL": f"sqlite:///{tmp_path}/dev.db"}


@pytest.fixture
def kept(tmp_path: Path, environ: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """`pocoflow dev` with the flows of the digest, ready and running."""
    talk = (tmp_path / "talk.txt").open("w+")
    process = subprocess.Popen(
        [*DEV, "--flows", "examples.digest"],
        cwd=tmp_path,
        env=environ,
        stderr=talk,
        text=True,
        start_new_session=True,
    )
    process.talk = (tmp_path / "talk.txt").read_text
    try:
        wait_until(lambda: "POCOFLOW_FLOWS=" in process.talk(), timeout_s=40)
        yield process
    finally:
        talk.close()
        if process.poll() is None:
            process.kill()
        process.wait(20)


def broker_of(talk: str) -> str:
    return re.search(r"POCOFLOW_BROKER_URL=(\S+)", talk)[1]


def processes_with(text: str) -> list[int]:
    """Processes that have this text in their environment or command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            seen = (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if text.encode() in seen:
            found.append(int(folder.name))
    return found


def test_the_demo_digests_the_documents_on_two_workers_and_shows_the_steps(
    document: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [*DEV, "--demo", str(document)],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=100,
    )

    assert done.returncode == 0, done.stderr
    assert "The river rises in the hills" in done.stdout
    assert "step 0 collect done" in done.stderr
    assert re.search(r"digest-\w+: \d+ steps in [\d.]+ s \(\S+ \d+", done.stderr)
    assert f"sqlite:///{tmp_path}/dev.db" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_everything_it_started_ends_with_it(kept: subprocess.Popen[str], signal_number: int) -> None:
    broker = broker_of(kept.talk())
    assert len(processes_with(broker)) >= 4  # two workers, each with its child

    kept.send_signal(signal_number)
    kept.wait(30)

    wait_until(lambda: not processes_with(broker), timeout_s=30)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_worker_that_was_killed_is_started_again(kept: subprocess.Popen[str]) -> None:
    workers = [
        pid
        for pid in processes_with("worker-1@")
        if b"guard.py" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]

    for pid in workers:
        os.kill(pid, signal.SIGKILL)

    wait_until(lambda: "starting it again" in kept.talk(), timeout_s=20)
    wait_until(lambda: kept.talk().count("worker-1@") > 1 and processes_with("worker-1@"), timeout_s=20)


def test_paths_without_demo_are_refused(document: Path, environ: dict[str, str]) -> None:
    done = subprocess.run([*DEV, str(document)], env=environ, capture_output=True, text=True, timeout=30)

    assert done.returncode == 2
    assert "--demo" in done.stderr


def test_flows_that_cannot_be_imported_are_named_before_anything_starts(environ: dict[str, str]) -> None:
    done = subprocess.run(
        [*DEV, "--flows", "no.such"], env=environ, capture_output=True, text=True, timeout=30
    )

    assert done.returncode == 1
    assert "POCOFLOW_FLOWS names 'no.such'" in done.stderr
    assert "Traceback" not in done.stderr
