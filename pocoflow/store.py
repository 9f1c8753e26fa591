"""The Store: the typed, observable data of one run, handed from node to node."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from pocoflow import codec
from pocoflow.errors import (
    StoreKeyError,
    StoreSchemaError,
    StoreSerializationError,
    StoreTypeError,
)
from pocoflow.logging import get_logger
from pocoflow.schema import Schema

log = get_logger("store")

Observer = Callable[[str, Any, Any], None]
GivenSchema = Mapping[str, Any] | type | Schema
_UNTYPED = Schema.of({})


class Store(MutableMapping[str, Any]):
    """A dict with types and observers.

    Args:
        data: The first content; a copy of the mapping is kept, not of the values in it.
        schema: Key to type (`str`, `list[str] | None`, `Literal["a", "b"]`, a tuple of types ...); or a
            TypedDict, dataclass or Pydantic model class that has the keys as its fields. Each later write to
            such a key is checked; the first content is not, so that a key may start as a placeholder:
            `validate` checks it on demand. The classes in it are registered, see `register_type`.
        name: Shown in messages and snapshots.

    Raises:
        StoreSchemaError: The schema names something that no value can be checked against.
        DefinitionError: Another class is registered by the name of one in it.
    """

    def __init__(
        self,
        data: Mapping[str, Any] | None = None,
        schema: GivenSchema | None = None,
        name: str = "store",
    ) -> None:
        self._data: dict[str, Any] = dict(data or {})
        self._schema = _UNTYPED if schema is None else Schema.of(schema)
        self._observers: list[Observer] = []
        self.name = name

    def __getitem__(self, key: str) -> Any:
        try:
            return self._data[key]
        except KeyError:
            raise StoreKeyError(
                f"store {self.name!r} has no key {key!r}: it has {sorted(map(str, self))}"
            ) from None

    def __setitem__(self, key: str, value: Any) -> None:
        if key in self._schema.shapes:
            self._check_write(key, value)
        old = self._data.get(key)
        self._data[key] = value
        self._notify(key, old, value)

    def __delitem__(self, key: str) -> None:
        old = self[key]
        del self._data[key]
        self._notify(key, old, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __contains__(self, key: object) -> bool:
        return key in self._data

    def __repr__(self) -> str:
        return f"Store(name={self.name!r}, keys={list(self._data)})"

    @property
    def schema(self) -> Schema:
        """The types of its keys; false when it has none."""
        return self._schema

    def as_dict(self) -> dict[str, Any]:
        """Return the dict inside, not a copy: a write to it skips schema and observers."""
        return self._data

    def validate(self) -> None:
        """Check the whole content against the schema.

        Raises:
            StoreSchemaError: A key of the schema is missing.
            StoreTypeError: A value is not of its key's type.
        """
        missing = sorted(self._schema.required.difference(self._data), key=str)
        if missing:
            raise StoreSchemaError(
                f"store {self.name!r} lacks {missing}, which its schema requires: set them first"
            )
        for key in self._schema.shapes:
            if key in self._data:
                self._check_type(key, self._data[key])

    def add_observer(self, callback: Observer) -> None:
        """Call `callback(key, old, new)` after each write; `new` is None when the key was deleted.

        An observer that raises is logged and does not stop the write.
        """
        self._observers.append(callback)

    def remove_observer(self, callback: Observer) -> None:
        """Stop calling this observer; unknown ones are ignored."""
        self._observers = [observer for observer in self._observers if observer != callback]

    def snapshot(self, path: str | Path) -> None:
        """Write name and content to a JSON file, whole or not at all.

        Raises:
            StoreSerializationError: A value has no exact JSON form.
        """
        target = Path(path)
        content = json.loads(codec.dumps(self._data))
        text = json.dumps({"name": self.name, "data": content}, indent=2)
        target.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own: two runs in one folder may be writing the same file.
        draft = target.with_name(f".{uuid4().hex}.part")
        with draft.open("x", encoding="utf-8") as file:  # which follows no link that somebody has laid there
            file.write(text)
        draft.replace(target)

    @classmethod
    def restore(cls, path: str | Path, schema: GivenSchema | None = None) -> Store:
        """Read a file that `snapshot` wrote, with the schema to check later writes by.

        Raises:
            StoreSerializationError: The file is no snapshot.
        """
        try:
            payload = json.loads(Path(path).read_text(encoding="utf-8"))
            data, name = codec.loads(json.dumps(payload["data"])), payload.get("name", "store")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
            raise StoreSerializationError(f"{path} is not a snapshot of a store: {exc}") from exc
        return cls(data, schema=schema, name=name)

    def _check_write(self, key: str, value: Any) -> None:
        self._check_type(key, value)
        why_not = codec.why_not(type(value))
        if why_not is not None:
            raise StoreSerializationError(f"store[{key!r}] {why_not}")

    def _check_type(self, key: str, value: Any) -> None:
        shape = self._schema.shapes[key]
        wrong = shape.check(value)
        if wrong is None:
            return
        where = f"store {self.name!r}: key {key!r} takes"
        if wrong.place:
            where = f"{where} {shape}: store[{key!r}]{wrong.place[:200]} takes"
        raise StoreTypeError(f"{where} {wrong.expected}, got {wrong.got}")

    def _notify(self, key: str, old: Any, new: Any) -> None:
        for observer in self._observers:
            try:
                observer(key, old, new)
            except Exception:
                log.warning("store observer raised for key %r, the write stands", key, exc_info=True)
