"""Steps that do to their process what a worker must survive, for the workers of the integration tests.

The store says where a step does it ("prep", "exec" or "post") and what (`deed`, a key of `ERRORS` or `ENDS`).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from pocoflow import Flow, Node, Store
from pocoflow.db.ledger import SqlLedger
from pocoflow.engine.records import POISON
from pocoflow.engine.wording import POISON_TEXT
from tests.integration.flows import Step, line, record


class Unpicklable(Exception):
    """Carries something that cannot leave its process, and says so when somebody tries."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()

    def __reduce__(self) -> NoReturn:
        raise TypeError("cannot pickle this")


class Speechless(Exception):
    def __str__(self) -> NoReturn:
        raise ValueError("no words")

    __repr__ = __str__


def throw(error: BaseException) -> NoReturn:
    raise error


def fall(depth: int = 0) -> int:
    return fall(depth + 1) + 1


def hoard() -> None:
    bytearray(sys.maxsize)


ERRORS: dict[str, Callable[[], object]] = {
    "MemoryError": hoard,
    "SystemExit": lambda: sys.exit(3),
    "KeyboardInterrupt": lambda: throw(KeyboardInterrupt("not by hand")),
    "RecursionError": fall,
    "Unpicklable": lambda: throw(Unpicklable("a lock inside")),
    "Speechless": lambda: throw(Speechless()),
}
ENDS: dict[str, Callable[[], object]] = {
    "exit": lambda: os._exit(1),
    "quiet exit": lambda: os._exit(0),
    "null pointer": lambda: ctypes.string_at(0),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
}
PLACES = ("prep", "exec", "post")
# Retrying is for what may be different the next time, and only in exec.
NOT_RETRIED = ("SystemExit", "KeyboardInterrupt")
TEXTS = {
    "MemoryError": "",
    "SystemExit": "3",
    "KeyboardInterrupt": "not by hand",
    "RecursionError": "maximum recursion depth exceeded",
    "Unpicklable": "a lock inside",
    "Speechless": "(its text cannot be shown)",
}


class Doomed(Node):
    """Writes itself down right before it does its deed; an error in `exec` is tried a second time."""

    max_retries = 2

    def prep(self, store: Store) -> dict[str, Any]:
        data = store.as_dict()
        self._do("prep", data)
        return data

    def exec(self, data: dict[str, Any]) -> None:
        self._do("exec", data)

    def post(self, store: Store, data: dict[str, Any], result: None) -> None:
        self._do("post", data)

    def _do(self, where: str, data: dict[str, Any]) -> None:
        if data["where"] == where:
            record(data, self.name)
            (ERRORS | ENDS)[data["deed"]]()


class Hoarder(Step):
    """Leaves its process without memory for sweeps."""

    def work(self, data: dict[str, Any]) -> None:
        SqlLedger.sweep = lambda self, **_: throw(MemoryError("no room"))  # type: ignore[method-assign]


doomed = Flow(line(Step(name="fine"), Doomed(name="doomed")), flow_name="doomed")
hoarder = Flow(Hoarder(name="hoarder"), flow_name="hoarder")


def cases() -> list[tuple[str, str]]:
    """What `doomed` is to do, and where: every error everywhere, every end in exec, one everywhere."""
    everywhere = [(deed, where) for deed in (*ERRORS, "exit") for where in PLACES]
    return everywhere + [(deed, "exec") for deed in ENDS if deed != "exit"]


def expected_end(deed: str, *, max_crashes: int) -> tuple[str, str]:
    """The type and the text of the error with which its run ends."""
    if deed in ENDS:
        return POISON, POISON_TEXT.format(node="doomed", crashes=max_crashes + 1, step=1)
    return deed, TEXTS[deed]


def expected_tries(deed: str, where: str, *, max_crashes: int) -> int:
    """How often it does its deed."""
    if deed in ENDS:
        return max_crashes + 1
    return Doomed.max_retries if where == "exec" and deed not in NOT_RETRIED else 1
