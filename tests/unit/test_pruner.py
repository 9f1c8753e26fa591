"""Old runs are deleted now and then, quickly while there are many, and never at each sweep."""

from __future__ import annotations

from typing import Any, cast

from pocoflow.engine.ports import Ledger
from pocoflow.engine.prune import LONGEST_PAUSE_S, Pruner
from pocoflow.engine.timing import Retention
from tests.contract.subjects import FrozenClock


class Full:
    """A ledger with so many batches of old runs."""

    def __init__(self, batches: int) -> None:
        self.left, self.calls = batches, 0

    def prune(self, retention: Retention) -> bool:
        self.calls += 1
        self.left -= 1
        return self.left > 0


def calls(batches: int, *, sweeps: int, older_than_s: float = 1e6) -> int:
    clock, ledger = FrozenClock(), Full(batches)
    pruner = Pruner(Retention(older_than_s=older_than_s), cast(Any, clock))
    for _ in range(sweeps):
        pruner.prune(cast(Ledger, ledger))
        clock.advance(1.0)
    return ledger.calls


def test_with_nothing_to_do_the_ledger_is_asked_once_a_minute() -> None:
    assert calls(0, sweeps=int(LONGEST_PAUSE_S) * 2) == 2


def test_each_sweep_deletes_a_batch_while_there_are_more() -> None:
    assert calls(5, sweeps=20) == 5


def test_runs_that_get_old_quickly_are_looked_for_as_often() -> None:
    assert calls(0, sweeps=20, older_than_s=4.0) == 5


def test_each_ledger_has_its_own_turn() -> None:
    clock, ledgers = FrozenClock(), [Full(0), Full(0)]
    pruner = Pruner(Retention(older_than_s=1e6), cast(Any, clock))

    for ledger in ledgers:
        pruner.prune(cast(Ledger, ledger))

    assert [ledger.calls for ledger in ledgers] == [1, 1]
