"""PocoFlow: durable flows of prep/exec/post nodes, inline or on Celery workers.

Names are loaded when they are first used, so that importing this package stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pocoflow import client
    from pocoflow.db.workflow_db import WorkflowDB
    from pocoflow.errors import (
        BackendError,
        BrokerError,
        CheckpointNotFoundError,
        DatabaseError,
        DefinitionError,
        FlowChangedError,
        InvalidTransitionError,
        MaxStepsError,
        PocoFlowError,
        PoisonStepError,
        ResourceError,
        RetryAfter,
        RunCancelledError,
        RunConflictError,
        RunError,
        RunFileError,
        RunInterruptedError,
        RunNotFoundError,
        RunTimeoutError,
        SecretKeyError,
        SettingsError,
        StepFailedError,
        StepTimeoutError,
        StoreError,
        StoreKeyError,
        StoreSchemaError,
        StoreSerializationError,
        StoreTypeError,
        UnknownFlowError,
        UnregisteredTypeError,
        WaitTimeoutError,
    )
    from pocoflow.flow import Flow
    from pocoflow.node import AsyncNode, Node
    from pocoflow.registered import register_type
    from pocoflow.registry import flow_factory
    from pocoflow.runner import RunHandle
    from pocoflow.store import Store

__version__ = "0.3.0"

_HOMES = {
    "AsyncNode": "pocoflow.node",
    "Flow": "pocoflow.flow",
    "Node": "pocoflow.node",
    "RunHandle": "pocoflow.runner",
    "Store": "pocoflow.store",
    "WorkflowDB": "pocoflow.db.workflow_db",
    "flow_factory": "pocoflow.registry",
    "register_type": "pocoflow.registered",
}
__all__ = [
    "AsyncNode",
    "BackendError",
    "BrokerError",
    "CheckpointNotFoundError",
    "DatabaseError",
    "DefinitionError",
    "Flow",
    "FlowChangedError",
    "InvalidTransitionError",
    "MaxStepsError",
    "Node",
    "PocoFlowError",
    "PoisonStepError",
    "ResourceError",
    "RetryAfter",
    "RunCancelledError",
    "RunConflictError",
    "RunError",
    "RunFileError",
    "RunHandle",
    "RunInterruptedError",
    "RunNotFoundError",
    "RunTimeoutError",
    "SecretKeyError",
    "SettingsError",
    "StepFailedError",
    "StepTimeoutError",
    "Store",
    "StoreError",
    "StoreKeyError",
    "StoreSchemaError",
    "StoreSerializationError",
    "StoreTypeError",
    "UnknownFlowError",
    "UnregisteredTypeError",
    "WaitTimeoutError",
    "WorkflowDB",
    "client",
    "flow_factory",
    "register_type",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "client":
        return importlib.import_module("pocoflow.client")
    value = getattr(importlib.import_module(_HOMES.get(name, "pocoflow.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
