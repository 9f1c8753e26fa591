"""A database file as the real PocoFlow 0.2.1 leaves it, with runs that ended, failed and were killed.

0.2.1 comes from the package index into an environment of its own, which is kept in pytest's cache.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.seed_flows import TROUBLES
from tests.support.services import leave_out

RELEASE = "pocoflow==0.2.1"
INSTALL_S = 300
PROGRAM = Path(__file__).with_name("seed_flows.py")


@pytest.fixture(scope="session")
def seed_python(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has PocoFlow 0.2.1."""
    cache = pytestconfig.cache
    kept = tmp_path_factory.mktemp("kept") if cache is None else Path(cache.mkdir("pocoflow-0.2.1"))
    folder = kept / f"venv-{sys.version_info.major}.{sys.version_info.minor}"
    if not folder.exists():
        _install(pytestconfig, folder)
    return folder / "bin" / "python"


@pytest.fixture(scope="session")
def seed_original(seed_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with one run for each trouble, which has its name."""
    file = tmp_path_factory.mktemp("seed") / "seed.db"
    for name in TROUBLES:
        done = run_seed(seed_python, str(PROGRAM), str(file), name, name)
        assert done.returncode == (-9 if "killed" in name or name in ("twins", "routed") else 0), done.stderr
    with sqlite3.connect(file) as database:
        database.execute("delete from pf_runs where run_id = 'deleted'")
    database.close()
    return file


@pytest.fixture
def seed_file(seed_original: Path, tmp_path: Path) -> Path:
    """A copy of that file, for a test to upgrade."""
    return Path(shutil.copy(seed_original, tmp_path / "seed.db"))


def run_seed(python: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run a program with PocoFlow 0.2.1."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    # Not from here: a program given by -c would find the package of this folder.
    return subprocess.run(
        [python, *args], cwd=python.parent, env=environ, capture_output=True, text=True, timeout=60
    )


def _install(config: pytest.Config, folder: Path) -> None:
    part = folder.with_name(f"{folder.name}.{os.getpid()}")
    subprocess.run([sys.executable, "-m", "venv", part], check=True, timeout=INSTALL_S)
    pip = [part / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", RELEASE]
    done = subprocess.run(pip, capture_output=True, text=True, timeout=INSTALL_S)
    if done.returncode != 0:
        shutil.rmtree(part)
        leave_out(config, f"{RELEASE} cannot be installed, which tests of old databases need: {done.stderr}")
    try:
        part.rename(folder)
    except OSError:  # another process was quicker
        shutil.rmtree(part)
