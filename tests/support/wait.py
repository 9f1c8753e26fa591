"""Waiting for what other processes and threads do: for a condition with a deadline, never for a while."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T], *, timeout_s: float = 10.0, every_s: float = 0.02, what: str = ""
) -> T:
    """Ask until the answer is true, and return it.

    Args:
        condition: Cheap, and safe to ask again and again; what it raises ends the wait.
        timeout_s: Generous: a slow machine needs it, a fast one does not spend it.
        every_s: Seconds between two questions.
        what: What is waited for, to be named in the error.

    Raises:
        AssertionError: It was never true in all this time.
    """
    deadline = time.monotonic() + timeout_s
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:g} s in vain for {what or condition}; last: {answer!r}")
        time.sleep(every_s)
    return answer


def process_state(pid: int) -> str:
    """Return the letter that ps shows first (T is stopped, Z is a zombie), or nothing for no process."""
    if Path("/proc/self/stat").exists():  # a slim image has no ps
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return ""
    ps = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return ps.stdout.strip()[:1]


def is_running(pid: int) -> bool:
    """Whether a process runs; a zombie, which only waits for its parent to look, does not."""
    return process_state(pid) not in ("", "Z", "X")
