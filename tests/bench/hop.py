"""Durable steps per second against bare Celery tasks per second, in one run.

Both sides get the same Redis, the same number of prefork children, and as many chains of no-op steps as
they have children. Ours commits each step to Postgres; the bare task (acks_late=True, otherwise Celery's
defaults, no results) keeps nothing. Rounds alternate, so that a machine that slows down slows down both.

A third figure is for a flow that lets a worker execute ten steps in a row (`max_inline_steps=10`).

    python -m tests.bench.hop --children 1 2 --rounds 6 --steps 1000
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from time import perf_counter
from typing import NamedTuple
from uuid import uuid4

import redis

from pocoflow.services import start_postgres, start_redis
from tests.bench import hop_flow

FLOWS = ("flow", "streak")
QUIET = ["--without-gossip", "--without-mingle", "--without-heartbeat"]


class Rates(NamedTuple):
    """Steps per second."""

    durable: float
    streak: float
    bare: float

    def __str__(self) -> str:
        return (
            f"durable {self.durable:5.0f}/s (ratio {self.durable / self.bare:.2f})  "
            f"in rows of ten {self.streak:5.0f}/s (ratio {self.streak / self.bare:.2f})  "
            f"bare {self.bare:5.0f}/s"
        )


@contextmanager
def worker(
    app: str, children: int, environ: dict[str, str], *options: str
) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-W", "ignore", "-m", "celery", "-A", app, "worker", "-c", str(children)]
    process = subprocess.Popen([*command, *options, "-l", "warning"], env={**os.environ, **environ})
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


def bare_round(url: str, chains: int, steps: int) -> float:
    from tests.bench.bare_task import hop

    client = redis.Redis.from_url(url, socket_timeout=None)
    names = [uuid4().hex for _ in range(chains)]
    began = perf_counter()
    for name in names:
        hop.delay(name, steps - 1)
    for name in names:
        client.blpop([f"bare-done:{name}"], timeout=120)
    return chains * steps / (perf_counter() - began)


def durable_round(name: str, chains: int, steps: int) -> float:
    flow = getattr(hop_flow, name)
    began = perf_counter()
    handles = [flow.run_background({"left": steps}) for _ in range(chains)]
    for handle in handles:
        handle.wait(120)
    return chains * steps / (perf_counter() - began)


def compare(children: int, rounds: int, steps: int, redis_url: str) -> None:
    bare_url = f"{redis_url}/1"
    seen: list[Rates] = []
    with ExitStack() as stack:
        stack.enter_context(worker("tests.bench.bare_task", children, {}))
        stack.enter_context(worker("pocoflow.workers", children, {}, *QUIET))
        bare_round(bare_url, children, 50)
        durable_round("flow", children, 50)
        for number in range(1, rounds + 1):
            ours = [durable_round(name, children, steps) for name in FLOWS]
            rates = Rates(*ours, bare=bare_round(bare_url, children, steps))
            seen.append(rates)
            print(f"  {number}: {rates}", flush=True)
    print(f"{children} children: {Rates(*(statistics.median(side) for side in zip(*seen, strict=True)))}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--children", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--no-fsync", action="store_true", help="run Postgres without waiting for the disk")
    options = parser.parse_args()
    with start_redis() as broker, start_postgres(durable=not options.no_fsync) as database:
        base = broker.url.rsplit("/", 1)[0]
        os.environ.update(
            BARE_BROKER_URL=f"{base}/1",
            POCOFLOW_BROKER_URL=f"{base}/0",
            POCOFLOW_DATABASE_URL=database.url,
            POCOFLOW_FLOWS="tests.bench.hop_flow",
        )
        print(f"Postgres {'without' if options.no_fsync else 'with'} fsync, {options.steps} steps a chain")
        for children in options.children:
            compare(children, options.rounds, options.steps, base)


if __name__ == "__main__":
    main()
