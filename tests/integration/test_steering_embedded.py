"""Runs of the worker inside a process, and inline ones, are steered from there and from other processes."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pocoflow import (
    DatabaseError,
    Flow,
    InvalidTransitionError,
    RunCancelledError,
    RunHandle,
    RunInterruptedError,
    RunNotFoundError,
    StepFailedError,
    WaitTimeoutError,
    WorkflowDB,
    client,
    wiring,
)
from pocoflow.guard import GuardedProcess, guarded_popen
from tests.integration import flows
from tests.support.wait import wait_until
from tests.support.workers import ROOT, Trace, committed_steps, environment, events_of

WAIT_S = 60.0
QUICK = {"LEASE_S": "5", "SWEEP_S": "0.1", "GRACE_S": "0.5"}
STEER = """
import sys
from pocoflow import client
print(getattr(client.handle(sys.argv[1]), sys.argv[2])(), end="")
"""
START = """
import sys
from tests.integration import flows
run_id, log, gate = sys.argv[1:]
flows.chain.run_background({"run": run_id, "log": log, "gate": gate, "hold": "two"}, run_id=run_id).wait()
"""


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def history(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each place for the history of an embedded run, set as the database of this process."""
    return chosen(request, monkeypatch)


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    return chosen(request, monkeypatch)


def chosen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    settings = dict(QUICK)
    if request.param != "memory":
        settings["DATABASE_URL"] = request.getfixturevalue(f"{request.param}_url")
    for name, value in settings.items():
        monkeypatch.setenv(f"POCOFLOW_{name}", value)
    return settings.get("DATABASE_URL", "memory")


def python(code: str, database: str, *arguments: str) -> Any:
    return {
        "args": [sys.executable, "-c", code, *arguments],
        "env": {**environment({**QUICK, "DATABASE_URL": database}), "PYTHONPATH": str(ROOT)},
    }


def steer(database: str, run_id: str, verb: str) -> str:
    done = subprocess.run(
        **python(STEER, database, run_id, verb), capture_output=True, text=True, timeout=WAIT_S, check=True
    )
    return done.stdout


@pytest.fixture
def elsewhere(database: str, trace: Trace, tmp_path: Path) -> Iterator[GuardedProcess]:
    """A process with the run "there", which waits in its second step for the gate."""
    arguments = python(START, database, "there", str(trace.path), str(trace.gate))
    with (tmp_path / "elsewhere.log").open("wb") as log:
        process = guarded_popen(
            arguments["args"], env=arguments["env"], stdout=log, stderr=log, start_new_session=True
        )
    trace.wait_for("there", "two")
    yield process
    process.stop()
    print((tmp_path / "elsewhere.log").read_text())


def wait_for_status(handle: RunHandle, status: str) -> None:
    wait_until(lambda: handle.status == status, timeout_s=WAIT_S, what=f"{handle} to be {status}")


def pause_after_two(handle: RunHandle, trace: Trace) -> None:
    trace.wait_for(handle.run_id, "two")
    handle.pause()
    trace.open_gate()
    wait_for_status(handle, "paused")


def known_runs() -> list[str]:
    """Ids in the table of the worker inside this process."""
    return list(wiring.executor(None).worker._runs)  # type: ignore[attr-defined]


def test_a_run_is_paused_and_goes_on_by_its_handle(history: str, trace: Trace) -> None:
    handle = trace.start(flows.chain, hold="two")
    pause_after_two(handle, trace)

    with pytest.raises(WaitTimeoutError):
        handle.wait(0.5)
    assert trace.of(handle.run_id, "three") == []
    assert handle.resume() == "queued"
    assert handle.wait(WAIT_S)["done"] == list(flows.NAMES)
    assert [event["step"] for event in events_of(handle, "node_end")] == [0, 1, 2, 3, 4]


def test_a_run_is_found_by_its_id_in_its_own_process(
    history: str, trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POCOFLOW_SWEEP_S", "600")  # the hint, and not a sweep, lets it go on
    handle = trace.start(flows.chain, hold="two")
    pause_after_two(handle, trace)

    assert client.handle(handle.run_id).resume() == "queued"
    assert handle.wait(WAIT_S)["done"] == list(flows.NAMES)


def test_a_run_in_the_memory_of_another_process_is_not_found(history: str) -> None:
    with pytest.raises(RunNotFoundError, match="'nobody' here"):
        client.handle("nobody")


def test_a_loop_that_is_paused_and_resumed_all_the_time_completes(history: str, trace: Trace) -> None:
    handle = trace.start(flows.relay, left=30)

    def storm(number: int) -> None:
        mine = handle if number % 2 else client.handle(handle.run_id)
        for turn in range(10):
            try:
                mine.pause() if (number + turn) % 2 else mine.resume()
            except InvalidTransitionError:
                continue

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(storm, range(10)))
    if handle.status != "completed":
        handle.pause()
        handle.resume()

    assert handle.wait(WAIT_S)["left"] == 0
    assert [event["step"] for event in events_of(handle, "node_end")] == list(range(30))
    assert len(events_of(handle, "run_paused")) == len(events_of(handle, "run_resumed"))


def test_a_failed_run_goes_on_by_its_handle_at_the_step_that_failed(history: str, trace: Trace) -> None:
    handle = trace.start(flows.flaky, failures=flows.Flaky.max_retries)
    with pytest.raises(StepFailedError):
        handle.wait(WAIT_S)

    with pytest.raises(InvalidTransitionError, match=r"is failed, .*run_background.*resume\(\) the handle"):
        client.handle(handle.run_id).resume()
    assert handle.status == "failed"
    assert handle.resume() == "queued"
    assert handle.wait(WAIT_S)["result"] == f"try {flows.Flaky.max_retries + 1}"
    assert len(trace.of(handle.run_id, "fine")) == 1


def test_a_cancel_by_force_discards_the_step_in_progress(history: str, trace: Trace) -> None:
    handle = trace.start(flows.patient)
    trace.wait_for(handle.run_id, "patient")

    assert handle.cancel(force=True) == "cancelled"
    with pytest.raises(RunCancelledError):
        handle.wait(WAIT_S)
    wait_until(lambda: handle.run_id not in known_runs(), timeout_s=WAIT_S, what="the step to end")
    assert events_of(handle, "node_end") == []


def test_a_run_that_is_cancelled_while_it_waits_is_forgotten_by_the_worker(
    history: str, trace: Trace
) -> None:
    waiting, resting = trace.start(flows.stubborn), trace.start(flows.chain, hold="two")
    wait_until(lambda: events_of(waiting, "node_retry"), timeout_s=WAIT_S)
    pause_after_two(resting, trace)
    assert set(known_runs()) == {waiting.run_id, resting.run_id}

    waiting.cancel()
    resting.cancel()

    wait_until(lambda: known_runs() == [], timeout_s=WAIT_S, what="the worker to forget the runs")


def test_another_process_pauses_a_run_and_lets_it_go_on_where_it_lives(database: str, trace: Trace) -> None:
    handle = trace.start(flows.chain, hold="two")
    trace.wait_for(handle.run_id, "two")

    paused = steer(database, handle.run_id, "pause")
    trace.open_gate()
    wait_for_status(handle, "paused")
    resumed = steer(database, handle.run_id, "resume")

    assert (paused, resumed) == ("running", "queued")
    assert handle.wait(WAIT_S)["done"] == list(flows.NAMES)
    assert len({effect.pid for effect in trace.of(handle.run_id)}) == 1
    assert committed_steps(handle, WorkflowDB(database)) == [0, 1, 2, 3, 4]


def test_a_paused_run_whose_process_was_killed_goes_on_when_it_is_started_again(
    database: str, trace: Trace, elsewhere: GuardedProcess
) -> None:
    handle = client.handle("there")
    pause_after_two(handle, trace)
    elsewhere.end(signal.SIGKILL, limit_s=WAIT_S)

    with pytest.raises(InvalidTransitionError, match=r"is paused, .*run_background\(run_id='there'\)"):
        handle.resume()
    assert handle.status == "paused"
    with pytest.raises(RunInterruptedError, match="same input"):
        handle.wait(WAIT_S)
    again = trace.start(flows.chain, run_id="there", hold="two")
    assert again.wait(WAIT_S)["done"] == list(flows.NAMES)
    assert committed_steps(again, WorkflowDB(database)) == [0, 1, 2, 3, 4]


def test_a_run_that_is_started_again_stays_paused_until_somebody_resumes_it(
    database: str, trace: Trace, elsewhere: GuardedProcess
) -> None:
    handle = client.handle("there")
    pause_after_two(handle, trace)
    elsewhere.end(signal.SIGKILL, limit_s=WAIT_S)

    again = trace.start(flows.chain, run_id="there", hold="two")
    with pytest.raises(WaitTimeoutError):
        again.wait(1.0)
    assert again.resume() == "queued"
    assert again.wait(WAIT_S)["done"] == list(flows.NAMES)


def test_a_process_that_stands_by_goes_on_with_what_is_resumed_by_its_id(
    database: str, trace: Trace, elsewhere: GuardedProcess
) -> None:
    handle = client.handle("there")
    pause_after_two(handle, trace)
    elsewhere.end(signal.SIGKILL, limit_s=WAIT_S)
    again = trace.start(flows.chain, run_id="there", hold="two")

    with pytest.raises(InvalidTransitionError):
        handle.resume()

    assert again.wait(WAIT_S)["done"] == list(flows.NAMES)


def test_a_run_is_resumed_where_its_flow_is_and_leaves_the_process_that_paused_it(
    database: str, trace: Trace, elsewhere: GuardedProcess
) -> None:
    here = trace.start(flows.chain, run_id="there", hold="two")
    pause_after_two(here, trace)

    here.resume()

    assert here.wait(WAIT_S)["done"] == list(flows.NAMES)
    assert len({effect.pid for effect in trace.of("there")}) == 2
    assert committed_steps(here, WorkflowDB(database)) == [0, 1, 2, 3, 4]


def test_an_inline_run_that_another_process_pauses_says_how_to_go_on(database: str, trace: Trace) -> None:
    flow = Flow(flows.chain.start, flow_name="chain", db_path=database)
    data = {"run": "inline", "log": str(trace.path), "gate": str(trace.gate), "hold": "two"}

    with ThreadPoolExecutor(1) as pool:
        inline = pool.submit(flow.run, dict(data), run_id="inline")
        trace.wait_for("inline", "two")
        paused = steer(database, "inline", "pause")
        trace.open_gate()
        with pytest.raises(RunInterruptedError, match=r"'inline' was paused: .*run_id='inline'"):
            inline.result(WAIT_S)

    assert paused == "running"
    again = flow.run_background(data, run_id="inline")
    assert again.resume() == "queued"
    assert again.wait(WAIT_S)["done"] == list(flows.NAMES)
    assert committed_steps(again, WorkflowDB(database)) == [0, 1, 2, 3, 4]


def test_nobody_can_go_on_with_a_paused_inline_run_by_its_id(database: str, trace: Trace) -> None:
    flow = Flow(flows.chain.start, flow_name="chain", db_path=database)
    data = {"run": "inline", "log": str(trace.path), "gate": str(trace.gate), "hold": "two"}
    with ThreadPoolExecutor(1) as pool:
        inline = pool.submit(flow.run, dict(data), run_id="inline")
        trace.wait_for("inline", "two")
        handle = client.handle("inline", database)
        handle.pause()
        trace.open_gate()
        with pytest.raises(RunInterruptedError):
            inline.result(WAIT_S)

    with pytest.raises(InvalidTransitionError, match="does not look after it any more"):
        handle.resume()

    assert flow.run_background(data, run_id="inline").wait(WAIT_S)["done"] == list(flows.NAMES)


def test_an_inline_run_that_is_cancelled_by_force_says_so(database: str, trace: Trace) -> None:
    flow = Flow(flows.chain.start, flow_name="chain", db_path=database)
    data = {"run": "inline", "log": str(trace.path), "gate": str(trace.gate), "hold": "two"}

    with ThreadPoolExecutor(1) as pool:
        inline = pool.submit(flow.run, data, run_id="inline")
        trace.wait_for("inline", "two")
        assert client.handle("inline", database).cancel(force=True) == "cancelled"
        trace.open_gate()
        with pytest.raises(RunCancelledError, match="'inline' was cancelled"):
            inline.result(WAIT_S)

    assert committed_steps(client.handle("inline", database), WorkflowDB(database)) == [0]


def test_a_database_that_is_away_does_not_keep_runs_in_another_one_waiting(
    history: str, trace: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = Flow(flows.stubborn.start, flow_name="away", db_path=tmp_path / "away.db")
    away = trace.start(flow)
    wait_until(lambda: events_of(away, "node_retry"), timeout_s=WAIT_S)

    with monkeypatch.context() as outage:
        outage.setattr(client.handle(away.run_id, flow.db_path)._ledger, "sweep", fail)
        handle = trace.start(flows.flaky, failures=1)  # its second try is found by a sweep
        assert handle.wait(WAIT_S)["result"] == "try 2"

    away.cancel()


def fail(*args: object, **more: object) -> None:
    raise DatabaseError("away")
