"""A hint goes out as the message that Celery itself would send, and a broker that is away is told at once."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import kombu.utils.functional
import pytest
import redis
from celery import Celery

from pocoflow import dispatch
from pocoflow.broker import DATABASE_HEADER, KEY_PREFIX, make_app
from pocoflow.dispatch import SILENCE_S, CeleryDispatcher, RedisDispatcher, make_dispatcher
from pocoflow.engine.ports import Dispatcher
from pocoflow.engine.records import Hint
from pocoflow.errors import BrokerError
from pocoflow.settings import Settings
from tests.contract.network import BlackHole
from tests.contract.subjects import FrozenClock

HINT = Hint("run", 3)
DATABASE = "postgresql+psycopg://poco:***@db/poco"
IDS = {"id", "root_id", "correlation_id", "reply_to", "delivery_tag"}
EMPTY = (None, {}, [None, None])
NEVER = {"replaced_task_nesting"}  # 0, because no task of ours takes the place of another

KINDS = [
    pytest.param(RedisDispatcher, "redis", id="Redis by hand"),
    pytest.param(CeleryDispatcher, "redis", id="Redis by Celery"),
    pytest.param(CeleryDispatcher, "amqp", id="RabbitMQ by Celery"),
]


def app_for(url: str, **settings: Any) -> Celery:
    return make_app(Settings.load(broker_url=url, **settings), url)


def sent(dispatcher: Dispatcher, hint: Hint, url: str) -> tuple[str, dict[str, Any]]:
    """Send a hint; return the queue that it is in, and the message with its body decoded."""
    dispatcher.send(hint)
    with redis.Redis.from_url(url) as client:
        (key,) = [key for key in client.scan_iter(f"{KEY_PREFIX}*") if client.type(key) == b"list"]
        message = json.loads(client.lpop(key))
    message["body"] = json.loads(b64decode(message["body"]))
    return key.decode().removeprefix(KEY_PREFIX), message


def filled(fields: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is new in each message, and what says nothing."""
    return {
        name: filled(value) if isinstance(value, dict) else value
        for name, value in fields.items()
        if name not in IDS | NEVER and value not in EMPTY
    }


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FrozenClock:
    """The clock by which a broker is left alone, and by which kombu waits between two tries."""
    clock = FrozenClock()
    monkeypatch.setattr(dispatch, "monotonic", clock.monotonic)
    monkeypatch.setattr(kombu.utils.functional, "time", clock.now)
    monkeypatch.setattr(kombu.utils.functional, "sleep", clock.sleep)
    return clock


@pytest.fixture
def black_hole() -> Iterator[BlackHole]:
    with BlackHole() as hole:
        yield hole


@pytest.fixture
def nobody_there() -> str:
    """Host and port where nobody listens."""
    with BlackHole() as hole:
        return hole.address


@pytest.mark.parametrize("run_id", ["run", "a run", 'läuft\'s "gut"?', "x" * 200])
@pytest.mark.parametrize("queue", [None, "gpu"])
@pytest.mark.parametrize("database", [None, DATABASE])
def test_the_message_made_by_hand_is_the_one_that_celery_sends(
    redis_url: str, run_id: str, queue: str | None, database: str | None
) -> None:
    app, hint = app_for(redis_url), Hint(run_id, 3, queue)

    by_hand = sent(RedisDispatcher(app, database=database), hint, redis_url)
    by_celery = sent(CeleryDispatcher(app, database=database), hint, redis_url)

    assert by_hand[0] == by_celery[0]
    assert filled(by_hand[1]) == filled(by_celery[1])


@pytest.mark.parametrize("part", ["headers", "properties"])
def test_the_message_made_by_hand_has_no_field_that_celery_does_not_know(redis_url: str, part: str) -> None:
    app = app_for(redis_url)

    _, by_hand = sent(RedisDispatcher(app, database=DATABASE), HINT, redis_url)
    _, by_celery = sent(CeleryDispatcher(app, database=DATABASE), HINT, redis_url)

    assert set(by_hand) == set(by_celery)
    assert set(by_hand[part]) <= set(by_celery[part])


def test_every_message_has_ids_of_its_own(redis_url: str) -> None:
    dispatcher = RedisDispatcher(app_for(redis_url))

    first, second = (sent(dispatcher, HINT, redis_url)[1] for _ in range(2))

    assert first["headers"]["id"] != second["headers"]["id"]
    assert first["properties"]["delivery_tag"] != second["properties"]["delivery_tag"]
    assert first["headers"]["id"] == first["headers"]["root_id"] == first["properties"]["correlation_id"]


@pytest.mark.parametrize("kind", [RedisDispatcher, CeleryDispatcher])
class TestQueues:
    def test_a_hint_goes_to_the_queue_of_its_node(self, redis_url: str, kind: type[Dispatcher]) -> None:
        dispatcher = kind(app_for(redis_url))  # type: ignore[call-arg]

        assert sent(dispatcher, Hint("run", 0, "gpu"), redis_url)[0] == "gpu"

    def test_a_hint_without_a_queue_goes_to_the_default_one(
        self, redis_url: str, kind: type[Dispatcher]
    ) -> None:
        dispatcher = kind(app_for(redis_url, queue="team-a"))  # type: ignore[call-arg]

        assert sent(dispatcher, HINT, redis_url)[0] == "team-a"

    def test_queues_of_nodes_do_not_count_where_one_worker_takes_everything(
        self, redis_url: str, kind: type[Dispatcher]
    ) -> None:
        dispatcher = kind(app_for(redis_url), use_node_queues=False)  # type: ignore[call-arg]

        assert sent(dispatcher, Hint("run", 0, "gpu"), redis_url)[0] == "pocoflow"

    @pytest.mark.parametrize(("database", "expected"), [(DATABASE, {DATABASE_HEADER: DATABASE}), (None, {})])
    def test_a_message_names_the_database_that_it_is_about(
        self, redis_url: str, kind: type[Dispatcher], database: str | None, expected: dict[str, str]
    ) -> None:
        dispatcher = kind(app_for(redis_url), database=database)  # type: ignore[call-arg]

        headers = sent(dispatcher, HINT, redis_url)[1]["headers"]

        assert {name: headers[name] for name in headers if name == DATABASE_HEADER} == expected


@pytest.mark.parametrize("kind", [RedisDispatcher, CeleryDispatcher])
def test_kombu_reads_what_was_sent(redis_url: str, kind: type[Dispatcher]) -> None:
    app = app_for(redis_url)

    kind(app, database=DATABASE).send(Hint("run", 3, "gpu"))  # type: ignore[call-arg]

    with app.connection_for_read() as connection, connection.SimpleQueue("gpu") as queue:
        message = queue.get(timeout=10)
    args, kwargs, _ = message.payload
    assert (args, kwargs) == (["run", 3], {})
    assert (message.headers["task"], message.headers[DATABASE_HEADER]) == ("pocoflow.run_step", DATABASE)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("redis://host/0", RedisDispatcher),
        ("rediss://host/0", RedisDispatcher),
        ("redis+socket:///run/redis.sock", CeleryDispatcher),
        ("amqp://host//", CeleryDispatcher),
    ],
)
def test_a_plain_redis_gets_its_messages_by_hand(url: str, kind: type[Dispatcher]) -> None:
    assert type(make_dispatcher(app_for(url))) is kind


@pytest.mark.parametrize(("kind", "scheme"), KINDS)
class TestBrokerAway:
    def test_a_broker_that_is_down_is_named_without_its_password(
        self, nobody_there: str, clock: FrozenClock, kind: type[Dispatcher], scheme: str
    ) -> None:
        dispatcher = kind(app_for(f"{scheme}://user:secret@{nobody_there}/0"))  # type: ignore[call-arg]

        with pytest.raises(BrokerError) as caught:
            dispatcher.send(HINT)

        assert f"{scheme}://user:***@{nobody_there}/0" in str(caught.value)
        assert "secret" not in str(caught.value)
        assert caught.value.__cause__ is not None

    def test_a_broker_that_is_down_holds_nobody_up(
        self,
        nobody_there: str,
        clock: FrozenClock,
        kind: type[Dispatcher],
        scheme: str,
    ) -> None:
        dispatcher = kind(app_for(f"{scheme}://{nobody_there}/0"))  # type: ignore[call-arg]

        with pytest.raises(BrokerError):
            dispatcher.send(HINT)

        assert clock.monotonic() == 0.0

    def test_a_broker_that_is_down_is_left_alone_for_a_while(
        self, nobody_there: str, clock: FrozenClock, kind: type[Dispatcher], scheme: str
    ) -> None:
        dispatcher: Any = kind(app_for(f"{scheme}://{nobody_there}/0"))  # type: ignore[call-arg]
        tries = count_calls(dispatcher, "_publish")
        tried = []

        for seconds in (0.0, SILENCE_S - 0.1, 0.2, SILENCE_S - 0.1):
            clock.advance(seconds)
            with pytest.raises(BrokerError, match=nobody_there):
                dispatcher.send(HINT)
            tried.append(len(tries))

        assert tried == [1, 1, 2, 2]

    def test_a_broker_that_never_answers_is_not_waited_for_twice(
        self,
        monkeypatch: pytest.MonkeyPatch,
        black_hole: BlackHole,
        clock: FrozenClock,
        kind: type[Dispatcher],
        scheme: str,
    ) -> None:
        monkeypatch.setattr(dispatch, "TIMEOUT_S", 0.1)
        app = app_for(f"{scheme}://{black_hole.address}/0")
        app.conf.broker_connection_timeout = 0.1
        app.conf.broker_transport_options = {**app.conf.broker_transport_options, "socket_timeout": 0.1}
        dispatcher = kind(app)  # type: ignore[call-arg]

        asked = []
        for _ in range(3):
            with pytest.raises(BrokerError, match=black_hole.address):
                dispatcher.send(HINT)
            asked.append(black_hole.connections)

        assert asked[0] > 0
        assert asked == [asked[0]] * 3


def count_calls(thing: Any, name: str) -> list[None]:
    """Return a list that grows with each call of a method."""
    calls: list[None] = []
    method: Callable[..., Any] = getattr(thing, name)

    def counted(*args: Any) -> Any:
        calls.append(None)
        return method(*args)

    setattr(thing, name, counted)
    return calls


def test_hints_go_out_again_when_the_broker_is_back(private_redis: Any, clock: FrozenClock) -> None:
    dispatcher = RedisDispatcher(app_for(private_redis.url))
    private_redis.kill()
    with pytest.raises(BrokerError):
        dispatcher.send(HINT)
    private_redis.restart()
    clock.advance(SILENCE_S + 0.1)

    _, message = sent(dispatcher, HINT, private_redis.url)

    assert message["body"][0] == ["run", 3]


def test_a_connection_that_redis_closed_while_idle_costs_no_hint(private_redis: Any) -> None:
    dispatcher = RedisDispatcher(app_for(private_redis.url))
    sent(dispatcher, HINT, private_redis.url)
    with redis.Redis.from_url(private_redis.url) as client:
        client.client_kill_filter(skipme=True, _type="normal")

    _, message = sent(dispatcher, HINT, private_redis.url)

    assert message["body"][0] == ["run", 3]


@pytest.mark.parametrize(("kind", "broker"), KINDS)
def test_it_tells_how_many_messages_wait_in_a_queue(
    kind: type[Any], broker: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(f"{broker}_url")
    dispatcher = kind(app_for(url, queue=f"waiting-{uuid4().hex}"))

    for _ in range(3):
        dispatcher.send(HINT)
    dispatcher.send(HINT)

    assert dispatcher.waiting(None) == 4
    assert dispatcher.waiting("nobody-has-heard-of-it") == 0


@pytest.mark.parametrize(("kind", "broker"), KINDS)
def test_nothing_is_known_to_wait_where_no_broker_answers(
    kind: type[Any], broker: str, nobody_there: str
) -> None:
    assert kind(app_for(f"{broker}://{nobody_there}")).waiting(None) == 0
