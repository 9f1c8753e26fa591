"""Celery's side of the executor: the app and its three tasks.

A message only says "look at run X, step n". It may be lost, doubled, late or forged without harm: the
claim in the database decides.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from celery import Celery, bootsteps
from celery.worker import state
from kombu.exceptions import OperationalError

from pocoflow.engine.graph import MAX_NAME_LENGTH
from pocoflow.engine.records import Hint
from pocoflow.logging import WARNING, get_logger, log_event
from pocoflow.settings import AMQP_SCHEMES, REDIS_SCHEMES, Settings, mask_url

log = get_logger("runner")

RUN_STEP = "pocoflow.run_step"
SWEEP = "pocoflow.sweep"
EXPIRE = "pocoflow.expire"
KEY_PREFIX = "pocoflow:"
DATABASE_HEADER = "pocoflow_database"
CONNECT_TIMEOUT_S = 2.0
TIMEOUT_S = 5.0
MAX_STEP = 2**31 - 1  # what the column holds
MAX_DATABASE_LENGTH = 500
# A sender that finds no broker tries once more and leaves it to the sweep; kombu would try for a minute.
_IMPATIENT = {"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.1}


def make_app(settings: Settings, broker_url: str) -> Celery:
    """Return a Celery app with the settings that the step protocol relies on.

    The reasons stand in docs/decisions/0003-celery-settings.md.
    """
    app = Celery("pocoflow", broker=broker_url, set_as_current=False)
    app.conf.update(
        task_default_queue=settings.queue,
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        result_backend=None,
        task_publish_retry=False,
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_proc_alive_timeout=30,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,
        broker_pool_acquire_timeout=5,
    )
    scheme = urlsplit(broker_url).scheme
    if scheme in AMQP_SCHEMES:
        app.conf.update(task_acks_late=True, broker_transport_options=_amqp_options())
    elif scheme in REDIS_SCHEMES:
        app.conf.update(worker_disable_prefetch=True, broker_transport_options=_redis_options())
    return app


class Link:
    """Each thread's own connection to the broker, on which nobody waits for long.

    A RabbitMQ without memory holds up who publishes for as long as that lasts, and who then closes the
    connection in due form as well. So one that failed is dropped without a word.
    """

    def __init__(self, app: Celery, *, timeout_s: float) -> None:
        self._app = app
        self._timeout_s = timeout_s
        self._local = threading.local()

    def send(self, task: str, **options: Any) -> None:
        """Raises OperationalError when the broker did not take the message."""
        with self.connected() as connection:
            self._app.send_task(
                task, connection=connection, retry=False, confirm_timeout=self._timeout_s, **options
            )

    @contextmanager
    def connected(self) -> Iterator[Any]:
        """The connection of this thread; an error in the body drops it."""
        if getattr(self._local, "pid", None) != os.getpid():
            self._local.connection = self._app.connection_for_write()
            self._local.pid = os.getpid()
        try:
            yield self._local.connection
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Drop the connection of this thread; the next message opens another."""
        if getattr(self._local, "pid", None) == os.getpid():
            self._local.pid = None
            self._local.connection.collect(self._timeout_s)


def _amqp_options() -> dict[str, Any]:
    return {**_IMPATIENT, "confirm_publish": True, "read_timeout": TIMEOUT_S, "write_timeout": TIMEOUT_S}


def _redis_options() -> dict[str, Any]:
    return {
        **_IMPATIENT,
        "ack_emulation": False,
        "priority_steps": [0],
        "socket_timeout": TIMEOUT_S,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_keepalive": True,
        "health_check_interval": 25,
        "retry_on_timeout": False,
        "global_keyprefix": KEY_PREFIX,
    }


def register_run_step(app: Celery, run_step: Callable[[Hint, str | None], None]) -> None:
    """Give the app the task that executes a step."""

    # Not shared: every other Celery app of the process would get this task too, and keep it.
    @app.task(name=RUN_STEP, bind=True, shared=False)  # type: ignore[untyped-decorator]
    def _run_step(task: Any, run_id: Any = None, step: Any = None, *_: Any, **__: Any) -> None:
        hint = _valid_hint(run_id, step)
        if hint is not None:
            run_step(hint, _named_database(task.request.headers))


def register_sweep(app: Celery, sweep: Callable[[], None], *, sweep_s: float) -> None:
    """Give the app the task and the timer that make each worker its own reconciler."""

    @app.task(name=SWEEP, shared=False)  # type: ignore[untyped-decorator]
    def _sweep() -> None:
        sweep()

    app.steps["consumer"].add(_sweeper(app, sweep_s))


def register_expire(app: Celery, expire: Callable[[Hint, str], None]) -> None:
    """Give the app the task that takes a step back from a process that has died."""

    @app.task(name=EXPIRE, shared=False)  # type: ignore[untyped-decorator]
    def _expire(run_id: Any = None, step: Any = None, worker: Any = None, *_: Any, **__: Any) -> None:
        hint = _valid_hint(run_id, step)
        if hint is not None and is_name(worker):
            expire(hint, worker)


def report_death(app: Celery, args: Sequence[Any], worker: str) -> None:
    """Ask any worker to take back the step that a process was busy with when it died.

    Args:
        app: Of the worker whose process it was.
        args: Of the message that the process was executing.
        worker: Name of the process.
    """
    link = Link(app, timeout_s=CONNECT_TIMEOUT_S)
    try:
        link.send(EXPIRE, args=(*args[:2], worker), queue=_sweep_queue(app))
    except OperationalError as exc:
        log_event(
            log,
            "death of a process not reported, broker is away",
            level=WARNING,
            worker=worker,
            error=str(exc),
        )
    finally:
        link.close()


def _valid_hint(run_id: Any, step: Any) -> Hint | None:
    if is_name(run_id) and type(step) is int and 0 <= step <= MAX_STEP:
        return Hint(run_id, step)
    log_event(log, "malformed message dropped", level=WARNING, run_id=_shape(run_id), step=_shape(step))
    return None


def _named_database(headers: Any) -> str | None:
    """What the message says about its database, if it may be repeated to whoever reads the log."""
    name = headers.get(DATABASE_HEADER) if isinstance(headers, dict) else None
    fits = isinstance(name, str) and len(name) <= MAX_DATABASE_LENGTH and name.isprintable()
    return mask_url(name) if fits else None


def is_name(value: Any) -> bool:
    """Whether a value from a message can be the name of something of ours."""
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME_LENGTH and value.isprintable()


def _sweep_queue(app: Celery) -> str:
    return f"{app.conf.task_default_queue}.sweep"


def _shape(value: Any) -> str:
    """What can be told of a value that may be a secret: another program's message in our queue."""
    return f"a {type(value).__name__}" + (f" of {len(value)} characters" if isinstance(value, str) else "")


def _sweeper(app: Celery, sweep_s: float) -> type[bootsteps.StartStopStep]:
    """A timer in the worker's main process that asks one of its children for a sweep.

    The main process itself must stay free of database connections, which its children would inherit.
    """
    queue = _sweep_queue(app)
    link = Link(app, timeout_s=CONNECT_TIMEOUT_S)

    class Sweeper(bootsteps.StartStopStep):  # type: ignore[misc]
        requires = ("celery.worker.consumer.tasks:Tasks",)
        silent_until = 0.0

        def create(self, consumer: Any) -> None:
            # Before the consumer starts: a queue that is added to a running one may deliver at once, to
            # nobody yet, and on RabbitMQ that ends the worker.
            app.amqp.queues.select_add(queue)

        def start(self, consumer: Any) -> None:
            # Workers that start together should not all ask at the same moment.
            self.timer = consumer.timer.call_repeatedly(
                sweep_s * random.uniform(0.9, 1.1), self.ask, (consumer,)
            )

        def stop(self, consumer: Any) -> None:
            self.timer.cancel()

        def ask(self, consumer: Any) -> None:
            if len(state.active_requests) >= consumer.pool.num_processes:
                return  # Nobody here is free to do it, and the messages would pile up.
            if monotonic() < self.silent_until:
                return
            try:
                link.send(SWEEP, queue=queue, expires=sweep_s)
            except OperationalError as exc:
                # This loop has other work than to wait for such a broker again and again.
                self.silent_until = monotonic() + TIMEOUT_S
                log_event(log, "sweep not asked for, broker is away", level=WARNING, error=str(exc))

    return Sweeper
