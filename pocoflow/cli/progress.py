"""What a run does, step by step, from its event log."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from datetime import datetime

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pocoflow.engine.rows import EventRow

SHOWN_STEPS = 12
_STYLES = {"node_end": "green", "node_retry": "yellow", "node_error": "bold red", "step_lost": "yellow"}
_WORDS = {"node_end": "done", "node_retry": "tried", "node_error": "failed", "step_lost": "worker lost"}


class Progress:
    """Collects events and draws the newest of them."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._recent: deque[EventRow] = deque(maxlen=SHOWN_STEPS)
        self._steps: Counter[str] = Counter()
        self._began: datetime | None = None
        self._now: datetime | None = None

    def add(self, event: EventRow) -> None:
        self._now = datetime.fromisoformat(event["ts"])
        self._began = self._began or self._now
        if event["event"] in _WORDS:
            self._recent.append(event)
        if event["event"] == "node_end":
            self._steps[event["worker"] or "?"] += 1

    def draw(self) -> Group:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for heading in ("step", "node", "", "action", "ms", "worker"):
            table.add_column(heading, justify="right" if heading in ("step", "ms") else "left")
        for event in self._recent:
            kind = event["event"]
            ms = event["elapsed_ms"]
            table.add_row(
                str(event["step"]),
                Text(event["node_name"] or ""),
                Text(_WORDS[kind], style=_STYLES[kind]),
                Text(event["action"] or event["error_msg"] or "", overflow="ellipsis", no_wrap=True),
                "" if ms is None else f"{ms:.1f}",
                Text(event["worker"] or ""),
            )
        return Group(table, Text(self.summary(), style="bold"))

    def summary(self) -> str:
        """One line: how far, how long, by whom."""
        seconds = (self._now - self._began).total_seconds() if self._now and self._began else 0.0
        shares = ", ".join(f"{worker} {count}" for worker, count in sorted(self._steps.items()))
        return f"{self._run_id}: {self._steps.total()} steps in {seconds:.1f} s ({shares or 'no worker yet'})"


def follow(run_id: str, events: Iterable[EventRow], console: Console) -> Progress:
    """Show the events as they come: in place on a terminal, else a line for each step."""
    progress = Progress(run_id)
    if not console.is_terminal:
        for event in events:
            progress.add(event)
            if event["event"] in _WORDS:
                console.print(_line(event), markup=False, highlight=False, soft_wrap=True)
        return progress
    with Live(progress.draw(), console=console, refresh_per_second=10) as live:
        for event in events:
            progress.add(event)
            live.update(progress.draw())
    return progress


def _line(event: EventRow) -> str:
    detail = event["action"] or event["error_msg"] or ""
    return f"step {event['step']} {event['node_name']} {_WORDS[event['event']]} {detail} on {event['worker']}"
