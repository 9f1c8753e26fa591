"""How objects of a class are taken apart into plain parts, and put together again without its constructor."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from enum import EnumMeta, Flag
from functools import cached_property
from typing import Any, Protocol

from pocoflow.scalars import CONTENT, Unfit

Parts = Mapping[str, Any]
_NO_DEFAULT = object()


class Form(Protocol):
    def take(self, value: Any) -> Parts:
        """Return what the object consists of, `CONTENT` first; raises Unfit."""
        ...

    def build(self, parts: Parts) -> Any:
        """Return the object that `take` took apart; raises Unfit and whatever wrong parts lead to."""
        ...


def form_of(cls: type) -> Form | None:
    """Return how objects of this class are carried, or None if they cannot be."""
    if isinstance(cls, EnumMeta):
        return FlagForm(cls) if issubclass(cls, Flag) else EnumForm(cls)
    if hasattr(cls, "__pydantic_validator__") and hasattr(cls, "model_fields"):
        return ModelForm(cls)
    if dataclasses.is_dataclass(cls):
        return DataclassForm(cls) if _is_plain(cls) else None
    if issubclass(cls, tuple) and hasattr(cls, "_fields") and hasattr(cls, "_field_defaults"):
        return NamedTupleForm(cls)
    return None


class EnumForm:
    """A member by its name, so that its value may change."""

    def __init__(self, cls: Any) -> None:
        self._cls = cls

    def take(self, value: Any) -> Parts:
        return {CONTENT: value.name}

    def build(self, parts: Parts) -> Any:
        return self._cls[parts[CONTENT]]


class FlagForm:
    """By its value: a combination of members has no name of its own."""

    def __init__(self, cls: Any) -> None:
        self._cls = cls

    def take(self, value: Any) -> Parts:
        return {CONTENT: value.value}

    def build(self, parts: Parts) -> Any:
        return self._cls(parts[CONTENT])


class DataclassForm:
    """By all fields, also those that `__post_init__` computes; it is not run again."""

    def __init__(self, cls: type) -> None:
        self._cls = cls
        self._fields = {field.name: field for field in dataclasses.fields(cls)}
        self._slots = [name for base in cls.__mro__ for name in _slots(base) if name not in self._fields]

    def take(self, value: Any) -> Parts:
        _refuse_strangers(value, self._fields, self._slots)
        try:
            return {CONTENT: {name: getattr(value, name) for name in self._fields}}
        except AttributeError as exc:
            raise Unfit(f"{_holds(value)} without one of its fields: {exc}") from exc

    def build(self, parts: Parts) -> Any:
        built: Any = object.__new__(self._cls)
        for name, item in _completed(parts[CONTENT], self._fields, self._default).items():
            object.__setattr__(built, name, item)
        return built

    def _default(self, name: str) -> Any:
        field = self._fields[name]
        if field.default_factory is not dataclasses.MISSING:
            return field.default_factory()
        return _NO_DEFAULT if field.default is dataclasses.MISSING else field.default


class NamedTupleForm:
    def __init__(self, cls: type) -> None:
        self._cls = cls
        self._names: tuple[str, ...] = cls._fields  # type: ignore[attr-defined]
        self._defaults: Mapping[str, Any] = cls._field_defaults  # type: ignore[attr-defined]

    def take(self, value: Any) -> Parts:
        _refuse_strangers(value, ())
        if len(value) != len(self._names):
            raise Unfit(f"{_holds(value)} with {len(value)} items for {len(self._names)} fields")
        return {CONTENT: dict(zip(self._names, value, strict=True))}

    def build(self, parts: Parts) -> Any:
        items = _completed(parts[CONTENT], self._names, lambda name: self._defaults.get(name, _NO_DEFAULT))
        return tuple.__new__(self._cls, [items[name] for name in self._names])


class ModelForm:
    """A Pydantic model as it is, validated or not; Pydantic itself is not imported here."""

    def __init__(self, cls: Any) -> None:
        self._cls = cls

    def take(self, value: Any) -> Parts:
        state, fields = value.__getstate__(), self._cls.model_fields
        _refuse_strangers(value, fields)
        try:
            parts = {CONTENT: {name: state["__dict__"][name] for name in fields}}
        except KeyError as exc:
            raise Unfit(f"{_holds(value)} without one of its fields: {exc}") from exc
        more = {
            "unset": sorted(fields.keys() - state["__pydantic_fields_set__"]),
            "extra": state["__pydantic_extra__"],
            "private": state["__pydantic_private__"],
        }
        return {**parts, **{name: part for name, part in more.items() if part}}

    def build(self, parts: Parts) -> Any:
        fields = self._cls.model_fields
        content = _completed(parts[CONTENT], fields, self._default)
        allows_extra = self._cls.model_config.get("extra") == "allow"
        extra = parts.get("extra", {} if allows_extra else None)
        no_private: dict[str, Any] | None = {} if self._cls.__private_attributes__ else None
        built = self._cls.__new__(self._cls)
        built.__setstate__(
            {
                "__dict__": content,
                "__pydantic_extra__": extra,
                "__pydantic_fields_set__": {*parts[CONTENT], *(extra or ())} - {*parts.get("unset", ())},
                "__pydantic_private__": parts.get("private", no_private),
            }
        )
        return built

    def _default(self, name: str) -> Any:
        field = self._cls.model_fields[name]
        return _NO_DEFAULT if field.is_required() else field.get_default(call_default_factory=True)


def _is_plain(cls: type) -> bool:
    """Whether an object is no more than its attributes, in contrast to a dict, or an exception."""
    try:
        object.__new__(cls)
    except TypeError:
        return False
    return True


def _holds(value: Any) -> str:
    return f"holds a {type(value).__module__}.{type(value).__qualname__}"


def _slots(cls: type) -> Iterable[str]:
    names = cls.__dict__.get("__slots__", ())
    return (names,) if isinstance(names, str) else names


def _refuse_strangers(value: Any, fields: Iterable[str], slots: Iterable[str] = ()) -> None:
    """Raise Unfit for an attribute that is no field: it would be lost."""
    there = getattr(value, "__dict__", {}).keys() - fields
    for name in there.union(slot for slot in slots if hasattr(value, slot)):
        # What is computed when it is first read, is computed again; dunder names are Python's own notes.
        if not isinstance(getattr(type(value), name, None), cached_property) and not name.startswith("__"):
            raise Unfit(f"{_holds(value)} with an attribute {name!r} that is no field, and would be lost")


def _completed(content: Any, fields: Iterable[str], default: Any) -> dict[str, Any]:
    """What was carried, and the defaults of fields that the class did not have then; raises Unfit."""
    there = dict(content)
    unknown = there.keys() - fields
    if unknown:
        raise Unfit(f"it has no field {min(unknown)!r} here")
    for name in fields:
        if name not in there:
            there[name] = default(name)
            if there[name] is _NO_DEFAULT:
                raise Unfit(f"its field {name!r} is not there and has no default")
    return there
