"""A run as one file: JSON that a human can read, with all that its history holds, and a checksum.

What a file says is checked before any of it is written: whoever imports one has made it, or has not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

from sqlalchemy import BigInteger, Column, Double, Integer, Table

from pocoflow.db.schema import checkpoints, events, runs
from pocoflow.engine.graph import MAX_NAME_LENGTH
from pocoflow.engine.identity import checked_id
from pocoflow.errors import DefinitionError, RunFileError

FORMAT = "pocoflow run"
VERSION = 1
Row = dict[str, Any]

# What is about the place where a run is executed, or is told by something else in the file.
_LEFT_OUT = {
    runs: {"home", "owner", "want", "wake_at", "dispatches", "unroutable_at", "input_blobs"},
    checkpoints: {"id", "run_id", "blobs"},
    events: {"id", "run_id"},
}
# Texts of checkpoints, which are told as their lines.
_IN_LINES = ("input", "store_json")
MOMENTS = ("created_at", "started_at", "completed_at", "ts")
_IDS = (
    "run_id",
    "node_name",
    "current_node",
    "next_node",
    "first_node",
    "queue",
    "next_queue",
    "first_queue",
)


@dataclass(slots=True)
class RunFile:
    """What a file holds: rows by the names of their columns, and the blobs that they name, by digest."""

    run: Row
    checkpoints: list[Row]
    events: list[Row]
    blobs: dict[str, str]


def exported(table: Table) -> list[Column[Any]]:
    """The columns of a table that go into a file."""
    return [column for column in table.c if column.name not in _LEFT_OUT[table]]


def write(file: RunFile, *, written_by: str) -> str:
    """Return the text of the file."""
    content = {
        "run": _with_lines(file.run),
        "checkpoints": [_with_lines(row) for row in file.checkpoints],
        "events": file.events,
        "blobs": dict(sorted(file.blobs.items())),
    }
    head = {"format": FORMAT, "version": VERSION, "written_by": written_by, "sha256": _checksum(content)}
    return json.dumps(head | content, indent=2, allow_nan=False) + "\n"


def read(text: str) -> RunFile:
    """Return what a file holds; raises RunFileError for a text that `write` has not written."""
    data = _object(text)
    if data.get("format") != FORMAT:
        raise RunFileError("this is no export of a run: `pocoflow export` writes one")
    if data.get("version") != VERSION:
        raise RunFileError(
            f"the export has version {data.get('version')!r}, and here version {VERSION} is known: use the "
            f"PocoFlow that wrote it ({data.get('written_by')})"
        )
    content = {name: data.get(name) for name in ("run", "checkpoints", "events", "blobs")}
    if data.get("sha256") != _checksum(content):
        raise RunFileError("the export was changed after it was written: its checksum does not fit")
    run, *rows = (content[name] for name in ("run", "checkpoints", "events"))
    lists = [_listed(found, where) for found, where in zip(rows, ("checkpoints", "events"), strict=True)]
    return RunFile(
        run=_row(runs, run, "run"),
        checkpoints=[_row(checkpoints, row, f"checkpoints[{n}]") for n, row in enumerate(lists[0])],
        events=[_row(events, row, f"events[{n}]") for n, row in enumerate(lists[1])],
        blobs=_blobs(content["blobs"]),
    )


def _checksum(content: Mapping[str, Any]) -> str:
    """Of the content, however it is laid out in the file."""
    return sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode("ascii")).hexdigest()


def _with_lines(row: Row) -> Row:
    return {
        name: value.split("\n") if name in _IN_LINES and value is not None else value
        for name, value in row.items()
    }


def _object(text: str) -> dict[str, Any]:
    try:
        data = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as exc:
        raise RunFileError(f"this is no export of a run: {exc}") from exc
    if not isinstance(data, dict):
        raise RunFileError(f"this is no export of a run: it holds a {type(data).__name__}")
    return data


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _listed(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise RunFileError(f"{where} of the export must be a list, not a {type(value).__name__}")
    return value


def _blobs(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(
        isinstance(body, str) and body.isascii() for body in value.values()
    ):
        raise RunFileError("blobs of the export must be ASCII texts by digest")
    for digest, body in value.items():
        if sha256(body.encode("ascii")).hexdigest() != digest:
            raise RunFileError(f"blob {digest[:80]!r} of the export is not what its digest says")
    return value


def _row(table: Table, value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise RunFileError(f"{where} of the export must be an object, not a {type(value).__name__}")
    columns = {column.name: column for column in exported(table)}
    unknown = [name for name in value if name not in columns]
    if unknown:
        raise RunFileError(f"{where} of the export has {unknown[0][:80]!r}, which is not known here")
    return {name: _value(column, value.get(name), f"{where}.{name}") for name, column in columns.items()}


def _value(column: Column[Any], value: Any, where: str) -> Any:
    if value is None:
        if not column.nullable:
            raise RunFileError(f"{where} of the export is missing")
        return None
    if column.name in _IN_LINES:
        value = "\n".join(_texts(value, where))
    problem = next(_problems(column, value), None)
    if problem is not None:
        raise RunFileError(f"{where} of the export {problem}, got {str(value)[:80]!r}")
    return value


def _texts(value: Any, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(line, str) and line.isascii() for line in value):
        raise RunFileError(f"{where} of the export must be a list of ASCII texts")
    return value


def _problems(column: Column[Any], value: Any) -> Iterator[str]:
    if isinstance(column.type, Integer):
        bits = 63 if isinstance(column.type, BigInteger) else 31
        if type(value) is not int or not -(2**bits) <= value < 2**bits:
            yield "must be a whole number"
    elif isinstance(column.type, Double):
        if type(value) not in (int, float) or abs(value) > 1e300:
            yield "must be a number"
    elif not isinstance(value, str) or "\0" in value or value != value.encode(errors="ignore").decode():
        yield "must be a text that a database can hold"
    elif column.name in MOMENTS and not _is_moment(value):
        yield "must be a moment as ISO 8601 text with its offset"
    elif column.name in _IDS and not _is_id(value):
        yield f"must be a name of at most {MAX_NAME_LENGTH} printable characters"


def _is_moment(value: str) -> bool:
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def _is_id(value: str) -> bool:
    try:
        checked_id(value, "id")
    except DefinitionError:
        return False
    return True
