"""Microseconds per no-op step of an inline run: without a database, on SQLite, on Postgres.

Beside each database stands its floor, measured in the same run: one INSERT with its commit.

    python -m tests.bench.inline
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from uuid import uuid4

from sqlalchemy import text

from pocoflow import Flow
from pocoflow.db.connect import database_url, engine_for
from pocoflow.services import start_postgres
from tests.bench.hop_flow import hop

LIMITS_US = {"memory": 15, "SQLite": 300, "Postgres": 700}


def run_us(steps: int, database: str | None) -> float:
    flow = Flow(hop, flow_name="hop", max_steps=steps + 1, db_path=database)
    began = perf_counter()
    flow.run({"left": steps})
    return (perf_counter() - began) / steps * 1e6


def floor_us(database: str, rows: int) -> float:
    table = f"floor_{uuid4().hex}"
    with engine_for(database_url(database)).connect() as connection:
        connection.execute(text(f"create table {table} (id integer primary key, word text)"))
        insert = text(f"insert into {table} values (:id, 'one row, one commit')")
        began = perf_counter()
        for number in range(rows):
            connection.execute(insert, {"id": number})
        return (perf_counter() - began) / rows * 1e6


def median_us(measure: Callable[[], float], rounds: int) -> float:
    measure()
    return statistics.median(measure() for _ in range(rounds))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, start_postgres(durable=True) as postgres:
        places = {"memory": None, "SQLite": str(Path(folder, "bench.db")), "Postgres": postgres.url}
        print(f"{options.steps} steps, median of {options.rounds} rounds, microseconds a step")
        for name, database in places.items():
            step = median_us(lambda database=database: run_us(options.steps, database), options.rounds)
            line = f"{name:9} {step:7.1f}  (limit {LIMITS_US[name]})"
            if database is not None:
                floor = median_us(lambda database=database: floor_us(database, options.steps), options.rounds)
                line += f"  floor {floor:7.1f}  ratio {step / floor:.1f}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
