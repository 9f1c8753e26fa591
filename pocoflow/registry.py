"""The flows that a worker knows, by name, from the modules in POCOFLOW_FLOWS."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, TypeGuard, TypeVar

from pocoflow.engine.graph import Definition
from pocoflow.engine.records import Position
from pocoflow.errors import DefinitionError, SettingsError, UnknownFlowError
from pocoflow.flow import Flow

_FACTORY_MARK = "_pocoflow_flow_factory"

F = TypeVar("F", bound=Callable[[], Flow])


def flow_factory(function: F) -> F:
    """Mark a function without arguments that returns a Flow, for workers to find in its module.

    For a flow that should not be built when its module is imported.
    """
    setattr(function, _FACTORY_MARK, True)
    return function


def is_flow_factory(value: object) -> TypeGuard[Callable[[], object]]:
    """Whether `flow_factory` has marked it."""
    return getattr(value, _FACTORY_MARK, None) is True


class Registry:
    """Finds the definition of a flow; built once per worker, before it forks its children.

    Raises:
        SettingsError: A module cannot be imported.
        DefinitionError: A flow is wired wrong, or two flows have one name.
    """

    def __init__(self, modules: Iterable[str]) -> None:
        self._modules = tuple(dict.fromkeys(modules))
        self._flows: dict[str, tuple[str, Flow]] = {}
        for name in self._modules:
            for flow in _flows_in(_import(name)):
                self._add(name, flow)
        self._definitions = {name: flow.definition() for name, (_, flow) in self._flows.items()}

    @property
    def names(self) -> list[str]:
        """Names of all known flows, sorted."""
        return sorted(self._definitions)

    @property
    def queues(self) -> list[str]:
        """Queues that nodes of these flows name, sorted."""
        nodes = (
            node for definition in self._definitions.values() for node in definition.graph.nodes.values()
        )
        return sorted({node.queue for node in nodes if node.queue is not None})

    def find(self, position: Position) -> Definition:
        """Return the flow of this position.

        Raises:
            UnknownFlowError: It is not here.
        """
        definition = self._definitions.get(position.flow_name)
        if definition is None:
            here = f"POCOFLOW_FLOWS={','.join(self._modules)!r} has {', '.join(self.names) or 'no flow'}"
            raise UnknownFlowError(
                f"no worker knows the flow {position.flow_name!r}: {here}; "
                "add the module that defines it to POCOFLOW_FLOWS of the workers"
            )
        return definition

    def _add(self, module: str, flow: Flow) -> None:
        known_module, known = self._flows.setdefault(flow.flow_name, (module, flow))
        if known is not flow:
            raise DefinitionError(
                f"two flows are named {flow.flow_name!r}, in {known_module} and in {module}: "
                "give each a flow_name of its own"
            )


def _import(name: str) -> ModuleType:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except ImportError as exc:
        raise SettingsError(
            f"POCOFLOW_FLOWS names {name!r}, which cannot be imported from {os.getcwd()}: {exc}"
        ) from exc


def _flows_in(module: ModuleType) -> list[Flow]:
    found = []
    for value in {id(value): value for value in vars(module).values()}.values():
        if isinstance(value, Flow):
            found.append(value)
        elif is_flow_factory(value) and value.__module__ == module.__name__:
            found.append(_made_by(value))
    return found


def _made_by(factory: Callable[[], Any]) -> Flow:
    flow = factory()
    if not isinstance(flow, Flow):
        raise DefinitionError(f"flow factory {factory!r} must return a Flow, got {flow!r}")
    return flow
