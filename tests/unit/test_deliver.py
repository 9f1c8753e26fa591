"""What a worker makes of an error that is no ordinary failure of a node."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest

from pocoflow import Flow, Node
from pocoflow.engine import signals
from pocoflow.engine.clock import SystemClock
from pocoflow.engine.deliver import deliver
from pocoflow.engine.history import Checkpoint
from pocoflow.engine.local import LocalFlags, Unwatched
from pocoflow.engine.memory import MemoryLedger
from pocoflow.engine.ports import Ports
from pocoflow.engine.records import Hint
from pocoflow.engine.timing import Timing
from tests.contract.builders import new_run

RUN = "run"


class Interrupts(Node):
    def exec(self, prepared: Any) -> NoReturn:
        raise KeyboardInterrupt("from the node")


class FullLedger(MemoryLedger):
    def encode(self, store: Any) -> NoReturn:
        raise MemoryError("no room for the store")


class Recorder:
    def __init__(self) -> None:
        self.sent: list[Hint] = []

    def send(self, hint: Hint) -> None:
        self.sent.append(hint)


class PressesCtrlC(Node):
    def exec(self, prepared: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def ctrl_c_interrupts() -> Iterator[None]:
    """Let SIGINT mean what it means in a terminal, whatever runs the tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def execute(node: Node, ledger: MemoryLedger, dispatcher: Recorder) -> None:
    flow = Flow(node, flow_name="flow")
    ledger.start(new_run(RUN, node=node.name, input=Checkpoint("{}")))
    deliver(
        Hint(RUN, 0),
        find_flow=lambda position: flow.definition(),
        ports=Ports(ledger, LocalFlags(), Unwatched(), SystemClock()),
        dispatcher=dispatcher,
        worker="host:1",
        unroutable_s=60.0,
    )


def outcome(ledger: MemoryLedger) -> tuple[str, str | None, str | None]:
    row = ledger.get_run(RUN)
    assert row is not None
    return row["status"], row["error_type"], row["error_msg"]


def test_a_keyboard_interrupt_that_the_node_raises_by_itself_fails_the_run() -> None:
    ledger, dispatcher = MemoryLedger(SystemClock(), Timing()), Recorder()

    execute(Interrupts(), ledger, dispatcher)

    assert outcome(ledger) == ("failed", "KeyboardInterrupt", "from the node")
    assert dispatcher.sent == []


def test_a_step_interrupted_by_ctrl_c_is_given_back(ctrl_c_interrupts: None) -> None:
    ledger, dispatcher = MemoryLedger(SystemClock(), Timing()), Recorder()

    with pytest.raises(KeyboardInterrupt), signals.installed():
        execute(PressesCtrlC(), ledger, dispatcher)

    assert outcome(ledger) == ("queued", None, None)
    assert dispatcher.sent == [Hint(RUN, 0)]


def test_a_store_that_memory_has_no_room_to_write_fails_the_run() -> None:
    ledger = FullLedger(SystemClock(), Timing())

    execute(Node(), ledger, Recorder())

    assert outcome(ledger) == ("failed", "MemoryError", "no room for the store")
