"""A flow means the same wherever it runs: one result, one status, one history, one error."""

from __future__ import annotations

from typing import Any

import pytest

from pocoflow import Flow
from tests.contract import flows
from tests.contract.builders import Entry
from tests.contract.executors import RUN_ID, Execute, Outcome, execute, executor

__all__ = ["execute", "executor"]


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

CASES = {
    "linear": (
        flows.linear,
        {"n": 0},
        Outcome(
            "completed",
            {"n": 6},
            [*ONE, *step(1, "two", "small"), *step(2, "three", "small"), end("completed", 3)],
        ),
    ),
    "branch": (
        flows.branch,
        {"n": 9},
        Outcome(
            "completed",
            {"n": 114},
            [begun("ask"), *step(0, "ask", "big"), *step(1, "big", "big"), end("completed", 2)],
        ),
    ),
    "wildcard": (
        flows.branch,
        {"n": 1},
        Outcome(
            "completed",
            {"n": 5},
            [begun("ask"), *step(0, "ask", "small"), *step(1, "other", "small"), end("completed", 2)],
        ),
    ),
    "action without an edge": (
        flows.no_edge,
        {},
        Outcome("completed", {}, [begun("Returns"), *step(0, "Returns", "elsewhere"), end("completed", 1)]),
    ),
    "loop": (
        flows.turns,
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
        flows.gather,
        {},
        Outcome(
            "completed",
            {"doubled": [0, 2, 4]},
            [begun("Gather"), *step(0, "Gather"), end("completed", 1)],
        ),
    ),
    "values that JSON has no form for": (
        flows.rich_values,
        {"given": flows.VALUES},
        Outcome(
            "completed",
            {"given": flows.VALUES, "value": flows.VALUES},
            [begun("Stores"), *step(0, "Stores"), end("completed", 1)],
        ),
    ),
    "retry that succeeds": (
        flows.flaky,
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
        flows.hopeless,
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
        flows.fails_in_post,
        {"n": 0},
        Outcome(
            "failed",
            {"n": 1},
            [*ONE, *failure(1, "FailsAfterWork", 1, "'not in post'")],
            ("KeyError", "'not in post'"),
        ),
    ),
    "failure of a coroutine": (
        flows.gather_fails,
        {},
        Outcome(
            "failed",
            {},
            [begun("GatherFails"), *failure(0, "GatherFails", 1, "no answer")],
            ("TimeoutError", "no answer"),
        ),
    ),
    "action that is none": (
        flows.no_action,
        {"n": 0},
        Outcome("failed", {"n": 1}, [*ONE, *failure(1, "Returns", 1, NO_ACTION)], ("TypeError", NO_ACTION)),
    ),
    "value that cannot be saved": (
        flows.no_plain_data,
        {"n": 0},
        Outcome(
            "failed",
            {"n": 1},
            [*ONE, *failure(1, "Stores", 1, NO_OBJECT)],
            ("StoreSerializationError", NO_OBJECT),
        ),
    ),
    "too many steps": (
        flows.too_many_turns,
        {"n": 0},
        Outcome(
            "failed",
            {"n": 8},
            [begun("add"), *step(0, "add", "small"), *step(1, "add", "small"), end("failed", 2)],
            ("MaxStepsError", TOO_MANY),
        ),
    ),
}


@pytest.mark.parametrize(("flow", "given", "expected"), CASES.values(), ids=CASES.keys())
def test_a_flow_means_the_same_wherever_it_runs(
    execute: Execute, flow: Flow, given: dict[str, Any], expected: Outcome
) -> None:
    assert execute(flow, dict(given)) == expected
