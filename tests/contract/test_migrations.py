"""Tables of every revision become those of today: once, whole or not at all, and never backwards."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool

from pocoflow import WorkflowDB
from pocoflow.db import migrate
from pocoflow.db.connect import current_revision, engine_for, upgrade, write_transaction
from pocoflow.db.connect import database_url as parsed
from pocoflow.db.fsck import examine
from pocoflow.db.schema import metadata
from pocoflow.db.version import NEWEST, REVISIONS, set_up, versions
from pocoflow.errors import DatabaseError
from tests.support.seed import run_seed

ENOUGH_S = 120
RUNS = 2000
FILL = """
    insert into pf_runs (run_id, flow_name, started_at, total_steps, current_node)
    with recursive n(n) as (select 1 union all select n + 1 from n where n < :runs)
    select 'run ' || n, 'flow', '2025-01-01T00:00:00+00:00', 1, 'A' from n
"""
FILL_EVENTS = """
    insert into pf_events (run_id, step, node_name, event, action, ts)
    select run_id, step, 'A', event, 'go', '2025-01-01T00:00:00+00:00' from pf_runs cross join (
        select 1 as place, null as step, 'flow_start' as event union all select 2, 0, 'node_start'
        union all select 3, 0, 'node_end'
    ) e order by run_id, place
"""
FILL_CHECKPOINTS = """
    insert into pf_checkpoints (run_id, step, node_name, store_json, created_at)
    select run_id, 0, 'A', '{"n": 1}', '2025-01-01T00:00:00+00:00' from pf_runs
"""
OPEN = "import sys; from pocoflow import WorkflowDB; WorkflowDB(sys.argv[1])"
UPGRADE_AND_DIE = """
import os, signal, sys
from pocoflow.db.connect import database_url as parsed, upgrade
from pocoflow.db.migrations import seed_runs
seed_runs.CHUNK = 100
def report(done, total):
    if done >= int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
upgrade(parsed(sys.argv[1]), report)
"""


@contextmanager
def raw(url: URL) -> Iterator[Engine]:
    """An engine that makes no tables."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    if url.get_backend_name() == "sqlite":
        engine = create_engine(
            url, creator=lambda: sqlite3.connect(str(url.database), isolation_level=None), poolclass=NullPool
        )
        engine = engine.execution_options(isolation_level="AUTOCOMMIT")
    yield engine
    engine.dispose()


@contextmanager
def migrating(url: URL) -> Iterator[Connection]:
    with raw(url) as engine, engine.connect() as connection, write_transaction(connection):
        yield connection


def differences(connection: Connection, to: object = metadata) -> list[object]:
    context = MigrationContext.configure(
        connection,
        opts={"compare_type": True, "compare_server_default": True, "version_table": versions.name},
    )
    return [*compare_metadata(context, to)]  # type: ignore[arg-type]


def make_old(url: URL, runs: int) -> None:
    """The tables of 0.2, by its script, with so many runs that were killed between two steps."""
    with migrating(url) as connection:
        migrate.upgrade(connection, to="0001")
        for fill in (FILL, FILL_EVENTS, FILL_CHECKPOINTS):
            statement = text(fill if connection.dialect.name == "sqlite" else for_postgres(fill))
            connection.execute(statement.bindparams(runs=runs) if ":runs" in fill else statement)


def for_postgres(fill: str) -> str:
    return fill.replace("'2025-01-01T00:00:00+00:00'", "'2025-01-01'::timestamptz").replace(
        "null as step", "null::int as step"
    )


def settle(url: URL) -> tuple[str | None, int, int]:
    """The revision, the runs, and those of them that have become what they are to become."""
    with raw(url) as engine, engine.connect() as connection:
        revision = current_revision(url)
        runs = connection.execute(text("select count(*) from pf_runs")).scalar_one()
        paused = connection.execute(text("select count(*) from pf_runs where status = 'paused'")).scalar_one()
        return revision, runs, paused


def test_the_constants_are_those_of_the_scripts(sqlite_url: str) -> None:
    with raw(parsed(sqlite_url)) as engine, engine.connect() as connection:
        scripts = ScriptDirectory.from_config(migrate.configuration(connection))

    assert scripts.get_heads() == [NEWEST]
    assert [script.revision for script in scripts.walk_revisions()] == [*reversed(REVISIONS)]


def test_migrations_from_nothing_make_the_tables_of_today(database_url: str) -> None:
    with migrating(parsed(database_url)) as connection:
        migrate.upgrade(connection)

        assert differences(connection) == []


def test_tables_that_are_made_at_once_are_those_of_today(database_url: str) -> None:
    with migrating(parsed(database_url)) as connection:
        set_up(connection)

        assert differences(connection) == []
    assert current_revision(parsed(database_url)) == NEWEST


def test_an_upgraded_database_has_the_tables_of_today(database_url: str) -> None:
    url = parsed(database_url)
    make_old(url, 3)

    assert upgrade(url) == "0001"

    with raw(url) as engine, engine.connect() as connection:
        assert differences(connection) == []
    assert settle(url) == (NEWEST, 3, 3)
    WorkflowDB(database_url).save_event("run 1", "mine")
    assert WorkflowDB(database_url).get_events("run 1")[-1]["event"] == "mine"


def test_the_first_script_makes_what_0_2_1_makes(seed_python: Path, tmp_path: Path) -> None:
    real, made = tmp_path / "real.db", tmp_path / "made.db"
    run_seed(seed_python, "-c", OPEN, str(real))
    with migrating(parsed(made)) as connection:
        migrate.upgrade(connection, to="0001")

    assert shape_of(made) == shape_of(real)


def shape_of(file: Path) -> dict[str, list[tuple[object, ...]]]:
    """Names, whether they must be there (a key must, though 0.2 did not say so), and what they point to."""
    shapes: dict[str, list[tuple[object, ...]]] = {}
    with closing(sqlite3.connect(file)) as connection:
        for table in ("pf_runs", "pf_checkpoints", "pf_events"):
            columns = connection.execute(f"pragma table_info({table})").fetchall()
            shapes[table] = [(name, bool(needed or key), key) for _, name, _, needed, _, key in columns]
            shapes[table] += connection.execute(f"pragma foreign_key_list({table})").fetchall()
    return shapes


def test_a_file_is_upgraded_by_whoever_opens_it_and_kept_beside_it_as_it_was(seed_file: Path) -> None:
    seed_file.chmod(0o640)
    with closing(sqlite3.connect(seed_file)) as connection:
        before = [*connection.iterdump()]

    WorkflowDB(seed_file)

    copy = seed_file.with_name(f"seed.db.before-{NEWEST}")
    with closing(sqlite3.connect(copy)) as connection:
        assert [*connection.iterdump()] == before
    assert stat.S_IMODE(copy.stat().st_mode) == 0o640
    assert current_revision(parsed(seed_file)) == NEWEST
    assert current_revision(parsed(copy)) == "0001"
    assert [path for path in seed_file.parent.iterdir() if path.name.endswith(".part")] == []


def test_a_file_that_is_up_to_date_is_not_copied(sqlite_url: str, tmp_path: Path) -> None:
    WorkflowDB(sqlite_url)

    assert upgrade(parsed(sqlite_url)) == NEWEST

    assert not [path.name for path in tmp_path.iterdir() if "before" in path.name]


def test_a_file_that_cannot_be_copied_is_left_as_it_is(seed_file: Path) -> None:
    copy = seed_file.with_name(f"seed.db.before-{NEWEST}")
    (copy / "something").mkdir(parents=True)

    with pytest.raises(DatabaseError, match="was not upgraded, because it cannot be copied"):
        WorkflowDB(seed_file)

    assert current_revision(parsed(seed_file)) == "0001"


@pytest.fixture
def as_somebody() -> Iterator[Path]:
    """A folder that the test owns, while it is not root, to whom everything is allowed."""
    folder = Path(tempfile.mkdtemp())
    user = os.geteuid()
    if user == 0:
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
    yield folder
    os.seteuid(user)
    folder.chmod(0o700)
    shutil.rmtree(folder)


def test_a_file_that_cannot_be_written_is_not_opened_and_the_error_says_what_to_do(
    as_somebody: Path,
) -> None:
    file = as_somebody / "old.db"
    with closing(sqlite3.connect(file)) as made:
        made.execute("pragma journal_mode=wal")
        made.execute("create table pf_runs (run_id)")
    file.chmod(0o400)
    as_somebody.chmod(0o500)

    with pytest.raises(DatabaseError, match="must be able to write the file and its folder"):
        WorkflowDB(file)


def test_a_server_is_upgraded_by_command_only(postgres_url: str) -> None:
    url = parsed(postgres_url)
    make_old(url, 3)

    with pytest.raises(DatabaseError, match=r"tables of PocoFlow 0\.2 .* run: pocoflow db upgrade"):
        engine_for(url)

    assert settle(url) == ("0001", 3, 0)


def test_the_check_asks_for_an_upgrade_first(database_url: str) -> None:
    url = parsed(database_url)
    make_old(url, 3)

    with pytest.raises(DatabaseError, match="run: pocoflow db upgrade"):
        examine(url, max_crashes=3)

    assert settle(url) == ("0001", 3, 0)


def test_a_newer_database_is_refused_and_not_touched(database_url: str) -> None:
    url = parsed(database_url)
    with migrating(url) as connection:
        set_up(connection)
        connection.execute(text("update pf_version set version_num = '9999'"))

    for use in (engine_for, upgrade, current_revision):
        with pytest.raises(DatabaseError, match=r"belongs to a newer PocoFlow \(revision 9999"):
            use(url)

    with raw(url) as engine, engine.connect() as connection:
        assert connection.execute(text("select version_num from pf_version")).scalars().all() == ["9999"]


def test_tables_of_somebody_else_are_refused_and_not_touched(database_url: str) -> None:
    url = parsed(database_url)
    with migrating(url) as connection:
        connection.execute(text("create table pf_runs (run_id text primary key, status text)"))

    for use in (engine_for, upgrade):
        with pytest.raises(DatabaseError, match="that no release of PocoFlow made"):
            use(url)


def test_of_processes_that_come_at_once_one_upgrades_and_the_others_wait(sqlite_url: str) -> None:
    url = parsed(sqlite_url)
    make_old(url, RUNS)

    opened = [
        subprocess.Popen([sys.executable, "-c", OPEN, str(url.database)], stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    errors = [process.communicate(timeout=ENOUGH_S)[1] for process in opened]

    assert (errors, [process.returncode for process in opened]) == ([""] * 4, [0] * 4)
    assert settle(url) == (NEWEST, RUNS, RUNS)
    # A second upgrade would have put a copy of the new tables in the place of the old ones.
    copy = Path(f"{url.database}.before-{NEWEST}")
    assert current_revision(parsed(copy)) == "0001"


def test_of_two_commands_for_one_server_one_upgrades_and_the_other_waits(postgres_url: str) -> None:
    url = parsed(postgres_url)
    make_old(url, RUNS)

    command = [sys.executable, "-m", "pocoflow", "db", "upgrade", "--database", postgres_url]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    outputs = [process.communicate(timeout=ENOUGH_S) for process in started]

    assert [process.returncode for process in started] == [0, 0], outputs
    assert sorted("is up to date" in output for output, _ in outputs) == [False, True]
    assert settle(url) == (NEWEST, RUNS, RUNS)


@pytest.mark.parametrize("after_runs", [0, 300, RUNS])
def test_an_upgrade_that_is_killed_leaves_the_old_tables_and_can_be_done_again(
    database_url: str, after_runs: int
) -> None:
    url = parsed(database_url)
    make_old(url, RUNS)

    died = subprocess.run(
        [sys.executable, "-c", UPGRADE_AND_DIE, database_url, str(after_runs)],
        capture_output=True,
        text=True,
        timeout=ENOUGH_S,
    )

    assert died.returncode == -signal.SIGKILL, died.stderr
    assert settle(url) == ("0001", RUNS, 0)
    assert upgrade(url) == "0001"
    assert settle(url) == (NEWEST, RUNS, RUNS)


def test_tables_of_0_2_that_were_only_begun_are_completed(sqlite_url: str, tmp_path: Path) -> None:
    url = parsed(sqlite_url)
    make_old(url, 1)
    with closing(sqlite3.connect(str(url.database))) as connection:
        connection.execute("drop table pf_events")
        connection.execute("drop table pf_checkpoints")
        connection.execute("drop table pf_version")  # which 0.2 did not have

    rows = WorkflowDB(sqlite_url).list_runs()

    assert [(row["run_id"], row["status"]) for row in rows] == [("run 1", "running")]


def test_alembic_is_loaded_only_to_upgrade(sqlite_url: str) -> None:
    ask = f"{OPEN}; print('alembic' in sys.modules)"
    file = str(parsed(sqlite_url).database)

    made = subprocess.run([sys.executable, "-c", ask, file], capture_output=True, text=True)
    opened = subprocess.run([sys.executable, "-c", ask, file], capture_output=True, text=True)

    assert (made.stdout, opened.stdout) == ("False\n", "False\n"), made.stderr + opened.stderr
