"""One engine for each database and process, with the tables in place."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    NoSuchModuleError,
)

from pocoflow.db.failures import shown, translated, with_retry
from pocoflow.db.shared_file import refuse_network_file
from pocoflow.db.version import NEWEST, older, require_newest, revision_of, set_up
from pocoflow.engine.clock import SystemClock
from pocoflow.errors import DatabaseError
from pocoflow.logging import get_logger, log_event
from pocoflow.settings import mask_url

BUSY_TIMEOUT_S = 30.0
MAX_IDLE_WAL_BYTES = 8 << 20
SETUP_PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.8)
_SETUP_LOCK = 0x706F636F
_DISCREET: dict[str, Any] = {"hide_parameters": True}  # A store is no reading for who looks at a traceback.
_WRONG_ONE = "nothing has run on it yet, or the runs are in another one"

Report = Callable[[int, int], None]

_engines: dict[tuple[URL, int], Engine] = {}
_lock = threading.Lock()


log = get_logger("db")


def database_url(database: str | Path) -> URL:
    """Return the URL for a file path or a SQLAlchemy URL; a file's path is made absolute.

    Raises:
        DatabaseError: Neither SQLite nor Postgres, or not a URL at all.
    """
    name = str(database)
    try:
        url = make_url(name) if "://" in name else URL.create("sqlite", database=name)
    except ArgumentError as exc:
        raise DatabaseError(
            f"not a database URL: {mask_url(name)}: use sqlite:///FILE or postgresql://..."
        ) from exc
    kind = url.get_backend_name()
    if kind == "postgres" or url.drivername == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if kind == "sqlite":
        if not url.database or url.database == ":memory:":
            raise DatabaseError(
                "an SQLite database in memory cannot be shared: name a file, or leave db_path out"
            )
        return url.set(database=os.path.abspath(url.database))
    if url.drivername != "postgresql+psycopg":
        raise DatabaseError(
            f"no support for {url.drivername!r}: use sqlite:///FILE or postgresql+psycopg://..."
        )
    return url


def engine_for(url: URL) -> Engine:
    """Return the engine of this process for a database, with its tables made or upgraded on first use.

    A forked child gets an engine of its own: a connection shared with the parent would mix up answers.

    Raises:
        DatabaseError: The database cannot be reached, or has the tables of another version.
    """
    key = (url, os.getpid())
    known = _engines.get(key)
    if known is not None:
        return known
    with _lock:
        if key not in _engines:
            engine = _open(url)
            _make_ready(engine)
            _engines[key] = engine
        return _engines[key]


@contextmanager
def snapshot(url: URL) -> Iterator[Connection]:
    """A connection that sees one moment of a database that is there already, and can change nothing.

    Raises:
        DatabaseError: There is none, it has no tables of PocoFlow, or those of another version.
    """
    engine = _open_reader(url)
    try:
        with translated(url), engine.connect() as connection, _reading(connection):
            if require_newest(connection) is None:
                raise DatabaseError(f"database {shown(url)} has no tables of PocoFlow: {_WRONG_ONE}")
            yield connection
    finally:
        engine.dispose()


def upgrade(url: URL, report: Report | None = None) -> str | None:
    """Make the tables, or bring them up to date; returns the revision that they had before, None for none.

    Args:
        report: Told how many of how many runs are done.

    Raises:
        DatabaseError: It cannot be reached, copied or upgraded, or has the tables of another version.
    """
    engine = _open(url)
    try:
        return _make_ready(engine, report=report, asked=True)
    finally:
        engine.dispose()


def copy_name(url: URL) -> Path:
    """Where an SQLite file is kept as it was before an upgrade."""
    return Path(f"{url.database}.before-{NEWEST}")


def current_revision(url: URL) -> str | None:
    """Return the revision of the tables, None for no tables; changes nothing.

    Raises:
        DatabaseError: It cannot be reached, or has the tables of another version.
    """
    engine = _open_reader(url)
    try:
        with translated(url), engine.connect() as connection:
            return revision_of(connection)
    finally:
        engine.dispose()


def forget_inherited_engines() -> None:
    """Drop the parent's engines after a fork, without closing the connections that the parent uses."""
    for (_, pid), engine in list(_engines.items()):
        if pid != os.getpid():
            engine.dispose(close=False)


def _open(url: URL) -> Engine:
    # AUTOCOMMIT: a verb is one statement, and a begin and a commit would be two more round trips.
    options: dict[str, Any] = {**_DISCREET, "isolation_level": "AUTOCOMMIT", "pool_reset_on_return": None}
    try:
        if url.get_backend_name() == "sqlite":
            file = Path(str(url.database))
            refuse_network_file(file)
            file.parent.mkdir(parents=True, exist_ok=True)
            engine = create_engine(
                url, connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False}, **options
            )
            event.listen(engine, "connect", _prepare_sqlite)
            return engine
        keepalive = {
            "keepalives": 1,
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "tcp_user_timeout": 20_000,
        }
        return create_engine(
            url,
            connect_args={"prepare_threshold": 1, "connect_timeout": 5, **keepalive},
            pool_size=10,
            **options,
        )
    except (NoSuchModuleError, ImportError) as exc:
        raise DatabaseError(
            f"the driver for {url.drivername} is not installed: pip install 'pocoflow[postgres]'"
        ) from exc
    except OSError as exc:
        raise DatabaseError(f"database {shown(url)} cannot be made: {exc}") from exc


def _open_reader(url: URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        return _open(url)
    file = Path(str(url.database))
    if not file.exists():
        raise DatabaseError(f"there is no database {shown(url)}: {_WRONG_ONE}")

    def connect() -> sqlite3.Connection:
        # With mode=ro, SQLite would leave files for its log behind, which it may not tidy up then.
        connection = sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=BUSY_TIMEOUT_S)
        connection.isolation_level = None
        connection.execute("pragma query_only=on")
        return connection

    return create_engine(url, creator=connect, isolation_level="AUTOCOMMIT", **_DISCREET)


def _prepare_sqlite(connection: sqlite3.Connection, record: Any) -> None:
    connection.isolation_level = None
    if connection.execute("pragma page_count").fetchone() == (0,):
        # What is pruned can be given back. It is for new files only; on others it would take the write lock.
        connection.execute("pragma auto_vacuum=incremental")
    connection.execute("pragma journal_mode=wal")
    connection.execute("pragma synchronous=normal")
    # A reader that stays for long lets the WAL grow; without a limit it would keep that size for good.
    connection.execute(f"pragma journal_size_limit={MAX_IDLE_WAL_BYTES}")


def _make_ready(engine: Engine, *, report: Report | None = None, asked: bool = False) -> str | None:
    with translated(engine.url):
        # Processes that come first at once may find the new file locked while one turns on WAL, and for that
        # SQLite does not wait by itself; an upgrade may take longer than it waits at all.
        return with_retry(
            lambda: _set_up(engine, report, asked), pauses=iter(SETUP_PAUSES_S), sleep=SystemClock().sleep
        )[0]


def _set_up(engine: Engine, report: Report | None, asked: bool) -> str | None:
    """Make the tables or upgrade them, once, also when several processes come first at the same time."""
    postgres = engine.dialect.name == "postgresql"
    with engine.connect() as connection:
        found = revision_of(connection)
        if found == NEWEST:
            return found
        # Others share a server: when it is upgraded, and what runs meanwhile, is for its owner to decide.
        if found is not None and postgres and not asked:
            raise older(connection, found)
        with write_transaction(connection):
            if postgres:
                connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _SETUP_LOCK})
            found = revision_of(connection)
            if found is None:
                set_up(connection)
            elif found != NEWEST:
                _upgrade(connection, found, report)
            return found


def _upgrade(connection: Connection, found: str, report: Report | None) -> None:
    migrate = import_module("pocoflow.db.migrate")  # with Alembic, which is slow to load
    url = connection.engine.url
    if connection.dialect.name == "sqlite":
        migrate.keep_copy(Path(str(url.database)), copy_name(url))
    log_event(log, "upgrading the tables", database=shown(url), revision=found, to=NEWEST)
    migrate.upgrade(connection, report=report)


@contextmanager
def _reading(connection: Connection) -> Iterator[None]:
    """A transaction on an AUTOCOMMIT connection that sees the same from its first statement to its last."""
    sqlite = connection.dialect.name == "sqlite"
    connection.exec_driver_sql("begin" if sqlite else "begin isolation level repeatable read, read only")
    try:
        yield
    finally:
        connection.exec_driver_sql("rollback")


@contextmanager
def write_transaction(connection: Connection) -> Iterator[None]:
    """A transaction on an AUTOCOMMIT connection; in SQLite it takes the write lock at once.

    A deferred SQLite transaction that turns from reading to writing fails at once when another process
    has written meanwhile, whatever the busy timeout.
    """
    sqlite = connection.dialect.name == "sqlite"
    connection.exec_driver_sql("begin immediate" if sqlite else "begin")
    try:
        yield
        connection.exec_driver_sql("commit")
    except BaseException:
        # A commit that failed has often rolled back by itself; to Postgres a second rollback is nothing.
        if not sqlite or getattr(connection.connection.driver_connection, "in_transaction", True):
            connection.exec_driver_sql("rollback")
        raise
