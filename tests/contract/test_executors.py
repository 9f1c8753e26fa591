"""A flow means the same wherever it runs: one result, one status, one history, one error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import pytest

from pocoflow import Flow, RunHandle, StepFailedError, client
from tests.contract.builders import Entry, history
from tests.contract.flows import (
    Add,
    FailsAfterWork,
    Flaky,
    Gather,
    GatherFails,
    Returns,
    Stores,
    after_one,
    branch,
    linear,
    loop,
)

RUN_ID = "<run>"
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Outcome:
    """What became of a run; the error is its type and text."""

    status: str
    store: dict[str, Any]
    history: list[Entry]
    error: tuple[str, str] | None = None


Execute = Callable[[Flow, dict[str, Any]], Outcome]


def begun(node: str) -> Entry:
    return Entry("flow_start", node=node)


def step(number: int, node: str, action: str = "default", *, attempt: int = 1) -> tuple[Entry, Entry]:
    begin = Entry("node_start", number, node, attempt)
    return begin, Entry("node_end", number, node, attempt, action)


def retry(number: int, node: str, attempt: int, error: str) -> tuple[Entry, Entry]:
    begin = Entry("node_start", number, node, attempt)
    return begin, Entry("node_retry", number, node, attempt, error=error)


def failure(number: int, node: str, attempt: int, error: str) -> tuple[Entry, Entry, Entry]:
    begin = Entry("node_start", number, node, attempt)
    return begin, Entry("node_error", number, node, attempt, error=error), end("failed", number)


def end(status: str, steps: int) -> Entry:
    return Entry("flow_end", steps, action=status)


ONE = (begun("one"), *step(0, "one", "small"))
NO_OBJECT = (
    "store['value'] holds a builtins.object, which a checkpoint cannot carry exactly: "
    "make it plain data (dict, list, str, number ...) before it goes into the store (node 'Stores')"
)
NO_ACTION = (
    "post() of node 'Returns' must return an action (printable str of at most 200 characters) or None, got 7"
)
TOO_MANY = f"run '{RUN_ID}' exceeded max_steps=2: look for a loop that does not end, or raise max_steps"
VALUES = (1, {2, 3}, b"\0", None, float("inf"))

CASES = {
    "linear": (
        linear,
        {"n": 0},
        Outcome(
            "completed",
            {"n": 6},
            [*ONE, *step(1, "two", "small"), *step(2, "three", "small"), end("completed", 3)],
        ),
    ),
    "branch": (
        branch,
        {"n": 9},
        Outcome(
            "completed",
            {"n": 114},
            [begun("ask"), *step(0, "ask", "big"), *step(1, "big", "big"), end("completed", 2)],
        ),
    ),
    "wildcard": (
        branch,
        {"n": 1},
        Outcome(
            "completed",
            {"n": 5},
            [begun("ask"), *step(0, "ask", "small"), *step(1, "other", "small"), end("completed", 2)],
        ),
    ),
    "action without an edge": (
        lambda: Flow(Returns("elsewhere").then("here", Add(1))),
        {},
        Outcome("completed", {}, [begun("Returns"), *step(0, "Returns", "elsewhere"), end("completed", 1)]),
    ),
    "loop": (
        loop,
        {"n": 0},
        Outcome(
            "completed",
            {"n": 12},
            [
                begun("add"),
                *step(0, "add", "small"),
                *step(1, "add", "small"),
                *step(2, "add", "big"),
                end("completed", 3),
            ],
        ),
    ),
    "async": (
        lambda: Flow(Gather()),
        {},
        Outcome(
            "completed",
            {"doubled": [0, 2, 4]},
            [begun("Gather"), *step(0, "Gather"), end("completed", 1)],
        ),
    ),
    "values that JSON has no form for": (
        lambda: Flow(Stores(VALUES)),
        {"given": VALUES},
        Outcome(
            "completed",
            {"given": VALUES, "value": VALUES},
            [begun("Stores"), *step(0, "Stores"), end("completed", 1)],
        ),
    ),
    "retry that succeeds": (
        lambda: Flow(Flaky(2)),
        {},
        Outcome(
            "completed",
            {"result": "done"},
            [
                begun("Flaky"),
                *retry(0, "Flaky", 1, "1 to go"),
                *retry(0, "Flaky", 2, "0 to go"),
                *step(0, "Flaky", attempt=3),
                end("completed", 1),
            ],
        ),
    ),
    "retries that all fail": (
        lambda: after_one(Flaky(9)),
        {"n": 0},
        Outcome(
            "failed",
            {"n": 1},
            [
                *ONE,
                *retry(1, "Flaky", 1, "8 to go"),
                *retry(1, "Flaky", 2, "7 to go"),
                *failure(1, "Flaky", 3, "6 to go"),
            ],
            ("ConnectionError", "6 to go"),
        ),
    ),
    "failure in post, which is not tried again": (
        lambda: after_one(FailsAfterWork()),
        {"n": 0},
        Outcome(
            "failed",
            {"n": 1},
            [*ONE, *failure(1, "FailsAfterWork", 1, "'not in post'")],
            ("KeyError", "'not in post'"),
        ),
    ),
    "failure of a coroutine": (
        lambda: Flow(GatherFails()),
        {},
        Outcome(
            "failed",
            {},
            [begun("GatherFails"), *failure(0, "GatherFails", 1, "no answer")],
            ("TimeoutError", "no answer"),
        ),
    ),
    "action that is none": (
        lambda: after_one(Returns(7)),
        {"n": 0},
        Outcome("failed", {"n": 1}, [*ONE, *failure(1, "Returns", 1, NO_ACTION)], ("TypeError", NO_ACTION)),
    ),
    "value that cannot be saved": (
        lambda: after_one(Stores(object())),
        {"n": 0},
        Outcome(
            "failed",
            {"n": 1},
            [*ONE, *failure(1, "Stores", 1, NO_OBJECT)],
            ("StoreSerializationError", NO_OBJECT),
        ),
    ),
    "too many steps": (
        lambda: loop(max_steps=2),
        {"n": 0},
        Outcome(
            "failed",
            {"n": 8},
            [begun("add"), *step(0, "add", "small"), *step(1, "add", "small"), end("failed", 2)],
            ("MaxStepsError", TOO_MANY),
        ),
    ),
}


def run_inline(flow: Flow, store: dict[str, Any], run_id: str) -> tuple[RunHandle, Exception | None]:
    """Run it here; the handle looks at what its ledger has of it."""
    try:
        flow.run(store, run_id=run_id)
    except Exception as error:
        return client.handle(run_id, flow.db_path), error
    return client.handle(run_id, flow.db_path), None


def run_embedded(flow: Flow, store: dict[str, Any], run_id: str) -> tuple[RunHandle, Exception | None]:
    handle = flow.run_background(store, run_id=run_id)
    try:
        handle.wait(TIMEOUT_S)
    except Exception as error:
        return handle, error
    return handle, None


def told(error: Exception | None, run_id: str) -> tuple[str, str] | None:
    """Return type and text of what the node raised, here or elsewhere."""
    if error is None:
        return None
    if isinstance(error, StepFailedError):
        return error.error_type, error.error_text
    return type(error).__name__, str(error).replace(run_id, RUN_ID)


@pytest.fixture(
    params=[
        (run_inline, "sqlite_url"),
        (run_inline, "shared_postgres_url"),
        (run_embedded, None),
        (run_embedded, "sqlite_url"),
        (run_embedded, "shared_postgres_url"),
    ],
    ids=["inline-sqlite", "inline-postgres", "embedded-memory", "embedded-sqlite", "embedded-postgres"],
)
def execute(request: pytest.FixtureRequest) -> Execute:
    run, database = request.param
    db_path = None if database is None else request.getfixturevalue(database)

    def execute(flow: Flow, store: dict[str, Any]) -> Outcome:
        flow.db_path, run_id = db_path, f"run-{uuid4().hex}"
        handle, error = run(flow, store, run_id)
        entries = [replace(entry, worker=None, elapsed_ms=None) for entry in history(handle._ledger, run_id)]
        return Outcome(handle.status, dict(handle.store), entries, told(error, run_id))

    return execute


@pytest.mark.parametrize(("make_flow", "given", "expected"), CASES.values(), ids=CASES.keys())
def test_a_flow_means_the_same_wherever_it_runs(
    execute: Execute, make_flow: Callable[[], Flow], given: dict[str, Any], expected: Outcome
) -> None:
    assert execute(make_flow(), dict(given)) == expected
