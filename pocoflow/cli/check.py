"""`pocoflow check`: the runs under way that new code could not go on with, before it is deployed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pocoflow.cli import targets
from pocoflow.cli.database import database_option, url_of
from pocoflow.cli.targets import errors_cannot_tell
from pocoflow.cli.wording import counted, printable
from pocoflow.db.failures import shown
from pocoflow.db.live import LiveRun, live_runs
from pocoflow.engine.changes import lacks
from pocoflow.engine.graph import Graph
from pocoflow.errors import DefinitionError

SOME_STRANDED = 1
SHOWN_RUNS = 50
WIDTH = 110  # of a table that goes to a file


@dataclass(frozen=True, slots=True)
class Stranded:
    """A run that would be paused, and why."""

    run_id: str
    flow_name: str
    status: str
    step: int
    node: str
    missing: str


@dataclass(slots=True)
class Report:
    """What the new code means for the runs of a database.

    Attributes:
        runs: How many of the flows that were given are under way.
        other_flows: Runs under way by flow, where none of that name was given.
    """

    runs: int = 0
    stranded: list[Stranded] = field(default_factory=list)
    other_flows: dict[str, int] = field(default_factory=dict)


@click.command()
@click.argument("given", metavar="MODULE:FLOW...", nargs=-1, required=True)
@database_option
@click.option("--failed", is_flag=True, help="Look at failed runs too, which can be resumed.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, with every run.")
def command(given: tuple[str, ...], database: str | None, failed: bool, as_json: bool) -> None:
    """Name the runs under way that the flows, as they are in this folder, could not go on with.

    Looks at all runs that are queued, running or paused. A run can go on when its next node is there, and
    each action that had an edge at this node leads to the same node as before. Changes nothing.

    Runs of flows that were not given are counted by flow: renamed flows and removed ones are among them.

    \b
    Exit code: 0 no run would be stranded, 1 some would be, 2 it could not be told.

    \b
    Examples:
      pocoflow check my_flows:drafts
      pocoflow check my_flows:drafts my_flows:reports --database postgresql://db/runs --json
    """
    with errors_cannot_tell():
        graphs = _graphs(given)
        url = url_of(database)
        report = examine(live_runs(url, failed=failed), graphs)
    if as_json:
        found = {"database": shown(url), "flows": sorted(graphs), **asdict(report)}
        click.echo(json.dumps(found, indent=2))
    else:
        _show(shown(url), report)
    sys.exit(SOME_STRANDED if report.stranded else 0)


def _graphs(given: Iterable[str]) -> dict[str, Graph]:
    """The graphs of the new code, by the name of the flow; raises DefinitionError where two have one name."""
    graphs: dict[str, Graph] = {}
    for target in dict.fromkeys(given):
        _, flow = targets.load(target)
        if flow.flow_name in graphs:
            raise DefinitionError(f"two of these flows are named {flow.flow_name!r}: {', '.join(given)}")
        graphs[flow.flow_name] = Graph(flow.start)
    return graphs


def examine(runs: Iterable[LiveRun], graphs: Mapping[str, Graph]) -> Report:
    """Hold the runs against the graphs of the new code, by the name of the flow."""
    report = Report()
    for run in runs:
        graph = graphs.get(run.flow_name)
        if graph is None:
            report.other_flows[run.flow_name] = report.other_flows.get(run.flow_name, 0) + 1
            continue
        report.runs += 1
        missing = lacks(run.node, graph, run.graph)
        if missing is not None:
            where = (run.run_id, run.flow_name, run.status, run.step, run.node)
            report.stranded.append(Stranded(*where, missing))
    return report


def _show(database: str, report: Report) -> None:
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=WIDTH)
    console.print(f"database  {database}", soft_wrap=True)
    others = sum(report.other_flows.values())
    if not report.runs and not others:
        console.print("no runs under way")
        return
    console.print(f"checked   {counted(report.runs, 'run')} under way", soft_wrap=True)
    if others:
        names = ", ".join(
            f"{printable(name)} ({count:,})" for name, count in sorted(report.other_flows.items())
        )
        console.print(
            f"left out  {counted(others, 'run')} of flows that were not given: {names}", soft_wrap=True
        )
    if not report.stranded:
        if report.runs:
            console.print("the new code can go on with all of them")
        return
    console.print(
        f"{counted(len(report.stranded), 'run')} would be paused with FlowChangedError", style="bold red"
    )
    console.print(_table(report.stranded))
    if len(report.stranded) > SHOWN_RUNS:
        console.print(f"and {len(report.stranded) - SHOWN_RUNS:,} more, see --json")
    console.print(
        "let workers with the old code finish them, or keep these nodes and edges in the new code",
        soft_wrap=True,
    )


def _table(stranded: list[Stranded]) -> Table:
    table = Table()
    for column in ("run", "flow", "status", "step", "node", "missing"):
        table.add_column(column, overflow="fold")
    for run in stranded[:SHOWN_RUNS]:
        cells = (run.run_id, run.flow_name, run.status, str(run.step), run.node, run.missing)
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table
