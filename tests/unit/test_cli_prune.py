"""`pocoflow prune`: says what would go, deletes it, and says what is gone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import text

from pocoflow import DatabaseError, Flow, Node, WorkflowDB
from pocoflow.cli.main import cli
from pocoflow.db.connect import database_url, engine_for


class Once(Node):
    """The only step of a run."""


class Broken(Node):
    def exec(self, prepared: object) -> None:
        raise ValueError("broken")


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Three runs that ended forty days ago, one of which failed, and one of today."""
    url = f"sqlite:///{tmp_path / 'pocoflow.db'}"
    for run_id in ("one", "two"):
        Flow(Once(), db_path=url).run({"page": "x" * 50_000}, run_id=run_id)
    with pytest.raises(ValueError, match="broken"):
        Flow(Broken(), db_path=url).run({}, run_id="failed")
    with engine_for(database_url(url)).connect() as connection:
        connection.execute(text("update pf_runs set completed_at = datetime('now', '-40 days')"))
        connection.execute(text("update pf_blobs set used_at = 0"))
    Flow(Once(), db_path=url).run({}, run_id="new")
    return url


def prune(url: str, *options: str) -> Result:
    return CliRunner().invoke(cli, ["prune", "--database", url, *options])


def run_ids(url: str) -> set[str]:
    return {row["run_id"] for row in WorkflowDB(url).list_runs()}


def test_a_dry_run_counts_and_deletes_nothing(url: str) -> None:
    result = prune(url, "--older-than", "30d", "--dry-run")

    assert result.exit_code == 0
    assert result.output.splitlines() == [f"database  {url}", "would go  3 runs, 2 steps, 12 events"]
    assert run_ids(url) == {"one", "two", "failed", "new"}


def test_what_is_old_goes_and_the_file_gets_smaller(url: str) -> None:
    result = prune(url, "--older-than", "30d")

    assert result.exit_code == 0
    _, gone, file = result.stdout.splitlines()
    assert gone == "deleted   3 runs, 2 steps, 12 events, 1 large value"
    assert file.startswith("file      0.")
    assert run_ids(url) == {"new"}


def test_failed_runs_are_kept_if_asked_for(url: str) -> None:
    prune(url, "--older-than", "5w", "--keep-failed")

    assert run_ids(url) == {"failed", "new"}


def test_what_is_young_enough_stays(url: str) -> None:
    result = prune(url, "--older-than", "8w")

    assert "deleted   0 runs, 0 steps, 0 events" in result.output
    assert len(run_ids(url)) == 4


def test_the_result_is_there_for_programs_too(url: str) -> None:
    told = json.loads(prune(url, "--older-than", "800h", "--json", "--dry-run").stdout)

    assert (told["dry_run"], told["runs"], told["steps"], told["events"]) == (True, 3, 2, 12)


@pytest.mark.parametrize("text", ["30", "d", "-1d", "30 years", "1e9d", ""])
def test_a_wrong_length_of_time_is_refused_with_examples(url: str, text: str) -> None:
    result = prune(url, f"--older-than={text}")

    assert result.exit_code == 2
    assert "90s, 30m, 12h, 30d or 2w" in " ".join(result.output.split())


def test_without_a_length_of_time_nothing_happens(url: str) -> None:
    result = prune(url)

    assert result.exit_code == 2
    assert "--older-than" in result.output
    assert len(run_ids(url)) == 4


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    result = prune(str(tmp_path / "typo.db"), "--older-than", "1d")

    assert isinstance(result.exception, DatabaseError)
    assert "there is no database" in str(result.exception)
    assert list(tmp_path.iterdir()) == []
