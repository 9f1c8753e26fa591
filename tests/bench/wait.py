"""Milliseconds from the final commit of a run to the return of `wait()`, with Redis and without.

A hook in the process that executes the step notes the time right after the commit, by the monotonic clock
that all processes of a host share; the note, the announcement and the read of the result are all within
the measured time. Runs nap for random times, so that their ends fall anywhere between two looks. Beside the
latency stands its floor: one read of a result.

    python -m tests.bench.wait --runs 200 --together 8
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter
from uuid import uuid4

from pocoflow import RunHandle, wiring
from pocoflow.engine.records import NewRun
from pocoflow.services import start_postgres, start_redis
from tests.bench.hop import QUIET, worker
from tests.bench.wait_flow import flow
from tests.support.wait import wait_until

NOWHERE = "redis://127.0.0.1:1/0"


def run_ms(folder: Path, nap_s: float) -> float:
    note = folder / uuid4().hex
    flow.run_background({"nap_s": nap_s, "note": str(note)}).wait(60)
    returned = perf_counter()
    # A look may have come between the commit and the note.
    wait_until(lambda: note.exists() and note.read_text().endswith("\n"), every_s=0.001, what="the note")
    return (returned - float(note.read_text())) * 1000


def floor_ms(handle: RunHandle, reads: int) -> float:
    times = []
    for _ in range(reads):
        began = perf_counter()
        _ = handle.store
        times.append((perf_counter() - began) * 1000)
    return statistics.median(times)


def measure(name: str, folder: Path, options: argparse.Namespace, *, limit_ms: int) -> None:
    run_ms(folder, 0.0)
    naps = [random.uniform(0, options.nap) for _ in range(options.runs)]
    with ThreadPoolExecutor(options.together) as pool:
        latencies = list(pool.map(lambda nap_s: run_ms(folder, nap_s), naps))
    done = flow.run_background({"nap_s": 0.0, "note": str(folder / "last")})
    done.wait(60)
    *_, p95 = statistics.quantiles(latencies, n=20)
    figures = f"median {statistics.median(latencies):6.1f}  p95 {p95:6.1f}  worst {max(latencies):6.1f}"
    print(f"{name:23} {figures}  (limit {limit_ms})  floor {floor_ms(done, 50):.1f}", flush=True)


@contextmanager
def crowd(size: int) -> Iterator[None]:
    """Let so many more wait in this process, for runs that do not end."""
    ports = wiring.executor(None).ports
    room = wiring.waiting_room(ports)
    names = [f"crowd-{number:06d}" for number in range(size)]
    nowhere = {"flow_name": "crowd", "flow_hash": "", "node": "Crowd", "queue": None, "home": "nowhere"}
    for name in names:
        ports.ledger.start(NewRun(run_id=name, input="{}", input_hash="", **nowhere))
    waiters = [room.enter(name, until=lambda row, now: False) for name in names]
    try:
        yield
    finally:
        for waiter in waiters:
            room.leave(waiter)


@contextmanager
def settings(**chosen: str) -> Iterator[None]:
    """Put these, and no others, into the environment of this process and its workers."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("POCOFLOW_")}
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(others, **{f"POCOFLOW_{name}": value for name, value in chosen.items()})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--together", type=int, default=8, help="runs at the same time")
    parser.add_argument("--nap", type=float, default=1.0, help="longest nap of a run in seconds")
    parser.add_argument("--crowd", type=int, default=10_000, help="how many more wait in the third line")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        broker, database = (
            stack.enter_context(start_redis()),
            stack.enter_context(start_postgres(durable=True)),
        )
        cluster = {
            "BROKER_URL": broker.url,
            "DATABASE_URL": database.url,
            "FLOWS": "tests.bench.wait_flow",
            "LEASE_S": "600",
        }
        print(
            f"{options.runs} runs, {options.together} at a time, naps up to {options.nap:g} s; milliseconds"
        )
        with settings(**cluster), worker("pocoflow.workers", options.together, {}, *QUIET):
            measure("Postgres, Redis", folder, options, limit_ms=50)
            with settings(**cluster, REDIS_URL=NOWHERE):
                measure("Postgres, no Redis", folder, options, limit_ms=1000)
            with crowd(options.crowd):
                measure(f"Redis, {options.crowd} more wait", folder, options, limit_ms=50)
        with settings(DATABASE_URL=f"sqlite:///{folder / 'bench.db'}", EMBEDDED_THREADS="8"):
            measure("SQLite, embedded", folder, options, limit_ms=1000)


if __name__ == "__main__":
    main()
