"""Flows that do not simply go on to their end: they fail, go round for ever, lose their way, have hooks.

Like those of `flows`, their nodes note each execution in a file outside the database.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pocoflow import Flow, Node, Store
from pocoflow.node import current_step
from tests.chaos.flows import addition, note_execution

MAX_STEPS = 30
RETRY_DELAY_S = 3.0


class Noting(Node):
    """Notes its execution, and takes whichever action it was made with."""

    def __init__(self, name: str, action: str = "default") -> None:
        super().__init__(name)
        self.action = action

    def prep(self, store: Store) -> dict[str, Any]:
        return store.as_dict()

    def exec(self, data: dict[str, Any]) -> None:
        step: Any = current_step.get()
        note_execution(data["effects"], step.position)
        self.work(data, step.position.tries)

    def work(self, data: dict[str, Any], tries: int) -> None:
        """Nothing, unless it is another kind of node."""

    def post(self, store: Store, data: dict[str, Any], result: None) -> str:
        return self.action


class Failing(Noting):
    """Fails at as many tries as the store says in `failures`; each next one is seconds later."""

    max_retries = 10
    retry_delay = RETRY_DELAY_S

    def work(self, data: dict[str, Any], tries: int) -> None:
        if tries <= data["failures"]:
            raise ConnectionError(f"try {tries} fails")


class Stuck(Noting):
    """Fails, without another try, for as long as its gate is shut."""

    def work(self, data: dict[str, Any], tries: int) -> None:
        if not Path(f"{data['gate']}-{self.name}").exists():
            raise ConnectionError("the gate is shut")


def _circle() -> Node:
    there, back = Noting("there"), Noting("back")
    there.then("default", back)
    back.then("default", there)
    return there


def _circle_of_one() -> Node:
    node = Noting("itself")
    return node.then("default", node)


retrying = Flow(Failing("failing").then("default", Noting("after")), flow_name="retrying")
stuck = Flow(Stuck("stuck").then("default", Noting("after")), flow_name="stuck")
circle = Flow(_circle(), max_steps=MAX_STEPS, flow_name="circle")
circle_of_one = Flow(_circle_of_one(), max_steps=MAX_STEPS, flow_name="circle_of_one")
lost = Flow(Noting("lost", action="nowhere").then("somewhere", Noting("somewhere")), flow_name="lost")


def blocks(name: str, *rest: Any) -> None:
    """Take as long as the store says in `hook_s`, in the hooks of one node."""
    store = rest[-1]
    if name == "two":
        time.sleep(store["hook_s"])


def raises(*_: Any) -> None:
    raise RuntimeError("a hook fails on purpose")


def exits(*_: Any) -> None:
    raise SystemExit("a hook wants to end the process")


def interrupts(*_: Any) -> None:
    raise KeyboardInterrupt("a hook interrupts")


def spoils(name: str, *rest: Any) -> None:
    """Change the store when it is committed already."""
    rest[-1]["sum"] = -1


hooked = (
    Flow(addition.start, flow_name="hooked")
    .on("node_start", raises)
    .on("node_start", blocks)
    .on("node_end", exits)
    .on("node_end", blocks)
    .on("node_end", interrupts)
    .on("node_end", spoils)
    .on("flow_end", exits)
)
