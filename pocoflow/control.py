"""Cancel flags and wake-ups over Redis. Advisory: the ledger has the last word, and Redis may be gone."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.utils import str_if_bytes

from pocoflow.logging import WARNING, get_logger, log_event
from pocoflow.pipelined import Pipelined
from pocoflow.settings import mask_url

log = get_logger("runner")

T = TypeVar("T")

PREFIX = "pocoflow:"
DONE_CHANNEL = f"{PREFIX}done"
TIMEOUT_S = 0.5
SILENCE_S = 5.0
QUIET_S = 10.0
FLAG_TTL_S = 24 * 3600
MAX_COMPLAINT_BYTES = 2000


class RedisFlags:
    """Flags that every process sees at once, as long as Redis answers.

    A Redis that does not answer costs one short timeout, and is then left alone for a few seconds.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        # By default redis-py tries for about a minute, and this must never hold up a step.
        self._client: Any = redis.Redis.from_url(
            url,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
        self._ahead = Pipelined(self._client)
        self._asked = threading.local()
        self._silent_until = 0.0
        self._heard: frozenset[Callable[[str], None]] = frozenset()
        self._listener_pid: int | None = None

    def ask_cancel(self, run_id: str) -> None:
        self._try(lambda: self._client.set(_cancel_key(run_id), 1, ex=FLAG_TTL_S))

    def look_ahead(self, run_id: str) -> None:
        def ask() -> None:
            self._ahead.answer()  # of a step that then was not there to execute
            self._ahead.send("EXISTS", _cancel_key(run_id))
            self._asked.run_id = run_id

        self._try(ask)

    def cancel_asked(self, run_id: str) -> bool | None:
        if getattr(self._asked, "run_id", None) != run_id:
            return self._try(lambda: bool(self._client.exists(_cancel_key(run_id))))
        self._asked.run_id = None
        answer = self._try(self._ahead.answer)
        return None if answer is None else bool(answer)

    def announce_end(self, run_id: str) -> None:
        self._try(lambda: self._client.publish(DONE_CHANNEL, run_id))

    def hear_ends(self, heard: Callable[[str], None]) -> None:
        self._heard |= {heard}
        if self._listener_pid != os.getpid():  # a fork copies no threads
            self._listener_pid = os.getpid()
            threading.Thread(target=self._listen_forever, name="pocoflow-wakeups", daemon=True).start()

    def complain(self, run_id: str, text: str) -> None:
        """Leave a message for whoever waits for this run."""
        self._try(lambda: self._client.set(f"{PREFIX}complaint:{run_id}", text, ex=FLAG_TTL_S))

    def complaint(self, run_id: str) -> str | None:
        """Return what a worker left for whoever waits for this run."""
        key = f"{PREFIX}complaint:{run_id}"
        text = self._try(lambda: self._client.getrange(key, 0, MAX_COMPLAINT_BYTES - 1))
        return _printable(text) if text else None

    def _try(self, command: Callable[[], T]) -> T | None:
        if monotonic() < self._silent_until:
            return None
        try:
            return command()
        except redis.RedisError as exc:
            self._silent_until = monotonic() + SILENCE_S
            log_event(
                log,
                "Redis does not answer, going on without",
                level=WARNING,
                url=mask_url(self._url),
                error=str(exc),
            )
            return None

    def _listen_forever(self) -> None:
        told = False
        while True:
            try:
                for run_id in self._announcements():
                    told = False
                    for heard in self._heard:
                        heard(run_id)
            except redis.RedisError as exc:
                # Whoever waits polls the ledger anyway; try again when Redis may be back.
                if not told:
                    log_event(
                        log,
                        "no wake-ups from Redis, asking the database until it is back",
                        level=WARNING,
                        url=mask_url(self._url),
                        error=str(exc),
                    )
                told = True
                threading.Event().wait(SILENCE_S)

    def _announcements(self) -> Iterator[str]:
        """Yield what is announced; raises RedisError when the connection is lost, silently too."""
        with self._client.pubsub() as channel:
            channel.subscribe(DONE_CHANNEL)
            asked = True
            while True:
                message = channel.get_message(timeout=TIMEOUT_S if asked else QUIET_S)
                if message is not None:
                    asked = False
                    if message["type"] == "message":
                        yield str_if_bytes(message["data"])
                elif asked:
                    raise redis.TimeoutError("no answer on the connection for wake-ups")
                else:
                    channel.ping()
                    asked = True


def _printable(text: bytes) -> str:
    """Anybody may have written it, and it is shown in a terminal."""
    return "".join(sign if sign.isprintable() else "?" for sign in text.decode(errors="replace"))


def _cancel_key(run_id: str) -> str:
    return f"{PREFIX}cancel:{run_id}"
