"""What runs with a killed worker have left behind, held against runs that nobody disturbed.

Nothing here executes anything, so what it says depends on what was seen alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pocoflow.engine.fault_rules import POINTS, quoted

# Where a worker can be killed in the step of a node. A sweep belongs to none.
KILL_POINTS = tuple(point for point in POINTS if point != "in_sweep_after_update")
# Only long steps meet a heartbeat.
USUAL_POINTS = tuple(point for point in KILL_POINTS if point != "in_heartbeat")
_NOTHING = object()


class Outcome(StrEnum):
    """What became of a run whose worker was killed."""

    SAME = "same"
    DIFFERS = "differs"
    FAILED = "failed"
    STUCK = "stuck"
    NOT_ONCE = "not once"
    NOT_REACHED = "not reached"


class Verdict(StrEnum):
    """What is known about a node."""

    UNSAFE = "not safe to repeat"
    OTHERWISE = "ends differently, though exec was not repeated"
    REPEATABLE = "repeatable as far as seen"
    UNKNOWN = "exec was not repeated, so nothing is known"


GOOD = (Outcome.SAME, Outcome.NOT_REACHED)


@dataclass(frozen=True, slots=True)
class Case:
    """One run in which the worker is killed once: at this point of the first step of this node."""

    run_id: str
    node: str
    step: int
    point: str

    @property
    def rule(self) -> str:
        """What POCOFLOW_FAULTS must say for it."""
        node = "" if self.point == "after_receive" else quoted(self.node)
        return f"{self.run_id}/{self.point}@{node}:{self.step}=kill9*1"


@dataclass(frozen=True, slots=True)
class Seen:
    """What a run has left behind.

    Attributes:
        path: The nodes of its committed steps, in order.
        store: What it ended with, as checkpoints keep it, without its run id.
        executions: Step to how often its exec began.
        error: What `wait` raised; None when the run has completed.
        stuck: It had not ended in time.
        struck: The fault that was meant for it has struck.
        problems: What is wrong with its history.
    """

    run_id: str
    path: tuple[str, ...]
    store: Mapping[str, Any]
    executions: Counter[int]
    error: str | None
    stuck: bool
    struck: bool
    problems: tuple[str, ...]
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class Result:
    """What one case has shown.

    Attributes:
        executed: How often exec of the node began in this step.
        repeated: Whether it ran on after it had begun before, more often than undisturbed.
        keys: Where the final store differs.
        why: What else is to be said, such as the error.
    """

    case: Case
    outcome: Outcome
    executed: int
    repeated: bool
    keys: tuple[str, ...]
    why: str
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class NodeVerdict:
    """What the cases of one node amount to, with the points and keys that show it."""

    node: str
    verdict: Verdict
    points: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True, slots=True)
class Baseline:
    """Two runs that nobody disturbed: what to expect, and what cannot be expected."""

    first: Seen
    second: Seen

    @property
    def ignored(self) -> tuple[str, ...]:
        """Keys that differ without any kill."""
        return differing(self.first.store, self.second.store)

    @property
    def first_steps(self) -> dict[str, int]:
        """Each node that was visited, with the first of its steps."""
        return {node: self.first.path.index(node) for node in dict.fromkeys(self.first.path)}

    @property
    def same_path(self) -> bool:
        return self.first.path == self.second.path

    def judge(self, case: Case, seen: Seen) -> Result:
        """Say what became of a run whose worker was to be killed."""
        executed = seen.executions[case.step]
        again = seen.struck and executed > self.first.executions[case.step]
        outcome, keys, why = self._compare(seen)
        # A kill when exec had just begun leaves no work that could be repeated.
        repeated = again and case.point != "in_exec"
        return Result(case, outcome, executed, repeated, keys, why, seen.elapsed_s)

    def _compare(self, seen: Seen) -> tuple[Outcome, tuple[str, ...], str]:
        if seen.stuck:
            return Outcome.STUCK, (), seen.error or ""
        if seen.error is not None:
            return Outcome.FAILED, (), seen.error
        if seen.problems:
            return Outcome.NOT_ONCE, (), "; ".join(seen.problems)
        keys = tuple(key for key in differing(self.first.store, seen.store) if key not in set(self.ignored))
        if keys:
            why = "" if seen.struck else "without having been killed: the flow is not deterministic"
            return Outcome.DIFFERS, keys, why
        return (Outcome.SAME if seen.struck else Outcome.NOT_REACHED), (), ""


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keys under which two stores hold something else."""
    keys = {*one, *other}
    return tuple(sorted(key for key in keys if one.get(key, _NOTHING) != other.get(key, _NOTHING)))


def judge_node(node: str, results: Sequence[Result]) -> NodeVerdict:
    """Say what the cases of a node amount to."""
    bad = [result for result in results if result.outcome not in GOOD]
    unsafe = [result for result in bad if result.repeated]
    for verdict, grounds in ((Verdict.UNSAFE, unsafe), (Verdict.OTHERWISE, bad)):
        if grounds:
            keys = sorted({key for result in grounds for key in result.keys})
            whys = dict.fromkeys(result.why for result in grounds if result.why)
            points = tuple(result.case.point for result in grounds)
            return NodeVerdict(node, verdict, points, tuple(keys), "; ".join(whys))
    repeated = tuple(result.case.point for result in results if result.repeated)
    return NodeVerdict(node, Verdict.REPEATABLE if repeated else Verdict.UNKNOWN, repeated)


@dataclass(frozen=True, slots=True)
class Report:
    """All that `pocoflow chaos` has found out about a flow."""

    flow: str
    nodes: tuple[str, ...]
    baseline: Baseline
    results: list[Result] = field(default_factory=list)

    @property
    def same(self) -> bool:
        """Whether no kill has made a difference."""
        return all(result.outcome in GOOD for result in self.results)

    @property
    def not_visited(self) -> tuple[str, ...]:
        return tuple(node for node in self.nodes if node not in self.baseline.first_steps)

    @property
    def verdicts(self) -> list[NodeVerdict]:
        """One for each node that was visited, in their order."""
        return [
            judge_node(node, [result for result in self.results if result.case.node == node])
            for node in self.baseline.first_steps
        ]
