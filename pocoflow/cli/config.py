"""`pocoflow config`."""

from __future__ import annotations

import click

from pocoflow.settings import PREFIX, Settings, unknown_names


@click.command()
def command() -> None:
    """Show every setting and its value, passwords masked.

    A value comes from the environment, else from [tool.pocoflow] in the pyproject.toml of this folder,
    else from the default. A wrong value is refused with its name.
    """
    for name, value in Settings.load().shown().items():
        click.echo(f"{PREFIX}{name.upper()}={value}")
    for name in unknown_names():
        click.echo(f"{name} is not a setting: misspelt?", err=True)
