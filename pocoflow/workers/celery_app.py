"""The Celery app of a worker process, made from the settings when this module is imported.

Raises:
    SettingsError: A setting is wrong, or there is no broker.
    DefinitionError: A flow in POCOFLOW_FLOWS is wired wrong.
"""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.signals import worker_process_init, worker_ready

from pocoflow import wiring
from pocoflow.broker import make_app, register_run_step, register_sweep
from pocoflow.db.connect import forget_inherited_engines
from pocoflow.errors import SettingsError
from pocoflow.logging import INFO, WARNING, get_logger, log_event
from pocoflow.registry import Registry
from pocoflow.settings import Settings, mask_url, unknown_names
from pocoflow.workers.deaths import watch_children
from pocoflow.workers.logs import hide_contents, hide_sweeps
from pocoflow.workers.tasks import Worker

log = get_logger("runner")


def make_worker_app(settings: Settings, registry: Registry) -> Celery:
    """Return the app of a worker that knows these flows."""
    if settings.broker_url is None:
        raise SettingsError(
            "POCOFLOW_BROKER_URL is not set: a worker needs a broker (for example redis://localhost:6379/0)"
        )
    worker = Worker(registry, settings)
    made = make_app(settings, settings.broker_url)
    register_run_step(made, worker.run_step)
    register_sweep(made, worker.sweep, sweep_s=settings.sweep_s)
    watch_children(made, worker.expire)
    return made


hide_sweeps()
hide_contents()
wiring.preload()
settings = wiring.load_settings()
registry = Registry(settings.flows)
app = make_worker_app(settings, registry)


@worker_process_init.connect  # type: ignore[untyped-decorator]
def _after_fork(**_: Any) -> None:
    forget_inherited_engines()


@worker_ready.connect  # type: ignore[untyped-decorator]
def _say_hello(**_: Any) -> None:
    log_event(
        log,
        "worker ready",
        level=INFO if registry.names else WARNING,
        flows=", ".join(registry.names) or "none: set POCOFLOW_FLOWS to the modules that define them",
        queues_of_nodes=", ".join(registry.queues) or "only the default one",
        database=wiring.database_name(settings.database_url),
        broker=mask_url(settings.broker_url),
    )
    wiring.warn_if_shared_badly(settings.database_url)
    if strange := unknown_names():
        log_event(log, "not settings, perhaps misspelt", level=WARNING, names=", ".join(strange))
