"""Celery's side of the executor: `celery -A pocoflow.workers worker`.

The app is made when Celery asks for it, so that importing a module beside it needs no broker.
"""

from __future__ import annotations

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module("pocoflow.workers.celery_app").app
