"""Runs of one flow on workers of its own, and what each of them has left behind.

Broker, workers and, unless one is given, the database are private: nobody else's runs are touched.
"""

from __future__ import annotations

import copy
import json
import tempfile
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from pocoflow import codec
from pocoflow.cli.chaos_verdict import Seen
from pocoflow.cli.stack import Stack
from pocoflow.db.connect import database_url
from pocoflow.db.fsck import examine
from pocoflow.db.workflow_db import WorkflowDB
from pocoflow.engine.effects import EXEC, FAULT, read_effects
from pocoflow.engine.rows import RunRow
from pocoflow.errors import DatabaseError, PocoFlowError, WaitTimeoutError
from pocoflow.flow import Flow
from pocoflow.runner import RunHandle
from pocoflow.services import start_redis
from pocoflow.settings import export

RUN_PREFIX = "chaos-"
CHILDREN = 2
RUNS_AT_ONCE = 4  # for each child: most of them wait for a killed one to be noticed
LOOK_EVERY_S = 0.1
# Short, for a killed worker to be missed soon; the lease is as long as a busy machine may be silent.
MAX_CRASHES = 3
_TIMING = {"lease_s": "3", "sweep_s": "0.3", "grace_s": "1", "max_crashes": str(MAX_CRASHES)}


@dataclass(frozen=True, slots=True)
class Arena:
    """Where the runs of one flow are executed.

    Attributes:
        queues: Celery queues that its nodes name.
        workers: How many worker processes.
    """

    flow: Flow
    data: Mapping[str, Any]
    database: str
    effect_log: Path
    queues: Sequence[str]
    workers: int
    timeout_s: float

    def execute(self, run_ids: Iterable[str], faults: str = "") -> Iterator[Seen]:
        """Execute runs of these ids, several at a time; yields what is left of each as it ends."""
        export(faults=faults)
        with Stack(workers=self.workers, children=CHILDREN, sink=_ignore, queues=self.queues) as stack:
            stop = threading.Event()
            guard = threading.Thread(target=stack.supervise, args=(stop,), daemon=True)
            guard.start()
            try:
                yield from self._execute(deque(run_ids))
            finally:
                stop.set()
                guard.join()

    def _execute(self, waiting: deque[str]) -> Iterator[Seen]:
        pause = threading.Event()
        active: dict[str, tuple[RunHandle, float]] = {}
        while waiting or active:
            while waiting and len(active) < RUNS_AT_ONCE * CHILDREN * self.workers:
                run_id = waiting.popleft()
                handle = self.flow.run_background(copy.deepcopy(dict(self.data)), run_id=run_id)
                active[run_id] = (handle, monotonic())
            for run_id, (handle, began) in list(active.items()):
                elapsed_s = monotonic() - began
                if handle.is_done or elapsed_s > self.timeout_s:
                    del active[run_id]
                    yield self._look_at(handle, elapsed_s)
            pause.wait(LOOK_EVERY_S)

    def _look_at(self, handle: RunHandle, elapsed_s: float) -> Seen:
        run_id, error, stuck = handle.run_id, None, False
        history = WorkflowDB(self.database)
        try:
            handle.wait(timeout=0)
        except WaitTimeoutError:
            error, stuck = _where(history.get_run(run_id), elapsed_s), True
            handle.cancel()
        except PocoFlowError as exc:
            error = str(exc)
        checkpoints = history.get_checkpoints(run_id)
        effects = [effect for effect in read_effects(self.effect_log) if effect["run_id"] == run_id]
        return Seen(
            run_id=run_id,
            path=tuple(row["node_name"] for row in checkpoints),
            store=_comparable(handle),
            executions=Counter(effect["step"] for effect in effects if effect["kind"] == EXEC),
            error=error,
            stuck=stuck,
            struck=any(effect["kind"] == FAULT for effect in effects),
            problems=self._broken_promises(run_id),
            elapsed_s=round(elapsed_s, 3),
        )

    def _broken_promises(self, run_id: str) -> tuple[str, ...]:
        found = examine(database_url(self.database), max_crashes=MAX_CRASHES).violations
        return tuple(violation.promise for violation in found if violation.run_id == run_id)


def _ignore(name: str, line: str) -> None:
    """What a worker says that does not come up is in the error."""


@contextmanager
def arena(
    flow: Flow,
    data: Mapping[str, Any],
    *,
    module: str,
    database: str | None,
    queues: Sequence[str],
    workers: int,
    timeout_s: float,
) -> Iterator[Arena]:
    """Start what the runs need, and set it in the environment of this process and its workers.

    Raises:
        DatabaseError: The database given cannot be reached, or has runs of others.
        BrokerError: There is no broker to start.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pocoflow-chaos-")))
        database = database or f"sqlite:///{folder / 'chaos.db'}"
        _refuse_runs_of_others(database)
        broker = stack.enter_context(start_redis()).url
        effect_log = folder / "effects.jsonl"
        export(database_url=database, broker_url=broker, redis_url=broker, flows=module)
        export(effect_log=str(effect_log), **_TIMING)
        flow.db_path = None  # the workers know no other database than the one of the settings
        yield Arena(flow, data, database, effect_log, queues, workers, timeout_s)


def _refuse_runs_of_others(database: str) -> None:
    """Our workers would execute them, with a lease that is not theirs."""
    history = WorkflowDB(database)
    for row in history.list_runs(limit=1000):
        if not row["run_id"].startswith(RUN_PREFIX):
            raise DatabaseError(
                f"database {history.db_path} has other runs, such as {row['run_id']!r}: "
                "chaos wants a database of its own"
            )


def _where(row: RunRow | None, elapsed_s: float) -> str:
    assert row is not None
    where = f"at step {row['total_steps']} ({row['current_node']})"
    return f"still {row['status']} {where} after {elapsed_s:.0f} s: look into it, or raise --timeout"


def _comparable(handle: RunHandle) -> dict[str, Any]:
    """The final store without the id of its run, which is another for each."""
    text = codec.dumps(handle.store.as_dict()).replace(handle.run_id, "<run>")
    plain: dict[str, Any] = json.loads(text)
    return plain
