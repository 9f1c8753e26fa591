"""The workload of the chaos suite: a flow with a loop, with retries, and with an answer that can be checked.

Every execution of a step appends a line to a file outside the database before it does anything else, so
that what the database says can be held against what has really happened.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.pool import Pool

from pocoflow import Flow, Node, Store
from pocoflow.node import current_step

HOLD_S = 600.0
# More than a lease.
LONG_S = 8
ROOM_BYTES = 64 << 20
DISK_FULL, MAX_PAGES = "disk-full", 1 << 30


@event.listens_for(Pool, "checkout")
def _fill_the_disk(connection: Any, record: Any, *_: Any) -> None:
    """While there is a file of that name beside it, an SQLite database cannot grow: its disk is full."""
    if isinstance(connection, sqlite3.Connection):
        (_, _, path), *_ = connection.execute("pragma database_list")
        full = bool(path) and Path(path).with_name(DISK_FULL).exists()
        # Nothing is done to the connections of other tests.
        if full or record.info.pop(DISK_FULL, False):
            connection.execute(f"pragma max_page_count={1 if full else MAX_PAGES}")
            record.info[DISK_FULL] = full


class Add(Node):
    """Notes that it is executed, and adds its number to the sum.

    The store tells it what else to do: to take its time (`pause_s`), to wait for a file (`gate`-name, where
    `hold` names this node), and at its first try to do something to its process (where `deeds` names it) or
    to fail (where `fails` does).
    """

    max_retries = 3

    def __init__(
        self, name: str, number: int, *, retry_delay: float = 0.0, timeout: float | None = None
    ) -> None:
        super().__init__(name)
        self.number = number
        self.retry_delay = retry_delay
        self.timeout = timeout

    def prep(self, store: Store) -> dict[str, Any]:
        return store.as_dict()

    def exec(self, data: dict[str, Any]) -> int:
        step: Any = current_step.get()
        note_execution(data["effects"], step.position)
        if self.name in data["hold"]:
            wait_for(Path(f"{data['gate']}-{self.name}"))
        time.sleep(data["pause_s"])
        if self.name in data["deeds"] and step.position.attempt == 1:
            DEEDS[data["deeds"][self.name]]()
        if self.name in data["fails"] and step.position.tries == 1:
            raise ConnectionError(f"{self.name} fails at its first try")
        return self.number

    def post(self, store: Store, data: dict[str, Any], result: int) -> str | None:
        store["sum"] += result
        store["trail"] = [*store["trail"], self.name]
        if self.name != "three":
            return None
        store["rounds"] -= 1
        return "again" if store["rounds"] > 0 else "enough"


def hog() -> None:
    """A call into C that keeps the interpreter to itself."""
    ctypes.PyDLL(None).sleep(LONG_S)


def burn() -> None:
    """Work for a whole processor."""
    over_at = time.monotonic() + LONG_S
    while time.monotonic() < over_at:
        sum(range(10_000))


def hoard() -> None:
    """Take all the memory that there is, in a process that gets no more than so much."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(
        resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM_BYTES, resource.RLIM_INFINITY)
    )
    hoarded = []
    while True:
        hoarded.append(bytearray(1 << 20))


DEEDS = {"hog": hog, "burn": burn, "hoard": hoard, "dawdle": lambda: time.sleep(HOLD_S)}


def note_execution(path: str, position: Any) -> None:
    """Append a line: one write to a file opened to append is never mixed up with another."""
    fields = (position.run_id, position.step, position.node, position.attempt, position.epoch, os.getpid())
    line = " ".join(map(str, fields)) + f" {time.time():.3f}\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def wait_for(gate: Path) -> None:
    deadline = time.monotonic() + HOLD_S
    while not gate.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody opened {gate}")
        time.sleep(0.02)


def adding(name: str, *, limit_s: float | None = None) -> Flow:
    """Two is tried again at once, by the worker that holds it, and may have a limit; three later, by any."""
    one, two, four = Add("one", 1), Add("two", 2, timeout=limit_s), Add("four", 4)
    three = Add("three", 3, retry_delay=1.0)
    one.then("default", two)
    two.then("default", three)
    three.then("again", three).then("enough", four)
    return Flow(one, flow_name=name)


addition = adding("addition")
limited = adding("addition with a limit", limit_s=1.0)
