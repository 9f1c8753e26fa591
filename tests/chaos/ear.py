"""Hears which hints are sent, by whomever."""

from __future__ import annotations

import json
import threading
from base64 import b64decode
from types import TracebackType
from typing import Any, Self

import redis

from pocoflow.broker import KEY_PREFIX

QUEUE = f"{KEY_PREFIX}pocoflow"


class Ear:
    """Listens to a Redis for as long as the context lasts.

    Attributes:
        hints: Run and step of each hint that was sent, oldest first.
    """

    def __init__(self, url: str) -> None:
        self.hints: list[tuple[str, int]] = []
        self._client, self._ear = redis.Redis.from_url(url), redis.Redis.from_url(url)
        self._own_port = ""
        self._stopped = threading.Event()
        self._thread: threading.Thread

    def __enter__(self) -> Self:
        self._own_port = str(self._client.client_info()["addr"])
        ready = threading.Event()
        self._thread = threading.Thread(target=self._listen, args=(ready,), name="ear", daemon=True)
        self._thread.start()
        assert ready.wait(10), "the ear hears nothing"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._client.ping()  # something to hear, for it to notice
        self._thread.join()
        self._client.close()
        self._ear.close()

    def hear(self, message: dict[str, Any], run_id: str, step: int, rest: list[Any]) -> None:
        """What to do about a hint that somebody has sent: `message` is all of it, the others its body."""
        self.hints.append((run_id, step))

    def _listen(self, ready: threading.Event) -> None:
        with self._ear.monitor() as heard:
            ready.set()
            for entry in heard.listen():
                if self._stopped.is_set():
                    return
                own = f"{entry['client_address']}:{entry['client_port']}" == self._own_port
                if not own and entry["command"].startswith(f"LPUSH {QUEUE} "):
                    message = json.loads(entry["command"].split(" ", 2)[2])
                    (run_id, step), *rest = json.loads(b64decode(message["body"]))
                    self.hear(message, run_id, step, rest)
