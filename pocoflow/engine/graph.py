"""The directed graph of a flow: which nodes there are, what they are called, what follows what."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from pocoflow.engine.hooks import Hooks
from pocoflow.engine.resources import Resources
from pocoflow.errors import DefinitionError
from pocoflow.logging import get_logger, log_event
from pocoflow.node import WILDCARD_ACTION, AsyncNode, Node

log = get_logger("flow")

MAX_NAME_LENGTH = 200


class Graph:
    """All nodes that can be reached from the start, each under an id of its own.

    Ids depend on the wiring alone, so the same code gives the same ids in every process: the name given
    to the node, else its class name, with `#2`, `#3` ... for further nodes of one class in the order in
    which they are met breadth first.

    `text` says in JSON what follows what, and nothing of what nodes do; `fingerprint` is its hash.

    Raises:
        DefinitionError: Two nodes were given the same name, or a node has a setting that cannot work.
    """

    __slots__ = ("_ids", "edges", "fingerprint", "nodes", "start", "text")

    def __init__(self, start: Node) -> None:
        found = _reachable(start)
        names = _unique_names(found)
        self._ids = {id(node): name for node, name in zip(found, names, strict=True)}
        self.nodes = MappingProxyType(dict(zip(names, found, strict=True)))
        self.edges = MappingProxyType(
            {
                name: MappingProxyType({action: self._ids[id(to)] for action, to in node.edges.items()})
                for name, node in self.nodes.items()
            }
        )
        self.start = names[0]
        self.text = _described(self)
        self.fingerprint = hashlib.sha256(self.text.encode()).hexdigest()[:16]

    def id_of(self, node: Node | str) -> str:
        """Return the id of a node object of this graph, or check an id.

        Raises:
            DefinitionError: The graph has no such node.
        """
        name = node if isinstance(node, str) else self._ids.get(id(node))
        if name is None or name not in self.nodes:
            raise DefinitionError(f"node {node!r} is not in this flow: it has {', '.join(self.nodes)}")
        return name

    def after(self, node: str, action: str) -> str | None:
        """Return the id of the node that follows, or None when the flow ends here."""
        following = self.following(node, action)
        if following is None and self.edges[node]:
            log_event(log, "no edge for this action, the flow ends here", node=node, action=action)
        return following

    def following(self, node: str, action: str) -> str | None:
        """Return what `after` does, without a word in the log."""
        edges = self.edges[node]
        return edges.get(action) or edges.get(WILDCARD_ACTION)


@dataclass(frozen=True, slots=True)
class Definition:
    """A flow as the engine runs it; all that belongs to a single run is elsewhere.

    Attributes:
        max_steps: A run that wants more steps than this fails.
        checkpoint_dir: Folder for a JSON snapshot of the store after each step; None for none.
        max_inline_steps: How many steps in a row a worker may execute before it hands the run on.
        resources: What its nodes share in a process.
    """

    name: str
    graph: Graph
    hooks: Hooks
    max_steps: int
    checkpoint_dir: str | None = None
    max_inline_steps: int = 1
    resources: Resources = field(default_factory=Resources)


def _reachable(start: Node) -> list[Node]:
    found, waiting, seen = [], [start], {id(start)}
    while waiting:
        node = waiting.pop(0)
        found.append(node)
        for following in node.edges.values():
            if id(following) not in seen:
                seen.add(id(following))
                waiting.append(following)
    return found


def _unique_names(nodes: list[Node]) -> list[str]:
    for node in nodes:
        _check(node)
    given = Counter(node.name for node in nodes if "name" in vars(node))
    for name, uses in given.items():
        if uses > 1:
            raise DefinitionError(
                f"{uses} nodes of this flow are named {name!r}: give each a name of its own"
            )
    taken = set(given)
    names = []
    for node in nodes:
        name = node.name
        if "name" not in vars(node):
            copies = 1
            while name in taken:
                copies += 1
                name = f"{node.name}#{copies}"
            taken.add(name)
        names.append(name)
    return names


def _check(node: Node) -> None:
    if not isinstance(node.name, str) or not node.name or not node.name.isprintable():
        raise DefinitionError(f"node name {node.name!r} must be a printable string that is not empty")
    if len(node.name) > MAX_NAME_LENGTH:
        raise DefinitionError(
            f"node name {node.name[:40]!r}... has over {MAX_NAME_LENGTH} characters: shorten it"
        )
    _refuse_async(node)
    for setting, (fits, wanted) in _SETTINGS.items():
        value = getattr(node, setting)
        if not fits(value):
            raise DefinitionError(f"node {node.name!r}: {setting} {wanted}, got {value!r}")


def _refuse_async(node: Node) -> None:
    """What is not awaited would do nothing, and nobody would notice."""
    for name in ("prep", "exec", "exec_fallback", "post"):
        if inspect.iscoroutinefunction(getattr(node, name)):
            raise DefinitionError(
                f"node {node.name!r}: {name}() is async: only exec_async() of an AsyncNode is awaited"
            )
    if isinstance(node, AsyncNode) and type(node).exec is not AsyncNode.exec:
        raise DefinitionError(f"node {node.name!r}: an AsyncNode works in exec_async(), not in exec()")


def _is_number(value: object, low: float, high: float = math.inf) -> bool:
    return isinstance(value, int | float) and low <= value <= high and math.isfinite(value)


def _are_exceptions(value: object) -> bool:
    types = value if isinstance(value, tuple) else (value,)
    return all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in types)


_SECONDS = (lambda value: _is_number(value, 0), "must be 0 or more seconds")
_EXCEPTIONS = (_are_exceptions, "must be an exception type or a tuple of them")
_SETTINGS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "max_retries": (
        lambda value: isinstance(value, int) and value >= 1,
        "counts all tries, so it is 1 or more",
    ),
    "retry_delay": _SECONDS,
    "max_retry_delay": _SECONDS,
    "retry_backoff": (lambda value: _is_number(value, 1), "must be a factor of 1 or more"),
    "retry_jitter": (lambda value: _is_number(value, 0, 1), "must be a share from 0 to 1"),
    "retry_on": _EXCEPTIONS,
    "give_up_on": _EXCEPTIONS,
    "timeout": (
        lambda value: value is None or (_is_number(value, 0) and value > 0),
        "must be more than 0 seconds, or None",
    ),
    "queue": (
        lambda value: value is None or (isinstance(value, str) and value != ""),
        "must be the name of a Celery queue",
    ),
}


def _described(graph: Graph) -> str:
    # Not the classes of the nodes: those of a script are other ones where its module is imported.
    edges = {name: dict(following) for name, following in graph.edges.items()}
    return json.dumps({"start": graph.start, "edges": edges}, sort_keys=True, separators=(",", ":"))
