"""The statements of the hot path, compiled once and sent straight to the driver.

SQLAlchemy builds and pools; executing through it as well would double what a step costs in this process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

from sqlalchemy import Engine, Executable
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql import ClauseElement

Params = Mapping[str, Any]


def compiled(statement: Executable, dialect: Dialect) -> str:
    """Return the SQL text, with parameters named `p_...` only: a value hidden in it would be lost here."""
    assert isinstance(statement, ClauseElement)
    made = statement.compile(dialect=dialect)
    hidden = [name for name in made.params if not name.startswith("p_")]
    assert not hidden, f"write {hidden} as words.const(...)"
    return str(made)


@contextmanager
def cursor(engine: Engine) -> Iterator[Any]:
    """A driver's cursor on a pooled connection; its errors become SQLAlchemy's, as everywhere else."""
    driver = engine.dialect.loaded_dbapi
    connection = None
    try:
        connection = engine.raw_connection()
        with closing(connection.cursor()) as made:
            yield made
    except driver.Error as exc:
        lost = connection is None or engine.dialect.is_disconnect(exc, connection.driver_connection, None)
        if lost and connection is not None:
            # What ended this connection has most likely ended all others: begin with a new pool.
            connection.invalidate(exc)
            engine.dispose(close=False)
        raise DBAPIError.instance(
            None, None, exc, driver.Error, connection_invalidated=lost, dialect=engine.dialect
        ) from exc
    finally:
        if connection is not None:
            connection.close()
