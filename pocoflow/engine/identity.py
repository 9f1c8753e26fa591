"""What a run is called, and what tells its start from any other with the same name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from uuid import uuid4

from pocoflow.engine.graph import MAX_NAME_LENGTH
from pocoflow.engine.records import NewRun, Started
from pocoflow.errors import DefinitionError, RunConflictError

LONGEST_PREFIX = MAX_NAME_LENGTH - 17


def checked_id(value: str, what: str) -> str:
    """Return the id if it can be one; raises DefinitionError, which names `what` it is for."""
    if not isinstance(value, str) or not value or not value.isprintable():
        raise DefinitionError(f"{what} must be a printable string that is not empty, got {str(value)[:80]!r}")
    if len(value) > MAX_NAME_LENGTH:
        raise DefinitionError(
            f"{what} has {len(value)} characters, {MAX_NAME_LENGTH} are allowed: shorten it"
        )
    return value


def fresh_run_id(flow_name: str) -> str:
    """Return an id that no run has."""
    return f"{flow_name[:LONGEST_PREFIX]}-{uuid4().hex[:16]}"


def input_hashes(
    flow_name: str, node: str, blinded: Iterable[Mapping[str, str]], parent: tuple[str, int] | None = None
) -> list[str]:
    """Tell starts apart, whatever the order of the keys of their input.

    Args:
        blinded: The input without its secrets, see `Trail.blinded`; each time it is there gives a hash.
        parent: Of a fork: the run, and the step after which it goes on.
    """
    origin = "" if parent is None else f"\0{parent[0]}\0{parent[1]}"
    texts = (f"{flow_name}\0{node}\0{canonical(content)}{origin}" for content in blinded)
    return [hashlib.sha256(text.encode()).hexdigest() for text in texts]


def canonical(texts: Mapping[str, str]) -> str:
    """Return the content of a store as one text, the same for whatever order of its keys."""
    return json.dumps({name: json.loads(text) for name, text in texts.items()}, sort_keys=True)


def require_same(new: NewRun, known: Started) -> None:
    """Raise RunConflictError unless the run that is there was started in the very same way."""
    if known.input_hash not in (new.input_hash, *new.older_hashes):
        raise RunConflictError(
            f"there is a run {new.run_id!r} with other input already: choose another run_id", new.run_id
        )
