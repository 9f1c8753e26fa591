"""What the nodes of a flow share and no checkpoint can carry: clients, connections, models.

Each resource is made once in a process, by the first step there that asks for it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pocoflow.errors import DefinitionError, ResourceError

Factory = Callable[[], Any]
_NOT_YET = object()


class Resources(Mapping[str, Any]):
    """The resources of one flow, by name; the same object in all runs of a process."""

    __slots__ = ("_resources",)

    def __init__(self) -> None:
        self._resources: dict[str, _Resource] = {}

    def add(self, name: str, factory: Factory) -> None:
        """Have `factory` make the resource of this name.

        Raises:
            DefinitionError: The name is none or is taken, or the factory cannot be called.
        """
        if not isinstance(name, str) or not name or not name.isprintable():
            raise DefinitionError(f"resource name {name!r} must be a printable string that is not empty")
        if name in self._resources:
            raise DefinitionError(f"resource {name!r} is there already: give this one a name of its own")
        if not callable(factory):
            raise DefinitionError(
                f"resource {name!r} takes a function that makes it, got {factory!r}: what is made before a "
                "worker forks does not survive in its processes"
            )
        self._resources[name] = _Resource(name, factory)

    def __getitem__(self, name: str) -> Any:
        """Return the resource; raises what its factory raises, and then the next use tries again."""
        resource = self._resources.get(name)
        if resource is None:
            raise ResourceError(
                f"flow has no resource {name!r}: it has {', '.join(self) or 'none'}; "
                f"add it with flow.resource({name!r}, factory)"
            )
        return resource.get()

    def get(self, name: str, default: Any = None) -> Any:
        # The base class would take a KeyError of a factory for a name that is not there.
        resource = self._resources.get(name)
        return default if resource is None else resource.get()

    def __contains__(self, name: object) -> bool:
        return name in self._resources  # to look is not to make

    def __iter__(self) -> Iterator[str]:
        return iter(self._resources)

    def __len__(self) -> int:
        return len(self._resources)

    def __repr__(self) -> str:
        return f"Resources({', '.join(self)})"


@dataclass(slots=True)
class _Made:
    """A resource in one process."""

    value: Any = _NOT_YET
    # Reentrant: a factory that asks for its own resource shall end in an error, not wait for itself.
    lock: threading.RLock = field(default_factory=threading.RLock)


class _Resource:
    __slots__ = ("_by_process", "_factory", "_name")

    def __init__(self, name: str, factory: Factory) -> None:
        self._name = name
        self._factory = factory
        # What the parent has made stays here after a fork: dropped, it might hang up on the parent's behalf.
        self._by_process: dict[int, _Made] = {}

    def get(self) -> Any:
        # In one move: the lock of the parent may have been held by a thread that was not copied.
        made = self._by_process.setdefault(os.getpid(), _Made())
        if made.value is _NOT_YET:
            with made.lock:
                if made.value is _NOT_YET:
                    made.value = self._make()
        return made.value

    def _make(self) -> Any:
        try:
            return self._factory()
        except Exception as exc:
            exc.add_note(f"while making the resource {self._name!r}")
            raise
