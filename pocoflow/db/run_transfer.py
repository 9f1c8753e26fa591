"""Runs out of a database into files, and back into this or another one.

An imported run is never at work: one that was when it was exported is paused, until somebody resumes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from sqlalchemy import Connection, Table, create_engine, insert, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from pocoflow import codec
from pocoflow.db.connect import engine_for, snapshot, write_transaction
from pocoflow.db.failures import shown, translated
from pocoflow.db.fsck import check
from pocoflow.db.queries import plain
from pocoflow.db.run_file import MOMENTS, Row, RunFile, exported, read, write
from pocoflow.db.schema import blob_uses, blobs, checkpoints, events, metadata, runs
from pocoflow.db.words import NOW
from pocoflow.engine.clock import SystemClock
from pocoflow.engine.history import Saved, Trail
from pocoflow.engine.identity import checked_id
from pocoflow.engine.lines import Line, parse
from pocoflow.engine.records import INTERRUPTED, LIVE, Status
from pocoflow.engine.wording import IMPORTED_TEXT
from pocoflow.errors import RunConflictError, RunFileError, RunNotFoundError, StoreSerializationError


def export_run(url: URL, run_id: str) -> str:
    """Return a run as the text of a file, as it is at this moment; raises RunNotFoundError."""
    with snapshot(url) as connection:
        found = _rows(connection, runs, run_id)
        if not found:
            raise RunNotFoundError(f"no run {run_id!r} in {shown(url)}", run_id)
        used = select(blobs.c.digest, blobs.c.body).join(blob_uses, blob_uses.c.digest == blobs.c.digest)
        bodies = connection.execute(used.where(blob_uses.c.run_id == run_id)).all()
        file = RunFile(
            run=found[0],
            checkpoints=_rows(connection, checkpoints, run_id),
            events=_rows(connection, events, run_id),
            blobs={row.digest: row.body for row in bodies},
        )
    return write(file, written_by=f"pocoflow {version('pocoflow')}")


def import_run(url: URL, text: str, *, new_id: str | None) -> str:
    """Check a file and write the run that it holds, whole or not at all; returns its id.

    Args:
        new_id: What the run is to be called here; None for what it is called in the file.

    Raises:
        RunFileError: The file is no export, was changed, or breaks a promise of a history.
        RunConflictError: There is a run of this id.
        DatabaseError: The database cannot be reached, or has no room.
    """
    file = read(text)
    if new_id is not None:
        file.run["run_id"] = checked_id(new_id, "the new id")
    if file.run["status"] in LIVE:
        _pause(file)
    named = _named_blobs(file)
    _try_out(file, named)
    with translated(url), engine_for(url).connect() as connection, write_transaction(connection):
        if not _insert(connection, file, named):
            run_id = file.run["run_id"]
            raise RunConflictError(
                f"there is a run {run_id!r} in {shown(url)} already: give the imported one another id", run_id
            )
    return str(file.run["run_id"])


def _rows(connection: Connection, table: Table, run_id: str) -> list[Row]:
    columns = [column.label(column.name) for column in exported(table)]
    rows = select(*columns).where(table.c.run_id == run_id)
    in_order = rows if table is runs else rows.order_by(table.c.step if table is checkpoints else table.c.id)
    return [plain(row) for row in connection.execute(in_order)]


def _pause(file: RunFile) -> None:
    """Its worker is elsewhere, and may well be going on with it."""
    stamp = datetime.fromtimestamp(SystemClock().now(), UTC).isoformat(timespec="milliseconds")
    why = {"error_type": INTERRUPTED, "error_msg": IMPORTED_TEXT}
    file.run |= {"status": Status.PAUSED.value, "epoch": file.run["epoch"] + 1, **why}
    paused = dict.fromkeys(column.name for column in exported(events))
    paused |= {
        "event": "run_interrupted",
        "ts": stamp,
        "step": file.run["total_steps"],
        "error_msg": IMPORTED_TEXT,
    }
    file.events.append(paused)


def _named_blobs(file: RunFile) -> list[tuple[str, ...]]:
    """Check all values, and return the digests that the input and each checkpoint name."""
    texts = [file.run["input"] or "", *(row["store_json"] for row in file.checkpoints)]
    try:
        named = [tuple(_digests(text, file.blobs)) for text in texts]
        _load_all(texts[1:], [row["depth"] for row in file.checkpoints], file.blobs)
        Trail.load(Saved(texts[:1], file.blobs))
    except (ValueError, LookupError, StoreSerializationError) as exc:
        raise RunFileError(f"a checkpoint in the export cannot be read: {exc}") from exc
    unused = file.blobs.keys() - {digest for digests in named for digest in digests}
    if unused:
        raise RunFileError(f"the export has the blob {min(unused)!r}, which no checkpoint names")
    return named


def _digests(text: str, bodies: Mapping[str, str]) -> Sequence[str]:
    """Decode every value that the text adds, also those that a later step has written over."""
    if text.startswith("{"):
        codec.verify(text)
        return ()
    lines = list(parse(text))
    for line in lines:
        if line.sign != "-" and not line.is_secret:  # the key to that may be elsewhere
            _decode(line, bodies[line.payload] if line.in_blob else line.payload)
    return list(dict.fromkeys(line.payload for line in lines if line.in_blob))


def _decode(line: Line, payload: str) -> None:
    value = codec.verify(payload)
    if line.sign.startswith("+") and type(value) is not list:
        raise ValueError(f"{line.name!r} grows by a {type(value).__name__}")


def _load_all(texts: Sequence[str], depths: Sequence[int], bodies: Mapping[str, str]) -> None:
    """Load the last of each row of checkpoints that build on each other, and so all of them."""
    for step, depth in enumerate(depths):
        if not 0 <= depth <= step:
            raise ValueError(f"step {step} builds on {depth} others")
        if step + 1 == len(depths) or depths[step + 1] <= depth:
            Trail.load(Saved(texts[step - depth : step + 1], bodies))


def _try_out(file: RunFile, named: Sequence[tuple[str, ...]]) -> None:
    """Write the run into a database of its own, and see whether it keeps all promises there."""
    engine = create_engine("sqlite://")
    try:
        with engine.begin() as connection:
            metadata.create_all(connection)
            _insert(connection, file, named)
            # By a limit that is another one elsewhere, nothing here can be judged.
            broken = check(connection, max_crashes=file.run["crashes"])
    except SQLAlchemyError as exc:
        raise RunFileError(f"the run in the export cannot be written to a database: {exc}") from exc
    finally:
        engine.dispose()
    if broken:
        raise RunFileError(f"the run in the export breaks a promise: {broken[0].promise}")


def _insert(connection: Connection, file: RunFile, named: Sequence[tuple[str, ...]]) -> bool:
    """Write all rows; False, and nothing is written, if there is a run of this id."""
    run_id, dialect = file.run["run_id"], postgresql if connection.dialect.name == "postgresql" else sqlite
    of_run = {"run_id": run_id}
    run = _stored(connection, runs, file.run | {"input_blobs": " ".join(named[0]) or None, "dispatches": 0})
    new = dialect.insert(runs).values(run).on_conflict_do_nothing().returning(runs.c.run_id)
    if connection.execute(new).first() is None:
        return False
    # In one order, so that no two writers wait for each other.
    for digest, body in sorted(file.blobs.items()):
        blob = dialect.insert(blobs).values(digest=digest, body=body, used_at=NOW)
        kept = {"index_elements": ["digest"], "set_": {"used_at": blob.excluded.used_at}}
        connection.execute(blob.on_conflict_do_update(**kept))
    written = [
        _stored(connection, checkpoints, row | of_run | {"blobs": " ".join(digests) or None})
        for row, digests in zip(file.checkpoints, named[1:], strict=True)
    ]
    for table, rows in (
        (blob_uses, [of_run | {"digest": digest} for digest in file.blobs]),
        (checkpoints, written),
        (events, [_stored(connection, events, row | of_run) for row in file.events]),
    ):
        if rows:
            connection.execute(insert(table), rows)
    return True


def _stored(connection: Connection, table: Table, row: Row) -> dict[Any, Any]:
    """The row as the table takes it: by the keys of its columns, with moments as the database has them."""
    if connection.dialect.name == "postgresql":
        moments = {name: datetime.fromisoformat(row[name]) for name in MOMENTS if row.get(name) is not None}
        row = row | moments
    keys = {column.name: column.key for column in table.c}
    return {keys[name]: value for name, value in row.items()}
