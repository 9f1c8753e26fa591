"""What a value must look like: a type, as a schema names it, taken apart into what can be checked and saved.

A class is checked as `isinstance` does, the inside of containers item by item.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from pocoflow.registered import name_for_schema


@dataclass(frozen=True, slots=True)
class Mismatch:
    """What is wrong with a value; `place` leads to it from the value that was checked, "" if it is that."""

    expected: str
    got: str
    place: str = ""

    def under(self, place: str) -> Mismatch:
        return Mismatch(self.expected, self.got, f"{place}{self.place}")


class Shape(Protocol):
    """`str(shape)` is what a human would write in a schema, `tree()` the same as plain data."""

    def check(self, value: Any) -> Mismatch | None: ...

    def tree(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class Anything:
    def check(self, value: Any) -> Mismatch | None:
        return None

    def tree(self) -> Any:
        return "Any"

    def __str__(self) -> str:
        return "Any"


@dataclass(frozen=True, slots=True)
class Instance:
    """An object of a class, which `name` stands for in saved schemas if it is a common one."""

    cls: type
    name: str | None = None

    def check(self, value: Any) -> Mismatch | None:
        return None if isinstance(value, self.cls) else _mismatch(self, value)

    def tree(self) -> Any:
        return self.name or {"class": name_for_schema(self.cls)}

    def __str__(self) -> str:
        return self.name or self.cls.__name__


@dataclass(frozen=True, slots=True)
class OneOf:
    """Of any of these shapes."""

    options: tuple[Shape, ...]

    def check(self, value: Any) -> Mismatch | None:
        found = []
        for option in self.options:
            mismatch = option.check(value)
            if mismatch is None:
                return None
            found.append(mismatch)
        # The option that failed deep inside is the one that was meant.
        inner = next((mismatch for mismatch in found if mismatch.place), None)
        return inner or _mismatch(self, value)

    def tree(self) -> Any:
        return {"any_of": [option.tree() for option in self.options]}

    def __str__(self) -> str:
        return " or ".join(str(option) for option in self.options)


@dataclass(frozen=True, slots=True)
class Exactly:
    """One of these values, of the same class."""

    values: tuple[Any, ...]

    def check(self, value: Any) -> Mismatch | None:
        if any(type(value) is type(one) and value == one for one in self.values):
            return None
        return Mismatch(str(self), repr(value)[:80])

    def tree(self) -> Any:
        return {"values": [_literal(value) for value in self.values]}

    def __str__(self) -> str:
        return " or ".join(repr(value) for value in self.values)


@dataclass(frozen=True, slots=True)
class Items:
    """A container whose items all have one shape."""

    container: Instance
    item: Shape

    def check(self, value: Any) -> Mismatch | None:
        if self.container.check(value) is not None:
            return _mismatch(self, value)
        for index, item in enumerate(value):
            mismatch = self.item.check(item)
            if mismatch is not None:
                return mismatch.under(f"[{index}]")
        return None

    def tree(self) -> Any:
        return {"of": self.container.tree(), "items": self.item.tree()}

    def __str__(self) -> str:
        more = ", ..." if self.container.cls is tuple else ""
        return f"{self.container}[{self.item}{more}]"


@dataclass(frozen=True, slots=True)
class Entries:
    """A mapping whose keys and whose values all have one shape."""

    container: Instance
    key: Shape
    item: Shape

    def check(self, value: Any) -> Mismatch | None:
        if self.container.check(value) is not None:
            return _mismatch(self, value)
        for index, (key, item) in enumerate(value.items()):
            mismatch = self.key.check(key)
            if mismatch is not None:
                return mismatch.under(f".keys()[{index}]")
            mismatch = self.item.check(item)
            if mismatch is not None:
                return mismatch.under(f"[{key!r}]")
        return None

    def tree(self) -> Any:
        return {"of": self.container.tree(), "keys": self.key.tree(), "values": self.item.tree()}

    def __str__(self) -> str:
        return f"{self.container}[{self.key}, {self.item}]"


@dataclass(frozen=True, slots=True)
class Row:
    """A tuple of fixed length, with a shape for each place."""

    places: tuple[Shape, ...]

    def check(self, value: Any) -> Mismatch | None:
        if not isinstance(value, tuple):
            return _mismatch(self, value)
        if len(value) != len(self.places):
            return Mismatch(str(self), f"{len(value)} items")
        checked = zip(self.places, value, strict=True)
        return _first((f"[{index}]", shape, item) for index, (shape, item) in enumerate(checked))

    def tree(self) -> Any:
        return {"row": [shape.tree() for shape in self.places]}

    def __str__(self) -> str:
        return f"tuple[{', '.join(map(str, self.places)) or '()'}]"


@dataclass(frozen=True, slots=True)
class Keys:
    """A dict with a shape for some keys; others may be there too."""

    shapes: Mapping[str, Shape]
    required: frozenset[str]
    name: str = "dict"

    def check(self, value: Any) -> Mismatch | None:
        if not isinstance(value, dict):
            return _mismatch(self, value)
        missing = sorted(self.required.difference(value))
        if missing:
            return Mismatch(str(self), f"a dict without {missing[0]!r}")
        return _first((f"[{key!r}]", self.shapes[key], value[key]) for key in self.shapes if key in value)

    def tree(self) -> Any:
        shapes = {key: shape.tree() for key, shape in self.shapes.items()}
        return {"dict": shapes, "required": sorted(self.required), "name": self.name}

    def __str__(self) -> str:
        return self.name


def _first(checks: Iterable[tuple[str, Shape, Any]]) -> Mismatch | None:
    for place, shape, item in checks:
        mismatch = shape.check(item)
        if mismatch is not None:
            return mismatch.under(place)
    return None


def _mismatch(shape: Shape, value: Any) -> Mismatch:
    return Mismatch(str(shape), type(value).__name__)


def _literal(value: Any) -> Any:
    if isinstance(value, Enum):
        # By names, so that a process without the class can read the rest of the schema.
        return {"enum": name_for_schema(type(value)), "member": value.name}
    return value
