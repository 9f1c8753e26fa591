"""What a message may say beside its ids: next to nothing, because anybody may have sent it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from celery import Celery
from celery.exceptions import InvalidTaskError
from celery.worker.strategy import default

from pocoflow.broker import DATABASE_HEADER, is_name

# Others could keep the message in memory for years (eta), end a child in mid-step (timelimit), write
# what they like into the log (shadow, argsrepr), or of a wrong type end the main process.
_KEPT = ("task", "expires", DATABASE_HEADER)


def strategy(task: Any, app: Celery, consumer: Any) -> Callable[..., None]:
    """Return what Celery is to call with each message for this task: its own handler, behind a check."""
    handle: Callable[..., None] = default(task, app, consumer)

    def check_and_handle(message: Any, body: Any, *args: Any) -> None:
        # The old protocol has its headers in the body; bytes without a form end the main process.
        if body is not None or not isinstance(message.payload, list):
            raise InvalidTaskError("not a list of arguments")
        message.headers = trusted_headers(message.headers)
        handle(message, None, *args)

    return check_and_handle


def trusted_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the headers that count.

    Raises:
        InvalidTaskError: The message has no id that can be logged; Celery drops it.
    """
    if not is_name(headers.get("id")):
        raise InvalidTaskError("no id, or none that can be shown")
    kept = {name: headers[name] for name in _KEPT if isinstance(headers.get(name), str)}
    return {**kept, "id": headers["id"], "root_id": headers["id"]}
