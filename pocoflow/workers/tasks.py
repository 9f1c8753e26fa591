"""What the three Celery tasks do."""

from __future__ import annotations

import os
import socket
from collections import deque

from pocoflow import wiring
from pocoflow.engine import signals
from pocoflow.engine.deliver import crowded_queues, deliver, send
from pocoflow.engine.faults import Deliver, FindFlow
from pocoflow.engine.ports import Dispatcher, Ports
from pocoflow.engine.records import Hint
from pocoflow.errors import DatabaseError
from pocoflow.logging import ERROR, WARNING, get_logger, log_event
from pocoflow.registry import Registry
from pocoflow.settings import Settings
from pocoflow.workers.enforce import enforcer_for_this_process

log = get_logger("runner")

HOST = socket.gethostname()
KNOWN_RUNS = 1000


def worker_name(pid: int) -> str:
    """Return what a process of this host is called in owner tokens and in the event log."""
    return f"{HOST}:{pid}"


class Worker:
    """Executes steps and sweeps; safe to make before a fork, since it connects when it is first used."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self._settings = settings
        self._queues = registry.queues
        self._find_flow: FindFlow = registry.find
        self._deliver: Deliver = deliver
        faults = wiring.faults(settings)
        if faults is not None:
            self._find_flow, self._deliver = faults.find_flow(registry.find), faults.deliver(deliver)
        self._database = wiring.database_name(settings.database_url)
        self._pruner = wiring.pruner(settings)
        self._connected: tuple[int, Ports, Dispatcher] | None = None
        # Runs of which a hint came too late, so that the next one costs no look into the database.
        self._known_here: deque[str] = deque(maxlen=KNOWN_RUNS)

    def run_step(self, hint: Hint, database: str | None) -> None:
        """Execute the step that the message names, if it is there to execute."""
        try:
            ports, dispatcher = self._connect()
            outcome = self._deliver(
                hint,
                find_flow=self._find_flow,
                ports=ports,
                dispatcher=dispatcher,
                worker=worker_name(os.getpid()),
                unroutable_s=self._settings.unroutable_s,
            )
        except DatabaseError as exc:
            # Nothing is lost: the run is in the database, and a sweep brings it up again.
            log_event(
                log, "step not executed", level=ERROR, run_id=hint.run_id, step=hint.step, error=str(exc)
            )
            return
        if outcome is None and database is not None:
            self._complain_if_unknown(hint, database, ports)

    def sweep(self) -> None:
        """Send what was lost or has become due."""
        try:
            ports, dispatcher = self._connect()
            hints = ports.ledger.sweep(crowded=crowded_queues(dispatcher, (None, *self._queues)))
        except DatabaseError as exc:
            log_event(log, "sweep failed", level=ERROR, error=str(exc))
            return
        for hint in hints:
            send(hint, dispatcher)
        self._prune(ports)

    def _prune(self, ports: Ports) -> None:
        """Delete what ended long ago; only now and then there is something to do."""
        if self._pruner is None:
            return
        try:
            self._pruner.prune(ports.ledger)
        except DatabaseError as exc:
            log_event(log, "old runs not deleted", level=ERROR, error=str(exc))

    def expire(self, hint: Hint, worker: str) -> None:
        """Take back a step from a process that has died, or the hint for it."""
        try:
            ports, _ = self._connect()
            found = ports.ledger.expire(hint.run_id, hint.step, worker=worker)
        except DatabaseError as exc:
            log_event(log, "death of a process not noted", level=ERROR, worker=worker, error=str(exc))
            return
        if found:
            log_event(
                log,
                "process has died, its step or hint is taken up",
                level=WARNING,
                run_id=hint.run_id,
                step=hint.step,
                worker=worker,
            )
            self.sweep()

    def _connect(self) -> tuple[Ports, Dispatcher]:
        """The parts of this process; raises DatabaseError."""
        if self._connected is None or self._connected[0] != os.getpid():
            signals.install()
            ports = wiring.database_ports(
                self._settings.database_url, self._settings, enforcer=enforcer_for_this_process()
            )
            dispatcher = wiring.dispatcher(self._settings.database_url, self._settings)
            self._connected = (os.getpid(), ports, dispatcher)
        return self._connected[1:]

    def _complain_if_unknown(self, hint: Hint, database: str, ports: Ports) -> None:
        """Names do not tell (one may mean two databases, two may mean one); whether the run is here does."""
        if hint.run_id in self._known_here:
            return
        if ports.ledger.get_run(hint.run_id) is not None:
            self._known_here.append(hint.run_id)
            return
        text = (
            f"it was started with POCOFLOW_DATABASE_URL={database}, but a worker that got its message has "
            f"POCOFLOW_DATABASE_URL={self._database}: both must mean one and the same database"
        )
        log_event(log, "message about a run in another database", level=ERROR, run_id=hint.run_id, error=text)
        ports.flags.complain(hint.run_id, text)
