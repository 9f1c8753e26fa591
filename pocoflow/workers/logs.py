"""Keeps the log of a worker readable and discreet: a sweep each second is no news, a message no reading."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

from pocoflow.broker import SWEEP

# How Celery begins to quote: of an unknown task, of a message without a task, of one that it cannot decode.
_CONTENTS = re.compile(r"The full contents of|\[type:")
_TALKERS = ("celery.worker.strategy", "celery.worker.request", "celery.app.trace")


def hide_sweeps() -> None:
    """Drop Celery's lines about sweeps that were received, done or came too late; warnings stay."""
    for name in _TALKERS:
        logging.getLogger(name).addFilter(_is_news)


def hide_contents() -> None:
    """Cut what Celery quotes of a message that is not for us: it may hold the secrets of another program."""
    logging.getLogger("celery.worker.consumer.consumer").addFilter(_without_contents)


def _without_contents(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    told = _CONTENTS.split(text, maxsplit=1)[0]
    if told != text:
        record.msg, record.args = f"{told.strip()} (contents not shown)", None
    return True


def _is_news(record: logging.LogRecord) -> bool:
    if record.levelno > logging.INFO:
        return True
    args = record.args
    task = args.get("name") if isinstance(args, Mapping) else (args or (None,))[0]
    return task != SWEEP
