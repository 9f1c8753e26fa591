"""Logging under the `pocoflow` namespace, by dd-logging.

Importing this attaches no handler: a library stays silent until `setup_logging` is called.
"""

from __future__ import annotations

import logging
from logging import ERROR, INFO, WARNING
from pathlib import Path

import dd_logging
from dd_logging import log_event

__all__ = ["ERROR", "INFO", "ROOT", "WARNING", "disable_logging", "get_logger", "log_event", "setup_logging"]

ROOT = "pocoflow"


def get_logger(name: str) -> logging.Logger:
    """Return the logger `pocoflow.<name>`."""
    logger: logging.Logger = dd_logging.get_logger(name, ROOT)
    return logger


def setup_logging(
    run_name: str = "pocoflow",
    *,
    log_level: str = "info",
    log_dir: str | Path | None = None,
    console: bool = False,
    adapter: str = "",
) -> Path:
    """Write all `pocoflow.*` log lines to a new file and return its path.

    Args:
        run_name: First part of the file name.
        log_level: "debug", "info", "warning" or "error".
        log_dir: Folder of the file; `logs` in the working directory when left out.
        console: Write to the standard error stream as well.
        adapter: Second part of the file name, such as the LLM provider in use.

    Raises:
        ValueError: There is no such level.
    """
    if log_level.lower() not in dd_logging.LOG_LEVELS:
        raise ValueError(f"log_level must be one of {', '.join(dd_logging.LOG_LEVELS)}, got {log_level!r}")
    path: Path = dd_logging.setup_logging(
        run_name,
        root_name=ROOT,
        log_level=log_level,
        log_dir=log_dir if log_dir is not None else Path.cwd() / "logs",
        console=console,
        adapter=adapter,
    )
    return path


def disable_logging() -> None:
    """Take the handlers off the `pocoflow` logger again: it is silent afterwards."""
    dd_logging.disable_logging(ROOT)
    # A logger without any handler would print warnings to the standard error stream.
    dd_logging.get_logger("", ROOT)
