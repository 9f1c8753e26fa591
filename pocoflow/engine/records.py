"""The plain values that cross a border inside: statuses, positions, outcomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from pocoflow.engine.history import Checkpoint, Saved
from pocoflow.errors import CheckpointNotFoundError, InvalidTransitionError


class Status(StrEnum):
    """Where a run stands; `TRANSITIONS` says what may follow what."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in ENDED


ENDED = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})
TRANSITIONS: Mapping[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.RUNNING, Status.PAUSED, Status.FAILED, Status.CANCELLED}),
    Status.RUNNING: frozenset(Status) - {Status.RUNNING},
    Status.PAUSED: frozenset({Status.QUEUED, Status.CANCELLED}),
    Status.FAILED: frozenset({Status.QUEUED}),
    Status.COMPLETED: frozenset(),
    Status.CANCELLED: frozenset(),
}


def before(status: Status) -> frozenset[Status]:
    """Return the statuses that this one may follow."""
    return frozenset(known for known, allowed in TRANSITIONS.items() if status in allowed)


# What can be paused goes on by itself; what can be queued and does not is resumed.
LIVE = before(Status.PAUSED)
STOPPED = before(Status.QUEUED) - LIVE
_WAY_OUT: Mapping[Status, str] = {
    Status.QUEUED: "it goes on by itself",
    Status.RUNNING: "it goes on by itself",
    Status.PAUSED: "resume it to let it go on",
    Status.FAILED: "it has ended, resume it to go on at the step that failed",
    Status.COMPLETED: "it has ended, start a run with another run_id",
    Status.CANCELLED: "it has ended, start a run with another run_id",
}


def refusal(run_id: str, status: Status, asked: str) -> InvalidTransitionError:
    """Return the error for a run that stands where it cannot be `asked` ("paused", "resumed")."""
    return InvalidTransitionError(
        f"run {run_id!r} is {status} and cannot be {asked}: {_WAY_OUT[status]}", run_id
    )


def no_store(run_id: str, status: Status) -> InvalidTransitionError:
    """Return the error for a run that has nothing to go on from."""
    return InvalidTransitionError(
        f"run {run_id!r} is {status} and cannot be resumed: it has no checkpoint, and PocoFlow 0.2 kept no "
        "input: start it again with another run_id",
        run_id,
    )


def no_checkpoint(run_id: str, step: int) -> CheckpointNotFoundError:
    """Return the error for a step that a run has not got to."""
    return CheckpointNotFoundError(f"run {run_id!r} has no checkpoint of step {step}", run_id)


INTERRUPTED = "RunInterruptedError"
POISON = "PoisonStepError"
OVERDUE = "RunTimeoutError"
FLOW_CHANGED = "FlowChangedError"
# Why a run may be paused without anybody's wish: it waits for somebody to let it go on.
STRANDED = frozenset({INTERRUPTED, FLOW_CHANGED})
# Not a home: the run stays in the one that it has.
SAME_HOME = "same"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRun:
    """What a run starts with.

    Attributes:
        input: The whole store.
        input_hash: Tells a repeated start from a conflicting one.
        older_hashes: What it was under older keys of secrets.
        home: The one process that may run it, for a flow that no worker can import; None is any worker.
        owner: Set when the starter executes step 0 itself: the run begins as running, not as queued.
        timeout_s: Seconds from now after which the run fails if it has not ended; None for any time.
        schema: That of the store, as text; None if it has none.
        parent_run_id: The run of which this is a fork, if it is one.
        parent_step: The step of that run after which it goes on; -1 is before the first.
        graph: `Graph.text`, of which `flow_hash` is the fingerprint; None where the ledger has it already.
    """

    run_id: str
    flow_name: str
    flow_hash: str
    node: str
    queue: str | None
    input: Checkpoint
    input_hash: str
    older_hashes: Sequence[str] = ()
    home: str | None = None
    owner: str | None = None
    timeout_s: float | None = None
    schema: str | None = None
    parent_run_id: str | None = None
    parent_step: int | None = None
    graph: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkPoint:
    """A checkpoint of a run, and what a new run must know to go on from there.

    Attributes:
        step: -1 is the input.
        node: The one that comes next; None where the run has ended with this step.
        saved: The store, still encoded.
        timeout_s: How long the whole run may take; None for any time.
    """

    run_id: str
    step: int
    flow_name: str
    flow_hash: str | None
    node: str | None
    queue: str | None
    saved: Saved
    timeout_s: float | None


@dataclass(frozen=True, slots=True)
class KeptGraph:
    """A graph that a run was started with or has gone on with.

    Attributes:
        text: `Graph.text`.
        seen_at: When the first run came with it, in seconds since 1970.
    """

    text: str
    seen_at: float


@dataclass(frozen=True, slots=True)
class Started:
    """What became of a start.

    Attributes:
        created: False when a run of this id was there before; the rest then tells of that one.
        epoch: Of the new run, when it was started with an owner.
    """

    created: bool
    status: Status
    input_hash: str | None
    error_type: str | None = None


@dataclass(slots=True)
class Position:
    """A step that this process holds: where the run stands, and the token that proves the hold.

    Attributes:
        attempt: Try of this step, from 1; a crash counts as one.
        crashes: How many of them lost their worker.
        unroutable_s: For how long workers have met this step without knowing its flow; None if never.
        queue: Where hints for this step go; None is the default queue.
        left_s: Seconds that the run had left when the step was claimed; None for any time.
        stands: How a run of PocoFlow 0.2 stands to `node`, until `placing` has found the node of this step.
        flow_hash: Fingerprint of the graph that has led the run here; None where nobody kept it.
    """

    run_id: str
    flow_name: str
    step: int
    node: str
    epoch: int
    owner: str
    attempt: int = 1
    crashes: int = 0
    unroutable_s: float | None = None
    queue: str | None = None
    left_s: float | None = None
    stands: str | None = None
    flow_hash: str | None = None

    @property
    def tries(self) -> int:
        """How often user code was tried, crashes left out."""
        return self.attempt - self.crashes

    @property
    def idempotency_key(self) -> str:
        """Names the step; no retry, crash or takeover changes it."""
        return f"{self.run_id}:{self.step}"


@dataclass(frozen=True, slots=True)
class Claim:
    """A claimed step with the store it starts from, still encoded."""

    position: Position
    saved: Saved


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as history keeps it.

    Attributes:
        elapsed_s: How long the step was executed until then; None if it was not begun.
    """

    error_type: str
    message: str
    elapsed_s: float | None = None


@dataclass(frozen=True, slots=True)
class Limit:
    """How long a try may take, and what becomes of it if it takes longer.

    Attributes:
        at: As the engine's monotonic clock counts seconds.
        error: What the try then fails with.
        retry_in_s: Seconds until another try; None ends the run.
    """

    at: float
    error: Exception
    retry_in_s: float | None


@dataclass(slots=True)
class StepRecord:
    """What a finished step leaves in history, and where the run goes from here.

    Attributes:
        next_node: None when the run ends here.
        next_queue: Queue for the next node; None is the default one.
        failure: Set when the run must end as failed although this step went well.
        hold: Whether the committer goes on with the next step itself.
        checkpoint: The store after the step.
    """

    action: str
    next_node: str | None
    next_queue: str | None
    checkpoint: Checkpoint
    elapsed_s: float
    failure: Failure | None = None
    hold: bool = False

    @property
    def then(self) -> Status:
        """The status after this step, unless somebody asked for another."""
        if self.failure is not None:
            return Status.FAILED
        if self.next_node is None:
            return Status.COMPLETED
        return Status.RUNNING if self.hold else Status.QUEUED


@dataclass(frozen=True, slots=True)
class Hint:
    """A message worth sending: this step of this run is ready."""

    run_id: str
    step: int
    queue: str | None = None


@dataclass(slots=True)
class Continue:
    """The next step is ready; `position` is set when this process holds it already."""

    hint: Hint
    position: Position | None


@dataclass(frozen=True, slots=True)
class Suspend:
    """Nothing to do here for now: a retry is due later, or the run is paused.

    Attributes:
        retry_in_s: Seconds until the step may be tried again; None when it waits for something else.
    """

    run_id: str
    status: Status
    retry_in_s: float | None = None


@dataclass(frozen=True, slots=True)
class Finish:
    """The run has ended.

    Attributes:
        error: What ended it, where it failed in this process.
    """

    run_id: str
    status: Status
    steps: int
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Fenced:
    """Somebody else owns this step now; what this process did with it does not count."""

    run_id: str
    step: int


Outcome = Continue | Suspend | Finish | Fenced
