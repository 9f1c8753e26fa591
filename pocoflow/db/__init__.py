"""History in SQLite or Postgres, by SQLAlchemy Core."""

from __future__ import annotations

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    if name != "WorkflowDB":  # which 0.2 had here
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module("pocoflow.db.workflow_db").WorkflowDB
