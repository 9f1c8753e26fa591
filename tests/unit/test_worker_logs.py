"""The log of a worker."""

from __future__ import annotations

import logging

import pytest
from celery.worker.consumer import consumer

from pocoflow.broker import RUN_STEP, SWEEP
from pocoflow.workers.logs import hide_contents, hide_sweeps


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    hide_sweeps()
    caplog.set_level(logging.INFO)
    return caplog


def test_a_sweep_that_was_received_is_no_news(lines: pytest.LogCaptureFixture) -> None:
    received = {"name": SWEEP, "id": "1"}

    logging.getLogger("celery.worker.strategy").info("Task %(name)s[%(id)s] received", received)
    logging.getLogger("celery.worker.request").info("Discarding revoked task: %s[%s]", SWEEP, "1")

    assert lines.messages == []


def test_a_step_that_was_received_and_a_sweep_that_failed_are_news(lines: pytest.LogCaptureFixture) -> None:
    received, failed = {"name": RUN_STEP, "id": "1"}, {"name": SWEEP, "id": "2"}

    logging.getLogger("celery.worker.strategy").info("Task %(name)s[%(id)s] received", received)
    logging.getLogger("celery.app.trace").error("Task %(name)s[%(id)s] failed", failed)
    logging.getLogger("celery.worker.strategy").info("a line without arguments")

    assert lines.messages == [
        f"Task {RUN_STEP}[1] received",
        f"Task {SWEEP}[2] failed",
        "a line without arguments",
    ]


@pytest.mark.parametrize(
    ("sentence", "details", "told"),
    [
        (
            consumer.UNKNOWN_TASK_ERROR,
            (KeyError("other"), "SECRET", {"argsrepr": "SECRET"}, {}),
            "Received unregistered task of type 'other'",
        ),
        (consumer.UNKNOWN_FORMAT, ("SECRET",), "Received and deleted unknown message"),
        (consumer.INVALID_TASK_ERROR, ("no id", "SECRET"), "Received invalid task message: no id"),
        (
            consumer.MESSAGE_DECODE_ERROR,
            ("no JSON", "text", "utf-8", "SECRET", "SECRET"),
            "Can't decode message body: 'no JSON'",
        ),
    ],
    ids=["unknown task", "unknown format", "invalid task", "not decoded"],
)
def test_a_message_that_is_not_for_us_is_named_but_not_quoted(
    caplog: pytest.LogCaptureFixture, sentence: str, details: tuple[object, ...], told: str
) -> None:
    hide_contents()

    logging.getLogger("celery.worker.consumer.consumer").error(sentence, *details)

    assert told in caplog.text
    assert "(contents not shown)" in caplog.text
    assert "SECRET" not in caplog.text
