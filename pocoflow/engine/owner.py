"""The token of a claim: who made it, and a part that never comes again."""

from __future__ import annotations

from uuid import uuid4


def new_owner(worker: str) -> str:
    """Return a token for one claim by this process."""
    return f"{worker}:{uuid4().hex}"


def worker_of(owner: str) -> str:
    """Return the process that a token names."""
    return owner.rpartition(":")[0]
