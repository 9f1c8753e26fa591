"""A second start with one run_id: the same run, or a conflict."""

from __future__ import annotations

from pocoflow.engine.history import Saved, Trail
from pocoflow.engine.identity import canonical, require_same
from pocoflow.engine.ports import Ledger
from pocoflow.engine.records import STRANDED, Hint, NewRun, Started, Status
from pocoflow.errors import InvalidTransitionError, RunConflictError


def go_on(new: NewRun, known: Started, ledger: Ledger) -> Hint | None:
    """Decide what a second start with one run_id means; the hint, if there is something to execute."""
    if known.input_hash is None:
        _refuse_other_store(new, ledger)
    else:
        require_same(new, known)
    if known.status is not Status.PAUSED or known.error_type not in STRANDED:
        return None
    try:
        return ledger.resume(new.run_id, home=new.home)
    except InvalidTransitionError:
        return None  # Another process was quicker to let it go on.


def _refuse_other_store(new: NewRun, ledger: Ledger) -> None:
    """PocoFlow 0.2 kept no input: who goes on with a run of it gives the store that it has come to."""
    saved = ledger.get_saved(new.run_id)
    blobs = {digest: text for digest, text in new.input.new_blobs.items() if text is not None}
    given = Trail.load(Saved([new.input.text], blobs, cipher=ledger.cipher))
    if saved is None or canonical(Trail.load(saved).texts) != canonical(given.texts):
        raise RunConflictError(
            f"there is a run {new.run_id!r} already, whose input nobody has kept: choose another run_id, or "
            "give the store of its last checkpoint to go on from there",
            new.run_id,
        )
