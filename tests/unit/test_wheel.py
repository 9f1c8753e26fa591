"""What is built for users holds all that is needed there."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from hatchling.build import build_wheel

import pocoflow
from pocoflow.db.version import REVISIONS

ROOT = Path(pocoflow.__file__).parents[1]


def test_the_wheel_holds_every_module_and_the_scripts_of_the_migrations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)

    wheel = tmp_path / build_wheel(str(tmp_path))

    names = set(zipfile.ZipFile(wheel).namelist())
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "pocoflow").rglob("*.py")} <= names
    scripts = [name for name in names if name.startswith("pocoflow/db/migrations/versions/r")]
    assert sorted(name.split("/")[-1][1:5] for name in scripts) == [*REVISIONS]
    assert "pocoflow/db/migrations/env.py" in names
    assert "pocoflow/py.typed" in names
