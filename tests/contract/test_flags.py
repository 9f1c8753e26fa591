"""Control flags never raise, never hold anybody up, and never deny a cancel that was asked for."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
import redis

from pocoflow import control
from pocoflow.control import DONE_CHANNEL, FLAG_TTL_S, SILENCE_S, TIMEOUT_S, RedisFlags
from pocoflow.engine.local import LocalFlags
from pocoflow.engine.ports import ControlFlags
from pocoflow.services import Service
from pocoflow.settings import mask_url
from tests.contract.network import BlackHole
from tests.contract.subjects import FrozenClock
from tests.support.wait import wait_until

MakeFlags = Callable[[], ControlFlags]
Complaints = Callable[[str], list[str]]

EVERY_CALL = [
    pytest.param(lambda flags: flags.ask_cancel("run"), id="ask_cancel"),
    pytest.param(lambda flags: flags.cancel_asked("run"), id="cancel_asked"),
    pytest.param(lambda flags: flags.look_ahead("run"), id="look_ahead"),
    pytest.param(lambda flags: flags.announce_end("run"), id="announce_end"),
    pytest.param(lambda flags: flags.complain("run", "text"), id="complain"),
    pytest.param(lambda flags: flags.complaint("run"), id="complaint"),
]


def make_all_calls(flags: ControlFlags) -> list[Any]:
    return [call.values[0](flags) for call in EVERY_CALL]


@pytest.fixture(params=["local", "fake_redis", "redis_url"])
def make_flags(request: pytest.FixtureRequest) -> MakeFlags:
    """Flags as each process makes them for itself; those in this process share one object."""
    if request.param == "local":
        flags = LocalFlags()
        return lambda: flags
    url = request.getfixturevalue(request.param)
    return lambda: RedisFlags(url)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FrozenClock:
    """The clock by which Redis is left alone for a while."""
    clock = FrozenClock()
    monkeypatch.setattr(control, "monotonic", clock.monotonic)
    return clock


@pytest.fixture
def black_hole() -> Iterator[BlackHole]:
    with BlackHole() as hole:
        yield hole


@pytest.fixture
def nobody_there() -> str:
    """The URL of a port that nobody listens on."""
    with BlackHole() as hole:
        return f"redis://:secret@{hole.address}/0"


@pytest.fixture
def complaints(caplog: pytest.LogCaptureFixture) -> Complaints:
    """What was logged about one Redis that does not answer: once for each time that it was tried."""
    caplog.set_level(logging.WARNING, logger="pocoflow")

    def complaints(url: str) -> list[str]:
        lines = [record.getMessage() for record in caplog.records]
        return [line for line in lines if mask_url(url) in line]

    return complaints


def test_a_run_that_nobody_cancelled_is_not_taken_for_cancelled(make_flags: MakeFlags) -> None:
    make_flags().ask_cancel("other")

    assert not make_flags().cancel_asked("run")


@pytest.mark.parametrize("run_id", ["run", "run 1", "läuft:*", "x" * 200])
def test_a_cancel_is_never_denied_once_it_was_asked_for(make_flags: MakeFlags, run_id: str) -> None:
    make_flags().ask_cancel(run_id)

    assert make_flags().cancel_asked(run_id) is not False


def test_a_look_ahead_does_not_change_the_answer(make_flags: MakeFlags) -> None:
    make_flags().ask_cancel("run")
    flags = make_flags()
    direct = [flags.cancel_asked(run_id) for run_id in ("run", "other")]

    answers = []
    for run_id in ("run", "other"):
        flags.look_ahead(run_id)
        answers.append(flags.cancel_asked(run_id))

    assert answers == direct


def test_an_answer_that_nobody_fetched_is_not_given_for_another_run(make_flags: MakeFlags) -> None:
    flags = make_flags()
    flags.ask_cancel("run")

    flags.look_ahead("run")
    flags.look_ahead("other")

    assert not flags.cancel_asked("other")
    assert flags.cancel_asked("run") is not False


def hears(listening: ControlFlags, announcing: ControlFlags) -> bool:
    """Whether announcements of one reach the other; again and again, since nobody sees when it listens."""
    run_id, heard = uuid4().hex, set[str]()
    listening.hear_ends(heard.add)

    def announced() -> bool:
        announcing.announce_end(run_id)
        return run_id in heard

    return wait_until(announced, what="the announcement")


def test_an_end_is_heard_wherever_somebody_listens(make_flags: MakeFlags) -> None:
    announcing, one, two = make_flags(), make_flags(), make_flags()

    assert hears(one, announcing)
    assert hears(two, announcing)


def test_all_who_listen_hear_of_an_end_and_each_once(make_flags: MakeFlags) -> None:
    flags, first, second = make_flags(), list[str](), list[str]()
    for heard in (first.append, second.append, first.append):
        flags.hear_ends(heard)
    hears(flags, make_flags())
    first.clear()
    second.clear()

    make_flags().announce_end("läuft:*")

    wait_until(lambda: "läuft:*" in first and "läuft:*" in second, what="the announcement")
    assert first.count("läuft:*") == second.count("läuft:*") == 1


def test_a_complaint_reaches_at_most_who_waits_for_that_run(make_flags: MakeFlags) -> None:
    make_flags().complain("run", "two databases: à und ß")

    assert make_flags().complaint("run") in (None, "two databases: à und ß")
    assert make_flags().complaint("other") is None


def test_redis_tells_every_process_of_a_cancel_at_once(any_redis: str) -> None:
    RedisFlags(any_redis).ask_cancel("run")

    assert RedisFlags(any_redis).cancel_asked("run") is True
    assert RedisFlags(any_redis).cancel_asked("other") is False


def test_redis_hands_a_complaint_on(any_redis: str) -> None:
    RedisFlags(any_redis).complain("run", "two databases")

    assert RedisFlags(any_redis).complaint("run") == "two databases"


def test_nothing_stays_in_redis_for_ever(any_redis: str) -> None:
    make_all_calls(RedisFlags(any_redis))

    client = redis.Redis.from_url(any_redis)
    keys = client.keys("*")
    assert sorted(keys) == [b"pocoflow:cancel:run", b"pocoflow:complaint:run"]
    assert all(0 < client.ttl(key) <= FLAG_TTL_S for key in keys)


@pytest.mark.parametrize("call", EVERY_CALL)
def test_no_call_fails_where_there_is_no_redis(
    nobody_there: str, clock: FrozenClock, call: Callable[[ControlFlags], Any]
) -> None:
    assert call(RedisFlags(nobody_there)) is None


@pytest.mark.parametrize("call", EVERY_CALL)
def test_a_redis_that_never_answers_costs_a_second_at_most(
    black_hole: BlackHole, clock: FrozenClock, call: Callable[[ControlFlags], Any]
) -> None:
    flags, began = RedisFlags(f"redis://{black_hole.address}/0"), time.monotonic()

    answer = call(flags)
    answers = make_all_calls(flags)

    assert answer is None
    assert answers == [None] * len(EVERY_CALL)
    assert black_hole.connections == 1
    assert time.monotonic() - began < 2 * TIMEOUT_S + 2.0  # the two for a machine that is busy


def test_a_redis_that_does_not_answer_is_left_alone_for_a_while(
    nobody_there: str, clock: FrozenClock, complaints: Complaints
) -> None:
    flags, tried = RedisFlags(nobody_there), []

    for seconds in (0.0, SILENCE_S - 0.1, 0.2, SILENCE_S - 0.1):
        clock.advance(seconds)
        make_all_calls(flags)
        tried.append(len(complaints(nobody_there)))

    assert tried == [1, 1, 2, 2]


def test_the_log_names_the_redis_that_does_not_answer_without_its_password(
    nobody_there: str, clock: FrozenClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="pocoflow")

    RedisFlags(nobody_there).ask_cancel("run")

    (entry,) = [record for record in caplog.records if "does not answer" in record.getMessage()]
    told = " ".join(map(str, vars(entry).values()))
    assert nobody_there.replace("secret", "***") in told
    assert "secret" not in told


def ask(flags: RedisFlags, run_id: str) -> bool | None:
    return flags.cancel_asked(run_id)


def ask_ahead(flags: RedisFlags, run_id: str) -> bool | None:
    flags.look_ahead(run_id)
    return flags.cancel_asked(run_id)


@pytest.mark.parametrize("look", [ask, ask_ahead])
def test_flags_work_again_when_redis_is_back(
    private_redis: Service, clock: FrozenClock, look: Callable[[RedisFlags, str], bool | None]
) -> None:
    flags = RedisFlags(private_redis.url)
    before = look(flags, "run")
    private_redis.kill()
    during = look(flags, "run")
    private_redis.restart()
    clock.advance(SILENCE_S + 0.1)

    flags.ask_cancel("run")

    assert (before, during, look(flags, "run")) == (False, None, True)


@pytest.mark.parametrize("look", [ask, ask_ahead])
def test_an_answer_that_comes_too_late_is_not_taken_for_that_to_another_question(
    private_redis: Service, clock: FrozenClock, look: Callable[[RedisFlags, str], bool | None]
) -> None:
    flags = RedisFlags(private_redis.url)
    flags.ask_cancel("run")
    look(flags, "run")
    os.kill(private_redis.pid, signal.SIGSTOP)
    late = look(flags, "run")
    os.kill(private_redis.pid, signal.SIGCONT)
    clock.advance(SILENCE_S + 0.1)

    assert late is None
    assert look(flags, "other") is False
    assert look(flags, "run") is True


def test_ends_are_heard_again_when_redis_is_back(
    private_redis: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "SILENCE_S", 0.01)
    listening, announcing = RedisFlags(private_redis.url), RedisFlags(private_redis.url)
    hears(listening, announcing)
    private_redis.kill()
    private_redis.restart()

    assert hears(listening, announcing)


def test_a_redis_that_was_not_there_at_first_is_heard_later(
    private_redis: Service, monkeypatch: pytest.MonkeyPatch, complaints: Complaints
) -> None:
    monkeypatch.setattr(control, "SILENCE_S", 0.01)
    private_redis.kill()
    listening = RedisFlags(private_redis.url)
    listening.hear_ends(lambda run_id: None)
    wait_until(lambda: complaints(private_redis.url), what="the first failure")

    private_redis.restart()

    assert hears(listening, RedisFlags(private_redis.url))
    assert len(complaints(private_redis.url)) == 1


def test_a_connection_that_fell_silent_is_replaced(
    private_redis: Service, monkeypatch: pytest.MonkeyPatch, complaints: Complaints
) -> None:
    for name in ("SILENCE_S", "QUIET_S"):
        monkeypatch.setattr(control, name, 0.01)
    listening, announcing = RedisFlags(private_redis.url), RedisFlags(private_redis.url)
    hears(listening, announcing)
    before = listeners(private_redis.url)

    os.kill(private_redis.pid, signal.SIGSTOP)
    wait_until(lambda: complaints(private_redis.url), what="the silence to be noticed")
    os.kill(private_redis.pid, signal.SIGCONT)

    assert hears(listening, announcing)
    assert len(before) == 1
    assert before.isdisjoint(listeners(private_redis.url))


def listeners(url: str) -> set[str]:
    """The ids of the connections that are subscribed to something."""
    with redis.Redis.from_url(url) as client:
        return {known["id"] for known in client.client_list(_type="pubsub")}


def test_what_anybody_may_announce_harms_nobody(redis_url: str) -> None:
    listening, announcing = RedisFlags(redis_url), RedisFlags(redis_url)
    hears(listening, announcing)

    with redis.Redis.from_url(redis_url) as anybody:
        for garbage in (b"", b"\xff\x00\xfe", b"x" * 1_000_000):
            anybody.publish(DONE_CHANNEL, garbage)

    assert hears(listening, announcing)


def test_a_forked_process_hears_by_itself(redis_url: str) -> None:
    flags = RedisFlags(redis_url)
    hears(flags, RedisFlags(redis_url))

    child = os.fork()
    if child == 0:
        os._exit(0 if hears(flags, RedisFlags(redis_url)) else 1)

    assert os.waitpid(child, 0)[1] == 0
