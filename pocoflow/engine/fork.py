"""A new run that goes on from a checkpoint of another one, which stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from pocoflow.engine.history import Trail
from pocoflow.engine.identity import checked_id, fresh_run_id, input_hashes
from pocoflow.engine.ports import Ledger
from pocoflow.engine.records import ForkPoint, NewRun
from pocoflow.errors import DefinitionError, InvalidTransitionError, StoreKeyError
from pocoflow.store import Store


def checked_step(step: object) -> int:
    """Return the step if it can be one, -1 for the input; raises DefinitionError."""
    if type(step) is not int:
        raise DefinitionError(f"a step is a whole number, -1 for the input, got {step!r}")
    return step


class _Mark(Enum):
    REMOVE = "remove"

    def __repr__(self) -> str:
        return self.name


# As the value of a key among the updates: the key is to go.
REMOVE: Final = _Mark.REMOVE


def fork_of(
    point: ForkPoint,
    ledger: Ledger,
    *,
    updates: Mapping[str, Any] | None,
    run_id: str | None,
    home: str | None,
) -> NewRun:
    """Return the new run, whose input is the checkpoint with these updates; writes nothing.

    Large values are named and not copied, and values that are not updated are not even decoded. Secrets go
    along, also where they cannot be decrypted.

    Args:
        updates: Values by key; REMOVE for a key that is to go.
        run_id: Of the new run; None for one that no run has.
        home: See `NewRun`.

    Raises:
        InvalidTransitionError: No node is known to follow this checkpoint.
        StoreKeyError: A key that is to go is not there.
        StoreTypeError: The schema of the store forbids an update.
        StoreSerializationError: An update holds something that a checkpoint cannot carry.
        SecretKeyError: An update is of a secret key, and the ledger has no key to encrypt it.
        DefinitionError: The run_id cannot be one, or the updates are no mapping.
    """
    if point.node is None:
        raise InvalidTransitionError(
            f"no node is known to follow step {point.step} of run {point.run_id!r}: name the first one "
            "(node=...), or fork an earlier step",
            point.run_id,
        )
    trail = Trail.load(point.saved)
    trail.fork()
    texts = _updated(trail, updates, ledger)
    made = trail.next(texts, whole=True)
    # With their text, although they are there: they may be about to be pruned along with the parent.
    made.new_blobs = {digest: text or point.saved.blobs[digest] for digest, text in made.new_blobs.items()}
    parent = (point.run_id, point.step)
    input_hash, *older_hashes = input_hashes(point.flow_name, point.node, trail.blinded(texts), parent)
    return NewRun(
        run_id=fresh_run_id(point.flow_name) if run_id is None else checked_id(run_id, "new_run_id"),
        flow_name=point.flow_name,
        flow_hash=point.flow_hash or "",
        node=point.node,
        queue=point.queue,
        input=made,
        input_hash=input_hash,
        older_hashes=older_hashes,
        home=home,
        timeout_s=point.timeout_s,
        schema=point.saved.schema,
        parent_run_id=point.run_id,
        parent_step=point.step,
    )


def _updated(trail: Trail, updates: Mapping[str, Any] | None, ledger: Ledger) -> Mapping[str, str]:
    texts = trail.texts
    if updates is None:
        return texts
    if not isinstance(updates, Mapping):
        raise DefinitionError(f"store_updates must be a dict, got a {type(updates).__name__}")
    removed = {key: None for key, value in updates.items() if value is REMOVE}
    for key, name in zip(removed, ledger.encode(Store(removed)), strict=True):
        if texts.pop(name, None) is None:
            raise StoreKeyError(f"store_updates cannot remove {key!r}: the checkpoint has no such key")
    written = trail.empty("store_updates")
    for key, value in updates.items():
        if value is not REMOVE:
            written[key] = value
    return {**texts, **ledger.encode(written)}
