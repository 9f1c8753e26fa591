"""Values without parts to JSON and back.

What JSON has no form for is tagged: `{"$t": "date", "v": "2026-03-01"}`.
"""

from __future__ import annotations

import math
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

TAG = "$t"
CONTENT = "v"
_JSON_INT_LIMIT = 2**63

Encode = Callable[[Any], Any]


class Unfit(Exception):
    """A value of which its text would not tell all, or text that makes no value; says why."""


def decode_scalar(tagged: Mapping[str, Any]) -> Any:
    """Return the value that was tagged; raises ValueError, and whatever else wrong content leads to."""
    decode = _DECODERS.get(tagged[TAG])
    if decode is None:
        raise ValueError(f"unknown tag {tagged[TAG]!r}, perhaps of a newer PocoFlow")
    value = decode(tagged[CONTENT])
    if "zone" in tagged:
        value = value.replace(tzinfo=timezone(*tagged["zone"]))
    elif "key" in tagged:
        value = value.replace(tzinfo=ZoneInfo(tagged["key"]))
    return value.replace(fold=1) if tagged.get("fold") else value


def _int(value: int) -> Any:
    # Python refuses to read a very long decimal number back, so large ones are written in hexadecimal.
    return value if -_JSON_INT_LIMIT < value < _JSON_INT_LIMIT else {TAG: "int", CONTENT: hex(value)}


def _float(value: float) -> Any:
    return value if math.isfinite(value) else {TAG: "float", CONTENT: repr(value)}


def _timedelta(value: timedelta) -> Any:
    return {TAG: "timedelta", CONTENT: [value.days, value.seconds, value.microseconds]}


def _text(tag: str, text: Callable[[Any], str] = str) -> Encode:
    return lambda value: {TAG: tag, CONTENT: text(value)}


def _moment(tag: str) -> Encode:
    def encode(value: datetime | time) -> Any:
        zone = value.tzinfo
        extra: dict[str, Any] = {"fold": 1} if value.fold else {}
        if zone is UTC or zone is None:
            return {TAG: tag, CONTENT: value.isoformat(), **extra}
        if type(zone) is ZoneInfo and zone.key is not None:
            extra["key"] = zone.key
        elif type(zone) is timezone:
            # ISO text has no place for the name of an offset, and Python reads some offsets back wrong.
            extra["zone"] = [_timedelta(zone.utcoffset(None)), zone.tzname(None)]
        else:
            raise Unfit(
                f"holds a {tag} in the zone {zone!r}, which a checkpoint cannot carry exactly: use one that "
                "zoneinfo.ZoneInfo knows by its name, or store it in UTC (value.astimezone(timezone.utc))"
            )
        return {TAG: tag, CONTENT: value.replace(tzinfo=None).isoformat(), **extra}

    return encode


SCALARS: Mapping[type, Encode] = {
    int: _int,
    float: _float,
    bytes: _text("bytes", lambda value: b64encode(value).decode("ascii")),
    datetime: _moment("datetime"),
    date: _text("date", date.isoformat),
    time: _moment("time"),
    timedelta: _timedelta,
    Decimal: _text("decimal"),
    UUID: _text("uuid"),
    type(Path()): _text("path"),
    PurePosixPath: _text("posix_path"),
    PureWindowsPath: _text("windows_path"),
}
_DECODERS: Mapping[str, Callable[[Any], Any]] = {
    "int": lambda value: int(value, 16),
    "float": float,
    "bytes": lambda value: b64decode(value, validate=True),
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "timedelta": lambda value: timedelta(*value),
    "decimal": Decimal,
    "uuid": UUID,
    "path": Path,
    "posix_path": PurePosixPath,
    "windows_path": PureWindowsPath,
}
