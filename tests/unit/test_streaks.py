"""How many steps a worker executes for one hint (`Flow.max_inline_steps`), and what ends such a streak."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from pocoflow import Flow, Node, Store
from pocoflow.engine.deliver import STREAK_S, deliver
from pocoflow.engine.history import Checkpoint
from pocoflow.engine.local import LocalFlags, Unwatched
from pocoflow.engine.memory import MemoryLedger
from pocoflow.engine.ports import Ports
from pocoflow.engine.records import Hint
from tests.contract.builders import RUN, WORKER, facts, new_run
from tests.contract.subjects import TIMING, FrozenClock

NAMES = ("one", "two", "three", "four", "five")


class Recorder:
    """A dispatcher that keeps the hints."""

    def __init__(self) -> None:
        self.sent: list[Hint] = []

    def send(self, hint: Hint) -> None:
        self.sent.append(hint)

    def waiting(self, queue: str | None) -> int:
        return 0


class Scene:
    """A run of five nodes, and a worker that gets hints for it.

    Args:
        during: Called within the node of each name.
        queues: By name of the node; the others use the default queue.
    """

    def __init__(
        self,
        max_inline_steps: int,
        during: dict[str, Callable[[Scene], Any]] | None = None,
        queues: dict[str, str] | None = None,
    ) -> None:
        self.clock, self.dispatcher = FrozenClock(), Recorder()
        self.ledger = MemoryLedger(self.clock, TIMING)
        self.during = during or {}
        self.committed_before: dict[str, int] = {}
        nodes = [Step(name, self) for name in NAMES]
        for before, after in pairwise(nodes):
            before.then("default", after)
        for node in nodes:
            node.queue = (queues or {}).get(node.name)
        self._flow = Flow(nodes[0], flow_name="flow", max_inline_steps=max_inline_steps).definition()
        self.ledger.start(
            new_run(
                node="one",
                flow_hash=self._flow.graph.fingerprint,
                input=Checkpoint("{}"),
                queue=nodes[0].queue,
            )
        )

    def hint(self, step: int = 0) -> None:
        """Let the worker have a hint for this step."""
        deliver(
            Hint(RUN, step),
            find_flow=lambda position: self._flow,
            ports=Ports(self.ledger, LocalFlags(), Unwatched(), self.clock),
            dispatcher=self.dispatcher,
            worker=WORKER,
            unroutable_s=60.0,
        )

    @property
    def executed(self) -> list[str]:
        return list(self.committed_before)

    @property
    def committed(self) -> list[str | None]:
        return [row["node_name"] for row in self.ledger.get_events(RUN) if row["event"] == "node_end"]

    @property
    def status(self) -> str:
        (status,) = facts(self.ledger, "status")
        return str(status)


class Step(Node):
    """Notes how many steps were committed when it was executed."""

    max_retries = 2
    retry_delay = 60.0

    def __init__(self, name: str, scene: Scene) -> None:
        super().__init__(name)
        self._scene = scene

    def exec(self, prepared: Any) -> None:
        (steps,) = facts(self._scene.ledger, "total_steps")
        self._scene.committed_before[self.name] = steps
        self._scene.during.get(self.name, lambda scene: None)(self._scene)

    def post(self, store: Store, prepared: Any, result: Any) -> None:
        store["path"] = [*store.get("path", []), self.name]


def fail(scene: Scene) -> None:
    raise ConnectionError("closed")


def test_a_flow_that_says_nothing_is_executed_one_step_per_hint() -> None:
    assert Flow(Node()).max_inline_steps == 1


def test_without_streaks_each_step_sends_the_hint_for_the_next() -> None:
    scene = Scene(1)

    for step in range(len(NAMES)):
        scene.hint(step)

    assert scene.dispatcher.sent == [Hint(RUN, step) for step in (1, 2, 3, 4)]
    assert (scene.executed, scene.status) == (list(NAMES), "completed")


def test_one_hint_is_good_for_one_step_without_streaks() -> None:
    scene = Scene(1)

    scene.hint()

    assert scene.executed == ["one"]
    assert scene.dispatcher.sent == [Hint(RUN, 1)]
    assert scene.status == "queued"


def test_one_hint_is_good_for_as_many_steps_as_the_flow_allows() -> None:
    scene = Scene(3)

    scene.hint()

    assert scene.executed == ["one", "two", "three"]
    assert scene.dispatcher.sent == [Hint(RUN, 3)]
    assert scene.status == "queued"


def test_each_step_of_a_streak_is_committed_before_the_next() -> None:
    scene = Scene(3)

    scene.hint()

    assert scene.committed_before == {"one": 0, "two": 1, "three": 2}
    assert scene.committed == ["one", "two", "three"]
    checkpoints = [scene.ledger.get_fork_point(RUN, step).node for step in range(3)]
    assert checkpoints == ["two", "three", "four"]


def test_the_next_hint_begins_a_streak_of_its_own() -> None:
    scene = Scene(3)

    scene.hint()
    scene.hint(3)

    assert scene.executed == list(NAMES)
    assert scene.dispatcher.sent == [Hint(RUN, 3)]
    assert scene.status == "completed"


def test_a_run_that_ends_within_a_streak_sends_no_hint() -> None:
    scene = Scene(100)

    scene.hint()

    assert (scene.committed, scene.status) == (list(NAMES), "completed")
    assert scene.dispatcher.sent == []


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_cancel_that_is_asked_during_a_step_ends_the_streak_after_it(name: str) -> None:
    scene = Scene(5, during={name: lambda scene: scene.ledger.cancel(RUN)})

    scene.hint()

    assert scene.executed == scene.committed
    assert scene.executed[-1] == name
    assert scene.status == "cancelled"
    assert scene.dispatcher.sent == []


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_pause_that_is_asked_during_a_step_ends_the_streak_after_it(name: str) -> None:
    scene = Scene(5, during={name: lambda scene: scene.ledger.pause(RUN)})

    scene.hint()

    assert scene.executed == scene.committed
    assert scene.executed[-1] == name
    assert scene.status == "paused"
    assert scene.dispatcher.sent == []


def test_a_forced_cancel_during_a_step_ends_the_streak_and_the_step_does_not_count() -> None:
    scene = Scene(5, during={"two": lambda scene: scene.ledger.cancel(RUN, force=True)})

    scene.hint()

    assert scene.executed == ["one", "two"]
    assert (scene.committed, scene.status) == (["one"], "cancelled")
    assert scene.dispatcher.sent == []


def test_a_step_of_another_queue_is_left_to_the_workers_of_that_queue() -> None:
    scene = Scene(5, queues={"three": "gpu"})

    scene.hint()

    assert scene.executed == ["one", "two"]
    assert scene.dispatcher.sent == [Hint(RUN, 2, "gpu")]
    assert scene.status == "queued"


def test_a_streak_goes_on_in_the_queue_in_which_it_began() -> None:
    scene = Scene(5, queues=dict.fromkeys(NAMES[:4], "gpu"))

    scene.hint()

    assert scene.executed == ["one", "two", "three", "four"]
    assert scene.dispatcher.sent == [Hint(RUN, 4, None)]


def test_no_step_of_a_streak_begins_when_its_time_is_over() -> None:
    scene = Scene(5, during={"two": lambda scene: scene.clock.advance(STREAK_S)})

    scene.hint()

    assert scene.executed == ["one", "two"]
    assert scene.dispatcher.sent == [Hint(RUN, 2)]
    assert scene.status == "queued"


def test_the_time_of_all_steps_of_a_streak_counts() -> None:
    scene = Scene(5, during=dict.fromkeys(NAMES, lambda scene: scene.clock.advance(0.4 * STREAK_S)))

    scene.hint()

    assert scene.executed == ["one", "two", "three"]


def test_each_streak_has_time_of_its_own() -> None:
    scene = Scene(5, during={"two": lambda scene: scene.clock.advance(STREAK_S)})

    scene.hint()
    scene.hint(2)

    assert (scene.executed, scene.status) == (list(NAMES), "completed")


def test_a_step_that_has_to_wait_for_another_try_ends_the_streak() -> None:
    scene = Scene(5, during={"two": fail})

    scene.hint()

    assert (scene.executed, scene.committed) == (["one", "two"], ["one"])
    assert scene.status == "queued"
    assert scene.dispatcher.sent == []
