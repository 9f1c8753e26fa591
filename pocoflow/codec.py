"""Values to JSON text and back: exactly, or not at all.

Plain values stand in the text as themselves. A value that JSON has no form for is an object with the
key `$t`: `{"$t": "tuple", "v": [1, 2]}`. A dict of the user's that JSON would change (keys that are no
strings, or a key `$t` of its own) is written as pairs, so no data can be taken for a tag. Decoding
builds only the types listed here and never imports a name found in data.
"""

from __future__ import annotations

import json
import math
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from pocoflow.errors import StoreSerializationError

TAG = "$t"
MAX_DEPTH = 100
_JSON_INT_LIMIT = 2**63
# Begins the name of a key that is no text, or that would look like one.
_NO_TEXT = "$k"
_JSON = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def dumps(data: Mapping[str, Any]) -> str:
    """Return the data of a store as ASCII JSON text.

    Raises:
        StoreSerializationError: A value has no exact form; the message names its place and type.
    """
    return _JSON.encode(_encode_pairs(data.items(), "store", 0))


def loads(text: str) -> dict[str, Any]:
    """Return the data that `dumps` wrote.

    Raises:
        StoreSerializationError: The text is not what `dumps` writes.
    """
    data = _load(text)
    if not isinstance(data, dict):
        raise StoreSerializationError(f"checkpoint holds a {type(data).__name__} where a dict was expected")
    return data


def dump_values(data: Mapping[Any, Any]) -> dict[str, str]:
    """Return the data of a store as a JSON text for each key, by name: a name is a text for any key.

    Raises:
        StoreSerializationError: A value has no exact form; the message names its place and type.
    """
    return {_name(key): _JSON.encode(_encode(value, f"store[{key!r}]", 0)) for key, value in data.items()}


def load_values(texts: Mapping[str, str]) -> dict[Any, Any]:
    """Return the data that `dump_values` wrote.

    Raises:
        StoreSerializationError: A text is not what `dump_values` writes.
    """
    return {_key(name): _load(text) for name, text in texts.items()}


def _name(key: Any) -> str:
    if type(key) is str and not key.startswith(_NO_TEXT):
        return key
    return _NO_TEXT + _JSON.encode(_encode(key, f"the key {key!r} of store", 0))


def _key(name: str) -> Any:
    return _load(name[len(_NO_TEXT) :]) if name.startswith(_NO_TEXT) else name


def _load(text: str) -> Any:
    try:
        return _PARSER.decode(text)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as exc:
        raise StoreSerializationError(f"checkpoint cannot be read back: {exc}") from exc


def _encode(value: Any, path: str, depth: int) -> Any:
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if depth > MAX_DEPTH:
        raise StoreSerializationError(
            f"{path[:200]} is nested more than {MAX_DEPTH} levels deep or contains itself: flatten it"
        )
    encode = _ENCODERS.get(kind)
    if encode is not None:
        return encode(value, path, depth + 1)
    scalar = _SCALARS.get(kind)
    if scalar is not None:
        return {TAG: scalar[0], "v": scalar[1](value)}
    raise StoreSerializationError(
        f"{path[:200]} holds a {kind.__module__}.{kind.__qualname__}, which a checkpoint cannot carry "
        "exactly: make it plain data (dict, list, str, number ...) before it goes into the store"
    )


def _encode_int(value: int, path: str, depth: int) -> Any:
    # Python refuses to read a very long decimal number back, so large ones are written in hexadecimal.
    return value if -_JSON_INT_LIMIT < value < _JSON_INT_LIMIT else {TAG: "int", "v": hex(value)}


def _encode_float(value: float, path: str, depth: int) -> Any:
    return value if math.isfinite(value) else {TAG: "float", "v": repr(value)}


def _encode_list(value: Iterable[Any], path: str, depth: int) -> list[Any]:
    return [_encode(item, f"{path}[{index}]", depth) for index, item in enumerate(value)]


def _encode_dict(value: dict[Any, Any], path: str, depth: int) -> Any:
    if TAG not in value and all(type(key) is str for key in value):
        return _encode_pairs(value.items(), path, depth)
    return {TAG: "dict", "v": _encode_list([list(pair) for pair in value.items()], path, depth)}


def _encode_pairs(pairs: Iterable[tuple[Any, Any]], path: str, depth: int) -> Any:
    encoded: dict[Any, Any] = {}
    for key, value in pairs:
        if type(key) is not str or key == TAG:
            return _encode_dict(dict(pairs), path, depth)
        encoded[key] = _encode(value, f"{path}[{key!r}]", depth)
    return encoded


def _tagged(tag: str) -> Callable[[Any, str, int], Any]:
    def encode(value: Iterable[Any], path: str, depth: int) -> Any:
        return {TAG: tag, "v": _encode_list(value, path, depth)}

    return encode


def _encode_set(tag: str) -> Callable[[Any, str, int], Any]:
    def encode(value: Iterable[Any], path: str, depth: int) -> Any:
        # In one order, so that equal sets give equal text and a repeated start is recognised.
        return {TAG: tag, "v": sorted(_encode_list(value, path, depth), key=json.dumps)}

    return encode


def _encode_moment(tag: str) -> Callable[[Any, str, int], Any]:
    def encode(value: datetime | time, path: str, depth: int) -> Any:
        zone = value.tzinfo
        extra: dict[str, Any] = {"fold": 1} if value.fold else {}
        # A geographic zone would come back as a bare offset, with other daylight saving rules.
        if zone is not None and type(zone) is not timezone:
            raise StoreSerializationError(
                f"{path[:200]} holds a {tag} in the zone {zone}, which a checkpoint cannot carry exactly: "
                "store it in UTC (value.astimezone(timezone.utc))"
            )
        if zone is not None and zone is not UTC:
            # ISO text has no place for the name of an offset, and Python reads some offsets back wrong.
            extra["zone"] = _encode_list((zone.utcoffset(None), zone.tzname(None)), path, depth)
            value = value.replace(tzinfo=None)
        return {TAG: tag, "v": value.isoformat(), **extra}

    return encode


_ENCODERS: dict[type, Callable[[Any, str, int], Any]] = {
    int: _encode_int,
    float: _encode_float,
    list: _encode_list,
    dict: _encode_dict,
    tuple: _tagged("tuple"),
    set: _encode_set("set"),
    frozenset: _encode_set("frozenset"),
    datetime: _encode_moment("datetime"),
    time: _encode_moment("time"),
}
_SCALARS: dict[type, tuple[str, Callable[[Any], Any]]] = {
    bytes: ("bytes", lambda value: b64encode(value).decode("ascii")),
    date: ("date", date.isoformat),
    timedelta: ("timedelta", lambda value: [value.days, value.seconds, value.microseconds]),
    Decimal: ("decimal", str),
    UUID: ("uuid", str),
    type(Path()): ("path", str),
}
_DECODERS: dict[str, Callable[[Any], Any]] = {
    "int": lambda value: int(value, 16),
    "float": float,
    "dict": dict,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "bytes": lambda value: b64decode(value, validate=True),
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "timedelta": lambda value: timedelta(*value),
    "decimal": Decimal,
    "uuid": UUID,
    "path": Path,
}


def _untag(value: dict[str, Any]) -> Any:
    if TAG not in value:
        return value
    tag = value[TAG]
    decode = _DECODERS.get(tag)
    if decode is None:
        raise ValueError(f"unknown tag {tag!r}, perhaps of a newer PocoFlow")
    decoded = decode(value["v"])
    if "zone" in value:
        decoded = decoded.replace(tzinfo=timezone(*value["zone"]))
    return decoded.replace(fold=1) if value.get("fold") else decoded


_PARSER = json.JSONDecoder(object_hook=_untag)
