"""A Celery worker inside this process, for when no broker is configured.

The same tasks, claims and checkpoints as on a cluster, with a queue in memory and threads for children.
"""

from __future__ import annotations

import atexit
import os
import queue
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from time import monotonic
from typing import Any
from uuid import uuid4

from celery import Celery
from celery.concurrency.base import apply_target
from celery.concurrency.thread import TaskPool
from celery.worker import WorkController
from kombu.transport import TRANSPORT_ALIASES, memory, virtual

from pocoflow.broker import make_app, register_run_step
from pocoflow.dispatch import make_dispatcher
from pocoflow.engine.deliver import crowded_queues, deliver
from pocoflow.engine.faults import Deliver, Faults
from pocoflow.engine.graph import Definition
from pocoflow.engine.ports import Ledger, Ports
from pocoflow.engine.prune import Pruner
from pocoflow.engine.records import Continue, Finish, Hint, Outcome, Status
from pocoflow.engine.rows import is_settled
from pocoflow.errors import BrokerError, DatabaseError, InvalidTransitionError
from pocoflow.logging import ERROR, get_logger, log_event
from pocoflow.settings import Settings

log = get_logger("runner")

SCHEME = "pocoflow-memory"
START_TIMEOUT_S = 10.0
LOOKS_PER_SWEEP = 50


class Bell:
    """Wakes all who wait for a message; each tells from the count whether one came since it looked."""

    def __init__(self) -> None:
        self.rung = 0
        self._condition = threading.Condition()

    def ring(self) -> None:
        with self._condition:
            self.rung += 1
            self._condition.notify_all()

    def wait(self, since: int, timeout_s: float | None) -> bool:
        with self._condition:
            return self._condition.wait_for(lambda: self.rung != since, timeout_s)


class Channel(memory.Channel):
    """Kombu's memory channel, with a bell that rings when a message arrives."""

    queues: dict[str, Any] = {}  # noqa: RUF012 - shared by all channels of the process, as in the base class

    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:
        super()._put(queue, message, **kwargs)  # type: ignore[no-untyped-call]
        self.connection.bell.ring()

    def close(self) -> None:
        # The base class empties the queues of all channels; messages here outlive the sender's channel.
        virtual.Channel.close(self)  # type: ignore[no-untyped-call]


class Transport(memory.Transport):
    """Kombu's memory transport, waiting for the bell where the base class looks every so often."""

    Channel = Channel
    bell = Bell()

    def drain_events(self, connection: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            rung = self.bell.rung
            try:
                return self.cycle.get(self._deliver, timeout=timeout)  # type: ignore[union-attr]
            except queue.Empty:
                left = None if deadline is None else max(0.0, deadline - monotonic())
                if not self.bell.wait(rung, left):
                    raise TimeoutError from None


TRANSPORT_ALIASES[SCHEME] = f"{__name__}:Transport"


class DaemonPool(TaskPool):  # type: ignore[misc]
    """Celery's thread pool on daemon threads: the end of the program does not wait for a long step."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._calls: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()

    def on_start(self) -> None:
        for number in range(self.limit):
            threading.Thread(target=self._work, name=f"pocoflow-step-{number}", daemon=True).start()

    def on_apply(
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
        callback: Callable[..., Any] | None = None,
        accept_callback: Callable[..., Any] | None = None,
        **_: Any,
    ) -> None:
        # Without the app, Celery would look the task up in the current one, which is the user's if any.
        self._calls.put((target, args, {**(kwargs or {}), "app": self.app}, callback, accept_callback))

    def _work(self) -> None:
        while True:
            call = self._calls.get()
            try:
                apply_target(*call)
            except Exception:
                # Celery reports errors of tasks itself; whatever else it is, the next step needs this thread.
                log.exception("worker thread goes on after an error")


class _Worker(WorkController):  # type: ignore[misc]
    def __init__(self, app: Celery, concurrency: int) -> None:
        self.ready = threading.Event()
        super().__init__(
            app=app,
            hostname=f"embedded-{uuid4().hex[:8]}@{socket.gethostname()}",
            pool_cls=DaemonPool,
            concurrency=concurrency,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
        )

    def on_consumer_ready(self, consumer: Any) -> None:
        self.ready.set()


class EmbeddedWorker:
    """Executes the runs that this process starts, until the process ends."""

    def __init__(
        self, settings: Settings, faults: Faults | None = None, pruner: Pruner | None = None
    ) -> None:
        name = f"{socket.gethostname()}:{os.getpid()}"
        self.home = f"embedded:{name}:{uuid4().hex}"
        self._name = name
        self._settings = settings
        self._pruner = pruner
        self._runs: dict[str, tuple[Definition, Ports]] = {}
        # Those of them for which no hint is on its way, in the order in which to look at them.
        self._idle: dict[str, None] = {}
        self._lock = threading.Lock()
        self._standing_by: dict[str, tuple[Definition, Ports]] = {}
        private = settings.model_copy(update={"queue": f"embedded-{uuid4().hex}"})
        self._app = make_app(private, f"{SCHEME}://localhost")
        self._app.conf.worker_prefetch_multiplier = 0
        register_run_step(self._app, self._run_step)
        self._dispatcher = make_dispatcher(self._app, use_node_queues=False)
        self._deliver_hint: Deliver = deliver
        if faults is not None:
            self._dispatcher = faults.dispatcher(self._dispatcher)
            self._deliver_hint = faults.deliver(deliver)
        self._start()

    def execute(self, hint: Hint, definition: Definition, ports: Ports) -> None:
        """Take a run on, from this step."""
        with self._lock:
            self._runs[hint.run_id] = (definition, ports)
        self._dispatcher.send(hint)

    def remind(self, hint: Hint) -> None:
        """Go on at once with a run of this process that waits to be found by its sweep."""
        self._dispatcher.send(hint)

    def stand_by(self, run_id: str, definition: Definition, ports: Ports) -> None:
        """Take the run on if the process that executes it turns out to be gone."""
        if run_id not in self._runs:
            self._standing_by[run_id] = (definition, ports)

    def _start(self) -> None:
        self._app.finalize()
        worker = _Worker(self._app, self._settings.embedded_threads)
        threading.Thread(target=worker.start, name="pocoflow-embedded-worker", daemon=True).start()
        if not worker.ready.wait(START_TIMEOUT_S):
            raise BrokerError(f"the worker inside this process was not ready within {START_TIMEOUT_S:g} s")
        threading.Thread(target=self._sweep_forever, name="pocoflow-sweep", daemon=True).start()
        atexit.register(self._leave, os.getpid())

    def _run_step(self, hint: Hint, database: str | None) -> None:
        known = self._runs.get(hint.run_id)
        if known is None:
            return
        self._idle.pop(hint.run_id, None)
        outcome = None
        try:
            outcome = self._deliver(hint, *known)
        except DatabaseError as exc:
            # Nothing is lost: a sweep brings the run up again.
            log_event(
                log, "step not executed", level=ERROR, run_id=hint.run_id, step=hint.step, error=str(exc)
            )
        if isinstance(outcome, Finish):
            self._forget(hint.run_id, known)
        elif not isinstance(outcome, Continue):
            self._idle[hint.run_id] = None

    def _deliver(self, hint: Hint, definition: Definition, ports: Ports) -> Outcome | None:
        return self._deliver_hint(
            hint,
            find_flow=lambda position: definition,
            ports=ports,
            dispatcher=self._dispatcher,
            worker=self._name,
            # Nobody else executes it: there is no worker to wait for.
            unroutable_s=0.0,
        )

    def _sweep_forever(self) -> None:
        """In a thread of its own: runs that wait for a free one must not look abandoned to others."""
        pause = threading.Event()
        while not pause.wait(self._settings.sweep_s):
            for ledger in self._ledgers():
                with _outage_logged("sweep failed"):
                    self._sweep(ledger)
            with _outage_logged("sweep failed"):
                self._sweep_runs()

    def _sweep(self, ledger: Ledger) -> None:
        crowded = crowded_queues(self._dispatcher, (None,))
        for hint in ledger.sweep(home=self.home, crowded=crowded):
            self._dispatcher.send(hint)
        if self._pruner is not None:
            self._pruner.prune(ledger)

    def _sweep_runs(self) -> None:
        for run_id, (definition, ports) in list(self._standing_by.items()):
            self._take_over(run_id, definition, ports)
        self._forget_ended()

    def _forget_ended(self) -> None:
        """Look at some runs that wait: anybody may have cancelled them, or have taken them elsewhere."""
        for run_id in list(islice(self._idle, LOOKS_PER_SWEEP)):
            known = self._runs.get(run_id)
            self._idle.pop(run_id, None)
            if known is None:
                continue
            self._idle[run_id] = None
            row = known[1].ledger.get_run(run_id)
            if row is None or Status(row["status"]).ended or row["home"] != self.home:
                self._forget(run_id, known)

    def _forget(self, run_id: str, known: tuple[Definition, Ports]) -> None:
        """Unless it was resumed meanwhile, and so taken on once more."""
        with self._lock:
            if self._runs.get(run_id) is known:
                del self._runs[run_id]

    def _take_over(self, run_id: str, definition: Definition, ports: Ports) -> None:
        """Go on with a run whose process has gone; leave it alone as long as that process lives."""
        row = ports.ledger.get_run(run_id)
        if row is not None and not is_settled(row):
            return
        self._standing_by.pop(run_id, None)
        if row is not None and row["status"] == Status.PAUSED:
            with suppress(InvalidTransitionError):  # somebody else was quicker
                hint = ports.ledger.resume(run_id, home=self.home)
                if hint is not None:
                    self.execute(hint, definition, ports)

    def _ledgers(self) -> list[Ledger]:
        known = [*self._runs.values(), *self._standing_by.values()]
        ledgers = {id(ports.ledger): ports.ledger for _, ports in known}
        return list(ledgers.values())

    def _leave(self, pid: int) -> None:
        """At the end of the process: leave no run behind as "running", and tell the user."""
        if pid != os.getpid():
            return
        interrupted: list[str] = []
        for ledger in self._ledgers():
            with _outage_logged("runs not paused, a sweep will when it is back"):
                interrupted += ledger.interrupt(self.home)
        if interrupted:
            more = f" and {len(interrupted) - 1} more" if len(interrupted) > 1 else ""
            print(
                f"pocoflow: this process ends before run {interrupted[0]}{more}; with a db_path, starting it "
                "again with the same run_id and input goes on from the last checkpoint",
                file=sys.stderr,
            )


@contextmanager
def _outage_logged(what: str) -> Iterator[None]:
    """One database that is away must not keep the others from being looked after."""
    try:
        yield
    except DatabaseError as exc:
        log_event(log, what, level=ERROR, error=str(exc))
