"""Durable steps per second against bare Celery tasks per second, in one run.

Both sides get the same Redis, the same number of prefork children, and as many chains of no-op steps as
they have children. Ours commits each step to Postgres; the bare task (acks_late=True, otherwise Celery's
defaults, no results) keeps nothing. Rounds alternate, so that a machine that slows down slows down both.

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
from uuid import uuid4

import redis

from pocoflow.services import start_postgres, start_redis

QUIET = ["--without-gossip", "--without-mingle", "--without-heartbeat"]


@contextmanager
def worker(app: str, children: int, environ: dict[str, str], *options: str) -> Iterator[None]:
    command = [sys.executable, "-W", "ignore", "-m", "celery", "-A", app, "worker", "-c", str(children)]
    process = subprocess.Popen([*command, *options, "-l", "warning"], env={**os.environ, **environ})
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


def bare_round(url: str, chains: int, steps: int) -> float:
    from tests.bench.bare_task import hop

    client = redis.Redis.from_url(url)
    names = [uuid4().hex for _ in range(chains)]
    began = perf_counter()
    for name in names:
        hop.delay(name, steps - 1)
    for name in names:
        client.blpop([f"bare-done:{name}"], timeout=120)
    return chains * steps / (perf_counter() - began)


def durable_round(chains: int, steps: int) -> float:
    from tests.bench.hop_flow import flow

    began = perf_counter()
    handles = [flow.run_background({"left": steps}) for _ in range(chains)]
    for handle in handles:
        handle.wait(120)
    return chains * steps / (perf_counter() - began)


def compare(children: int, rounds: int, steps: int, redis_url: str) -> None:
    bare_url = f"{redis_url}/1"
    pairs = []
    with ExitStack() as stack:
        stack.enter_context(worker("tests.bench.bare_task", children, {}))
        stack.enter_context(worker("pocoflow.workers", children, {}, *QUIET))
        bare_round(bare_url, children, 50)
        durable_round(children, 50)
        for number in range(rounds):
            pair = (durable_round(children, steps), bare_round(bare_url, children, steps))
            pairs.append(pair)
            rates = f"durable {pair[0]:6.0f}/s  bare {pair[1]:6.0f}/s"
            print(f"  {number + 1}: {rates}  ratio {pair[0] / pair[1]:.2f}", flush=True)
    durable, plain = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    print(f"{children} children: durable {durable:.0f}/s, bare {plain:.0f}/s, median ratio {ratio:.2f}")


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
