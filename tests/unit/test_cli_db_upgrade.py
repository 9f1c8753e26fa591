"""`pocoflow db upgrade` and `pocoflow db current`: what they say and do, for a human and for a shell."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pocoflow import WorkflowDB
from pocoflow.cli.main import cli
from pocoflow.db.connect import current_revision
from pocoflow.db.connect import database_url as parsed
from pocoflow.db.version import NEWEST
from pocoflow.errors import DatabaseError
from tests.contract.test_migrations import make_old, migrating

UP_TO_DATE = f"revision {NEWEST} is up to date"


def db(*args: str) -> Result:
    return CliRunner().invoke(cli, ["db", *args])


def test_old_tables_are_upgraded_once(database_url: str) -> None:
    make_old(parsed(database_url), 3)

    first, second = db("upgrade", "--database", database_url), db("upgrade", "--database", database_url)

    assert (first.exit_code, second.exit_code) == (0, 0)
    assert f"upgraded from revision 0001 (PocoFlow 0.2) to {NEWEST} (PocoFlow 0.3)" in first.output
    assert UP_TO_DATE in second.output


def test_the_copy_of_a_file_is_named(sqlite_url: str, tmp_path: Path) -> None:
    make_old(parsed(sqlite_url), 1)

    said = db("upgrade", "--database", sqlite_url).output

    copy = tmp_path / f"pocoflow.db.before-{NEWEST}"
    assert f"the file as it was is {copy}" in said
    assert copy.exists()


def test_an_empty_database_gets_its_tables(database_url: str) -> None:
    made = db("upgrade", "--database", database_url)

    assert (made.exit_code, f"tables made, at revision {NEWEST}" in made.output) == (0, True)
    assert current_revision(parsed(database_url)) == NEWEST


def test_current_tells_old_from_new_and_changes_nothing(database_url: str) -> None:
    make_old(parsed(database_url), 1)

    old = db("current", "--database", database_url)
    still_old = current_revision(parsed(database_url))
    db("upgrade", "--database", database_url)
    new = db("current", "--database", database_url)

    assert (old.exit_code, new.exit_code, still_old) == (1, 0, "0001")
    assert old.output.splitlines()[1:] == [
        "revision  0001 (PocoFlow 0.2)",
        f"newest    {NEWEST} (PocoFlow 0.3)",
    ]
    assert new.output.splitlines()[1] == f"revision  {NEWEST} (PocoFlow 0.3)"


def test_current_of_a_database_without_tables_is_none(postgres_url: str) -> None:
    result = db("current", "--database", postgres_url)

    assert (result.exit_code, result.output.splitlines()[1]) == (1, "revision  none")


def test_current_of_a_missing_file_is_an_error_and_makes_none(tmp_path: Path) -> None:
    result = db("current", "--database", str(tmp_path / "no.db"))

    assert isinstance(result.exception, DatabaseError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["upgrade", "current"])
def test_the_database_is_the_configured_one_and_its_password_is_not_shown(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    url = parsed(postgres_url).set(password="s3cret")
    monkeypatch.setenv("POCOFLOW_DATABASE_URL", url.render_as_string(hide_password=False))

    output = db(command).output

    assert url.render_as_string() in output
    assert "s3cret" not in output


@pytest.mark.parametrize("command", ["upgrade", "current"])
def test_help_names_the_exit_code_and_what_is_safe(command: str) -> None:
    said = " ".join(db(command, "--help").output.split())

    assert "exit code" in said
    assert {"upgrade": "copied first", "current": "changes nothing"}[command] in said


@pytest.mark.parametrize("command", ["upgrade", "current", "check"])
def test_a_shell_sees_one_line_about_a_newer_database(sqlite_url: str, command: str) -> None:
    WorkflowDB(sqlite_url)
    with migrating(parsed(sqlite_url)) as connection:
        connection.exec_driver_sql("update pf_version set version_num = '9999'")

    done = subprocess.run(
        [sys.executable, "-m", "pocoflow", "db", command, "--database", sqlite_url],
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "belongs to a newer PocoFlow (revision 9999" in done.stderr


def test_a_terminal_sees_how_far_it_is(sqlite_url: str) -> None:
    make_old(parsed(sqlite_url), 2000)
    ours, theirs = pty.openpty()

    command = [sys.executable, "-m", "pocoflow", "db", "upgrade", "--database", sqlite_url]
    environ = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environ, text=True) as process:
        os.close(theirs)
        shown = all_that_is_shown(ours)
        said = process.communicate()[0]

    assert process.returncode == 0
    assert "upgrading" in shown
    assert "/2000" in shown
    assert "upgraded from revision 0001" in said


def all_that_is_shown(terminal: int) -> str:
    shown = b""
    with open(terminal, "rb", buffering=0) as stream, suppress(OSError):  # which is how a terminal ends
        while part := stream.read(4096):
            shown += part
    return shown.decode()
