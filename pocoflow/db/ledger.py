"""The write side of the run history in a database.

Each public verb is one transaction, safe to repeat: it happens whole or not at all.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import repeat
from math import inf
from typing import Any, NamedTuple

from sqlalchemy import Row
from sqlalchemy.engine import URL

from pocoflow import codec
from pocoflow.db import blob_verbs, graph_verbs, run_verbs, sweep_verbs
from pocoflow.db import step_verbs as verbs
from pocoflow.db.failures import QUICK_PAUSES_S
from pocoflow.db.ledger_reads import LedgerReads
from pocoflow.db.prune import prune_some
from pocoflow.engine.owner import worker_of
from pocoflow.engine.records import (
    LIVE,
    SAME_HOME,
    STOPPED,
    Claim,
    Failure,
    Hint,
    NewRun,
    Position,
    Started,
    Status,
    StepRecord,
    no_store,
    refusal,
)
from pocoflow.engine.secrecy import Cipher
from pocoflow.engine.timing import Retention, Timing
from pocoflow.store import Store

Params = dict[str, Any]
# A finished step waits this long for its database to come back: throwing the work away costs more.
PATIENT_PAUSES_S = (*QUICK_PAUSES_S, 1.0, *repeat(2.0, 450))


class SqlLedger(LedgerReads):
    """What both databases share; a subclass says how a verb becomes one transaction.

    When a connection breaks, a verb is sent again, although its first try may have gone through with only
    the answer lost. What the second try then does not find is looked up: the row tells, nobody guesses.
    """

    def __init__(
        self,
        url: URL,
        timing: Timing,
        *,
        sleep: Callable[[float], None],
        max_store_mb: float = inf,
        cipher: Cipher | None = None,
    ) -> None:
        super().__init__(url, sleep=sleep, cipher=cipher)
        self._timing = timing
        self._max_store_mb = max_store_mb

    def encode(self, store: Store) -> Mapping[str, str]:
        return codec.dump_values(store.as_dict(), max_mb=self._max_store_mb)

    def encode_schema(self, store: Store) -> str | None:
        return store.schema.dumps() if store.schema else None

    def start(self, run: NewRun) -> Started:
        params = {
            "p_run": run.run_id,
            "p_flow": run.flow_name,
            "p_hash": run.flow_hash,
            "p_graph": run.graph,
            "p_node": run.node,
            "p_queue": run.queue,
            "p_home": run.home,
            "p_owner": run.owner,
            **blob_verbs.params(run.input),
            "p_input_hash": run.input_hash,
            "p_schema": run.schema,
            "p_timeout_s": run.timeout_s,
            "p_parent": run.parent_run_id,
            "p_parent_step": run.parent_step,
            "p_wait_s": self._timing.grace_s if run.owner is None else self._timing.lease_s,
        }
        (created, status, input_hash, error_type), tried = self._try(lambda: self._start(params))
        if tried and not created:
            known = self._known(run.run_id)
            untouched = (known["status"], known["epoch"], known["home"]) == (Status.QUEUED, 0, run.home)
            # If somebody else began the very same run, both send a hint, which does no harm.
            mine = run.owner is not None or (untouched and input_hash == run.input_hash)
            created = mine and known["owner"] == run.owner
        return Started(bool(created), Status(status), input_hash, error_type)

    def claim(self, run_id: str, step: int, *, owner: str) -> Claim | None:
        params = {"p_run": run_id, "p_step": step, "p_owner": owner, "p_wait_s": self._timing.lease_s}
        row, tried = self._try(lambda: self._claim(params))
        if row is None:
            return self._claimed_before(run_id, owner) if tried else None
        *position, saved = row
        return Claim(Position(*position), saved)

    def heartbeat(self, positions: Sequence[Position]) -> Mapping[str, str | None]:
        held = [(position.run_id, position.epoch, position.owner) for position in positions]
        params = {"p_held": held, "p_wait_s": self._timing.lease_s}
        rows = self._try(lambda: self._all(verbs.HEARTBEAT, params))[0]
        return {row.run_id: row.want for row in rows}

    def commit(self, position: Position, record: StepRecord) -> Status | None:
        params = {
            **_token(position),
            "p_next": record.next_node,
            "p_queue": record.next_queue,
            "p_then": record.then.value,
            "p_action": record.action,
            **blob_verbs.params(record.checkpoint),
            "p_elapsed_s": record.elapsed_s,
            "p_error_type": record.failure.error_type if record.failure else None,
            "p_error_msg": record.failure.message if record.failure else None,
            "p_wait_s": self._timing.lease_s if record.hold else self._timing.grace_s,
        }
        row, tried = self._try(lambda: self._change(verbs.COMMIT, params), PATIENT_PAUSES_S)
        if row is None and tried:
            return self._try(lambda: self._queries.status_if_committed(position), PATIENT_PAUSES_S)[0]
        return None if row is None else Status(row.status)

    def fail(
        self, position: Position, failure: Failure, *, retry_in_s: float | None = None, hold: bool = False
    ) -> Status | None:
        again = Status.RUNNING if hold else Status.QUEUED
        params = {
            **_token(position),
            "p_then": (Status.FAILED if retry_in_s is None else again).value,
            "p_event": "node_error" if retry_in_s is None else "node_retry",
            "p_error_type": failure.error_type,
            "p_error_msg": failure.message,
            "p_elapsed_s": failure.elapsed_s,
            "p_delay_s": retry_in_s or 0.0,
            "p_wait_s": self._timing.lease_s if hold else 0.0,
        }
        row, tried = self._try(lambda: self._change(verbs.FAIL, params), PATIENT_PAUSES_S)
        if row is None and tried:
            known = self._known(position.run_id)
            # A pause leaves no error; but one that somebody else made has another epoch or step.
            where = (known["status"], known["total_steps"]) == (Status.PAUSED, position.step)
            mine = known["epoch"] == position.epoch and (known["error_msg"] == failure.message or where)
            return Status(known["status"]) if mine else None
        return None if row is None else Status(row.status)

    def release(self, position: Position, *, delay_s: float = 0.0, unroutable: bool = False) -> Status | None:
        params = {
            **_token(position),
            "p_delay_s": delay_s,
            "p_unroutable": unroutable,
            "p_wait_s": self._timing.grace_s,
        }
        row, _ = self._try(lambda: self._change(verbs.RELEASE, params))
        return None if row is None else Status(row.status)

    def place(self, position: Position, node: str | None, queue: str | None) -> Status | None:
        given_back = {"p_delay_s": 0.0, "p_unroutable": False, "p_wait_s": self._timing.grace_s}
        params = {**_token(position), **given_back, "p_next": node, "p_queue": queue}
        row, _ = self._try(lambda: self._change(verbs.PLACE, params))
        return None if row is None else Status(row.status)

    def adopt(self, position: Position, *, graph: str, fingerprint: str) -> Status | None:
        params = {**_token(position), "p_hash": fingerprint, "p_graph": graph}
        row, _ = self._try(lambda: self._change(graph_verbs.ADOPT, params))
        return None if row is None else Status(row.status)

    def strand(self, position: Position, why: Failure) -> Status | None:
        params = {**_token(position), "p_error_type": why.error_type, "p_error_msg": why.message}
        row, _ = self._try(lambda: self._change(graph_verbs.STRAND, params))
        return None if row is None else Status(row.status)

    def interrupt(self, home: str) -> list[str]:
        rows = self._try(lambda: self._interrupt({"p_home": home}))[0]
        return [row.run_id for row in rows]

    def cancel(self, run_id: str, *, force: bool = False) -> Status:
        change = run_verbs.CANCEL_AT_ONCE if force else run_verbs.CANCEL
        row, _ = self._try(lambda: self._change(change, {"p_run": run_id}))
        return Status(row.status) if row is not None else Status(self._known(run_id)["status"])

    def pause(self, run_id: str) -> Status:
        row, _ = self._try(lambda: self._change(run_verbs.PAUSE, {"p_run": run_id}))
        status = Status(row.status) if row is not None else Status(self._known(run_id)["status"])
        if status.ended:
            raise refusal(run_id, status, "paused")
        return status

    def resume(self, run_id: str, *, home: str | None) -> Hint | None:
        params = {
            "p_run": run_id,
            "p_home": home,
            "p_wait_s": 0.0 if home == SAME_HOME else self._timing.grace_s,
        }
        row, tried = self._try(lambda: self._change(run_verbs.RESUME, params))
        if row is not None:
            return Hint(row.run_id, row.step, row.queue) if row.status == Status.QUEUED else None
        known = self._known(run_id)
        status = Status(known["status"])
        if status in STOPPED and self.get_saved(run_id) is None:
            raise no_store(run_id, status)
        if not tried or status not in LIVE or known["want"] is not None:
            raise refusal(run_id, status, "resumed")
        # The first try has gone through, or somebody else resumed it meanwhile, which is as good.
        return Hint(run_id, known["total_steps"], known["queue"]) if status is Status.QUEUED else None

    def sweep(self, *, home: str | None = None, crowded: Collection[str | None] = ()) -> list[Hint]:
        params = {
            "p_home": home,
            "p_crowded": [queue or "" for queue in crowded],
            "p_lease_s": self._timing.lease_s,
            "p_grace_s": self._timing.grace_s,
            "p_max_crashes": self._timing.max_crashes,
        }
        rows = self._try(lambda: self._sweep(params))[0]
        return [Hint(row.run_id, row.step, row.queue) for row in rows if row.status == Status.QUEUED]

    def prune(self, retention: Retention) -> bool:
        return prune_some(self.url, retention)[1]

    def expire(self, run_id: str, step: int, *, worker: str) -> bool:
        params = {"p_run": run_id, "p_step": step, "p_worker": worker}
        rows = self._try(lambda: self._all(sweep_verbs.expire(), params))[0]
        return len(rows) > 0

    def _claimed_before(self, run_id: str, owner: str) -> Claim | None:
        """The claim of an owner that only did not hear of it."""
        row, saved = self.get_run(run_id), self.get_saved(run_id)
        if row is None or saved is None or row["owner"] != owner:
            return None
        position = Position(
            run_id,
            row["flow_name"],
            row["total_steps"],
            row["current_node"] or "",
            row["epoch"],
            owner,
            row["attempt"],
            row["crashes"],
            queue=row["queue"],
            stands=row["stands"],
            flow_hash=row["flow_hash"],
        )
        return Claim(position, saved)

    @abstractmethod
    def _start(self, params: Params) -> Any:
        """Returns (created, status, input_hash, error_type)."""

    @abstractmethod
    def _claim(self, params: Params) -> Sequence[Any] | None:
        """Returns the fields of the position, then the store it goes on from."""

    @abstractmethod
    def _change(self, change: verbs.Change, params: Params) -> Moved | None:
        """Returns the run after the update, or None when the guard did not hold."""

    @abstractmethod
    def _interrupt(self, params: Params) -> Sequence[Row[Any]]: ...

    @abstractmethod
    def _sweep(self, params: Params) -> Sequence[Row[Any]]: ...


class Moved(NamedTuple):
    """A run after a verb."""

    run_id: str
    status: str
    step: int
    queue: str | None = None
    # What the history of a verb needs besides; nobody else looks at it.
    more: str | None = None


def _token(position: Position) -> Params:
    return {
        "p_run": position.run_id,
        "p_step": position.step,
        "p_epoch": position.epoch,
        "p_owner": position.owner,
        "p_node": position.node,
        "p_attempt": position.attempt,
        "p_worker": worker_of(position.owner),
    }
