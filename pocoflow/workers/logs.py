"""Keeps the log of a worker readable: a sweep each second is no news."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from pocoflow.broker import SWEEP

_TALKERS = ("celery.worker.strategy", "celery.worker.request", "celery.app.trace")


def hide_sweeps() -> None:
    """Drop Celery's lines about sweeps that were received, done or came too late; warnings stay."""
    for name in _TALKERS:
        logging.getLogger(name).addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    if record.levelno > logging.INFO:
        return True
    args = record.args
    task = args.get("name") if isinstance(args, Mapping) else (args or (None,))[0]
    return task != SWEEP
