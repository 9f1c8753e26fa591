"""Of what a message says beside its ids, nothing counts that others could use against a worker."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from celery.exceptions import InvalidTaskError

from pocoflow.broker import DATABASE_HEADER, make_app, register_run_step
from pocoflow.settings import Settings
from pocoflow.workers import envelope
from pocoflow.workers.envelope import trusted_headers

USUAL = {"id": "17", "task": "pocoflow.run_step", DATABASE_HEADER: "sqlite:////data/runs.db"}


def heard_of(database: Any) -> list[str | None]:
    """What a step is told of the database that its message names."""
    heard: list[str | None] = []
    app = make_app(Settings(), "memory://")
    register_run_step(app, lambda hint, name: heard.append(name))
    task = app.tasks["pocoflow.run_step"]
    task.push_request(headers={DATABASE_HEADER: database} if database is not None else None)
    try:
        task.run("run", 0)
    finally:
        task.pop_request()
    return heard


@pytest.fixture
def handled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The headers of each message that gets as far as to Celery's own handler."""
    handled: list[Any] = []
    monkeypatch.setattr(
        envelope, "default", lambda *_: lambda message, body, *_: handled.append(message.headers)
    )
    return handled


def receive(body: Any = None, *, payload: Any) -> None:
    message = SimpleNamespace(payload=payload, headers={**USUAL, "eta": "2099-01-01"})
    envelope.strategy(None, make_app(Settings(), "memory://"), None)(message, body, None, None, [])


def test_celery_sees_only_the_headers_that_count(handled: list[Any]) -> None:
    receive(payload=[["run", 0], {}, {}])

    assert handled == [{**USUAL, "root_id": "17"}]


@pytest.mark.parametrize(
    "payload", [b"\x80\x04.", "text", {"args": ["run", 0], "timelimit": [1, 1]}, None, 17]
)
def test_a_body_that_is_no_list_does_not_get_there(handled: list[Any], payload: Any) -> None:
    with pytest.raises(InvalidTaskError, match="not a list"):
        receive(payload=payload)

    assert handled == []


def test_a_message_of_the_old_protocol_does_not_get_there(handled: list[Any]) -> None:
    with pytest.raises(InvalidTaskError, match="not a list"):
        receive({"task": "pocoflow.run_step", "args": ["run", 0]}, payload=[["run", 0], {}, {}])

    assert handled == []


def test_what_a_worker_needs_to_know_is_kept() -> None:
    kept = trusted_headers({**USUAL, "expires": "2026-03-01T12:00:00+00:00"})

    assert kept == {**USUAL, "root_id": "17", "expires": "2026-03-01T12:00:00+00:00"}


@pytest.mark.parametrize(
    "forged",
    [
        {"timelimit": [0.1, 0.1]},
        {"eta": "2099-01-01T00:00:00+00:00"},
        {"eta": 17},
        {"expires": 17},
        {"shadow": "another.name"},
        {"argsrepr": "sk-0123456789"},
        {"root_id": {"not": "an id"}},
        {"headers": "none"},
        {"group": "g", "ignore_result": False, "retries": "x", "stamps": 1},
        {DATABASE_HEADER: ["sqlite://"]},
    ],
    ids=str,
)
def test_nothing_else_counts(forged: dict[str, Any]) -> None:
    kept = trusted_headers({**USUAL, **forged})

    assert kept == {
        **{name: value for name, value in USUAL.items() if name not in forged},
        "root_id": "17",
    }


@pytest.mark.parametrize(
    "task_id", [None, 17, ["17"], "", "17\n[INFO] all is well", "\x1b[2J", "x" * 100_000]
)
def test_a_message_whose_id_cannot_be_shown_is_refused(task_id: Any) -> None:
    with pytest.raises(InvalidTaskError, match="no id"):
        trusted_headers({**USUAL, "id": task_id})


def test_the_database_that_a_message_names_is_told_without_its_password() -> None:
    assert heard_of("postgresql://me:s3cret@db/flows") == ["postgresql://me:***@db/flows"]


@pytest.mark.parametrize("database", [None, 17, {"a": 1}, "x\ny", "\x1b[2J", "\ud800", "x" * 1_000_000])
def test_a_database_that_cannot_be_shown_is_not_told(database: Any) -> None:
    assert heard_of(database) == [None]
