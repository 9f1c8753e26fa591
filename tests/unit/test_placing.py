"""Where a run of PocoFlow 0.2 goes on in the flow as it is today."""

from __future__ import annotations

import pytest

from pocoflow import Flow, Node, Store
from pocoflow.engine.clock import SystemClock
from pocoflow.engine.local import LocalFlags, Unwatched
from pocoflow.engine.memory import MemoryLedger
from pocoflow.engine.placing import place
from pocoflow.engine.ports import Ports
from pocoflow.engine.records import Continue, Fenced, Finish, Outcome, Position, Status
from pocoflow.engine.timing import Timing
from tests.contract.builders import started


class Ask(Node):
    """The only one of its name."""


class Answer(Node):
    queue = "large"


class Give(Node):
    """One of two."""


def flow() -> Flow:
    """Ask goes to an answer by "ask", and to one of two nodes Give by anything else."""
    ask, answer, give, again = Ask(), Answer(), Give(), Give()
    ask.then("ask", answer).then("*", give)
    give.then("again", again)
    return Flow(ask, flow_name="flow")


def placed(
    stands: str, *, node: str = "Ask", data: dict[str, object] | None = None, of: Flow | None = None
) -> tuple[Position, Outcome]:
    ledger = MemoryLedger(SystemClock(), Timing(lease_s=30.0, grace_s=5.0, max_crashes=3))
    position = started(ledger, node=node)
    position.stands = stands
    ports = Ports(ledger, LocalFlags(), Unwatched(), SystemClock())
    outcome = place(position, Store(data or {}), flow=(of or flow()).definition(), ports=ports)
    shown = ledger.get_run(position.run_id)
    assert shown is not None
    position.node = shown["current_node"] or ""
    return position, outcome


@pytest.mark.parametrize(
    ("stands", "node", "queue"),
    [("at", "Ask", None), ("after ask", "Answer", "large"), ("after other", "Give", None)],
)
def test_the_next_step_is_of_that_node_and_goes_to_its_queue(
    stands: str, node: str, queue: str | None
) -> None:
    position, outcome = placed(stands)

    assert position.node == node
    assert isinstance(outcome, Continue)
    assert (outcome.hint.queue, outcome.position) == (queue, None)


def test_without_an_action_only_a_wildcard_fits_as_it_was_in_0_2() -> None:
    assert placed("after ")[0].node == "Give"


def test_where_nothing_follows_the_run_has_completed_and_its_hook_is_called() -> None:
    ended: list[int] = []
    watched = flow().on("flow_end", lambda steps, store: ended.append(steps))

    _, outcome = placed("after answered", node="Answer", of=watched)

    assert isinstance(outcome, Finish)
    assert (outcome.status, ended) == (Status.COMPLETED, [0])


@pytest.mark.parametrize("stands", ["at", "after again"])
def test_a_name_that_means_several_nodes_is_no_place(stands: str) -> None:
    _, outcome = placed(stands, node="Give")

    assert isinstance(outcome, Finish)
    assert outcome.status is Status.FAILED
    assert r"several of that name (Give, Give#2)" in str(outcome.error)


@pytest.mark.parametrize(
    ("value", "lost"),
    [
        ("<non-serialisable: Client>", True),
        ("<non-serialisable: list>", True),
        ("it said <non-serialisable: Client>", False),
        (["<non-serialisable: Client>"], False),
    ],
)
def test_a_placeholder_is_no_value(value: object, lost: bool) -> None:
    _, outcome = placed("at", data={"client": value})

    assert isinstance(outcome, Finish if lost else Continue)
    assert not lost or "'client'" in str(outcome.error)  # type: ignore[union-attr]


def test_a_step_that_somebody_else_has_taken_is_left_alone() -> None:
    ledger = MemoryLedger(SystemClock(), Timing(lease_s=30.0, grace_s=5.0, max_crashes=3))
    position = started(ledger, node="Ask")
    position.stands, position.epoch = "at", 7
    ports = Ports(ledger, LocalFlags(), Unwatched(), SystemClock())

    assert isinstance(place(position, Store({}), flow=flow().definition(), ports=ports), Fenced)
