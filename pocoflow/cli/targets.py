"""How commands load the flows of users: MODULE:FLOW, from the folder in which they are called."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import click

from pocoflow.errors import DefinitionError, PocoFlowError
from pocoflow.flow import Flow
from pocoflow.registry import is_flow_factory

CANNOT_TELL = 2


class CannotTellError(click.ClickException):
    """There is no result; not to be taken for a bad one."""

    exit_code = CANNOT_TELL


def load(target: str) -> tuple[str, Flow]:
    """Return the module that a target names, and its flow.

    Raises:
        CannotTellError: The user's code raises.
        DefinitionError: It has no such flow.
    """
    module, _, name = target.partition(":")
    if not module or not name:
        raise click.UsageError(f"{target!r} is not MODULE:FLOW, such as my_flows:flow")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(module)
        flow = getattr(found, name, None)
        if is_flow_factory(flow):
            flow = flow()
    except Exception as exc:  # the user's code: whatever it raises, there is nothing to examine
        raise CannotTellError(
            f"{target} cannot be loaded from {os.getcwd()}: {type(exc).__name__}: {exc}"
        ) from exc
    if not isinstance(flow, Flow):
        raise DefinitionError(f"{module!r} has no flow {name!r}: it has {_flows_of(found)}")
    return module, flow


def _flows_of(module: ModuleType) -> str:
    flows = [key for key, value in vars(module).items() if isinstance(value, Flow) or is_flow_factory(value)]
    return ", ".join(flows) or "none"


@contextmanager
def errors_cannot_tell() -> Iterator[None]:
    """Give an error of ours the exit code that says so."""
    try:
        yield
    except PocoFlowError as exc:
        raise CannotTellError(str(exc)) from exc
    except KeyboardInterrupt:
        raise SystemExit(130) from None
