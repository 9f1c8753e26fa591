"""`pocoflow chaos`: kill the worker at each point of each node of a flow, and see what comes out."""

from __future__ import annotations

import json
import sys
from typing import Any, TextIO
from uuid import uuid4

import click
from rich.console import Console

from pocoflow.cli import chaos_view, targets
from pocoflow.cli.chaos_runs import RUN_PREFIX, Arena, arena
from pocoflow.cli.chaos_verdict import KILL_POINTS, USUAL_POINTS, Baseline, Case, Report
from pocoflow.cli.targets import CannotTellError, errors_cannot_tell
from pocoflow.errors import DefinitionError
from pocoflow.flow import Flow
from pocoflow.registry import Registry

SOME_DIFFERENCE = 1
LONGEST_SPEC = 120_000  # Linux takes 128 KiB in one variable
WIDTH = 110  # of a table that goes to a file


@click.command()
@click.argument("target", metavar="MODULE:FLOW")
@click.option(
    "--input", "source", type=click.File(), help="JSON object to run it with; - reads standard input."
)
@click.option("--points", help="Where to kill, comma list; all by default but in_heartbeat, for long steps.")
@click.option("--database", help="Of its own, SQLite file or URL; a temporary SQLite file by default.")
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1), help="Worker processes.")
@click.option(
    "--timeout", default=120.0, show_default=True, type=click.FloatRange(1), help="Seconds for each run."
)
@click.option("--json", "for_machines", is_flag=True, help="Print JSON instead of the table.")
def command(
    target: str,
    source: TextIO | None,
    points: str | None,
    database: str | None,
    workers: int,
    timeout: float,
    for_machines: bool,
) -> None:
    """Kill the worker at each point of each node of a flow, and see whether that changes the result.

    The flow runs twice undisturbed. Then it runs once for each node and point, and the worker process is
    killed there (kill -9). Broker and workers are private and end with the command. The side effects of the
    nodes are real: give it an input for which they do no harm.

    \b
    Exit code: 0 every run ended with the same store, 1 some did not, 2 it could not be told.

    \b
    Examples:
      pocoflow chaos my_flows:flow --input order.json
      pocoflow chaos my_flows:flow --input order.json --points after_exec,after_publish --json
    """
    talk = Console(stderr=True)
    with errors_cannot_tell():
        chosen, data = _chosen(points), _read(source)
        module, flow, queues = _load(target)
        with arena(
            flow, data, module=module, database=database, queues=queues, workers=workers, timeout_s=timeout
        ) as made:
            report = _examine(made, target, chosen, talk)
    if for_machines:
        click.echo(chaos_view.as_json(report))
    else:
        _show(report)
    sys.exit(0 if report.same else SOME_DIFFERENCE)


def _examine(made: Arena, target: str, points: tuple[str, ...], talk: Console) -> Report:
    batch = f"{RUN_PREFIX}{uuid4().hex[:8]}"
    talk.print("two undisturbed runs")
    report = Report(target, tuple(made.flow.definition().graph.nodes), _baseline(made, batch))
    cases = _cases(batch, report.baseline, points)
    spec = ",".join(case.rule for case in cases.values())
    if len(spec) > LONGEST_SPEC:
        raise CannotTellError(f"{len(cases)} kills are too many for one call: choose fewer with --points")
    talk.print(f"{len(cases)} runs with a kill, at {len(points)} points of each node")
    seen = made.execute(cases, spec)
    results = (report.baseline.judge(cases[one.run_id], one) for one in seen)
    report.results.extend(chaos_view.follow(results, len(cases), talk))
    report.results.sort(key=lambda result: result.case.run_id)
    return report


def _cases(batch: str, baseline: Baseline, points: tuple[str, ...]) -> dict[str, Case]:
    """All cases, by the id of their run."""
    places = [(node, step, point) for node, step in baseline.first_steps.items() for point in points]
    run_ids = [f"{batch}-{number:04}" for number in range(len(places))]
    return {run_id: Case(run_id, *place) for run_id, place in zip(run_ids, places, strict=True)}


def _baseline(made: Arena, batch: str) -> Baseline:
    """Both at the same time, so that runs which get into each other's way show that they do."""
    first, second = sorted(made.execute((f"{batch}-a", f"{batch}-b")), key=lambda seen: seen.run_id)
    for seen in (first, second):
        if seen.error is not None:
            raise CannotTellError(f"the flow does not complete undisturbed: {seen.error}")
    return Baseline(first, second)


def _show(report: Report) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    console.print(chaos_view.matrix(report))
    for line in chaos_view.conclusions(report):
        console.print(line, soft_wrap=True)


def _load(target: str) -> tuple[str, Flow, list[str]]:
    """Return module, flow, and the queues that its nodes name."""
    module, flow = targets.load(target)
    known = Registry((module,))
    if flow.flow_name not in known.names:
        raise DefinitionError(
            f"workers do not find {target!r}: a flow must be made in the module that is named"
        )
    return module, flow, known.queues


def _chosen(points: str | None) -> tuple[str, ...]:
    if points is None:
        return USUAL_POINTS
    names = tuple(dict.fromkeys(name.strip() for name in points.split(",") if name.strip()))
    unknown = [name for name in names if name not in KILL_POINTS]
    if unknown or not names:
        raise click.UsageError(f"--points {points!r}: choose from {', '.join(KILL_POINTS)}")
    return names


def _read(source: TextIO | None) -> dict[str, Any]:
    if source is None:
        return {}
    try:
        data = json.load(source)
    except ValueError as exc:
        raise click.UsageError(f"--input {source.name} is not JSON: {exc}") from exc
    if not isinstance(data, dict):
        raise click.UsageError(
            f"--input {source.name} holds a {type(data).__name__}, a JSON object is needed"
        )
    return data
