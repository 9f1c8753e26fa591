"""A broker and Celery workers on this machine, that end with this process."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from subprocess import PIPE, STDOUT
from time import monotonic

from pocoflow.db.connect import database_url
from pocoflow.errors import BackendError
from pocoflow.guard import GuardedProcess, guarded_popen
from pocoflow.services import start_redis
from pocoflow.settings import Settings, export

READY_TIMEOUT_S = 30.0
STOP_GRACE_S = 8.0
FIRST_RESTART_S = 1.0
LONGEST_RESTART_S = 30.0

# Celery warns whoever is root at each start; in a container on a laptop everybody is.
_NO_ROOT_WARNING = ("-W", "ignore::UserWarning:celery.platforms")

Sink = Callable[[str, str], None]


class LocalWorker:
    """One `celery -A pocoflow.workers worker` process; started again when it dies, later each time."""

    def __init__(self, number: int, children: int, sink: Sink, queues: Sequence[str] = ()) -> None:
        self.name = f"worker-{number}"
        self._queues = queues
        self._children = children
        self._sink = sink
        self._restart_s = FIRST_RESTART_S
        self._lines: list[str] = []
        self._ready = threading.Event()
        self._process = self._start()

    def wait_until_ready(self) -> None:
        """Raises BackendError, with what the worker said last, when it does not come up."""
        deadline = monotonic() + READY_TIMEOUT_S
        while not self._ready.wait(0.1):
            if self._process.poll() is not None or monotonic() > deadline:
                said = "\n".join(self._lines[-15:])
                raise BackendError(f"{self.name} did not come up; it said:\n{said}")

    def restart_if_dead(self) -> float | None:
        """Returns the seconds to wait before this may be asked again, when it was started anew."""
        if self._process.poll() is None:
            return None
        self._sink(self.name, f"ended with exit code {self._process.returncode}, starting it again")
        pause_s, self._restart_s = self._restart_s, min(self._restart_s * 2, LONGEST_RESTART_S)
        self._process = self._start()
        return pause_s

    def stop(self) -> None:
        self._process.stop()

    def _start(self) -> GuardedProcess:
        options = ["-c", str(self._children), "-n", f"{self.name}@%h", "-l", "info"]
        if self._queues:
            options += ["-Q", ",".join((Settings.load().queue, *self._queues))]
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        process = guarded_popen(
            [
                sys.executable,
                *_NO_ROOT_WARNING,
                "-m",
                "celery",
                "-A",
                "pocoflow.workers",
                "worker",
                *options,
                *quiet,
            ],
            grace_s=STOP_GRACE_S,
            stop_signal=signal.SIGTERM,
            start_new_session=True,
            stdout=PIPE,
            stderr=STDOUT,
            text=True,
        )
        threading.Thread(target=self._read, args=(process,), daemon=True).start()
        return process

    def _read(self, process: GuardedProcess) -> None:
        if process.stdout is None:
            return
        for line in process.stdout:
            text = line.rstrip()
            self._lines = [*self._lines[-50:], text]
            self._sink(self.name, text)
            if text.endswith(" ready."):
                self._ready.set()


class Stack:
    """Everything that `pocoflow dev` starts; leaving the context stops it.

    Args:
        workers: How many worker processes.
        children: How many steps each of them executes at the same time.
        sink: Called with the name of a process and a line that it printed.
        queues: Celery queues to work on beside the default one.
    """

    def __init__(self, *, workers: int, children: int, sink: Sink, queues: Sequence[str] = ()) -> None:
        self._count = workers
        self._children = children
        self._sink = sink
        self._queues = queues
        self._exit = ExitStack()
        self._workers: list[LocalWorker] = []

    def __enter__(self) -> Stack:
        with self._exit:
            settings = Settings.load()
            if settings.broker_url is None:
                export(broker_url=self._exit.enter_context(start_redis()).url)
            for number in range(1, self._count + 1):
                worker = LocalWorker(number, self._children, self._sink, self._queues)
                self._exit.callback(worker.stop)
                self._workers.append(worker)
            for worker in self._workers:
                worker.wait_until_ready()
            self._exit = self._exit.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        stopping = [threading.Thread(target=worker.stop) for worker in self._workers]
        for thread in stopping:
            thread.start()
        for thread in stopping:
            thread.join()
        self._exit.close()

    @property
    def environment(self) -> dict[str, str]:
        """What another terminal must set to use these workers."""
        settings = Settings.load()
        return {
            "POCOFLOW_BROKER_URL": str(settings.broker_url),
            "POCOFLOW_DATABASE_URL": database_url(settings.database_url).render_as_string(
                hide_password=False
            ),
            "POCOFLOW_FLOWS": ",".join(settings.flows),
        }

    def supervise(self, stop: threading.Event) -> None:
        """Keep the workers alive until asked to stop."""
        while not stop.wait(0.5):
            for worker in self._workers:
                pause_s = worker.restart_if_dead()
                if pause_s is not None and stop.wait(pause_s):
                    return
