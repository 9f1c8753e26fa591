"""A broker gone mad: it doubles what it is given, sends what nobody asked for, and shuffles it all."""

from __future__ import annotations

import json
import random
from base64 import b64encode
from typing import Any

from tests.chaos.ear import QUEUE, Ear

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


class Echo(Ear):
    """Answers each hint with two copies, one for the step before, one for the next."""

    def __init__(self, url: str, *, seed: int) -> None:
        super().__init__(url)
        self.added = 0
        self._random = random.Random(seed)

    def hear(self, message: dict[str, Any], run_id: str, step: int, rest: list[Any]) -> None:
        steps = [step, step, max(step - 1, 0), step + 1]
        self._random.shuffle(steps)
        for number in steps:
            body = b64encode(json.dumps([[run_id, number], *rest]).encode()).decode()
            self._client.lpush(QUEUE, json.dumps({**message, "body": body}))
        self.added += len(steps)
        self._client.eval(_SHUFFLE, 1, QUEUE, self._random.randrange(1 << 30))
