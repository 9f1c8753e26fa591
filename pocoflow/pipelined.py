"""A Redis connection that sends a command now and reads the answer when it is wanted.

Between the two, this process does something else instead of waiting: a step talks to Redis twice, and to
wait for it would be a tenth of the step.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import redis


class Pipelined:
    """One connection for each thread and process.

    Args:
        client: Where to connect, and with which timeouts.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._pool = client.connection_pool
        self._local = threading.local()

    def send(self, *command: Any) -> None:
        """Send a command; its answer must be read, by `answer`, before the next one.

        Raises:
            redis.RedisError: There is no connection.
        """
        connection = self._connection()
        try:
            connection.send_command(*command)
        except redis.RedisError:
            self.close()
            raise
        self._local.owed = True

    def answer(self) -> Any:
        """Return the answer to the last command, or None when there was none.

        Raises:
            redis.RedisError: Redis refused the command, or the connection is lost.
        """
        if not self._is_mine() or not self._local.owed:
            return None
        self._local.owed = False
        try:
            return self._local.connection.read_response()
        except redis.ResponseError:
            raise
        except redis.RedisError:
            self.close()
            raise

    def close(self) -> None:
        """Drop this thread's connection; the next command opens another."""
        if self._is_mine():
            self._local.connection.disconnect()
            self._local.pid = None

    def _connection(self) -> Any:
        if self._is_mine() and not self._local.owed and _was_closed(self._local.connection):
            self.close()
        if not self._is_mine():
            self._local.connection = self._pool.make_connection()
            self._local.connection.connect()
            self._local.pid = os.getpid()
            self._local.owed = False
        return self._local.connection

    def _is_mine(self) -> bool:
        return getattr(self._local, "pid", None) == os.getpid()


def _was_closed(connection: Any) -> bool:
    """Whether Redis has ended a connection on which no answer is due: then there is something to read."""
    try:
        return bool(connection.can_read(timeout=0))
    except redis.RedisError:
        return True
