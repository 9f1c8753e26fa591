"""The `pocoflow` command, without workers."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
from click.testing import CliRunner
from rich.console import Console

from pocoflow.cli.main import cli
from pocoflow.cli.progress import follow
from pocoflow.engine.rows import EventRow


def event(
    kind: str, step: int = 0, worker: str | None = "host:1", ts: str = "2026-01-01T00:00:00+00:00"
) -> EventRow:
    return EventRow(
        id=step,
        run_id="r",
        step=step,
        attempt=1,
        node_name="read[bold]",
        event=kind,
        action="next",
        elapsed_ms=1.5,
        error_msg=None,
        worker=worker,
        ts=ts,
    )


def test_help_lists_the_commands_with_what_they_do() -> None:
    result = CliRunner().invoke(cli, ["--help"])

    assert result.exit_code == 0
    assert "dev" in result.output
    assert "passwords masked" in result.output


def test_help_loads_neither_celery_nor_sqlalchemy() -> None:
    code = (
        "import sys; from pocoflow.cli.main import cli\n"
        "try: cli(['--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('celery', 'sqlalchemy', 'pydantic', 'rich') if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.endswith("[]\n")


def test_config_shows_every_setting_with_masked_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POCOFLOW_BROKER_URL", "redis://:hush@cache:6379/0")

    result = CliRunner().invoke(cli, ["config"])

    assert "POCOFLOW_BROKER_URL=redis://:***@cache:6379/0" in result.output
    assert "POCOFLOW_LEASE_S=30.0" in result.output
    assert "hush" not in result.output


def test_config_points_at_variables_that_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POCOFLOW_LEESE_S", "3")

    result = CliRunner().invoke(cli, ["config"])

    assert "POCOFLOW_LEESE_S is not a setting" in result.stderr


def test_a_wrong_setting_is_one_line_and_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POCOFLOW_LEASE_S", "soon")

    done = subprocess.run([sys.executable, "-m", "pocoflow", "config"], capture_output=True, text=True)

    assert done.returncode == 1
    assert done.stderr.startswith("pocoflow: POCOFLOW_LEASE_S='soon'")
    assert done.stderr.count("\n") == 1


def test_progress_prints_a_line_for_each_step_where_there_is_no_terminal() -> None:
    console = Console(file=io.StringIO(), width=40)

    progress = follow("r", [event("flow_start"), event("node_end"), event("node_end", 1, "host:2")], console)

    assert console.file.getvalue().splitlines() == [
        "step 0 read[bold] done next on host:1",
        "step 1 read[bold] done next on host:2",
    ]
    assert progress.summary() == "r: 2 steps in 0.0 s (host:1 1, host:2 1)"


def test_progress_on_a_terminal_takes_node_names_as_text() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)

    follow("r", [event("node_end")], console)

    assert "read[bold]" in console.file.getvalue()
