"""Whether the history in a ledger keeps all promises, also that of the ledger in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Table, create_engine, insert

from pocoflow.db.fsck import check
from pocoflow.db.ledger import SqlLedger
from pocoflow.db.schema import blob_uses, blobs, checkpoints, events, metadata, runs
from pocoflow.engine.memory import MemoryLedger
from pocoflow.engine.ports import Ledger


def assert_sound(ledger: Ledger) -> None:
    """Fail with every promise that the ledger's history breaks, and the runs that break it."""
    with _as_database(ledger) as connection:
        broken = check(connection, max_crashes=ledger._timing.max_crashes)  # type: ignore[attr-defined]
    assert not broken, broken


@contextmanager
def _as_database(ledger: Ledger) -> Iterator[Connection]:
    if isinstance(ledger, SqlLedger):
        with ledger.connection() as connection:
            yield connection
        return
    assert isinstance(ledger, MemoryLedger), f"no way to look into {ledger!r}"
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        metadata.create_all(connection)
        _copy(ledger, connection)
        yield connection
    engine.dispose()


def _copy(ledger: MemoryLedger, connection: Connection) -> None:
    """Write the runs of a ledger in memory to tables. It keeps no claims of past steps: their epoch is 0."""
    copied_runs: list[Any] = []
    copied_checkpoints: list[Any] = []
    copied_events: list[Any] = []
    for run_id, row in ledger._runs.items():
        shown: Any = ledger.get_run(run_id)
        copied_runs.append({column.key: _value(column, row, shown) for column in runs.c})
        ends = {event["step"]: event["node_name"] for event in row.events if event["event"] == "node_end"}
        for step, checkpoint in enumerate(row.checkpoints):
            node = ends.get(step) or "?"
            copied_checkpoints.append(
                {
                    "run_id": run_id,
                    "step": step,
                    "node_name": node,
                    "next_node": row.ahead[step + 1][0],
                    "store_json": checkpoint.text,
                    "depth": checkpoint.depth,
                    "blobs": " ".join(checkpoint.blobs) or None,
                    "epoch": 0,
                    "created_at": "",
                }
            )
        copied_events += row.events
    copied = {runs: copied_runs, checkpoints: copied_checkpoints, events: copied_events}
    for table, rows in (copied | _copied_blobs(ledger)).items():
        if rows:
            connection.execute(insert(table), rows)


def _copied_blobs(ledger: MemoryLedger) -> dict[Table, list[dict[str, Any]]]:
    texts, users = ledger._blobs._texts, ledger._blobs._runs
    return {
        blobs: [{"digest": digest, "body": text, "used_at": 0.0} for digest, text in texts.items()],
        blob_uses: [{"run_id": run, "digest": digest} for digest, runs in users.items() for run in runs],
    }


def _value(column: Any, row: Any, shown: Any) -> Any:
    """What this column of a run would hold: as the run is shown, as it is now, or as it was started."""
    if column.name in shown:
        return shown[column.name]
    if column.name == "input":
        return row.new.input.text
    return getattr(row, column.key, getattr(row.new, column.key, None))
