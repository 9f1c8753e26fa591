"""Runs whose graph has changed: what each ledger that we ship keeps of it, and what workers make of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from pocoflow import Flow, Node, Store
from pocoflow.engine.clock import SystemClock
from pocoflow.engine.deliver import deliver
from pocoflow.engine.local import LocalFlags, Unwatched
from pocoflow.engine.ports import Ledger, Ports
from pocoflow.engine.records import FLOW_CHANGED, Failure, Hint, Status
from pocoflow.engine.rows import is_settled
from tests.contract.builders import (
    RUN,
    WORKER,
    Entry,
    at_once,
    begun,
    facts,
    history,
    new_run,
    record,
    started,
    take,
)
from tests.contract.subjects import Subject, near

WHY = Failure(FLOW_CHANGED, "node 'A' is not there")
GRAPH = {"graph": "{}", "fingerprint": "other"}


def changed(step: int = 0, node: str = "A", *, to: str = "other", attempt: int = 1) -> Entry:
    return Entry("flow_changed", step, node, attempt, action=to, worker=WORKER)


def test_the_graph_of_a_run_is_kept_once_with_the_time_when_it_was_first_seen(subject: Subject) -> None:
    ledger = subject.ledger
    ledger.start(new_run("one", graph="{}"))
    first = ledger.get_graph("hash")

    ledger.start(new_run("two", graph="{}"))

    assert first is not None
    assert first.text == "{}"
    assert ledger.get_graph("hash") == first
    assert ledger.get_graph("unknown") is None


def test_a_run_may_be_started_with_a_graph_that_the_ledger_has_already(ledger: Ledger) -> None:
    ledger.start(new_run())

    assert ledger.get_graph("hash") is None
    assert take(ledger).flow_hash == "hash"


def test_a_run_carries_the_graph_that_it_has_gone_on_with(ledger: Ledger) -> None:
    position = started(ledger)

    assert ledger.adopt(position, **GRAPH) is Status.RUNNING

    ledger.commit(position, record())
    assert facts(ledger, "flow_hash") == ("other",)
    assert take(ledger, 1).flow_hash == "other"
    assert ledger.get_graph("other") is not None
    assert history(ledger)[:2] == [begun(), changed()]


def test_each_graph_is_noted_once_however_often_they_change_to_and_fro(ledger: Ledger) -> None:
    position = started(ledger)

    for fingerprint in ("other", "third", "other", "other", "third"):
        ledger.adopt(position, graph="{}", fingerprint=fingerprint)

    assert history(ledger) == [begun(), changed(to="other"), changed(to="third")]


def test_many_may_bring_one_graph_at_the_same_moment(ledger: Ledger) -> None:
    positions = []
    for number in range(4):
        ledger.start(new_run(f"run-{number}"))
        positions.append(take(ledger, run_id=f"run-{number}"))

    answers = at_once(4, lambda number: ledger.adopt(positions[number], **GRAPH))

    assert answers == [Status.RUNNING] * 4


def test_who_has_lost_the_step_changes_nothing(ledger: Ledger) -> None:
    position = started(ledger)
    ledger.cancel(RUN, force=True)
    before, told = ledger.get_run(RUN), history(ledger)

    assert ledger.adopt(position, **GRAPH) is None
    assert ledger.strand(position, WHY) is None

    assert (ledger.get_run(RUN), history(ledger)) == (before, told)
    assert ledger.get_graph("other") is None


def test_a_stranded_run_is_paused_with_the_reason_and_no_try_is_counted(subject: Subject) -> None:
    ledger, position = subject.ledger, started(subject.ledger)

    assert ledger.strand(position, WHY) is Status.PAUSED

    assert facts(ledger, "status", "error_type", "error_msg") == ("paused", FLOW_CHANGED, WHY.message)
    assert facts(ledger, "owner", "want", "attempt", "completed_at") == (None, None, 0, None)
    assert subject.counters(RUN).wake_in_s is None
    assert history(ledger) == [begun(), Entry("run_paused", 0, error=WHY.message)]
    row = ledger.get_run(RUN)
    assert row is not None
    assert is_settled(row)


def test_a_stranded_run_goes_on_when_it_is_resumed(subject: Subject) -> None:
    ledger, position = subject.ledger, started(subject.ledger)
    ledger.release(position, unroutable=True)
    subject.pass_time(500.0)
    position = take(ledger)
    assert position.unroutable_s == near(500.0)
    ledger.strand(position, WHY)

    assert ledger.resume(RUN, home=None) == Hint(RUN, 0)

    assert facts(ledger, "status", "error_type", "error_msg") == ("queued", None, None)
    assert take(ledger).unroutable_s is None


@pytest.mark.parametrize(
    ("want", "status"), [("cancel", Status.CANCELLED), ("pause", Status.PAUSED)], ids=["cancel", "pause"]
)
def test_what_the_user_wanted_comes_first(ledger: Ledger, want: str, status: Status) -> None:
    position = started(ledger)
    getattr(ledger, want)(RUN)

    assert ledger.strand(position, WHY) is status

    assert facts(ledger, "status", "error_type", "want") == (status, None, None)


class Named(Node):
    """Writes its name down and takes the way that the store says."""

    def post(self, store: Store, prepared: Any, result: Any) -> str:
        store["done"] = [*store.get("done", []), self.name]
        return str(store.get("way", "default"))


def flow(**edges: Mapping[str, str]) -> Flow:
    nodes = {name: Named(name=name) for name in edges}
    for name, following in edges.items():
        for action, to in following.items():
            nodes[name].then(action, nodes[to])
    return Flow(next(iter(nodes.values())), flow_name="flow")


OLD = flow(a={"default": "b"}, b={"default": "c"}, c={})
LONGER = flow(a={"default": "b"}, b={"default": "c"}, c={"default": "d"}, d={})
WITHOUT_B = flow(a={"default": "c"}, c={})
REROUTED = flow(a={"default": "b"}, b={"default": "d"}, c={}, d={"default": "c"})


@dataclass
class Worker:
    """Delivers hints to one version of the code, as a worker process does."""

    ledger: Ledger
    flow: Flow
    unroutable_s: float = 1000.0

    def take(self, step: int) -> Any:
        ports = Ports(self.ledger, LocalFlags(), Unwatched(), SystemClock())
        return deliver(
            Hint(RUN, step),
            find_flow=lambda position: self.flow.definition(),
            ports=ports,
            dispatcher=self,  # type: ignore[arg-type]
            worker=WORKER,
            unroutable_s=self.unroutable_s,
        )

    def send(self, hint: Hint) -> None:
        """Hints are lost here: the test says who comes next."""


def begin(ledger: Ledger, made: Flow, *, run_id: str = RUN) -> None:
    graph = made.definition().graph
    run = new_run(run_id, flow_hash=graph.fingerprint, graph=graph.text, node=graph.start)
    ledger.start(run)


def changes(ledger: Ledger) -> list[tuple[int | None, str | None]]:
    return [(entry.step, entry.action) for entry in history(ledger) if entry.event == "flow_changed"]


def at(subject: Subject) -> tuple[Any, ...]:
    return facts(subject.ledger, "status", "total_steps", "current_node")


def give_back(worker: Worker, subject: Subject, step: int) -> None:
    """Have a worker look at a step that is not for it, and make the step due again."""
    before = at(subject)[1:]
    worker.take(step)
    subject.pass_time(2.0)
    assert at(subject) == ("queued", *before)


def test_a_run_goes_on_with_a_graph_that_keeps_its_next_node_and_edges(subject: Subject) -> None:
    ledger = subject.ledger
    begin(ledger, OLD)
    Worker(ledger, OLD).take(0)
    newer = Worker(ledger, LONGER)

    for step in (1, 2, 3):
        newer.take(step)

    assert at(subject) == ("completed", 4, "d")
    assert changes(ledger) == [(1, LONGER.definition().graph.fingerprint)]


def test_a_worker_whose_graph_lacks_the_node_leaves_the_step_to_others(subject: Subject) -> None:
    ledger = subject.ledger
    begin(ledger, OLD)
    Worker(ledger, OLD).take(0)

    give_back(Worker(ledger, WITHOUT_B), subject, 1)
    Worker(ledger, OLD).take(1)

    assert at(subject) == ("queued", 2, "c")
    assert changes(ledger) == []


def test_a_run_is_paused_when_no_other_worker_has_come_in_time(subject: Subject) -> None:
    ledger = subject.ledger
    begin(ledger, OLD)
    Worker(ledger, OLD).take(0)
    newer = Worker(ledger, REROUTED)
    give_back(newer, subject, 1)
    subject.pass_time(2000.0)

    newer.take(1)

    assert at(subject) == ("paused", 1, "b")
    error_type, message = facts(ledger, "error_type", "error_msg")
    assert error_type == FLOW_CHANGED
    assert "node 'b' has lost its edges 'default' to 'c' (now 'd')" in message
    assert "fork" in message
    assert "resume" in message


def test_the_right_worker_goes_on_with_a_run_that_was_paused_so_and_resumed(subject: Subject) -> None:
    ledger = subject.ledger
    begin(ledger, OLD)
    Worker(ledger, WITHOUT_B, unroutable_s=0.0).take(0)
    assert at(subject) == ("paused", 0, "a")

    ledger.resume(RUN, home=None)
    for step in (0, 1, 2):
        Worker(ledger, OLD).take(step)

    assert at(subject) == ("completed", 3, "c")


def test_a_run_of_a_newer_graph_is_left_to_newer_workers(subject: Subject) -> None:
    ledger = subject.ledger
    begin(ledger, OLD, run_id="earlier")
    subject.pass_time(1.0)
    begin(ledger, LONGER)
    older = Worker(ledger, OLD)

    give_back(older, subject, 0)
    Worker(ledger, LONGER).take(0)

    assert at(subject) == ("queued", 1, "b")
    assert changes(ledger) == []


def test_after_a_rollback_older_workers_go_on_with_it_when_no_newer_one_has_come(subject: Subject) -> None:
    ledger = subject.ledger
    begin(ledger, OLD, run_id="earlier")
    subject.pass_time(1.0)
    begin(ledger, LONGER)
    older = Worker(ledger, OLD)
    give_back(older, subject, 0)
    subject.pass_time(2000.0)

    for step in (0, 1, 2):
        older.take(step)

    assert at(subject) == ("completed", 3, "c")
    assert changes(ledger) == [(0, OLD.definition().graph.fingerprint)]


def test_a_run_whose_graph_nobody_kept_goes_on_where_its_node_is(subject: Subject) -> None:
    ledger = subject.ledger
    ledger.start(new_run(node="b"))

    Worker(ledger, OLD).take(0)

    assert at(subject) == ("queued", 1, "c")
    assert changes(ledger) == [(0, OLD.definition().graph.fingerprint)]
