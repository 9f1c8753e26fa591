"""The effect log: a file beside the database that says which work was really begun, and which faults struck.

A line is one JSON object, written by one write to a file opened to append: those of several processes are
never mixed up, and what stands there stands there whatever happens to its writer a moment later.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from pocoflow.engine.ports import Clock
from pocoflow.engine.records import Position
from pocoflow.errors import SettingsError

if sys.platform != "win32":
    import fcntl

EXEC, FAULT = "exec", "fault"


class Effect(TypedDict):
    """A line of the log.

    Attributes:
        kind: "exec", an execution of a node begins, or "fault", a fault strikes.
        attempt: Try of the step, from 1; with `epoch` only for "exec".
        rule: The rule that strikes; only for "fault".
        t: Seconds since 1970.
        monotonic: Seconds that never go back, to compare within one machine.
    """

    kind: str
    rule: NotRequired[str]
    run_id: str
    step: int
    node: str | None
    attempt: NotRequired[int]
    epoch: NotRequired[int]
    pid: int
    t: float
    monotonic: float


class EffectLog:
    """The file, shared by all processes that name it.

    Raises:
        SettingsError: It cannot be written.
    """

    def __init__(self, path: str, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._offset = 0
        self._strikes: Counter[str] = Counter()
        try:
            with self._opened():
                pass
        except OSError as exc:
            raise SettingsError(f"POCOFLOW_EFFECT_LOG={path}: cannot be written: {exc.strerror}") from exc

    def executes(self, position: Position) -> None:
        """Note that `exec` begins."""
        where = {"run_id": position.run_id, "step": position.step, "node": position.node}
        who = {"attempt": position.attempt, "epoch": position.epoch}
        with self._opened() as file:
            os.write(file, self._line({"kind": EXEC, **where, **who}))

    def strikes(self, rule: str, times: int | None, **where: Any) -> bool:
        """Note that a fault strikes, unless it has so many times; returns whether it may.

        Of two processes that want the last one, one gets it.
        """
        line = self._line({"kind": FAULT, "rule": rule, **where})
        with self._opened() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self._read_on(file)
            if times is not None and self._strikes[rule] >= times:
                return False
            os.write(file, line)
        return True

    def _line(self, fields: dict[str, Any]) -> bytes:
        when = {"pid": os.getpid(), "t": self._clock.now(), "monotonic": self._clock.monotonic()}
        return json.dumps({**fields, **when}).encode() + b"\n"

    def _read_on(self, file: int) -> None:
        """Count the strikes that were added since the last look; nobody else writes strikes meanwhile."""
        while part := os.pread(file, 1 << 20, self._offset):
            whole = part[: part.rfind(b"\n") + 1]
            if not whole:
                return
            self._offset += len(whole)
            self._strikes.update(line["rule"] for line in _parsed(whole) if line["kind"] == FAULT)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        # Each time anew: a lock on a descriptor would be shared with forked children and other threads.
        file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            yield file
        finally:
            os.close(file)


def read_effects(path: str | Path) -> list[Effect]:
    """Return what the log says so far, oldest first; nothing if there is none yet."""
    try:
        return list(_parsed(Path(path).read_bytes()))
    except FileNotFoundError:
        return []


def _parsed(lines: bytes) -> Iterator[Effect]:
    for line in lines.splitlines():
        effect: Effect = json.loads(line)
        yield effect
