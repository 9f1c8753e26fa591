"""Type annotations, as programs write them, to shapes that values can be checked against."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections import abc
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from numbers import Number, Real
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Literal, NotRequired, Required, Union, get_args, get_origin
from uuid import UUID

from pocoflow.errors import StoreSchemaError
from pocoflow.registered import register_from_schema
from pocoflow.shapes import Anything, Entries, Exactly, Instance, Items, Keys, OneOf, Row, Shape

_BUILTINS = (bool, int, float, str, bytes, list, tuple, set, frozenset, dict, object)
_OTHERS = (datetime, date, time, timedelta, Decimal, UUID, Path, PurePath, PurePosixPath, PureWindowsPath)
_ABSTRACT: tuple[Any, ...] = (
    *(abc.Sequence, abc.Mapping, abc.Set, abc.Collection, abc.Iterable, abc.Callable, Number, Real),
)
# What schemas may name without registering it.
COMMON: Mapping[str, type] = {
    **{cls.__name__: cls for cls in (*_BUILTINS, *_OTHERS, *_ABSTRACT)},
    "None": types.NoneType,
}
_NAMES = {cls: name for name, cls in COMMON.items()}
_OF_ITEMS = {list, set, frozenset, abc.Sequence, abc.Set, abc.Collection}
_OF_ENTRIES = {dict, abc.Mapping}
_UNIONS = {Union, types.UnionType}
_WRAPPERS = {Annotated, Required, NotRequired, *filter(None, [getattr(typing, "ReadOnly", None)])}

Parents = frozenset[type]


def shape_of(expected: Any, parents: Parents = frozenset()) -> Shape:
    """Return the shape that a type, a tuple of types or a form like `list[str] | None` stands for.

    Args:
        parents: TypedDicts around it; within itself, one counts as a dict.

    Raises:
        StoreSchemaError: No value can be checked against it.
        DefinitionError: Another class is registered by the name of one in it.
    """
    if expected is Any:
        return Anything()
    if isinstance(expected, tuple):
        return OneOf(_shapes(expected, parents))
    origin, args = get_origin(expected), get_args(expected)
    if origin in _WRAPPERS:
        return shape_of(args[0], parents)
    if origin is Literal:
        for member in args:
            if isinstance(member, Enum):
                register_from_schema(type(member))
        return Exactly(args)
    if origin in _UNIONS:
        return OneOf(_shapes(args, parents))
    if isinstance(origin, type):
        return _generic(expected, origin, args, parents)
    if isinstance(expected, typing.NewType):
        return shape_of(expected.__supertype__, parents)
    if hasattr(expected, "__value__"):  # what the statement `type` makes, from Python 3.12
        return shape_of(expected.__value__, parents)
    if not isinstance(expected, type):
        raise StoreSchemaError(f"{expected!r} is no type")
    if is_typed_dict(expected):
        return COMMON_DICT if expected in parents else _typed_dict(expected, parents)
    return _instance(expected)


def fields_of(cls: type) -> tuple[dict[str, Any], frozenset[str]]:
    """Return the types of a class that describes a whole store, by key, and the keys it requires.

    Raises:
        StoreSchemaError: It is no TypedDict, dataclass or Pydantic model, or names what is not there.
    """
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except (NameError, TypeError) as exc:
        raise StoreSchemaError(f"schema {cls.__qualname__} cannot be read: {exc}") from exc
    if is_typed_dict(cls):
        return hints, _required_keys(cls, hints)
    if hasattr(cls, "model_fields"):
        fields = cls.model_fields.items()
        return {name: field.annotation for name, field in fields}, frozenset(
            name for name, field in fields if field.is_required()
        )
    if dataclasses.is_dataclass(cls):
        nothing = dataclasses.MISSING
        required = (f.name for f in dataclasses.fields(cls) if f.default is f.default_factory is nothing)
        return {f.name: hints[f.name] for f in dataclasses.fields(cls)}, frozenset(required)
    raise StoreSchemaError(
        f"a schema is a dict, or a TypedDict, dataclass or Pydantic model class, got {cls.__qualname__}"
    )


def is_typed_dict(cls: type) -> bool:
    # Not typing.is_typeddict, which does not know those of typing_extensions.
    return issubclass(cls, dict) and hasattr(cls, "__required_keys__")


COMMON_DICT = Instance(dict, "dict")


def _shapes(options: tuple[Any, ...], parents: Parents) -> tuple[Shape, ...]:
    return tuple(shape_of(option, parents) for option in options)


def _instance(cls: type) -> Instance:
    try:
        isinstance(None, cls)
    except TypeError as exc:
        raise StoreSchemaError(f"{cls!r} cannot be checked: {exc}") from exc
    name = _NAMES.get(cls)
    if name is None:
        register_from_schema(cls)
    return Instance(cls, name)


def _generic(expected: Any, origin: type, args: tuple[Any, ...], parents: Parents) -> Shape:
    if origin is tuple:
        if len(args) == 2 and args[1] is ...:
            return Items(Instance(tuple, "tuple"), shape_of(args[0], parents))
        return Row(_shapes(args, parents))
    if origin in _OF_ITEMS and args:
        return Items(_instance(origin), shape_of(args[0], parents))
    if origin in _OF_ENTRIES and args:
        return Entries(_instance(origin), shape_of(args[0], parents), shape_of(args[1], parents))
    if args and not hasattr(origin, "__parameters__"):
        raise StoreSchemaError(f"the inside of {expected!r} cannot be checked: name {origin.__name__} alone")
    return _instance(origin)


def _typed_dict(cls: type, parents: Parents) -> Keys:
    hints, required = fields_of(cls)
    inside = parents | {cls}
    return Keys({key: shape_of(hint, inside) for key, hint in hints.items()}, required, cls.__name__)


def _required_keys(cls: Any, hints: Mapping[str, Any]) -> frozenset[str]:
    # Python misses what is marked in annotations that are texts, as `from __future__` makes them.
    marked = {key: get_origin(hint) for key, hint in hints.items()}
    required = {key for key, mark in marked.items() if mark is Required}
    optional = {key for key, mark in marked.items() if mark is NotRequired}
    return frozenset((cls.__required_keys__ | required) - optional)
