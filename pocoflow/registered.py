"""The classes that may be rebuilt from data: those that somebody has registered, and no other.

A name found in data is looked up here and never imported. An object comes back as it was, field by field;
no constructor, validator or `__post_init__` of its class is run again.
"""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, overload

from pocoflow.errors import DefinitionError, StoreSchemaError
from pocoflow.object_forms import Form, form_of

C = TypeVar("C", bound=type)


@dataclass(frozen=True, slots=True)
class Registered:
    """A class and how its objects are carried; None for a base class that has no objects of its own."""

    name: str
    cls: type
    form: Form | None


_by_class: dict[type, Registered] = {}
_by_name: dict[str, Registered] = {}
known_class = _by_class.get
known_name = _by_name.get


@overload
def register_type(cls: C, *, name: str | None = None) -> C: ...


@overload
def register_type(*, name: str | None = None) -> Callable[[C], C]: ...


def register_type(cls: C | None = None, *, name: str | None = None) -> C | Callable[[C], C]:
    """Allow objects of this class in stores; returns the class, so that it can decorate it.

    For enums, dataclasses, NamedTuples and Pydantic models, and for abstract classes that a schema names.
    Call it wherever the class is read back, so best in the module that defines it.

    Args:
        cls: Left out when used as a decorator with arguments.
        name: What stands for the class in checkpoints; its module and name by default. A class may have
            several: all of them are read, and the last one is written.

    Raises:
        DefinitionError: Another class has this name, or the class cannot be rebuilt.
    """
    if cls is None:
        return lambda decorated: register_type(decorated, name=name)
    if not isinstance(cls, type):
        raise DefinitionError(f"register_type takes a class, got {cls!r}")
    form = form_of(cls)
    if form is None and not isinstance(cls, ABCMeta):
        raise DefinitionError(
            f"{usual_name(cls)} cannot be rebuilt from a checkpoint: make it a dataclass, a NamedTuple, an "
            "Enum or a Pydantic model, which do not extend a builtin type"
        )
    _register(cls, usual_name(cls) if name is None else name, form)
    return cls


def register_from_schema(cls: type) -> None:
    """Register a class that a schema names, unless it is registered; raises DefinitionError."""
    if known_class(cls) is None:
        _register(cls, usual_name(cls), form_of(cls))


def name_for_schema(cls: type) -> str:
    """Return what stands for a class in a saved schema; raises StoreSchemaError."""
    known = _by_class[cls]
    if known.form is None and not isinstance(cls, ABCMeta):
        raise StoreSchemaError(
            f"the schema of the store names {usual_name(cls)}, but no checkpoint can carry an object of it: "
            "take it out of the schema, or make it a dataclass, a NamedTuple, an Enum or a Pydantic model"
        )
    return known.name


def usual_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _register(cls: type, name: str, form: Form | None) -> None:
    if not isinstance(name, str) or not name or not name.isprintable():
        raise DefinitionError(f"the name of a type must be a printable string, got {name!r}")
    known = _by_name.get(name)
    # A cell of a notebook, or a line in a shell, may define its class again.
    if known is not None and known.cls is not cls and cls.__module__ != "__main__":
        raise DefinitionError(
            f"two classes are registered as {name!r}, in {known.cls.__module__} and in {cls.__module__}: "
            "give one of them a name of its own, register_type(cls, name=...)"
        )
    _by_class[cls] = _by_name[name] = Registered(name, cls, form)
