"""Flows for the workers of the integration tests.

Every execution of a step is written to a file that the store names, before the step does anything else: what
the database says can be held against what has really happened. A step waits for the file `gate` in the
store where the key `hold` names its node.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from pocoflow import AsyncNode, Flow, Node, Store, flow_factory

HOLD_S = 90.0


def record(data: Any, node: str) -> None:
    """Append a line: one write to a file opened to append is never mixed up with another."""
    descriptor = os.open(data["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, f"{data['run']} {node} {os.getpid()}\n".encode())
    finally:
        os.close(descriptor)


def wait_for_gate(gate: str) -> None:
    deadline = time.monotonic() + HOLD_S
    while not Path(gate).exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody opened {gate}")
        time.sleep(0.01)


class Step(Node):
    """Writes itself down, waits if told to, and adds its name to what was done."""

    def prep(self, store: Store) -> dict[str, Any]:
        return store.as_dict()

    def exec(self, data: dict[str, Any]) -> Any:
        record(data, self.name)
        if data.get("hold") == self.name:
            wait_for_gate(data["gate"])
        return self.work(data)

    def work(self, data: dict[str, Any]) -> Any:
        return None

    def post(self, store: Store, data: dict[str, Any], result: Any) -> str | None:
        store["done"] = [*store.get("done", []), self.name]
        store["result"] = result
        return None


class Count(Step):
    """Runs `left` times."""

    def post(self, store: Store, data: dict[str, Any], result: Any) -> str:
        store["left"] -= 1
        return "again" if store["left"] > 0 else "enough"


class Broken(Step):
    max_retries = 2

    def work(self, data: dict[str, Any]) -> None:
        raise ValueError("no luck today")


class Flaky(Step):
    """Fails until it was executed `failures` + 1 times."""

    max_retries = 3
    retry_delay = 1.0

    def work(self, data: dict[str, Any]) -> str:
        tries = Path(data["log"]).read_text().count(f"{data['run']} {self.name} ")
        if tries <= data["failures"]:
            raise ConnectionError(f"try {tries}")
        return f"try {tries}"


class Stubborn(Step):
    """Fails, and asks for a try tomorrow."""

    max_retries = 2
    retry_delay = 24 * 3600.0

    def work(self, data: dict[str, Any]) -> None:
        raise ConnectionError("closed today")


class Patient(Step):
    """Ends early when it is asked to, and else only when the gate opens."""

    def work(self, data: dict[str, Any]) -> str:
        deadline = time.monotonic() + HOLD_S
        while not Path(data["gate"]).exists() and time.monotonic() < deadline:
            if self.cancelled:
                return "returned early"
            time.sleep(0.01)
        return "was not asked"


class Deadly(Step):
    """Ends the process that executes it."""

    def work(self, data: dict[str, Any]) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Quitter(Step):
    """Ends the process in the polite way, as a command line parser does when it dislikes its arguments."""

    def work(self, data: dict[str, Any]) -> None:
        sys.exit(data["code"])


class Gather(AsyncNode):
    def prep(self, store: Store) -> dict[str, Any]:
        return store.as_dict()

    async def exec_async(self, data: dict[str, Any]) -> list[int]:
        record(data, self.name)
        return await asyncio.gather(*(self._square(number) for number in data["numbers"]))

    async def _square(self, number: int) -> int:
        await asyncio.sleep(0)
        return number * number

    def post(self, store: Store, data: dict[str, Any], result: list[int]) -> None:
        store["result"] = result


class OnGpu(Step):
    queue = "gpu"


def line(*nodes: Node) -> Node:
    """Wire the nodes one after the other and return the first."""
    for before, after in pairwise(nodes):
        before.then("default", after)
    return nodes[0]


NAMES = ("one", "two", "three", "four", "five")
chain = Flow(line(*(Step(name=name) for name in NAMES)), flow_name="chain")
relay = Flow((counter := Count(name="count")).then("again", counter), flow_name="relay", max_steps=1000)
endless = Flow((turn := Step(name="turn")).then("default", turn), flow_name="endless", max_steps=5)
broken = Flow(line(Step(name="fine"), Broken(name="broken")), flow_name="broken")
flaky = Flow(line(Step(name="fine"), Flaky(name="flaky")), flow_name="flaky")
stubborn = Flow(Stubborn(name="stubborn"), flow_name="stubborn")
patient = Flow(line(Patient(name="patient"), Step(name="later")), flow_name="patient")
lonely = Flow(Patient(name="lonely"), flow_name="lonely")
deadly = Flow(line(Step(name="fine"), Deadly(name="deadly")), flow_name="deadly")
quitter = Flow(Quitter(name="quitter"), flow_name="quitter")
gather = Flow(Gather(name="gather"), flow_name="gather")
gpu = Flow(line(Step(name="before"), OnGpu(name="on_gpu"), Step(name="after")), flow_name="gpu")

hooked = Flow(line(Step(name="fine"), Step(name="last")), flow_name="hooked")
hooked.on("node_start", lambda name, store: record(store, f"start:{name}"))
hooked.on("node_end", lambda name, action, elapsed, store: record(store, f"end:{name}:{action}"))
hooked.on("flow_end", lambda steps, store: record(store, f"flow_end:{steps}"))
broken.on("node_error", lambda name, exc, store: record(store, f"error:{name}:{type(exc).__name__}"))


@flow_factory
def made_on_demand() -> Flow:
    return Flow(line(Step(name="first"), Step(name="second")), flow_name="made_on_demand")
