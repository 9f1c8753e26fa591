"""Schemas: which type each key of a store takes, from what a program gives to text and back.

Saved, a class is only a name, which is looked up among the registered classes and never imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pocoflow import codec
from pocoflow.annotations import COMMON, fields_of, shape_of
from pocoflow.errors import StoreSchemaError, StoreSerializationError, UnregisteredTypeError
from pocoflow.logging import WARNING, get_logger, log_event
from pocoflow.registered import known_name
from pocoflow.shapes import Anything, Entries, Exactly, Instance, Items, Keys, OneOf, Row, Shape

log = get_logger("store")


class Schema:
    """The types of a store's keys.

    Attributes:
        shapes: What each key takes; a key that is not here takes anything.
        required: Keys that a complete store has.
    """

    __slots__ = ("required", "shapes")

    def __init__(self, shapes: Mapping[str, Shape], required: frozenset[str]) -> None:
        self.shapes = shapes
        self.required = required

    @classmethod
    def of(cls, given: Any) -> Self:
        """Read what a program gave: a mapping, or a TypedDict, dataclass or Pydantic model class.

        The classes in it are registered, so that a store that holds objects of them can be saved.

        Raises:
            StoreSchemaError: It names something that no value can be checked against.
            DefinitionError: Another class is registered by the name of one in it.
        """
        if isinstance(given, cls):
            return given
        if isinstance(given, Mapping):
            types, required = given, frozenset(given)
        elif isinstance(given, type):
            types, required = fields_of(given)
        else:
            raise StoreSchemaError(f"a schema is a dict or a class, got {given!r}")
        return cls({key: _shape_of(key, expected) for key, expected in types.items()}, required)

    @classmethod
    def loads(cls, text: str, *, lenient: bool = False) -> Self:
        """Return the schema that `dumps` wrote.

        Args:
            lenient: Leave out, with a warning in the log, a key whose class is not registered here.

        Raises:
            UnregisteredTypeError: It names a class that is not registered here.
            StoreSerializationError: The text is not what `dumps` writes.
        """
        try:
            return cls(*_read(codec.loads(text), lenient=lenient))
        except UnregisteredTypeError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise StoreSerializationError(f"saved schema cannot be read: {exc!r}") from exc

    def __bool__(self) -> bool:
        return bool(self.shapes)

    def dumps(self) -> str:
        """Return the schema as JSON text.

        Raises:
            StoreSchemaError: It has a class of which a checkpoint can carry no object.
        """
        keys = {key: shape.tree() for key, shape in self.shapes.items()}
        return codec.dumps({"keys": keys, "required": sorted(self.required, key=str)})


def _shape_of(key: str, expected: Any) -> Shape:
    try:
        if expected is None:
            raise StoreSchemaError("None is the only value of its type")
        return shape_of(expected)
    except StoreSchemaError as exc:
        raise StoreSchemaError(
            f"schema of key {key!r} must be a type or a tuple of types (list[str], str | None, Literal ... "
            f"are types too), got {expected!r}: {exc}"
        ) from exc


def _read(tree: dict[str, Any], *, lenient: bool) -> tuple[dict[str, Shape], frozenset[str]]:
    shapes: dict[str, Shape] = {}
    for key, saved in tree["keys"].items():
        try:
            shapes[key] = _shape_from(saved)
        except UnregisteredTypeError as exc:
            if not lenient:
                raise
            log_event(log, "values of a key are not checked", level=WARNING, key=key, error=str(exc))
    return shapes, frozenset(tree["required"])


def _shape_from(saved: Any) -> Shape:
    """Return the shape whose `tree` this is."""
    match saved:
        case "Any":
            return Anything()
        case str():
            return Instance(COMMON[saved], saved)
        case {"class": name}:
            return Instance(_registered(name))
        case {"of": container, "items": item}:
            return Items(_instance_from(container), _shape_from(item))
        case {"of": container, "keys": key, "values": value}:
            return Entries(_instance_from(container), _shape_from(key), _shape_from(value))
        case {"any_of": options}:
            return OneOf(tuple(map(_shape_from, options)))
        case {"values": values}:
            return Exactly(tuple(map(_literal_from, values)))
        case {"row": places}:
            return Row(tuple(map(_shape_from, places)))
        case {"dict": shapes, "required": required, "name": name}:
            inner = {key: _shape_from(shape) for key, shape in shapes.items()}
            return Keys(inner, frozenset(required), name)
    raise StoreSchemaError(f"saved schema has {saved!r}, which is no type, perhaps of a newer PocoFlow")


def _instance_from(saved: str) -> Instance:
    return Instance(COMMON[saved], saved)


def _literal_from(saved: Any) -> Any:
    match saved:
        case {"enum": name, "member": member}:
            return _registered(name)[member]
    return saved


def _registered(name: str) -> Any:
    known = known_name(name)
    if known is None:
        raise codec.unregistered("schema of the store names", name)
    return known.cls
