"""Hooks hear of each step as it happens, and cannot change what the run does."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from pocoflow import DefinitionError, Flow, Node, Store, StoreSerializationError, WorkflowDB

Call = tuple[Any, ...]
EVENTS = ("node_start", "node_end", "node_error", "flow_end")


class Load(Node):
    def post(self, store: Store, prep_result: Any, exec_result: Any) -> str:
        store["loaded"] = True
        return "ok"


class Check(Node):
    pass


class Fail(Node):
    def exec(self, prep_result: Any) -> Any:
        raise ValueError("broken")


@pytest.fixture
def calls() -> list[Call]:
    return []


def listening(flow: Flow, calls: list[Call]) -> Flow:
    """Note each hook with its arguments; the store as a dict, as it was at that moment."""
    for event in EVENTS:
        flow.on(event, lambda *args, event=event: calls.append((event, *args[:-1], dict(args[-1]))))
    return flow


def test_hooks_get_name_action_and_store_of_each_step_in_order(calls: list[Call]) -> None:
    flow = listening(Flow(start=Load().then("ok", Check(name="check"))), calls)

    flow.run({})

    elapsed = [call[3] for call in calls if call[0] == "node_end"]
    assert calls == [
        ("node_start", "Load", {}),
        ("node_end", "Load", "ok", elapsed[0], {"loaded": True}),
        ("node_start", "check", {"loaded": True}),
        ("node_end", "check", "default", elapsed[1], {"loaded": True}),
        ("flow_end", 2, {"loaded": True}),
    ]
    assert all(isinstance(seconds, float) and 0 <= seconds < 60 for seconds in elapsed)


def test_a_failing_step_is_told_once_and_the_flow_does_not_end(calls: list[Call]) -> None:
    flow = listening(Flow(start=Load().then("ok", Fail())), calls)

    with pytest.raises(ValueError, match="broken") as caught:
        flow.run({})

    assert [call[:2] for call in calls] == [
        ("node_start", "Load"),
        ("node_end", "Load"),
        ("node_start", "Fail"),
        ("node_error", "Fail"),
    ]
    assert calls[-1] == ("node_error", "Fail", caught.value, {"loaded": True})


def test_a_try_that_is_followed_by_another_is_no_node_error(calls: list[Call]) -> None:
    tries = []

    class Flaky(Node):
        max_retries = 2

        def exec(self, prep_result: Any) -> None:
            tries.append(1)
            if len(tries) == 1:
                raise ValueError("busy")

    listening(Flow(start=Flaky()), calls).run({})

    assert [call[0] for call in calls] == ["node_start", "node_end", "flow_end"]


def test_a_step_that_cannot_be_saved_is_a_node_error_and_has_no_node_end(
    calls: list[Call], tmp_path: Path
) -> None:
    class Bad(Node):
        def post(self, store: Store, prep_result: Any, exec_result: Any) -> None:
            store["handle"] = calls.append

    flow = Flow(start=Bad(), db_path=tmp_path / "runs.db")
    heard = []
    flow.on("node_end", lambda *args: heard.append("node_end"))
    flow.on("node_error", lambda name, exc, store: heard.append((name, type(exc))))

    with pytest.raises(StoreSerializationError):
        flow.run({})

    assert heard == [("Bad", StoreSerializationError)]


def test_the_step_that_a_node_end_hook_hears_of_is_in_the_history_already(tmp_path: Path) -> None:
    database = WorkflowDB(tmp_path / "runs.db")
    flow = Flow(start=Load().then("ok", Check()), db_path=tmp_path / "runs.db", run_id="run-1")
    seen: list[int] = []
    flow.on("node_end", lambda *args: seen.append(len(database.get_checkpoints("run-1"))))

    flow.run({})

    assert seen == [1, 2]


@pytest.mark.parametrize("event", EVENTS)
def test_a_hook_that_raises_is_logged_and_stops_neither_the_run_nor_the_other_hooks(
    event: str, calls: list[Call], caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: Any) -> None:
        raise RuntimeError("hook is broken")

    start = Fail() if event == "node_error" else Load()
    quiet: list[Call] = []
    outcome = _outcome(listening(Flow(start=start), quiet))

    loud = _outcome(listening(Flow(start=start).on(event, broken), calls))

    assert loud == outcome
    assert [call[0] for call in calls] == [call[0] for call in quiet]
    line = f"hook raised for {event}, the run goes on"
    assert ("pocoflow.flow", logging.WARNING, line) in caplog.record_tuples
    assert "hook is broken" in caplog.text


def _outcome(flow: Flow) -> Any:
    try:
        return dict(flow.run({}))
    except ValueError as exc:
        return repr(exc)


def test_several_hooks_for_one_event_are_called_in_the_order_they_were_added(calls: list[Call]) -> None:
    flow = Flow(start=Load())

    returned = flow.on("flow_end", lambda steps, store: calls.append(("first",))).on(
        "flow_end", lambda steps, store: calls.append(("second",))
    )
    flow.run({})

    assert returned is flow
    assert calls == [("first",), ("second",)]


def test_an_unknown_event_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(DefinitionError) as caught:
        Flow(start=Load()).on("node_begin", print)

    assert str(caught.value) == (
        "unknown hook 'node_begin': choose one of node_start, node_end, node_error, flow_end"
    )


@pytest.mark.parametrize("callback", [None, "print", 5])
def test_a_hook_that_cannot_be_called_is_refused(callback: Any) -> None:
    with pytest.raises(DefinitionError, match="hook for 'node_end' must be callable"):
        Flow(start=Load()).on("node_end", callback)


def test_ctrl_c_in_a_hook_is_not_swallowed() -> None:
    def press_ctrl_c(name: str, store: Store) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        Flow(start=Load()).on("node_start", press_ctrl_c).run({})
