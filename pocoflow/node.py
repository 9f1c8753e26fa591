"""Node and AsyncNode: what a user writes to say what one step does."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from time import monotonic
from types import MappingProxyType
from typing import Any, Protocol, Self

from pocoflow.errors import DefinitionError, ResourceError

DEFAULT_ACTION = "default"
WILDCARD_ACTION = "*"
ExceptionTypes = type[BaseException] | tuple[type[BaseException], ...]
_LOOK_EVERY_S = 0.5


class StepContext(Protocol):
    """What the engine tells a node about the step it is in."""

    @property
    def cancelled(self) -> bool: ...

    @property
    def deadline(self) -> float | None: ...

    @property
    def idempotency_key(self) -> str: ...

    @property
    def resources(self) -> Mapping[str, Any]: ...


# A node object may be in several runs at the same time, in threads of one process, so what belongs to
# one step cannot be an attribute of the node.
current_step: contextvars.ContextVar[StepContext | None] = contextvars.ContextVar(
    "current_step", default=None
)


class Node:
    """One step of a flow: `prep` reads the store, `exec` does the work, `post` writes and routes.

    Override what you need. A node that leaves `exec` out passes the result of `prep` through.

    A step is committed once, but its code may run more than once: give whatever `exec` calls outside
    `self.idempotency_key`, which is the same each time.

    Args:
        name: Id of this node in its flow; left out, it is the class name, made unique with `#2`, `#3` ...

    Attributes:
        max_retries: How often `exec` is tried in all before the step fails; 1 means no second try.
        retry_delay: Seconds between the first try and the second.
        retry_backoff: Factor by which the delay grows with each further try.
        max_retry_delay: Seconds that no delay exceeds, however often it has grown.
        retry_jitter: Share of the delay, 0 to 1, by which it is made longer or shorter at random.
        retry_on: Types of exceptions that are worth another try.
        give_up_on: Types among those that are not.
        timeout: Seconds that one try may take, `prep` and `post` included; None means any time.
        queue: Celery queue for the steps of this node; None means the default queue.
    """

    name: str = "Node"
    max_retries: int = 1
    retry_delay: float = 0.0
    retry_backoff: float = 1.0
    max_retry_delay: float = 300.0
    retry_jitter: float = 0.0
    retry_on: ExceptionTypes = (Exception,)
    give_up_on: ExceptionTypes = ()
    timeout: float | None = None
    queue: str | None = None
    _edges: dict[str, Node]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = cls.__name__

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        # Here and not in __init__: a subclass with an __init__ of its own often forgets super().__init__().
        node = super().__new__(cls)
        node._edges = {}
        return node

    def __init__(self, name: str | None = None) -> None:
        if name is not None:
            self.name = name

    def then(self, action: str, node: Node) -> Self:
        """Go to `node` when `post` returns `action`; `"*"` stands for any action without an edge.

        Returns this node, so that edges can be written in a row.

        Raises:
            DefinitionError: The action leads elsewhere already, or an argument is of the wrong kind.
        """
        if not isinstance(action, str) or not action:
            raise DefinitionError(
                f"node {self.name!r}: an action is a string that is not empty, got {action!r}"
            )
        if not isinstance(node, Node):
            raise DefinitionError(
                f"node {self.name!r}: action {action!r} must lead to a Node object, got {node!r}"
            )
        known = self._edges.get(action)
        if known is not None and known is not node:
            raise DefinitionError(
                f"node {self.name!r}: action {action!r} leads to {known.name!r} already: "
                f"give the edge to {node.name!r} an action of its own"
            )
        self._edges[action] = node
        return self

    @property
    def edges(self) -> Mapping[str, Node]:
        """Action to next node, as wired so far."""
        return MappingProxyType(self._edges)

    @property
    def cancelled(self) -> bool:
        """True once the step that is being executed should stop: cancelled, past its deadline, or lost.

        For a long `exec` to look at now and then, and return early. Asks at most twice a second, so it
        may stand in a loop. Threads that `exec` starts see it when started with
        `contextvars.copy_context().run`.
        """
        step = current_step.get()
        return step is not None and step.cancelled

    @property
    def deadline(self) -> float | None:
        """When this try must be done, as `time.monotonic()` counts seconds; None for any time.

        The sooner of the node's `timeout` and the flow's. A prefork worker ends a process that goes on
        beyond; elsewhere the try counts as failed when it returns.
        """
        step = current_step.get()
        return None if step is None else step.deadline

    @property
    def idempotency_key(self) -> str | None:
        """Names the step that is being executed, as `run_id:step`; None outside a step.

        The same in each retry and after each crash, and for no other step of any run: an API that takes an
        idempotency key does the work once if it gets this one. For threads the same holds as for `cancelled`.
        """
        step = current_step.get()
        return None if step is None else step.idempotency_key

    @property
    def resources(self) -> Mapping[str, Any]:
        """What `Flow.resource` has added, by name; each is made when it is first asked for in a process.

        For threads the same holds as for `cancelled`.

        Raises:
            ResourceError: No step is being executed. The same for a name that the flow does not have.
        """
        step = current_step.get()
        if step is None:
            raise ResourceError(
                f"node {self.name!r} asks for resources outside a step: they belong to the flow, use them in "
                "prep, exec or post (a thread sees them when started with contextvars.copy_context().run)"
            )
        return step.resources

    def prep(self, store: Any) -> Any:
        """Read from the store what `exec` needs."""
        return None

    def exec(self, prep_result: Any) -> Any:
        """Do the work. May run again after a failure or a crash, so it should be safe to repeat."""
        return prep_result

    def exec_fallback(self, prep_result: Any, exc: BaseException) -> Any:
        """Return what stands for the result of `exec` when it has failed for good; raises `exc` by default.

        Not asked after a timeout or when a worker died: nothing of this node's runs any more then.
        """
        raise exc

    def post(self, store: Any, prep_result: Any, exec_result: Any) -> str | None:
        """Write the result to the store and return the action to take; None means "default"."""
        return DEFAULT_ACTION

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


class AsyncNode(Node):
    """A node whose work is a coroutine: override `exec_async`.

    The loop is made for the step and closed after it. Where one is running already (a notebook, an
    async application), the coroutine runs on a loop of its own in another thread meanwhile.
    """

    async def exec_async(self, prep_result: Any) -> Any:
        """Do the work, with `asyncio.gather` for parallel parts. May run again, as `exec` may."""
        return prep_result

    def exec(self, prep_result: Any) -> Any:
        """Run `exec_async` to its end. Not for overriding."""
        try:
            if not _loop_is_running():
                return asyncio.run(self._until_cancelled(prep_result))
            context = contextvars.copy_context()
            with ThreadPoolExecutor(max_workers=1, thread_name_prefix="pocoflow-async") as pool:
                return pool.submit(
                    context.run, lambda: asyncio.run(self._until_cancelled(prep_result))
                ).result()
        except asyncio.CancelledError as exc:
            # This one is no Exception: it would pass through the engine and end the worker, not the step.
            raise CancelledError(f"exec_async() of node {self.name!r} was cancelled") from exc

    async def _until_cancelled(self, prep_result: Any) -> Any:
        """Run `exec_async`; cancel it at its next await when the step should stop."""
        work = asyncio.ensure_future(self.exec_async(prep_result))
        while True:
            # A step without a deadline may still be cancelled, so look now and then.
            left = _LOOK_EVERY_S if self.deadline is None else self.deadline - monotonic()
            await asyncio.wait({work}, timeout=min(max(left, 0.0), _LOOK_EVERY_S))
            # In a thread: it may ask Redis or the database, and the loop belongs to the user's work.
            if not work.done() and await asyncio.to_thread(lambda: self.cancelled):
                work.cancel()
                await asyncio.wait({work})
            if work.done():
                return work.result()


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
