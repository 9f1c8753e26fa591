"""How large values are kept once, and found again with the checkpoints that name them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, FromClause, Insert, select

from pocoflow.db.schema import blob_uses, blobs
from pocoflow.db.words import NOW
from pocoflow.engine.history import Checkpoint


def params(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the statements take that write a checkpoint; `p_blobs` is None when there are none to keep."""
    # In one order, so that no two writers wait for each other.
    new = sorted(checkpoint.new_blobs.items())
    return {
        "p_text": checkpoint.text,
        "p_depth": checkpoint.depth,
        "p_named": " ".join(checkpoint.blobs) or None,
        "p_blobs": json.dumps(new) if new else None,
    }


def keep(
    insert: Callable[..., Any],
    source: FromClause,
    pairs: FromClause,
    digest: ColumnElement[str],
    body: ColumnElement[str],
) -> Sequence[Insert]:
    """Insert the blobs that are not there yet, and note that the run in `source` needs all of them.

    Args:
        insert: The one of the database's dialect.
    """
    both = source.join(pairs, digest.is_not(None))
    new = select(digest, body, NOW).select_from(both).where(body.is_not(None)).order_by(digest)
    texts = insert(blobs).from_select(["digest", "body", "used_at"], new)
    uses = select(source.c.run_id, digest).select_from(both).where(digest.is_not(None))
    return (
        # One that is there already may be about to be pruned: this says that it is needed again.
        texts.on_conflict_do_update(index_elements=["digest"], set_={"used_at": texts.excluded.used_at}),
        insert(blob_uses).from_select(["run_id", "digest"], uses).on_conflict_do_nothing(),
    )
