"""What processes do that a test starts beside its workers: start a run, claim a step, or die in between."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Any

from pocoflow import RunConflictError, wiring
from pocoflow.engine.owner import new_owner
from pocoflow.engine.records import Hint
from tests.chaos.flows import addition
from tests.contract.builders import LAST, record
from tests.contract.subjects import SqlSubject
from tests.support.workers import PREFIX

TOGETHER_S = 60.0
ACCEPTED, CONFLICT = "accepted", "conflict"


def adopt(settings: Mapping[str, str | None]) -> None:
    """Take these settings for those of this process; their names are without the prefix."""
    os.environ.update({PREFIX + name: value for name, value in settings.items() if value is not None})


def start_together(
    settings: Mapping[str, str | None], run_ids: list[str], store: dict[str, Any], barrier: Any, said: Any
) -> None:
    """Start each run at the same moment as others do, and say what came of it."""
    adopt(settings)
    for run_id in run_ids:
        barrier.wait(TOGETHER_S)
        said.put((run_id, start(run_id, store)))


def start(run_id: str, store: dict[str, Any]) -> str:
    try:
        addition.run_background(dict(store), run_id=run_id)
    except RunConflictError:
        return CONFLICT
    return ACCEPTED


def start_and_die(settings: Mapping[str, str | None], run_id: str, store: dict[str, Any]) -> None:
    """Write a run down, and be killed before anybody is told."""
    adopt(settings)
    wiring.Cluster.execute = _die  # type: ignore[method-assign]
    addition.run_background(store, run_id=run_id)


def _die(cluster: wiring.Cluster, hint: Hint, definition: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def claim_together(url: str, run_id: str, steps: int, barrier: Any, won: Any) -> None:
    """Claim each step of a run at the same moment as others do; who gets it commits it."""
    ledger = SqlSubject(url).ledger
    for step in range(steps):
        barrier.wait(TOGETHER_S)
        claim = ledger.claim(run_id, step, owner=new_owner(f"host:{os.getpid()}"))
        barrier.wait(TOGETHER_S)
        if claim is not None:
            won.put((step, os.getpid(), claim.position.epoch))
            ledger.commit(claim.position, LAST if step == steps - 1 else record("A"))
