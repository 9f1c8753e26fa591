"""Notices in a worker's main process that one of its children has died, and has its step taken back.

Nothing that a step does to its process ends the main one. It must stay free of database connections,
which its children would inherit, so it only reports the death; any child of any worker does the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from billiard.exceptions import WorkerLostError
from celery import Celery, bootsteps
from celery.worker.request import Request

from pocoflow.broker import RUN_STEP, register_expire, report_death
from pocoflow.engine.records import Hint
from pocoflow.workers.tasks import worker_name

LOOK_EVERY_S = 0.2
CHECKED = "pocoflow.workers.envelope:strategy"


def watch_children(app: Celery, expire: Callable[[Hint, str], None]) -> None:
    """Have `expire` called, in some worker, with the step of each child of this one that dies."""
    register_expire(app, expire)
    app.conf.task_annotations = {"*": {"Request": WatchedRequest, "Strategy": CHECKED}}
    app.steps["consumer"].add(Lookout)


class WatchedRequest(Request):  # type: ignore[misc]
    """A message that a child executes, as the main process knows it."""

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> None:
        """Report a child that was lost with its step; a step that only fails is no failure of its task."""
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        # Celery would end the main process too when a child ran out of memory.
        super().on_failure(_lost(error) if isinstance(error, MemoryError) else exc_info, *args, **kwargs)
        if self.task.name == RUN_STEP and self.worker_pid is not None:
            report_death(self.app, self.args, worker_name(self.worker_pid))


def _lost(error: MemoryError) -> Any:
    try:
        raise WorkerLostError(f"out of memory: {error}")
    except WorkerLostError:
        return ExceptionInfo()


class Lookout(bootsteps.StartStopStep):  # type: ignore[misc]
    """Looks after the children more often than Celery does.

    Celery looks when a pipe to a child closes, and else each five seconds. But the system closes the pipe
    of a dying process a moment before it reports the death: on a busy machine Celery often looks in
    between, sees no death, and comes back five seconds later.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)
    timer: Any = None

    def start(self, consumer: Any) -> None:
        self.timer = consumer.timer.call_repeatedly(LOOK_EVERY_S, consumer.pool.maintain_pool)

    def stop(self, consumer: Any) -> None:
        # Celery stops each step when it connects anew, also those that it did not get to start.
        if self.timer is not None:
            self.timer.cancel()
