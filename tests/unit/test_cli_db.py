"""`pocoflow db check`: says what it looked at and what is wrong there, for a human, a program and a shell."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import text

from pocoflow import Flow, Node, WorkflowDB
from pocoflow.cli.main import cli
from pocoflow.db.connect import database_url as parsed
from pocoflow.db.connect import engine_for
from pocoflow.db.fsck import INVARIANTS
from pocoflow.errors import DatabaseError


class Once(Node):
    """The only step of a run."""


def run_flows(url: str, count: int) -> None:
    for number in range(count):
        Flow(Once(), db_path=url).run({"secret": "hush"}, run_id=f"run-{number:02}")


def break_runs(url: str, where: str = "true") -> None:
    with engine_for(parsed(url)).connect() as connection:
        connection.execute(text(f"update pf_runs set wake_at = 1.0 where {where}"))


def check(*options: str) -> Result:
    return CliRunner().invoke(cli, ["db", "check", *options])


def one_line(output: str) -> str:
    return " ".join(output.split())


def test_a_sound_database_is_said_to_be_so_with_what_was_looked_at(database_url: str) -> None:
    run_flows(database_url, 3)

    result = check("--database", database_url)

    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0] == f"database  {parsed(database_url).render_as_string()}"
    assert lines[1:] == [
        "checked   3 runs, 3 steps, 12 events",
        f"all {len(INVARIANTS)} promises kept",
    ]


def test_a_run_that_was_written_by_hand_is_left_out_and_counted(sqlite_url: str) -> None:
    run_flows(sqlite_url, 1)
    WorkflowDB(sqlite_url).create_run("mine")

    result = check("--database", sqlite_url)

    assert result.exit_code == 0
    assert "checked   1 run, 1 step, 4 events; left out: 1 run written by hand or by 0.2" in result.output


def test_a_database_without_runs_keeps_all_promises(sqlite_url: str) -> None:
    WorkflowDB(sqlite_url)

    result = check("--database", sqlite_url)

    assert result.exit_code == 0
    assert "checked   0 runs, 0 steps, 0 events" in result.output


def test_a_broken_promise_is_shown_with_ten_runs_and_how_many_more(database_url: str) -> None:
    run_flows(database_url, 12)
    break_runs(database_url)

    result = check("--database", database_url)

    assert result.exit_code == 1
    assert f"1 of {len(INVARIANTS)} promises broken" in result.output
    assert all(part in result.output for part in ("I5: a sweep looks", "run-00", "run-09", "and 2 more"))
    assert "run-10" not in result.output


def test_a_forged_run_id_does_not_reach_the_terminal_as_it_is(sqlite_url: str) -> None:
    run_flows(sqlite_url, 1)
    with engine_for(parsed(sqlite_url)).connect() as connection:
        connection.execute(text("update pf_runs set run_id = :forged"), {"forged": "\x1b[31m[bold]evil"})

    result = check("--database", sqlite_url)

    assert result.exit_code == 1
    assert r"\x1b[31m[bold]evil" in result.output
    assert "\x1b" not in result.output


def test_json_holds_the_counts_and_every_violation(sqlite_url: str) -> None:
    run_flows(sqlite_url, 12)
    break_runs(sqlite_url)

    result = check("--database", sqlite_url, "--json")

    found: dict[str, Any] = json.loads(result.output)
    assert result.exit_code == 1
    assert {name: found[name] for name in ("promises", "runs", "by_hand", "steps", "events")} == {
        "promises": len(INVARIANTS),
        "runs": 12,
        "by_hand": 0,
        "steps": 12,
        "events": 48,
    }
    assert [violation["run_id"] for violation in found["violations"]] == [f"run-{n:02}" for n in range(12)]
    assert len({violation["promise"] for violation in found["violations"]}) == 1


def test_the_database_is_the_configured_one_and_its_password_is_not_shown(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = parsed(postgres_url).set(password="s3cret")
    run_flows(postgres_url, 1)
    monkeypatch.setenv("POCOFLOW_DATABASE_URL", url.render_as_string(hide_password=False))

    outputs = [check().output, check("--json").output]

    assert all(url.render_as_string() in output for output in outputs)
    assert not any("s3cret" in output for output in outputs)


def test_the_limit_of_crashes_is_the_configured_one(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run_flows(sqlite_url, 1)
    with engine_for(parsed(sqlite_url)).connect() as connection:
        connection.execute(text("update pf_runs set crashes = 6, attempt = 6"))
        lost = "insert into pf_events (run_id, step, event, ts) values ('run-00', 1, 'step_lost', '2026')"
        for _ in range(6):
            connection.execute(text(lost))

    broken = check("--database", sqlite_url).output
    monkeypatch.setenv("POCOFLOW_MAX_CRASHES", "5")

    assert "I6: a step loses" in broken
    assert "I6: a step loses" not in check("--database", sqlite_url).output


def test_a_missing_file_is_an_error_and_is_not_made(tmp_path: Path) -> None:
    result = check("--database", str(tmp_path / "no.db"))

    assert isinstance(result.exception, DatabaseError)
    assert "there is no database" in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_help_names_the_settings_and_the_exit_code() -> None:
    result = check("--help")

    said = one_line(result.output)
    assert all(part in said for part in ("POCOFLOW_DATABASE_URL", "POCOFLOW_MAX_CRASHES", "exit code"))


@pytest.mark.parametrize(("broken", "exit_code"), [(False, 0), (True, 1)])
def test_a_shell_sees_the_exit_code(sqlite_url: str, broken: bool, exit_code: int) -> None:
    run_flows(sqlite_url, 1)
    if broken:
        break_runs(sqlite_url)

    done = subprocess.run(
        [sys.executable, "-m", "pocoflow", "db", "check", "--database", sqlite_url],
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stderr) == (exit_code, "")
    assert ("run-00" in done.stdout) is broken


def test_a_shell_sees_one_line_about_a_database_that_is_not_there(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pocoflow", "db", "check"], cwd=tmp_path, capture_output=True, text=True
    )

    assert done.returncode == 1
    assert done.stderr.startswith(f"pocoflow: there is no database sqlite:///{tmp_path}/pocoflow.db")
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    assert list(tmp_path.iterdir()) == []
