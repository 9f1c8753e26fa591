"""Sends hints as Celery messages."""

from __future__ import annotations

import json
import os
import socket
from abc import ABC, abstractmethod
from base64 import b64encode
from time import monotonic
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import redis
from celery import Celery
from kombu.exceptions import OperationalError
from kombu.transport import virtual
from redis.backoff import NoBackoff
from redis.retry import Retry

from pocoflow.broker import CONNECT_TIMEOUT_S, DATABASE_HEADER, KEY_PREFIX, RUN_STEP, TIMEOUT_S, Link
from pocoflow.engine.ports import Dispatcher
from pocoflow.engine.records import Hint
from pocoflow.errors import BrokerError
from pocoflow.pipelined import Pipelined
from pocoflow.settings import AMQP_SCHEMES, mask_url

SILENCE_S = 5.0
CONFIRM_AFTER_S = 1.0
_START_HINT = "start it (for example: docker compose up -d redis) or set POCOFLOW_BROKER_URL"
_AMQP_START_HINT = "start it (for example: rabbitmq-server) or set POCOFLOW_BROKER_URL"


def make_dispatcher(app: Celery, *, database: str | None = None, use_node_queues: bool = True) -> Dispatcher:
    """Return the quickest dispatcher for the app's broker.

    Args:
        database: Named in each message, for a worker to notice that it works on another one.
        use_node_queues: Whether `Node.queue` counts; not so where one worker takes everything.
    """
    parts = urlsplit(app.conf.broker_url)
    # Several brokers in one URL, or options in Celery's own spelling, are for Celery to understand.
    plain_redis = parts.scheme in ("redis", "rediss") and not parts.query and ";" not in app.conf.broker_url
    kind: type[RedisDispatcher | CeleryDispatcher] = RedisDispatcher if plain_redis else CeleryDispatcher
    return kind(app, database=database, use_node_queues=use_node_queues)


class _Dispatcher(ABC):
    """A broker that does not answer is left alone for a few seconds, so that no step waits for it twice."""

    def __init__(self, app: Celery, *, database: str | None, use_node_queues: bool) -> None:
        self._broker = mask_url(app.conf.broker_url)
        amqp = urlsplit(app.conf.broker_url).scheme in AMQP_SCHEMES
        self._start_hint = _AMQP_START_HINT if amqp else _START_HINT
        self._default_queue = app.conf.task_default_queue
        self._use_node_queues = use_node_queues
        self._headers = {DATABASE_HEADER: database} if database else {}
        self._silent_until = 0.0

    def send(self, hint: Hint) -> None:
        """Raises BrokerError when the broker did not take the message."""
        if monotonic() < self._silent_until:
            raise BrokerError(f"broker {self._broker} did not answer a moment ago")
        try:
            self._publish(hint, self._queue(hint.queue))
        except (OperationalError, redis.RedisError, OSError) as exc:
            self._silent_until = monotonic() + SILENCE_S
            raise BrokerError(f"broker {self._broker} failed: {exc}: {self._start_hint}") from exc

    def waiting(self, queue: str | None) -> int:
        """Return how many messages wait in a queue; 0 when the broker does not answer."""
        if monotonic() < self._silent_until:
            return 0
        try:
            return self._length(self._queue(queue))
        except (OperationalError, redis.RedisError, OSError):
            return 0

    def _queue(self, asked: str | None) -> str:
        return (self._use_node_queues and asked) or str(self._default_queue)

    @abstractmethod
    def _publish(self, hint: Hint, queue: str) -> None: ...

    @abstractmethod
    def _length(self, queue: str) -> int: ...


class CeleryDispatcher(_Dispatcher):
    """By Celery itself, to any broker that it knows."""

    def __init__(self, app: Celery, *, database: str | None = None, use_node_queues: bool = True) -> None:
        super().__init__(app, database=database, use_node_queues=use_node_queues)
        self._link = Link(app, timeout_s=TIMEOUT_S)

    def _publish(self, hint: Hint, queue: str) -> None:
        self._link.send(RUN_STEP, args=(hint.run_id, hint.step), queue=queue, headers=self._headers)

    def _length(self, queue: str) -> int:
        with self._link.connected() as connection:
            channel = connection.channel()
            if isinstance(channel, virtual.Channel):
                # A passive declaration asks for the key without its prefix here, and finds nothing.
                length = int(channel._size(queue))  # type: ignore[no-untyped-call]
            else:
                try:
                    length = int(channel.queue_declare(queue, passive=True).message_count)
                except connection.channel_errors:  # no such queue, so nothing waits there
                    return 0
            channel.close()
            return length


class RedisDispatcher(_Dispatcher):
    """The message that Celery would send, pushed with one command.

    Celery and kombu take four times as long to build it, which is a third of a step. A test holds the
    bytes against those that Celery sends. In a row of messages the answer to each is read before the next
    one: a refusal costs that message its speed, not its step.
    """

    def __init__(self, app: Celery, *, database: str | None = None, use_node_queues: bool = True) -> None:
        super().__init__(app, database=database, use_node_queues=use_node_queues)
        self._origin = f"gen{os.getpid()}@{socket.gethostname()}"
        self._client: Any = redis.Redis.from_url(
            app.conf.broker_url,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),
        )
        self._redis = Pipelined(self._client)
        self._last_used = 0.0

    def _publish(self, hint: Hint, queue: str) -> None:
        message = json.dumps(self._message(hint, queue, str(uuid4())))
        idle_s, self._last_used = monotonic() - self._last_used, monotonic()
        try:
            self._redis.answer()  # to the message before
            self._redis.send("LPUSH", KEY_PREFIX + queue, message)
            if idle_s > CONFIRM_AFTER_S:
                self._redis.answer()
        except redis.ConnectionError:
            # The server closed the connection while it was idle, or was restarted.
            self._redis.send("LPUSH", KEY_PREFIX + queue, message)
            self._redis.answer()

    def _length(self, queue: str) -> int:
        return int(self._client.llen(KEY_PREFIX + queue))

    def _message(self, hint: Hint, queue: str, task_id: str) -> dict[str, Any]:
        """Celery's message protocol 2 in kombu's envelope for Redis."""
        body = [
            [hint.run_id, hint.step],
            {},
            {"callbacks": None, "errbacks": None, "chain": None, "chord": None},
        ]
        return {
            "body": b64encode(json.dumps(body).encode()).decode("ascii"),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {
                "lang": "py",
                "task": RUN_STEP,
                "id": task_id,
                "root_id": task_id,
                "parent_id": None,
                "group": None,
                "origin": self._origin,
                "argsrepr": repr((hint.run_id, hint.step)),
                "kwargsrepr": "{}",
                "retries": 0,
                **self._headers,
            },
            "properties": {
                "correlation_id": task_id,
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": queue},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": str(uuid4()),
            },
        }
