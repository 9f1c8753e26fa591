"""Many runs at once: does a run cost the same when 10,000 others are on their way?

Two prefork children, Redis, Postgres (with fsync); each run has five no-op steps. For each crowd: the time
per step, the wait from start to first claim, the messages per step, and the memory of client and workers.

    python -m tests.bench.crowd --runs 100 1000 10000
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles
from time import perf_counter
from typing import Any, NamedTuple

import redis
from sqlalchemy import text

from pocoflow.db.connect import database_url, engine_for
from pocoflow.db.fsck import examine
from pocoflow.services import start_postgres, start_redis
from tests.bench.hop import QUIET, worker
from tests.bench.hop_flow import flow

STEPS = 5
CHILDREN = 2


class Crowd(NamedTuple):
    """What a crowd of runs cost."""

    runs: int
    step_ms: float
    claim_p95_s: float
    messages: float
    client_mib: float
    workers_mib: float

    def __str__(self) -> str:
        return "  ".join(
            (
                f"{self.runs:6} runs",
                f"{self.step_ms:6.3f} ms a step",
                f"start to claim p95 {self.claim_p95_s:6.2f} s",
                f"messages a step {self.messages:.3f}",
                f"client {self.client_mib:5.0f} MiB",
                f"workers {self.workers_mib:5.0f} MiB",
            )
        )


def run_crowd(runs: int, client: Any, database: str, worker_pid: int) -> Crowd:
    sent, began = messages_sent(client), perf_counter()
    handles = [flow.run_background({"left": STEPS}) for _ in range(runs)]
    for handle in handles:
        handle.wait(600)
    seconds, steps = perf_counter() - began, runs * STEPS
    return Crowd(
        runs,
        seconds / steps * 1000,
        claim_p95_s(database, [handle.run_id for handle in handles]),
        (messages_sent(client) - sent) / steps,
        resident_mib(os.getpid()),
        sum(map(resident_mib, [worker_pid, *children_of(worker_pid)])),
    )


def messages_sent(client: Any) -> int:
    return int(client.info("commandstats").get("cmdstat_lpush", {}).get("calls", 0))


def claim_p95_s(database: str, run_ids: list[str]) -> float:
    waited = text(
        "select extract(epoch from started_at - created_at)::float from pf_runs where run_id = any(:ids)"
    )
    with engine_for(database_url(database)).connect() as connection:
        return quantiles(connection.execute(waited, {"ids": run_ids}).scalars(), n=20)[-1]


def resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def cluster() -> Iterator[tuple[Any, str, int]]:
    with start_redis() as broker, start_postgres(durable=True) as database:
        os.environ.update(
            POCOFLOW_BROKER_URL=broker.url,
            POCOFLOW_DATABASE_URL=database.url,
            POCOFLOW_FLOWS="tests.bench.hop_flow",
        )
        with worker("pocoflow.workers", CHILDREN, {}, *QUIET) as process:
            flow.run_background({"left": 50}).wait(60)
            yield redis.Redis.from_url(broker.url), database.url, process.pid


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, nargs="+", default=[100, 1000, 10_000])
    options = parser.parse_args()
    with cluster() as (client, database, worker_pid):
        crowds = []
        for runs in options.runs:
            crowds.append(run_crowd(runs, client, database, worker_pid))
            print(crowds[-1], flush=True)
        growth = crowds[-1].step_ms / crowds[0].step_ms
        print(f"growth of the cost per step from {crowds[0].runs} to {crowds[-1].runs} runs: {growth:.2f}")
        broken = examine(database_url(database), max_crashes=3).violations
        print(f"promises broken: {broken or 'none'}")


if __name__ == "__main__":
    main()
