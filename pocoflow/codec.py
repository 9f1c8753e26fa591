"""Values to JSON text and back: exactly, or not at all.

Plain values stand in the text as themselves. A value that JSON has no form for is an object with the
key `$t`: `{"$t": "tuple", "v": [1, 2]}`. A dict of the user's that JSON would change (keys that are no
strings, or a key `$t` of its own) is written as pairs, so no data can be taken for a tag. Decoding
builds only the types listed here and those that were registered, and never imports a name found in data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pocoflow.errors import StoreSerializationError, UnregisteredTypeError
from pocoflow.masked import Masked
from pocoflow.object_forms import form_of
from pocoflow.registered import known_class, known_name, usual_name
from pocoflow.scalars import CONTENT, SCALARS, TAG, Unfit, decode_scalar

MAX_DEPTH = 100
_MEGABYTE = 1 << 20
_ITEM, _FIELD = "[{!r}]", ".{}"
_AS_IT_IS = frozenset({str, bool, type(None)})
# What wrong text leads to, and what a registered class may raise while it is taken apart or put together.
_WRONG = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError)
# Begins the name of a key that is no text, or that would look like one.
_NO_TEXT = "$k"
_JSON = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def dumps(data: Mapping[str, Any]) -> str:
    """Return the data of a store as one ASCII JSON text.

    Raises:
        StoreSerializationError: A value has no exact form; the message names its place and type.
    """
    with _refusals():
        return _JSON.encode(_encode_dict(data, 0))


def dump_values(data: Mapping[Any, Any], *, max_mb: float = math.inf) -> dict[str, str]:
    """Return the data of a store as a JSON text for each key, by name: a name is a text for any key.

    Raises:
        StoreSerializationError: A value has no exact form, or the texts would take more than so many
            megabytes; the message names its place and type.
    """
    texts: dict[str, str] = {}
    key = None
    with _refusals():
        try:
            for key, item in data.items():
                texts[name_of(key)] = _JSON.encode(item if type(item) in _AS_IT_IS else _encode(item, 0))
        except _Refused as refused:
            refused.place.append(_ITEM.format(key))
            raise
    size = sum(map(len, texts.values()))
    if size > max_mb * _MEGABYTE:
        raise _too_large(data, texts, size, max_mb)
    return texts


def load_values(texts: Mapping[str, str]) -> dict[Any, Any]:
    """Return the data that `dump_values` wrote; raises as `loads` does."""
    return {key_of(name): _load(text) for name, text in texts.items()}


def loads(text: str) -> dict[str, Any]:
    """Return the data that `dumps` wrote.

    Raises:
        UnregisteredTypeError: It holds an object of a class that nobody has registered here.
        StoreSerializationError: The text is not what `dumps` writes.
    """
    data = _load(text)
    if not isinstance(data, dict):
        raise StoreSerializationError(f"checkpoint holds a {type(data).__name__} where a dict was expected")
    return data


def name_of(key: Any) -> str:
    """Return the name that `dump_values` gives a key."""
    if type(key) is str and not key.startswith(_NO_TEXT):
        return key
    return _NO_TEXT + _JSON.encode(_encode(key, 0))


def key_of(name: str) -> Any:
    """Return the key of this name."""
    return _load(name[len(_NO_TEXT) :]) if name.startswith(_NO_TEXT) else name


def _load(text: str, parser: json.JSONDecoder | None = None) -> Any:
    try:
        return (parser or _PARSER).decode(text)
    except StoreSerializationError:
        raise
    except _WRONG as exc:
        raise StoreSerializationError(f"checkpoint cannot be read back: {exc}") from exc


def verify(text: str) -> Any:
    """Decode a value as far as its classes are registered here; raises StoreSerializationError.

    For whoever passes it on: what it is an object of, only those need to know who read it.
    """
    return _load(text, _LENIENT_PARSER)


def why_not(cls: type) -> str | None:
    """Say why no checkpoint can carry an object of exactly this class; None if one can."""
    if cls in _AS_IT_IS or cls in _ENCODERS or cls in SCALARS:
        return None
    if cls is Masked:
        return "holds a mask in place of a secret that could not be read: set its value first"
    known = known_class(cls)
    if known is not None and known.form is not None:
        return None
    holds = f"holds a {usual_name(cls)}, which a checkpoint cannot carry exactly"
    if form_of(cls) is None:
        return f"{holds}: make it plain data (dict, list, str, number ...) before it goes into the store"
    return f"{holds} before it is registered: {_call_register(cls.__qualname__)}"


class _Refused(Exception):
    """A value that cannot be carried; its place is put together, innermost first, on the way out."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why
        self.place: list[str] = []


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except _Refused as refused:
        place = "".join(reversed(refused.place))
        raise StoreSerializationError(f"store{place[:200]} {refused.why}") from None


def _encode(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind in _AS_IT_IS:
        return value
    try:
        scalar = SCALARS.get(kind)
        if scalar is not None:
            return scalar(value)
        if depth > MAX_DEPTH:
            raise Unfit(f"is nested more than {MAX_DEPTH} levels deep or contains itself: flatten it")
        container = _ENCODERS.get(kind)
        if container is not None:
            return container(value, depth + 1)
        return _encode_object(value, kind, depth + 1)
    except Unfit as exc:
        raise _Refused(str(exc)) from exc


def _encode_list(value: Iterable[Any], depth: int) -> list[Any]:
    encoded: list[Any] = []
    try:
        for item in value:
            encoded.append(item if type(item) in _AS_IT_IS else _encode(item, depth))
    except _Refused as refused:
        refused.place.append(f"[{len(encoded)}]")
        raise
    return encoded


def _encode_dict(value: Mapping[Any, Any], depth: int, place: str = _ITEM) -> Any:
    encoded: dict[str, Any] = {}
    key = None
    try:
        for key, item in value.items():
            if type(key) is not str or key == TAG:
                break
            encoded[key] = item if type(item) in _AS_IT_IS else _encode(item, depth)
        else:
            return encoded
    except _Refused as refused:
        refused.place.append(place.format(key))
        raise
    return {TAG: "dict", CONTENT: _encode_pairs(value, depth)}


def _encode_pairs(value: Mapping[Any, Any], depth: int) -> list[Any]:
    encoded: list[Any] = []
    for index, (key, item) in enumerate(value.items()):
        pair: list[Any] = []
        try:
            pair.append(_encode(key, depth))
            pair.append(_encode(item, depth))
        except _Refused as refused:
            refused.place.append(f"[{_JSON.encode(pair[0])}]" if pair else f".keys()[{index}]")
            raise
        encoded.append(pair)
    return encoded


def _encode_object(value: Any, kind: type, depth: int) -> Any:
    registered = known_class(kind)
    if registered is None or registered.form is None:
        raise Unfit(str(why_not(kind)))
    try:
        parts = registered.form.take(value)
    except _WRONG as exc:
        raise Unfit(f"holds a {registered.name} that cannot be taken apart: {exc!r}") from exc
    encoded = {TAG: "object", "type": registered.name}
    for name, part in parts.items():
        encoded[name] = _encode_dict(part, depth, _FIELD) if type(part) is dict else _encode(part, depth)
    return encoded


def _tagged(tag: str) -> Callable[[Any, int], Any]:
    def encode(value: Iterable[Any], depth: int) -> Any:
        return {TAG: tag, CONTENT: _encode_list(value, depth)}

    return encode


def _encode_set(tag: str) -> Callable[[Any, int], Any]:
    def encode(value: Iterable[Any], depth: int) -> Any:
        # In one order, so that equal sets give equal text and a repeated start is recognised.
        return {TAG: tag, CONTENT: sorted(_encode_list(value, depth), key=json.dumps)}

    return encode


_ENCODERS: dict[type, Callable[[Any, int], Any]] = {
    list: _encode_list,
    dict: _encode_dict,
    tuple: _tagged("tuple"),
    set: _encode_set("set"),
    frozenset: _encode_set("frozenset"),
}
_CONTAINERS: dict[str, Callable[[Any], Any]] = {
    "dict": dict,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
}


def _untag(value: dict[str, Any]) -> Any:
    if TAG not in value:
        return value
    tag = value[TAG]
    if tag == "object":
        return _build_object(value)
    container = _CONTAINERS.get(tag)
    return decode_scalar(value) if container is None or len(value) > 2 else container(value[CONTENT])


def _build_object(value: dict[str, Any]) -> Any:
    name = value["type"]
    registered = known_name(name)
    if registered is None or registered.form is None:
        raise unregistered("checkpoint holds", name)
    try:
        return registered.form.build(value)
    except Unfit as exc:
        raise ValueError(f"it holds a {name}, but {exc}") from exc


def unregistered(who: str, name: str) -> UnregisteredTypeError:
    """Return the error for the name of a class that is in data and not among the registered ones."""
    advice = _call_register(str(name).rpartition(".")[2])
    return UnregisteredTypeError(f"{who} a {name}, which is not registered in this process: {advice}")


def _call_register(name: str) -> str:
    return f"call pocoflow.register_type({name}) in the module that defines the flow"


def _too_large(data: Mapping[Any, Any], texts: Mapping[str, str], size: int, max_mb: float) -> Exception:
    key, text = max(zip(data, texts.values(), strict=True), key=lambda pair: len(pair[1]))
    return StoreSerializationError(
        f"store takes {size / _MEGABYTE:.1f} MB, POCOFLOW_MAX_STORE_MB allows {max_mb:g}: "
        f"store[{str(key)[:200]!r}], a {type(data[key]).__name__}, has {len(text) / _MEGABYTE:.1f} MB of it: "
        "keep large data in a file or a database of its own, and its path or key in the store"
    )


def _untag_known(value: dict[str, Any]) -> Any:
    try:
        return _untag(value)
    except UnregisteredTypeError:
        return None


_PARSER = json.JSONDecoder(object_hook=_untag)
_LENIENT_PARSER = json.JSONDecoder(object_hook=_untag_known)
