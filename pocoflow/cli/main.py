"""The `pocoflow` command and its subcommands, each imported when it is asked for."""

from __future__ import annotations

import importlib
import sys

import click

from pocoflow import __version__
from pocoflow.errors import PocoFlowError

_COMMANDS = {
    "chaos": ("pocoflow.cli.chaos", "Kill the worker everywhere in a flow, and see what comes out."),
    "check": ("pocoflow.cli.check", "Name the runs under way that new code could not go on with."),
    "config": ("pocoflow.cli.config", "Show every setting and its value, passwords masked."),
    "db": ("pocoflow.cli.db", "Look after the database: check what it holds, upgrade its tables."),
    "export": ("pocoflow.cli.export_run", "Write a run with its whole history into a file."),
    "import": ("pocoflow.cli.import_run", "Read a run from a file that `export` wrote."),
    "prune": ("pocoflow.cli.prune", "Delete runs that ended long ago."),
    "dev": ("pocoflow.cli.dev", "Start a broker and workers on this machine, for development."),
}


class LazyGroup(click.Group):
    """Imports a subcommand when it is run, so that `--help` does not wait for Celery."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(_COMMANDS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in sorted(_COMMANDS.items())])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pocoflow")
def cli() -> None:
    """Durable flows of prep/exec/post nodes, on this machine or on Celery workers."""


def main() -> None:
    """Run the command; an error of ours is one line and exit code 1."""
    try:
        cli(prog_name="pocoflow")
    except PocoFlowError as exc:
        click.echo(f"pocoflow: {exc}", err=True)
        sys.exit(1)
