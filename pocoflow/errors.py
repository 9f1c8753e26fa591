"""Every error that PocoFlow raises on purpose.

    PocoFlowError
    ├─ DefinitionError(ValueError)               the flow as wired is wrong
    │   ├─ UnknownFlowError(LookupError)         no worker, or no module in POCOFLOW_FLOWS, knows it
    │   ├─ FlowChangedError                      its graph lacks what a run needs to go on
    │   └─ ResourceError(KeyError)               a resource that the flow does not have
    ├─ SettingsError(ValueError)
    │   └─ SecretKeyError                        no key here encrypts or opens a secret of a store
    ├─ StoreError
    │   ├─ StoreTypeError(TypeError)             a write that the schema forbids
    │   ├─ StoreKeyError(KeyError)               a key that is not there
    │   ├─ StoreSchemaError(ValueError)          a schema that cannot work, or is not fulfilled
    │   └─ StoreSerializationError(TypeError)    a value that a checkpoint cannot carry
    │       └─ UnregisteredTypeError(LookupError)   saved data has a class that is not registered here
    ├─ RunError                                  has run_id
    │   ├─ RunNotFoundError(LookupError)
    │   ├─ CheckpointNotFoundError(KeyError)
    │   ├─ StepFailedError                       node, step, attempts, error type and text
    │   │   └─ PoisonStepError                   the step ended its worker too often
    │   ├─ StepTimeoutError(TimeoutError)        one try of a step took longer than Node.timeout
    │   ├─ RunTimeoutError(TimeoutError)         the run took longer than Flow.timeout
    │   ├─ RunCancelledError
    │   ├─ RunInterruptedError                   the process that ran it ended; the run can go on
    │   ├─ MaxStepsError(RuntimeError)
    │   ├─ RunConflictError                      same run_id, other input
    │   └─ InvalidTransitionError
    ├─ RunFileError(ValueError)                  a file that is no export of a run, or a damaged one
    ├─ WaitTimeoutError(TimeoutError)
    ├─ RetryAfter                                raised by a node: try again after so many seconds
    └─ BackendError
        ├─ DatabaseError
        └─ BrokerError

All that an error carries goes through `args`, so that it survives pickling and a process border.
"""

from __future__ import annotations


class PocoFlowError(Exception):
    """The root: `except PocoFlowError` catches all that PocoFlow raises on purpose."""

    def __str__(self) -> str:
        # KeyError, a base of some of these, would print the repr of the message.
        return str(self.args[0]) if self.args else ""


class DefinitionError(PocoFlowError, ValueError):
    """The flow as wired is wrong; raised when it is built, not in mid-run."""


class UnknownFlowError(DefinitionError, LookupError):
    """No worker, or no module named in POCOFLOW_FLOWS, knows this flow."""


class FlowChangedError(DefinitionError):
    """A run came from another graph of the flow, and this one lacks what the run needs to go on."""


class ResourceError(DefinitionError, KeyError):
    """A node asks for a resource that its flow does not have, or asks outside a step."""


class SettingsError(PocoFlowError, ValueError):
    """A setting has a wrong value; the message names it."""


class SecretKeyError(SettingsError):
    """POCOFLOW_SECRET_KEY of this process does not encrypt, or does not open, a secret of a store."""


class StoreError(PocoFlowError):
    """Something about the data of a run."""


class StoreTypeError(StoreError, TypeError):
    """A write that the store's schema forbids."""


class StoreKeyError(StoreError, KeyError):
    """A key that the store does not hold."""


class StoreSchemaError(StoreError, ValueError):
    """The schema cannot work, or a key that it requires is missing."""


class StoreSerializationError(StoreError, TypeError):
    """A value that a checkpoint cannot carry."""


class UnregisteredTypeError(StoreSerializationError, LookupError):
    """Saved data names a class that this process has not registered."""


class RunError(PocoFlowError):
    """Something about one run."""

    def __init__(self, message: str, run_id: str = "") -> None:
        super().__init__(message, run_id)

    @property
    def run_id(self) -> str:
        return str(self.args[1])


class RunNotFoundError(RunError, LookupError):
    """No run has this id."""


class CheckpointNotFoundError(RunError, KeyError):
    """The run has no checkpoint of this step."""


class StepFailedError(RunError):
    """A step of a run that another thread or process executed has failed for good.

    Attributes:
        node: Id of the node in its flow.
        step: Position in the run, counted from 0.
        attempts: How often the step was tried.
        error_type: Class name of the exception that the node raised.
        error_text: Its text.
    """

    def __init__(
        self,
        message: str,
        run_id: str = "",
        node: str = "",
        step: int = -1,
        attempts: int = 0,
        error_type: str = "",
        error_text: str = "",
    ) -> None:
        super().__init__(message, run_id)
        self.args = (message, run_id, node, step, attempts, error_type, error_text)

    @property
    def node(self) -> str:
        return str(self.args[2])

    @property
    def step(self) -> int:
        return int(self.args[3])

    @property
    def attempts(self) -> int:
        return int(self.args[4])

    @property
    def error_type(self) -> str:
        return str(self.args[5])

    @property
    def error_text(self) -> str:
        return str(self.args[6])


class PoisonStepError(StepFailedError):
    """The step ended the process of its worker, or lost its lease, more often than allowed."""


class StepTimeoutError(RunError, TimeoutError):
    """One try of a step took longer than its node's timeout."""


class RunTimeoutError(RunError, TimeoutError):
    """The run was not done within its flow's timeout."""


class RunCancelledError(RunError):
    """The run was cancelled."""


class RunInterruptedError(RunError):
    """The process that ran it has ended, or its `flow.run` was paused; the run can go on."""


class MaxStepsError(RunError, RuntimeError):
    """The run took more steps than its flow allows."""


class RunConflictError(RunError):
    """The run_id is taken by a run with other input."""


class InvalidTransitionError(RunError):
    """The run's status does not allow what was asked."""


class RunFileError(PocoFlowError, ValueError):
    """A file is no export of a run, was changed, or holds a history that cannot be."""


class WaitTimeoutError(PocoFlowError, TimeoutError):
    """The run did not end in time; it goes on."""


LONGEST_RETRY_S = 366 * 86_400


class RetryAfter(PocoFlowError):
    """For a node's `exec` to raise: try again, but not before so many seconds.

    Counts as a try like any other failure, so there must be one left (`max_retries`). It waits for exactly
    this long, whatever `retry_delay` and `max_retry_delay` say.

    Args:
        seconds: From now; 0 to a year. May be the text of an HTTP header that gives seconds.
        message: What to tell when no try is left.

    Raises:
        ValueError: The seconds are negative, more than a year, or no number.

    >>> print(RetryAfter(30, "the API asks to slow down"))
    the API asks to slow down (try again after 30 s)
    """

    def __init__(self, seconds: float | str, message: str = "not now") -> None:
        try:
            number = float(seconds)
        except (TypeError, ValueError):
            number = -1.0
        if not 0 <= number <= LONGEST_RETRY_S:
            raise ValueError(f"RetryAfter takes seconds, from 0 to {LONGEST_RETRY_S}, got {seconds!r}")
        super().__init__(number, message)

    @property
    def seconds(self) -> float:
        return float(self.args[0])

    def __str__(self) -> str:
        return f"{self.args[1]} (try again after {self.seconds:g} s)"


class BackendError(PocoFlowError):
    """Something outside this process failed; the foreign error is the `__cause__`."""


class DatabaseError(BackendError):
    """The database cannot be reached, or refused."""


class BrokerError(BackendError):
    """The message broker cannot be reached, or refused."""
