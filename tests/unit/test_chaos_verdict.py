"""What a killed run shows is held against undisturbed runs, and no more is said than was seen."""

from __future__ import annotations

import io
import json
from collections import Counter
from typing import Any

import pytest
from rich.console import Console

from pocoflow.cli.chaos_verdict import (
    KILL_POINTS,
    USUAL_POINTS,
    Baseline,
    Case,
    Outcome,
    Report,
    Result,
    Seen,
    Verdict,
)
from pocoflow.cli.chaos_view import as_json, conclusions, follow, matrix
from pocoflow.engine.fault_rules import Place, parse

PATH = ("fetch", "sum", "fetch", "sum")


def seen(store: dict[str, Any] | None = None, **changes: Any) -> Seen:
    usual: dict[str, Any] = {
        "run_id": "r",
        "path": PATH,
        "executions": Counter(dict.fromkeys(range(4), 1)),
        "error": None,
        "stuck": False,
        "struck": True,
        "problems": (),
        "elapsed_s": 1.0,
    }
    return Seen(store={"n": 1} if store is None else store, **{**usual, **changes})


def twice(step: int) -> Counter[int]:
    return Counter({number: 1 + (number == step) for number in range(4)})


BASELINE = Baseline(seen(), seen())
FETCH = Case("r", "fetch", 0, "after_exec")
SUM = Case("r", "sum", 1, "after_exec")


def report(*results: Result, baseline: Baseline = BASELINE) -> Report:
    return Report("m:flow", ("fetch", "sum", "never"), baseline, list(results))


@pytest.mark.parametrize("point", KILL_POINTS)
def test_the_rule_of_a_case_kills_its_run_at_its_point_once(point: str) -> None:
    (rule,) = parse(Case("chaos-1", "Step#2", 3, point).rule)

    assert (rule.point, rule.action, rule.times) == (point, "kill9", 1)
    assert rule.covers(Place("chaos-1", 3, "Step#2"))
    assert not rule.covers(Place("chaos-2", 3, "Step#2"))
    assert not rule.covers(Place("chaos-1", 2, "Step#2"))


def test_by_default_a_worker_is_killed_at_ten_points() -> None:
    assert len(USUAL_POINTS) == 10


def test_a_node_in_a_loop_is_killed_in_its_first_step() -> None:
    assert BASELINE.first_steps == {"fetch": 0, "sum": 1}


@pytest.mark.parametrize(
    ("found", "outcome", "keys"),
    [
        (seen(), Outcome.SAME, ()),
        (seen(struck=False), Outcome.NOT_REACHED, ()),
        (seen({"n": 2}), Outcome.DIFFERS, ("n",)),
        (seen({"n": 1, "m": None}), Outcome.DIFFERS, ("m",)),
        (seen({}), Outcome.DIFFERS, ("n",)),
        (seen({"n": 2}, struck=False), Outcome.DIFFERS, ("n",)),
        (seen(error="boom"), Outcome.FAILED, ()),
        (seen(error="still running", stuck=True), Outcome.STUCK, ()),
        (seen(problems=("checkpoints of the steps [0, 2]",)), Outcome.NOT_ONCE, ()),
    ],
)
def test_a_run_is_the_same_when_it_completed_with_the_same_store_each_step_once(
    found: Any, outcome: Outcome, keys: tuple[str, ...]
) -> None:
    result = BASELINE.judge(FETCH, found)

    assert (result.outcome, result.keys) == (outcome, keys)


def test_keys_that_differ_without_a_kill_are_ignored() -> None:
    baseline = Baseline(seen({"n": 1, "at": 5}), seen({"n": 1, "at": 6}))

    assert baseline.ignored == ("at",)
    assert baseline.judge(FETCH, seen({"n": 1, "at": 7})).outcome is Outcome.SAME
    assert baseline.judge(FETCH, seen({"n": 2, "at": 7})).keys == ("n",)


def test_exec_is_repeated_when_it_ran_more_often_than_undisturbed() -> None:
    flaky = Baseline(seen(executions=twice(0)), seen())

    assert BASELINE.judge(FETCH, seen(executions=twice(0))).repeated
    assert not BASELINE.judge(SUM, seen(executions=twice(0))).repeated
    assert not flaky.judge(FETCH, seen(executions=twice(0))).repeated


def test_a_kill_before_any_work_of_exec_repeats_nothing() -> None:
    result = BASELINE.judge(Case("r", "fetch", 0, "in_exec"), seen(executions=twice(0)))

    assert (result.executed, result.repeated) == (2, False)


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (seen({"n": 2}, executions=twice(0)), Verdict.UNSAFE),
        (seen(executions=twice(0), error="file exists"), Verdict.UNSAFE),
        (seen({"n": 2}), Verdict.OTHERWISE),
        (seen(executions=twice(0)), Verdict.REPEATABLE),
        (seen(), Verdict.UNKNOWN),
    ],
)
def test_a_node_is_judged_by_what_repeating_it_did(found: Any, verdict: Verdict) -> None:
    first, second = report(BASELINE.judge(FETCH, found)).verdicts

    assert (first.node, first.verdict) == ("fetch", verdict)
    assert (second.node, second.verdict) == ("sum", Verdict.UNKNOWN)


def test_a_node_that_is_not_safe_to_repeat_is_named_with_the_keys_and_points_that_show_it() -> None:
    results = [
        BASELINE.judge(Case("r", "fetch", 0, point), seen({"n": 2, "m": 3}, executions=twice(0)))
        for point in ("after_exec", "in_post")
    ]

    verdict = report(*results).verdicts[0]

    assert (verdict.keys, verdict.points) == (("m", "n"), ("after_exec", "in_post"))


def test_what_was_not_reached_is_no_difference() -> None:
    assert report(BASELINE.judge(FETCH, seen(struck=False))).same
    assert not report(BASELINE.judge(FETCH, seen({}))).same


def test_the_matrix_shows_counts_and_differences_and_the_lines_below_say_what_they_mean() -> None:
    baseline = Baseline(seen({"n": 1, "at": 1}), seen({"n": 1, "at": 2}, path=PATH[:2]))
    shown = report(
        baseline.judge(FETCH, seen({"n": 2, "at": 3}, executions=twice(0))),
        baseline.judge(SUM, seen({"n": 1})),
        baseline.judge(Case("r", "sum", 1, "after_publish"), seen({"n": 1}, struck=False)),
        baseline=baseline,
    )
    console = Console(file=io.StringIO(), width=110)

    console.print(matrix(shown))
    for line in conclusions(shown):
        console.print(line)

    text = console.file.getvalue()
    rows = [line.split() for line in text.splitlines()]
    assert ["fetch", "2x"] in rows
    assert ["differs"] in rows
    assert ["sum", "1x", "-"] in rows
    assert "two undisturbed runs differ in at, which is ignored" in text
    assert "two undisturbed runs took different paths" in text
    assert "not visited with this input: never" in text
    assert "fetch: not safe to repeat: the final store differs in n (after_exec)" in text
    assert "3 kills tried: 1 same, 1 differs, 1 not reached" in text


def test_json_has_every_case_and_every_node() -> None:
    found = json.loads(as_json(report(BASELINE.judge(FETCH, seen({"n": 2}, executions=twice(0))))))

    assert (found["flow"], found["same"], found["steps"]) == ("m:flow", False, 4)
    assert found["not_visited"] == ["never"]
    (case,) = found["cases"]
    assert (case["node"], case["point"], case["outcome"]) == ("fetch", "after_exec", "differs")
    assert (case["executed"], case["repeated"], case["keys"]) == (2, True, ["n"])
    assert [node["verdict"] for node in found["nodes"]] == [Verdict.UNSAFE, Verdict.UNKNOWN]


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_passes_every_result_on(terminal: bool) -> None:
    results = [BASELINE.judge(FETCH, seen()), BASELINE.judge(SUM, seen({}))]
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)

    assert list(follow(iter(results), 2, console)) == results

    assert terminal or console.file.getvalue().splitlines() == [
        "1/2 fetch after_exec: same, exec 1x, 1.0 s",
        "2/2 sum after_exec: differs in n, exec 1x, 1.0 s",
    ]
