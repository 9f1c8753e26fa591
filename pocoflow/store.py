"""The Store: the typed, observable data of one run, handed from node to node."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping
from logging import Logger
from pathlib import Path
from traceback import format_exception
from typing import Any

from pocoflow import codec
from pocoflow.errors import (
    StoreKeyError,
    StoreSchemaError,
    StoreSerializationError,
    StoreTypeError,
)
from pocoflow.files import write_whole
from pocoflow.logging import get_logger
from pocoflow.masked import MASKED, redact
from pocoflow.schema import Schema

log = get_logger("store")

Observer = Callable[[str, Any, Any], None]
GivenSchema = Mapping[str, Any] | type | Schema
_UNTYPED = Schema.of({})
_MAX_REPLACED = 16


class Store(MutableMapping[str, Any]):
    """A dict with types and observers.

    Args:
        data: The first content; a copy of the mapping is kept, not of the values in it.
        schema: Key to type (`str`, `list[str] | None`, `Literal["a", "b"]`, a tuple of types ...); or a
            TypedDict, dataclass or Pydantic model class that has the keys as its fields. Each later write to
            such a key is checked; the first content is not, so that a key may start as a placeholder:
            `validate` checks it on demand. The classes in it are registered, see `register_type`.
        name: Shown in messages and snapshots.
        secret: Keys, there or yet to come, whose values are encrypted in a database and shown nowhere.

    Raises:
        StoreSchemaError: The schema names something that no value can be checked against; or the secret keys
            are none.
        DefinitionError: Another class is registered by the name of one in it.
    """

    def __init__(
        self,
        data: Mapping[str, Any] | None = None,
        schema: GivenSchema | None = None,
        name: str = "store",
        secret: Collection[str] = (),
    ) -> None:
        self._data: dict[str, Any] = dict(data or {})
        self._schema = _UNTYPED if schema is None else Schema.of(schema)
        if secret:
            self._schema = self._schema.hiding(_checked_keys(secret))
        self._observers: list[Observer] = []
        self._replaced: deque[Any] = deque(maxlen=_MAX_REPLACED)
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
        """The types of its keys, and which are secret; false when it has none."""
        return self._schema

    @property
    def secret(self) -> frozenset[str]:
        """The keys whose values are encrypted in a database and shown nowhere."""
        return self._schema.secret

    @property
    def secret_values(self) -> list[Any]:
        """What must not be shown: the secrets, and some that were replaced and may still be in a message."""
        return [*self._replaced, *(self._data[key] for key in self._schema.secret if key in self._data)]

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

        It gets a mask, shown as `***`, for the value of a secret key.
        An observer that raises is logged and does not stop the write.
        """
        self._observers.append(callback)

    def remove_observer(self, callback: Observer) -> None:
        """Stop calling this observer; unknown ones are ignored."""
        self._observers = [observer for observer in self._observers if observer != callback]

    def snapshot(self, path: str | Path) -> None:
        """Write name and content to a JSON file, whole or not at all; secret keys only by their names.

        Raises:
            StoreSerializationError: A value has no exact JSON form.
        """
        target = Path(path)
        shown = {key: value for key, value in self._data.items() if key not in self.secret}
        payload = {"name": self.name, "data": json.loads(codec.dumps(shown))}
        if self.secret:
            payload["secret"] = sorted(self.secret)
        text = json.dumps(payload, indent=2)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, text)

    @classmethod
    def restore(cls, path: str | Path, schema: GivenSchema | None = None) -> Store:
        """Read a file that `snapshot` wrote, with the schema to check later writes by.

        Its secret keys are secret again, and have no values.

        Raises:
            StoreSerializationError: The file is no snapshot.
        """
        try:
            payload = json.loads(Path(path).read_text(encoding="utf-8"))
            data, name = codec.loads(json.dumps(payload["data"])), payload.get("name", "store")
            return cls(data, schema=schema, name=name, secret=payload.get("secret", ()))
        except StoreSchemaError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
            raise StoreSerializationError(f"{path} is not a snapshot of a store: {exc}") from exc

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
        if key in self.secret:
            raise StoreTypeError(f"{where} {shape}, got a {type(value).__name__} (secret) that does not fit")
        if wrong.place:
            where = f"{where} {shape}: store[{key!r}]{wrong.place[:200]} takes"
        raise StoreTypeError(f"{where} {wrong.expected}, got {wrong.got}")

    def _notify(self, key: str, old: Any, new: Any) -> None:
        if key in self._schema.secret:
            self._replaced.append(old)
            old, new = (value if value is None else MASKED for value in (old, new))
        for observer in self._observers:
            try:
                observer(key, old, new)
            except Exception as exc:
                log_raised(log, f"store observer raised for key {key!r}, the write stands", exc, self)


def log_raised(log: Logger, what: str, error: BaseException, store: Store) -> None:
    """Log an error with its traceback, without the secrets of a store."""
    if store.secret:
        text = redact("".join(format_exception(error)), store.secret_values)
        log.warning("%s\n%s", what, text)
    else:
        log.warning("%s", what, exc_info=error)


def _checked_keys(secret: Collection[str]) -> Collection[str]:
    if isinstance(secret, str) or not all(isinstance(key, str) for key in secret):
        raise StoreSchemaError("secret takes the names of keys, as secret={'api_key'}, and no values")
    return secret
