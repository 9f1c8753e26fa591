"""Without a broker, a worker inside the process executes its runs, and leaves them resumable when it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pocoflow import (
    AsyncNode,
    Flow,
    Node,
    RunCancelledError,
    RunInterruptedError,
    StepFailedError,
    Store,
    WorkflowDB,
)
from pocoflow.guard import GuardedProcess, guarded_popen
from tests.integration import flows
from tests.support.wait import wait_until
from tests.support.workers import ROOT, MakeCluster, Trace, committed_steps, environment, events_of

WAIT_S = 60.0
PROMPT_S = 10.0
QUICK = {"LEASE_S": "1", "SWEEP_S": "0.1", "GRACE_S": "0.5"}
SCRIPT = """
import sys
from pocoflow import Flow
from tests.integration.flows import Step, line

class Mine(Step):
    "Defined in __main__, where no worker could import it."

flow = Flow(line(Mine(name="one"), Mine(name="two"), Mine(name="three")), flow_name="mine")
log, gate, hold, *run_ids = sys.argv[1:]
handles = [
    flow.run_background({"run": run_id, "log": log, "gate": gate, "hold": hold}, run_id=run_id)
    for run_id in run_ids
]
for handle in handles:
    print(handle.run_id, *handle.wait()["done"], flush=True)
"""


class Script:
    """The script above in a process of its own."""

    def __init__(self, process: GuardedProcess, output: Path) -> None:
        self._process = process
        self._output = output

    @property
    def said(self) -> str:
        return self._output.read_text()

    def signal(self, number: int) -> None:
        os.kill(self._process.command_pid, number)

    def wait(self, timeout_s: float = WAIT_S) -> int:
        return self._process.wait(timeout_s)


@pytest.fixture
def run_script(tmp_path: Path, trace: Trace) -> Iterator[Callable[..., Script]]:
    """Execute the script for these runs; `hold` names the node that waits for the gate."""
    processes: list[GuardedProcess] = []
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)

    def run(*run_ids: str, hold: str = "", **settings: str) -> Script:
        output = tmp_path / f"script{len(processes)}.log"
        with output.open("wb") as stream:
            process = guarded_popen(
                [sys.executable, path, trace.path, trace.gate, hold, *run_ids],
                grace_s=0.1,
                env={**environment(settings), "PYTHONPATH": str(ROOT)},
                cwd=tmp_path,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        processes.append(process)
        return Script(process, output)

    yield run
    for number, process in enumerate(processes):
        process.stop()
        print(f"----- script {number} -----\n{(tmp_path / f'script{number}.log').read_text()}")


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def history(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each place for the history of an embedded run, set as the database of this process."""
    if request.param == "memory":
        return "memory"
    url: str = request.getfixturevalue(f"{request.param}_url")
    monkeypatch.setenv("POCOFLOW_DATABASE_URL", url)
    return url


def test_a_flow_in_the_main_module_of_a_script_runs(
    run_script: Callable[..., Script], history: str, trace: Trace
) -> None:
    settings = {} if history == "memory" else {"DATABASE_URL": history}

    script = run_script("a", **settings)
    exit_code = script.wait()

    assert exit_code == 0
    assert script.said == "a one two three\n"


def test_a_flow_defined_in_a_function_runs(history: str) -> None:
    class Double(Node):
        def prep(self, store: Store) -> int:
            return int(store["number"])

        def exec(self, number: int) -> int:
            return 2 * number

        def post(self, store: Store, number: int, result: int) -> None:
            store["number"] = result

    class DoubleLater(AsyncNode):
        def prep(self, store: Store) -> int:
            return int(store["number"])

        async def exec_async(self, number: int) -> int:
            return 2 * number

        def post(self, store: Store, number: int, result: int) -> None:
            store["number"] = result

    handle = Flow(Double().then("default", DoubleLater())).run_background({"number": 3})

    assert handle.wait(WAIT_S)["number"] == 12
    assert [event["step"] for event in events_of(handle, "node_end")] == [0, 1]


def test_db_path_of_the_flow_is_where_the_history_goes(tmp_path: Path, trace: Trace) -> None:
    path = tmp_path / "deep" / "history.db"
    flow = Flow(flows.Step(name="only"), db_path=path)

    handle = trace.start(flow)
    handle.wait(WAIT_S)

    assert WorkflowDB(path).get_run(handle.run_id)["status"] == "completed"  # type: ignore[index]


def test_nothing_is_written_to_the_working_directory_without_a_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trace: Trace
) -> None:
    monkeypatch.chdir(tmp_path)

    trace.start(flows.chain).wait(WAIT_S)

    assert [path.name for path in tmp_path.iterdir()] == ["effects.log"]


def test_more_runs_than_threads_all_complete(history: str, trace: Trace) -> None:
    handles = [trace.start(flows.chain, number=number) for number in range(20)]

    results = [handle.wait(WAIT_S) for handle in handles]

    assert [result["number"] for result in results] == list(range(20))
    assert all(len(events_of(handle, "node_end")) == 5 for handle in handles)


def test_a_retry_comes_when_its_delay_is_over(history: str, trace: Trace) -> None:
    began = time.monotonic()

    result = trace.start(flows.flaky, failures=1).wait(WAIT_S)

    assert result["result"] == "try 2"
    assert time.monotonic() - began >= flows.Flaky.retry_delay


def test_a_node_that_fails_for_good_is_named(history: str, trace: Trace) -> None:
    with pytest.raises(StepFailedError) as caught:
        trace.start(flows.broken).wait(WAIT_S)

    assert (caught.value.node, caught.value.step, caught.value.attempts) == ("broken", 1, 2)


def test_a_node_that_calls_exit_fails_its_run(history: str, trace: Trace) -> None:
    handle = trace.start(flows.quitter, code="enough of this")

    with pytest.raises(StepFailedError, match="SystemExit: enough of this"):
        handle.wait(WAIT_S)

    assert len(trace.of(handle.run_id, "quitter")) == 1


def test_the_queue_of_a_node_does_not_count(history: str, trace: Trace) -> None:
    handle = trace.start(flows.gpu)

    handle.wait(WAIT_S)

    assert [(effect.node, effect.pid) for effect in trace.of(handle.run_id)] == [
        (name, os.getpid()) for name in ("before", "on_gpu", "after")
    ]


def test_a_running_step_sees_a_cancel(history: str, trace: Trace) -> None:
    handle = trace.start(flows.patient)
    trace.wait_for(handle.run_id, "patient")

    handle.cancel()

    with pytest.raises(RunCancelledError):
        handle.wait(WAIT_S)
    assert handle.store["result"] == "returned early"
    assert trace.of(handle.run_id, "later") == []


def test_a_celery_app_of_the_users_own_stays_as_it_is(tmp_path: Path) -> None:
    code = (
        "from celery import Celery\nfrom pocoflow import Flow, Node\n"
        "mine = Celery('mine', broker='memory://')\nmine.set_default()\nmine.finalize()\n"
        "before = sorted(mine.tasks)\n"
        "print(Flow(Node()).run_background({'a': 1}).wait(30)['a'], sorted(mine.tasks) == before)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment({}),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )

    assert (done.stdout, done.stderr) == ("1 True\n", "")


def test_ctrl_c_ends_the_process_at_once_and_leaves_the_run_paused(
    run_script: Callable[..., Script], database_url: str, trace: Trace
) -> None:
    script = run_script("a", hold="two", DATABASE_URL=database_url)
    trace.wait_for("a", "two")

    script.signal(signal.SIGINT)
    script.wait(PROMPT_S)

    run = WorkflowDB(database_url).get_run("a")
    assert run is not None
    assert (run["status"], run["error_type"]) == ("paused", "RunInterruptedError")
    (line,) = [line for line in script.said.splitlines() if line.startswith("pocoflow:")]
    assert re.search(r"run a\b.*same run_id and input", line)


def test_ctrl_c_without_a_database_ends_the_process_at_once(
    run_script: Callable[..., Script], trace: Trace
) -> None:
    script = run_script("a", hold="two")
    trace.wait_for("a", "two")

    script.signal(signal.SIGINT)
    script.wait(PROMPT_S)

    assert len([line for line in script.said.splitlines() if line.startswith("pocoflow:")]) == 1


def test_a_second_execution_after_ctrl_c_goes_on_from_the_last_checkpoint(
    run_script: Callable[..., Script], database_url: str, trace: Trace
) -> None:
    first = run_script("a", "b", hold="two", DATABASE_URL=database_url)
    trace.wait_for("a", "two")
    trace.wait_for("b", "two")
    first.signal(signal.SIGINT)
    first.wait(PROMPT_S)
    trace.open_gate()

    second = run_script("a", "b", hold="two", DATABASE_URL=database_url)
    exit_code = second.wait()

    database = WorkflowDB(database_url)
    assert exit_code == 0
    assert second.said == "a one two three\nb one two three\n"
    assert [len(trace.of("a", node)) for node in ("one", "two", "three")] == [1, 2, 1]
    for run_id in ("a", "b"):
        assert [row["step"] for row in database.get_checkpoints(run_id)] == [0, 1, 2]


def test_a_script_that_ends_while_a_run_goes_on_leaves_it_paused(
    sqlite_url: str, tmp_path: Path, trace: Trace
) -> None:
    code = SCRIPT.partition("for handle in handles:")[0] + "handles[0].events()"
    arguments = [str(trace.path), str(trace.gate), "one", "a"]

    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**environment({"DATABASE_URL": sqlite_url}), "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PROMPT_S,
        check=True,
    )

    assert WorkflowDB(sqlite_url).list_runs()[0]["status"] == "paused"
    assert len(done.stderr.splitlines()) == 1


def test_a_run_whose_process_was_killed_is_paused_by_another_process_and_can_go_on(
    run_script: Callable[..., Script], sqlite_url: str, trace: Trace
) -> None:
    doomed = run_script("a", hold="two", DATABASE_URL=sqlite_url, **QUICK)
    trace.wait_for("a", "two")
    doomed.signal(signal.SIGKILL)
    doomed.wait()
    run_script("b", hold="one", DATABASE_URL=sqlite_url, **QUICK)
    database = WorkflowDB(sqlite_url)

    wait_until(lambda: database.get_run("a")["status"] == "paused", timeout_s=WAIT_S)  # type: ignore[index]
    trace.open_gate()
    again = run_script("a", hold="two", DATABASE_URL=sqlite_url, **QUICK)
    again.wait()

    assert again.said == "a one two three\n"
    assert [row["step"] for row in database.get_checkpoints("a")] == [0, 1, 2]
    assert len(trace.of("a", "one")) == 1


def test_a_second_execution_after_kill_9_goes_on_by_itself(
    run_script: Callable[..., Script], sqlite_url: str, trace: Trace
) -> None:
    doomed = run_script("a", hold="two", DATABASE_URL=sqlite_url, **QUICK)
    trace.wait_for("a", "two")
    doomed.signal(signal.SIGKILL)
    doomed.wait()
    trace.open_gate()

    again = run_script("a", hold="two", DATABASE_URL=sqlite_url, **QUICK)
    again.wait(20)

    assert again.said == "a one two three\n"


def test_processes_on_one_database_leave_each_others_runs_alone(
    run_script: Callable[..., Script], sqlite_url: str, trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One thread, held in mid-step: the second run waits in the first process for longer than any lease.
    busy = run_script("a", "b", hold="two", DATABASE_URL=sqlite_url, EMBEDDED_THREADS="1", **QUICK)
    trace.wait_for("a", "two")
    for name, value in {"DATABASE_URL": sqlite_url, **QUICK}.items():
        monkeypatch.setenv(f"POCOFLOW_{name}", value)

    began = time.monotonic()
    while time.monotonic() - began < 3 * float(QUICK["LEASE_S"]):
        trace.start(flows.flaky, failures=1).wait(WAIT_S)  # a second each, with sweeps all the time
    trace.open_gate()
    exit_code = busy.wait()

    database = WorkflowDB(sqlite_url)
    assert exit_code == 0
    assert busy.said == "a one two three\nb one two three\n"
    for run_id in ("a", "b"):
        assert "run_interrupted" not in [event["event"] for event in database.get_events(run_id)]
        assert [row["step"] for row in database.get_checkpoints(run_id)] == [0, 1, 2]


def test_an_embedded_process_leaves_the_runs_of_workers_alone(
    make_cluster: MakeCluster,
    run_script: Callable[..., Script],
    redis_url: str,
    postgres_url: str,
    trace: Trace,
) -> None:
    cluster = make_cluster(BROKER_URL=redis_url, DATABASE_URL=postgres_url, **QUICK)
    waiting = trace.start(flows.chain)
    script = run_script("a", hold="two", DATABASE_URL=postgres_url, **QUICK)
    trace.wait_for("a", "two")
    untouched = trace.of(waiting.run_id)
    worker = cluster.start_worker("-P", "solo")

    waiting.wait(WAIT_S)
    trace.open_gate()
    script.wait()

    assert untouched == []
    assert {effect.pid for effect in trace.of(waiting.run_id)} == {worker.pid}
    assert worker.pid not in {effect.pid for effect in trace.of("a")}
    assert committed_steps(waiting, cluster.database) == [0, 1, 2, 3, 4]
    assert script.said == "a one two three\n"


def test_wait_tells_of_a_run_that_another_process_interrupted(
    run_script: Callable[..., Script], sqlite_url: str, trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = run_script("a", hold="two", DATABASE_URL=sqlite_url)
    trace.wait_for("a", "two")
    monkeypatch.setenv("POCOFLOW_DATABASE_URL", sqlite_url)
    flow = Flow(flows.line(*(flows.Step(name=name) for name in ("one", "two", "three"))), flow_name="mine")
    watching = trace.start(flow, run_id="a", hold="two")

    script.signal(signal.SIGINT)

    with pytest.raises(RunInterruptedError, match="same input"):
        watching.wait(WAIT_S)
