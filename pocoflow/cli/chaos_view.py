"""How `pocoflow chaos` shows what it does and what it has found."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from pocoflow.cli.chaos_verdict import KILL_POINTS, NodeVerdict, Outcome, Report, Result, Verdict

_STYLES = {Outcome.SAME: "green", Outcome.NOT_REACHED: "dim"}
_VERDICT_STYLES = {Verdict.UNSAFE: "bold red", Verdict.OTHERWISE: "bold red", Verdict.REPEATABLE: "green"}


def follow(results: Iterable[Result], total: int, console: Console) -> Iterator[Result]:
    """Pass the results on and show how far it is: a bar on a terminal, else a line for each."""
    if not console.is_terminal:
        for number, result in enumerate(results, start=1):
            line = f"{number}/{total} {result.case.node} {result.case.point}: {_in_words(result)}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
            yield result
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=total)
        for result in results:
            yield result
            progress.update(bar, advance=1, description=f"{result.case.node} {result.case.point}")


def matrix(report: Report) -> Table:
    """Nodes by points: how often exec ran, and what became of the run where that was not the same."""
    cells = {(result.case.node, result.case.point): _cell(result) for result in report.results}
    points = [point for point in KILL_POINTS if any(point == used for _, used in cells)]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("node")
    for point in points:
        table.add_column(point.replace("_", "\n"), justify="right")
    for node in report.baseline.first_steps:
        table.add_row(Text(node), *(cells.get((node, point), Text()) for point in points))
    return table


def conclusions(report: Report) -> Iterator[Text]:
    """What is to be said below the matrix, line by line."""
    yield Text(
        "Nx: exec ran N times, the final store is the same, each step is committed once; -: not reached"
    )
    baseline = report.baseline
    if baseline.ignored:
        keys = ", ".join(baseline.ignored)
        yield Text(f"not deterministic: two undisturbed runs differ in {keys}, which is ignored", "yellow")
    if not baseline.same_path:
        yield Text("not deterministic: two undisturbed runs took different paths", "yellow")
    if report.not_visited:
        yield Text(f"not visited with this input: {', '.join(report.not_visited)}", "yellow")
    for verdict in report.verdicts:
        yield _verdict_line(verdict)
    yield _sum(report)


def as_json(report: Report) -> str:
    """All of it for machines."""
    cases: list[dict[str, Any]] = []
    for result in report.results:
        fields = asdict(result)
        cases.append({**fields.pop("case"), **fields})
    found = {
        "flow": report.flow,
        "same": report.same,
        "steps": len(report.baseline.first.path),
        "same_path": report.baseline.same_path,
        "ignored_keys": report.baseline.ignored,
        "not_visited": report.not_visited,
        "nodes": [asdict(verdict) for verdict in report.verdicts],
        "cases": cases,
    }
    return json.dumps(found, indent=2)


def _cell(result: Result) -> Text:
    if result.outcome is Outcome.NOT_REACHED:
        return Text("-", style=_STYLES[result.outcome])
    count = f"{result.executed}x"
    if result.outcome is Outcome.SAME:
        return Text(count, style=_STYLES[result.outcome])
    return Text(f"{count}\n{result.outcome.value}", style="bold red")


def _in_words(result: Result) -> str:
    where = f" in {', '.join(result.keys)}" if result.keys else ""
    why = f": {result.why}" if result.why else ""
    return f"{result.outcome.value}{where}, exec {result.executed}x, {result.elapsed_s:.1f} s{why}"


def _verdict_line(verdict: NodeVerdict) -> Text:
    line = Text(f"{verdict.node}: ")
    line.append(verdict.verdict.value, style=_VERDICT_STYLES.get(verdict.verdict, "dim"))
    if verdict.verdict in (Verdict.UNSAFE, Verdict.OTHERWISE):
        if verdict.keys:
            line.append(f": the final store differs in {', '.join(verdict.keys)}")
        if verdict.why:
            line.append(f": {verdict.why}")
        line.append(f" ({', '.join(verdict.points)})")
    return line


def _sum(report: Report) -> Text:
    counts = Counter(result.outcome for result in report.results)
    shares = ", ".join(f"{counts[outcome]} {outcome.value}" for outcome in Outcome if counts[outcome])
    return Text(f"{len(report.results)} kills tried: {shares}", style="bold")
