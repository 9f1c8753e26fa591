"""How a history grows, and what it costs to go back in it: a chat, and a large value that nobody touches.

Each run is inline on an SQLite file of its own. Beside the size of the file stands what full copies of the
store would take, and beside the time to load a step that to parse the same store from one JSON text.

    python -m tests.bench.growth
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import string
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from pocoflow import Flow, Node, Store, WorkflowDB
from pocoflow.db.connect import database_url, engine_for

TURN_CHARS = 900
PAGE_CHARS = 100_000
LOADS = 20


class Turn(Node):
    """Appends what was said, in place."""

    def post(self, store: Store, prepared: Any, result: Any) -> str:
        store["messages"].append({"role": "user", "text": said()})
        return "again" if len(store["messages"]) < store["turns"] else "done"


class Count(Node):
    """Changes a number beside a large value."""

    def post(self, store: Store, prepared: Any, result: Any) -> str:
        store["n"] += 1
        return "again" if store["n"] < store["turns"] else "done"


def said() -> str:
    """About so many characters of words, which no compression would make much smaller."""
    words = ("".join(random.choices(string.ascii_lowercase, k=random.randint(2, 9))) for _ in range(200))
    return " ".join(words)[:TURN_CHARS]


def run(node: Node, store: dict[str, Any], file: Path) -> WorkflowDB:
    node.then("again", node)
    flow = Flow(node, flow_name="growth", db_path=file, run_id="run", max_steps=1 + int(store["turns"]))
    moments = [perf_counter()]
    flow.on("node_end", lambda *_: moments.append(perf_counter()))
    flow.run(store)
    for step in (10, 100, 1000):
        if step <= store["turns"]:
            near = [moments[number] - moments[number - 1] for number in range(step - 8, step + 1)]
            took_us, left = statistics.median(near) * 1e6, bytes_at(file, step)
            print(f"    step {step:4}: {took_us:6.0f} us, {left:6.0f} bytes")
    return WorkflowDB(file)


def bytes_at(file: Path, step: int) -> float:
    """What a step near this one leaves in the table of checkpoints."""
    query = "select avg(length(store_json)) from pf_checkpoints where step between ? and ?"
    with engine_for(database_url(file)).connect() as connection:
        return float(connection.exec_driver_sql(query, (step - 9, step - 1)).scalar_one())


def size(file: Path) -> int:
    """Bytes of the database once all is in the main file."""
    with engine_for(database_url(file)).connect() as connection:
        connection.exec_driver_sql("pragma wal_checkpoint(truncate)")
    return file.stat().st_size


def median_ms(action: Callable[[], object]) -> float:
    times = []
    for _ in range(LOADS):
        began = perf_counter()
        action()
        times.append((perf_counter() - began) * 1000)
    return statistics.median(times)


def report(name: str, database: WorkflowDB, file: Path, steps: int, limit_mb: float) -> int:
    bytes_, newest = size(file), database.load_checkpoint("run", steps - 1).as_dict()
    text = json.dumps(newest)
    copies = sum(len(text) * step // steps for step in range(1, steps + 1))
    if "messages" not in newest:
        copies = steps * len(text)
    steps_to_load = (steps - 1, steps // 2, steps // 2 + 13)
    loads = [median_ms(lambda step=step: database.load_checkpoint("run", step)) for step in steps_to_load]
    newest_ms, *middle_ms = (f"{load:.1f}" for load in loads)
    print(f"{name}: {bytes_ / 1e6:.2f} MB (limit {limit_mb:.2f}), full copies {copies / 1e6:.0f} MB")
    print(f"    load of the newest {newest_ms} ms, of two in the middle {', '.join(middle_ms)} (limit 5)")
    print(f"    parse of the newest from one text {median_ms(lambda: json.loads(text)):.1f} ms")
    return bytes_


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, nargs=2, default=[500, 1000], metavar="N")
    options = parser.parse_args()
    random.seed(4)
    sizes = []
    with tempfile.TemporaryDirectory() as folder:
        for turns in options.turns:
            file, limit = Path(folder, f"chat-{turns}.db"), 1.5 if not sizes else 2.2 * sizes[0] / 1e6
            database = run(Turn(), {"messages": [], "turns": turns}, file)
            sizes.append(report(f"{turns} turns of {TURN_CHARS} characters", database, file, turns, limit))
        file = Path(folder, "page.db")
        database = run(Count(), {"page": "x" * PAGE_CHARS, "n": 0, "turns": 300}, file)
        report(f"300 steps beside {PAGE_CHARS} characters", database, file, 300, 1.0)


if __name__ == "__main__":
    main()
