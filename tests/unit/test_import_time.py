"""Importing PocoFlow is quick: what is large is loaded by those who use it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

LARGE = (
    "alembic",
    "celery",
    "kombu",
    "sqlalchemy",
    "psycopg",
    "redis",
    "streamlit",
    "pydantic",
    "pydantic_settings",
)
NAMES = "AsyncNode, Flow, MaxStepsError, Node, RunHandle, Store, flow_factory"
RUN = f"from pocoflow import {NAMES}; Flow(start=Node()).run({{}})"


def loaded_by(program: str, folder: Path) -> set[str]:
    """Return the names of all modules that are there after a program has run in a new process."""
    ask = f"{program}\nimport json, sys\nprint(json.dumps(list(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", ask], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    "program",
    [
        "import pocoflow",
        f"from pocoflow import {NAMES}",
        "import pocoflow.logging",
        "import pocoflow.errors",
        "from pocoflow import client",
        RUN,
    ],
    ids=["the package", "the names for a flow", "logging", "errors", "client", "a run without a database"],
)
def test_nothing_large_is_loaded_by(program: str, tmp_path: Path) -> None:
    loaded = loaded_by(program, tmp_path)

    assert sorted(loaded.intersection(LARGE)) == []


def test_the_package_alone_loads_none_of_its_modules(tmp_path: Path) -> None:
    loaded = loaded_by("import pocoflow", tmp_path)

    assert [name for name in loaded if name.startswith("pocoflow.")] == []


def test_the_database_is_loaded_with_the_first_name_that_needs_it(tmp_path: Path) -> None:
    loaded = loaded_by("from pocoflow import WorkflowDB", tmp_path)

    assert "sqlalchemy" in loaded
    assert sorted(loaded.intersection({"celery", "redis", "streamlit"})) == []


def test_the_type_hints_for_editors_name_every_public_name() -> None:
    import pocoflow

    source = Path(pocoflow.__file__).read_text(encoding="utf-8")
    hints = source[source.index("if TYPE_CHECKING:") : source.index("__version__")]

    assert [name for name in pocoflow.__all__ if name not in hints] == []


def test_a_worker_loads_all_before_it_forks(tmp_path: Path) -> None:
    settings = "import os; os.environ['POCOFLOW_BROKER_URL'] = 'redis://localhost:1/0'"
    worker = f"{settings}; from pocoflow.workers.celery_app import settings"
    child = "from pocoflow import wiring; wiring.database_ports('sqlite:///x.db', settings)"
    dispatch = "wiring.dispatcher('sqlite:///x.db', settings)"

    late = loaded_by(f"{worker}; {child}; {dispatch}", tmp_path) - loaded_by(worker, tmp_path)

    assert {name for name in late if name.startswith(("pocoflow", *LARGE))} == set()
