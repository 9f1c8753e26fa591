"""How the errors of a database are told, without its secrets, and which of them pass."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from pocoflow.errors import DatabaseError
from pocoflow.settings import mask_url

# How long to wait before what a lost connection has failed is tried again.
QUICK_PAUSES_S = (0.1, 0.3)
_START_HINT = {
    "postgresql": "start it (for example: docker compose up -d postgres) or set POCOFLOW_DATABASE_URL",
    "sqlite": "check that its folder exists and can be written, or set POCOFLOW_DATABASE_URL",
}
_READ_ONLY = ("readonly database", "unable to open database file")
_WRITE_HINT = (
    "this user must be able to write the file and its folder, also to read it or to upgrade it: copy it to "
    "where that is so"
)

T = TypeVar("T")


def shown(url: URL) -> str:
    """Return the URL for a human, without any password."""
    return mask_url(url.render_as_string())


@contextmanager
def translated(url: URL) -> Iterator[None]:
    """Turn the driver's errors into DatabaseError, with the URL but without its password."""
    try:
        yield
    except SQLAlchemyError as exc:
        hint = _START_HINT[url.get_backend_name()] if is_passing(exc) else "see the cause above"
        reason = _reason(exc)
        if any(sign in reason for sign in _READ_ONLY):
            hint = _WRITE_HINT
        raise DatabaseError(f"database {shown(url)} failed: {reason}: {hint}") from exc
    except (UnicodeEncodeError, OverflowError) as exc:  # which drivers raise before they ask the database
        raise DatabaseError(f"database {shown(url)} cannot take such a value: {exc}") from exc


def _reason(exc: SQLAlchemyError) -> str:
    if not isinstance(exc, DBAPIError) or exc.orig is None:
        return str(exc)
    # All that Postgres has to say may quote the row, and with it the store.
    told = getattr(getattr(exc.orig, "diag", None), "message_primary", None)
    return str(told or exc.orig).strip()


def is_passing(exc: BaseException) -> bool:
    """Whether a statement failed for a reason that passes: no connection, a lock, a restart, a full disk."""
    if not isinstance(exc, OperationalError | InterfaceError):
        return False
    if isinstance(exc.orig, sqlite3.Error):
        return any(word in str(exc.orig) for word in ("locked", "busy", "full"))
    return True


def with_retry(
    action: Callable[[], T], *, pauses: Iterator[float], sleep: Callable[[float], None]
) -> tuple[T, bool]:
    """Run a database action again while the connection is lost, after each of the pauses.

    Returns:
        What the action returned, and whether it had been tried before: its first try may have taken
        effect although the answer was lost.
    """
    tried = False
    while True:
        try:
            return action(), tried
        except SQLAlchemyError as exc:
            pause = next(pauses, None) if is_passing(exc) else None
            if pause is None:
                raise
            tried = True
            sleep(pause)
