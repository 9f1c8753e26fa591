"""Picks the parts for a run from what is configured. The only module with imports inside functions:
Celery, SQLAlchemy and Redis are loaded by those who use them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pocoflow.engine.clock import SystemClock
from pocoflow.engine.deliver import send
from pocoflow.engine.effects import EffectLog
from pocoflow.engine.faults import Faults, FaultyLedger
from pocoflow.engine.graph import Definition
from pocoflow.engine.heartbeat import Enforcer, Heartbeats
from pocoflow.engine.local import LocalFlags, Unstoppable, Untracked, Unwatched
from pocoflow.engine.memory import MemoryLedger
from pocoflow.engine.ports import ControlFlags, Dispatcher, Ledger, Ports
from pocoflow.engine.prune import Pruner
from pocoflow.engine.records import Hint
from pocoflow.engine.secrecy import Cipher
from pocoflow.engine.timing import Retention, Timing
from pocoflow.engine.waiting import WaitingRoom
from pocoflow.errors import SettingsError

if TYPE_CHECKING:
    from pocoflow.settings import Settings

T = TypeVar("T")

NOBODY = "nobody"
DAY_S = 86_400.0
CLOCK = SystemClock()
UNTRACKED = Ports(Untracked(), LocalFlags(), Unwatched(), CLOCK)

# By kind and settings, and by process: connections and threads do not survive a fork.
_made: dict[tuple[Any, ...], Any] = {}
_making = threading.RLock()


class Executor(Protocol):
    """Runs flows outside the caller's thread."""

    @property
    def ports(self) -> Ports: ...

    @property
    def home(self) -> str | None:
        """The process that alone can execute its runs; None means any worker."""
        ...

    @property
    def advice(self) -> str | None:
        """What to do when no worker takes a run."""
        ...

    def execute(self, hint: Hint, definition: Definition) -> None:
        """Take on a run that is ready for this step."""
        ...

    def stand_by(self, run_id: str, definition: Definition) -> None:
        """Take on a run that somebody else executes, in case that process is gone."""
        ...


@dataclass(frozen=True, slots=True)
class Cluster:
    """Celery workers somewhere, found through the broker."""

    ports: Ports
    dispatcher: Dispatcher
    advice: str | None
    home: None = None

    def execute(self, hint: Hint, definition: Definition) -> None:
        send(hint, self.dispatcher)

    def stand_by(self, run_id: str, definition: Definition) -> None:
        """Nothing to do: any worker may go on with it."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """The Celery worker inside this process."""

    ports: Ports
    worker: Any
    advice: None = None

    @property
    def home(self) -> str:
        return str(self.worker.home)

    def execute(self, hint: Hint, definition: Definition) -> None:
        self.worker.execute(hint, with_faults(definition, self.ports), self.ports)

    def stand_by(self, run_id: str, definition: Definition) -> None:
        self.worker.stand_by(run_id, with_faults(definition, self.ports), self.ports)


@dataclass(frozen=True, slots=True)
class Reach:
    """What this process has to steer runs by their id, whoever started them.

    Attributes:
        dispatcher: To the workers; None when no broker is configured.
        advice: What to do when no worker takes a run.
    """

    ports: Ports
    dispatcher: Dispatcher | None = None
    advice: str | None = None


def _forget_the_lock() -> None:
    """A fork may copy it while another thread holds it, and that thread is not copied."""
    global _making  # noqa: PLW0603
    _making = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_the_lock)


def load_settings() -> Settings:
    """Read the settings as they are now; raises SettingsError."""
    from pocoflow.settings import Settings

    return Settings.load()


def inline_ports(database: str | Path | None) -> Ports:
    """Parts for a run in the calling thread, with history in this database or without."""
    return UNTRACKED if database is None else database_ports(database, load_settings())


def executor(database: str | Path | None) -> Executor:
    """What `run_background` uses: the workers behind the broker, or without one a worker in this process."""
    settings = load_settings()
    if settings.broker_url is not None:
        return _cluster(database or settings.database_url, settings)
    worker = _once(("embedded", settings), lambda: _embedded_worker(settings))
    return Embedded(_own_ports(database, settings), worker)


def reach(database: str | Path | None) -> Reach:
    """What steers runs that `run_background` would find with the same database."""
    settings = load_settings()
    if settings.broker_url is None:
        return Reach(_own_ports(database, settings))
    cluster = _cluster(database or settings.database_url, settings)
    return Reach(cluster.ports, cluster.dispatcher, cluster.advice)


def worker_at(home: str | None) -> Any:
    """The worker inside this process that has this home, or None."""
    here = (made for key, made in list(_made.items()) if (key[0], key[-1]) == ("embedded", os.getpid()))
    return next((worker for worker in here if worker.home == home), None)


def database_ports(database: str | Path, settings: Settings, *, enforcer: Enforcer | None = None) -> Ports:
    """Parts that keep history in a database.

    Args:
        enforcer: Ends steps that overrun their time; None leaves it to the steps.

    Raises:
        DatabaseError: It cannot be reached, or was made by another version.
    """
    from pocoflow.db.connect import database_url, engine_for

    url = database_url(database)
    engine_for(url)
    return _once(
        ("database", url, settings, type(enforcer)),
        lambda: _tracked(_open_ledger(url, settings), settings, enforcer),
    )


def waiting_room(ports: Ports) -> WaitingRoom:
    """Where all handles of this process wait that look at the same ledger."""
    return _once(("room", ports.ledger), lambda: WaitingRoom(ports.ledger, ports.flags, ports.clock))


def dispatcher(database: str | Path, settings: Settings) -> Dispatcher:
    """Sends hints through the configured broker; each message names the database it is about."""
    name = database_name(database)
    return _once(("dispatcher", name, settings), lambda: _dispatcher(name, settings))


def faults(settings: Settings) -> Faults | None:
    """The faults that are wanted in this process; mostly None, and then nothing is wrapped.

    Raises:
        SettingsError: A rule is wrong, or the effect log cannot be written.
    """
    if settings.faults is None and settings.effect_log is None:
        return None
    return _once(("faults", settings), lambda: _faults(settings))


def with_faults(definition: Definition, ports: Ports) -> Definition:
    """The flow for a run on these parts, with the faults that they have."""
    ledger = ports.ledger
    return ledger.faults.definition(definition) if isinstance(ledger, FaultyLedger) else definition


def pruner(settings: Settings) -> Pruner | None:
    """What deletes old runs now and then, if that is wanted."""
    if settings.retain_days is None:
        return None
    retention = Retention(older_than_s=settings.retain_days * DAY_S, keep_failed=settings.retain_failed)
    return Pruner(retention, CLOCK)


def preload() -> None:
    """Import what the parts are made of, for a process that forks others which begin with their first step.

    Connects to nothing. A new process that finds all this there begins twice as soon.
    """
    for name in ("control", "dispatch", "db.postgres", "db.sqlite"):
        import_module(f"pocoflow.{name}")
    with suppress(ImportError):  # not everybody has Postgres
        import_module("psycopg")


def database_name(database: str | Path) -> str:
    """How a database is called between processes: its URL without the password."""
    from pocoflow.db.connect import database_url
    from pocoflow.db.failures import shown

    return shown(database_url(database))


def warn_if_shared_badly(database: str | Path) -> None:
    """Say, once in each process, what speaks against a database that several processes will use."""
    from pocoflow.db.connect import database_url
    from pocoflow.db.shared_file import warn_of_old_sqlite

    if database_url(database).get_backend_name() == "sqlite":
        warn_of_old_sqlite()


def _cluster(database: str | Path, settings: Settings) -> Cluster:
    name = database_name(database)
    warn_if_shared_badly(database)
    advice = (
        f"start one with POCOFLOW_DATABASE_URL ({name}) and POCOFLOW_BROKER_URL as here, the flow's module "
        "in POCOFLOW_FLOWS, and: celery -A pocoflow.workers worker"
    )
    ports = database_ports(database, settings)
    return Cluster(ports, dispatcher(database, settings), advice)


def _dispatcher(database: str, settings: Settings) -> Dispatcher:
    from pocoflow.broker import make_app
    from pocoflow.dispatch import make_dispatcher

    made = make_dispatcher(make_app(settings, str(settings.broker_url)), database=database)
    wanted = faults(settings)
    return made if wanted is None else wanted.dispatcher(made)


def _faults(settings: Settings) -> Faults:
    log = None if settings.effect_log is None else EffectLog(settings.effect_log, CLOCK)
    return Faults(settings.faults or "", log, CLOCK)


def _once(key: tuple[Any, ...], make: Callable[[], T]) -> T:
    full = (*key, os.getpid())
    with _making:
        if full not in _made:
            _made[full] = make()
        found: T = _made[full]
        return found


def _tracked(ledger: Ledger, settings: Settings, enforcer: Enforcer | None) -> Ports:
    flags, wanted = _flags(settings), faults(settings)
    if wanted is not None:
        ledger = wanted.ledger(ledger)
    watcher = Heartbeats(ledger, flags, CLOCK, lease_s=settings.lease_s, enforcer=enforcer)
    return Ports(ledger, flags, watcher, CLOCK)


def _flags(settings: Settings) -> ControlFlags:
    if settings.flags_url is None:
        return LocalFlags()
    from pocoflow.control import RedisFlags

    return RedisFlags(settings.flags_url)


def _open_ledger(url: Any, settings: Settings) -> Ledger:
    from pocoflow.db.postgres import PostgresLedger
    from pocoflow.db.sqlite import SqliteLedger

    kind = SqliteLedger if url.get_backend_name() == "sqlite" else PostgresLedger
    ledger: Ledger = kind(
        url,
        _timing(settings),
        sleep=CLOCK.sleep,
        max_store_mb=settings.max_store_mb,
        cipher=_cipher(settings),
    )
    # Runs whose process was killed are told apart now, for a laptop where no worker sweeps.
    ledger.sweep(home=NOBODY)
    return ledger


def _cipher(settings: Settings) -> Cipher | None:
    if not settings.secret_keys:
        return None
    try:
        from pocoflow.cipher import FernetCipher
    except ImportError as exc:
        raise SettingsError(
            f"POCOFLOW_SECRET_KEY is set and needs what is not installed ({exc}): "
            "pip install 'pocoflow[secrets]'"
        ) from exc
    return FernetCipher(settings.secret_keys)


def _own_ports(database: str | Path | None, settings: Settings) -> Ports:
    """For a process without a broker, whose history is in memory when nobody chose a database."""
    if database is None and not settings.database_given:
        return _once(("memory", settings), lambda: _memory_ports(settings))
    return database_ports(database or settings.database_url, settings, enforcer=Unstoppable())


def _memory_ports(settings: Settings) -> Ports:
    ledger = MemoryLedger(CLOCK, _timing(settings), max_store_mb=settings.max_store_mb)
    return _tracked(ledger, settings, Unstoppable())


def _embedded_worker(settings: Settings) -> Any:
    from pocoflow.embedded import EmbeddedWorker

    return EmbeddedWorker(settings, faults(settings), pruner(settings))


def _timing(settings: Settings) -> Timing:
    return Timing(lease_s=settings.lease_s, grace_s=settings.grace_s, max_crashes=settings.max_crashes)
