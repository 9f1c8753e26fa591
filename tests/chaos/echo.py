"""A broker gone mad: it doubles what it is given, sends what nobody asked for, and shuffles it all."""

from __future__ import annotations

import json
import random
import threading
from base64 import b64decode, b64encode
from types import TracebackType
from typing import Any, Self

import redis

from pocoflow.broker import KEY_PREFIX

QUEUE = f"{KEY_PREFIX}pocoflow"
# One command of the server, so that no message gets lost between taking and putting back.
_SHUFFLE = """
    local items = redis.call('LRANGE', KEYS[1], 0, -1)
    math.randomseed(ARGV[1])
    for i = #items, 2, -1 do
        local j = math.random(i)
        items[i], items[j] = items[j], items[i]
    end
    redis.call('DEL', KEYS[1])
    for _, item in ipairs(items) do redis.call('RPUSH', KEYS[1], item) end
"""


class Echo:
    """Listens to a Redis and answers each hint with two copies, one for the step before, one for the next."""

    def __init__(self, url: str, *, seed: int) -> None:
        self.added = 0
        self._random = random.Random(seed)
        self._client, self._ear = redis.Redis.from_url(url), redis.Redis.from_url(url)
        self._own_port = ""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="echo", daemon=True)

    def __enter__(self) -> Self:
        self._own_port = str(self._client.client_info()["addr"])
        ready = threading.Event()
        self._thread = threading.Thread(target=self._listen, args=(ready,), name="echo", daemon=True)
        self._thread.start()
        assert ready.wait(10), "the echo hears nothing"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._client.ping()  # something to hear, for it to notice
        self._thread.join()
        self._client.close()
        self._ear.close()

    def _listen(self, ready: threading.Event) -> None:
        with self._ear.monitor() as heard:
            ready.set()
            for entry in heard.listen():
                if self._stopped.is_set():
                    return
                own = f"{entry['client_address']}:{entry['client_port']}" == self._own_port
                if not own and entry["command"].startswith(f"LPUSH {QUEUE} "):
                    self._answer(json.loads(entry["command"].split(" ", 2)[2]))

    def _answer(self, original: dict[str, Any]) -> None:
        (run_id, step), *rest = json.loads(b64decode(original["body"]))
        steps = [step, step, max(step - 1, 0), step + 1]
        self._random.shuffle(steps)
        for number in steps:
            body = b64encode(json.dumps([[run_id, number], *rest]).encode()).decode()
            self._client.lpush(QUEUE, json.dumps({**original, "body": body}))
        self.added += len(steps)
        self._client.eval(_SHUFFLE, 1, QUEUE, self._random.randrange(1 << 30))
