"""A Redis connection that sends now and reads later."""

from __future__ import annotations

import threading

import pytest
import redis

from pocoflow.control import RedisFlags
from pocoflow.pipelined import Pipelined
from pocoflow.services import Service


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    return redis.Redis.from_url(redis_url, socket_timeout=5)


def test_the_answer_to_a_command_is_read_when_it_is_asked_for(client: redis.Redis) -> None:
    connection = Pipelined(client)

    connection.send("SET", "key", "value")

    assert connection.answer() == b"OK"
    assert client.get("key") == b"value"


def test_there_is_no_answer_where_nothing_was_sent(client: redis.Redis) -> None:
    assert Pipelined(client).answer() is None


def test_a_refused_command_raises_and_the_connection_goes_on(client: redis.Redis) -> None:
    client.set("text", "no number")
    connection = Pipelined(client)
    connection.send("INCR", "text")

    with pytest.raises(redis.ResponseError):
        connection.answer()

    connection.send("PING")
    assert connection.answer() == b"PONG"


def test_each_thread_reads_the_answers_to_its_own_commands(client: redis.Redis) -> None:
    connection, answers = Pipelined(client), {}
    together = threading.Barrier(8)

    def ask(number: int) -> None:
        connection.send("ECHO", str(number))
        together.wait(10)
        answers[number] = connection.answer()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert answers == {number: str(number).encode() for number in range(8)}


def test_after_a_restart_of_redis_the_next_command_has_a_new_connection(private_redis: Service) -> None:
    connection = Pipelined(redis.Redis.from_url(private_redis.url, socket_timeout=5))
    connection.send("PING")
    connection.answer()
    private_redis.restart()

    connection.send("PING")
    assert connection.answer() == b"PONG"


def test_a_flag_looked_at_ahead_answers_for_that_run_only(redis_url: str) -> None:
    flags = RedisFlags(redis_url)
    flags.ask_cancel("wanted")

    flags.look_ahead("wanted")
    flags.look_ahead("other")

    assert flags.cancel_asked("other") is False
    assert flags.cancel_asked("wanted") is True
