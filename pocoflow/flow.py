"""Flow: a graph of nodes with a name, and the two ways to run it."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from pocoflow import wiring
from pocoflow.engine.fork import checked_step, fork_of
from pocoflow.engine.graph import Definition, Graph
from pocoflow.engine.history import Trail
from pocoflow.engine.hooks import Hook, Hooks
from pocoflow.engine.identity import checked_id, fresh_run_id, input_hashes
from pocoflow.engine.inline import run_inline
from pocoflow.engine.owner import new_owner
from pocoflow.engine.ports import Ports
from pocoflow.engine.records import Hint, NewRun, Position, Status
from pocoflow.engine.repeat import go_on
from pocoflow.engine.resources import Factory, Resources
from pocoflow.errors import DefinitionError, RunConflictError
from pocoflow.logging import get_logger, log_event
from pocoflow.node import Node
from pocoflow.runner import RunHandle
from pocoflow.store import Store

log = get_logger("flow")


class Flow:
    """A graph of nodes. It keeps nothing of its runs, so it can be run any number of times at once.

    Args:
        start: The first node; the graph is all that can be reached from it.
        checkpoint_dir: Folder for a JSON snapshot of the store after each step.
        max_steps: A run that wants more steps fails with MaxStepsError.
        db_path: Where to keep history: an SQLite file or a SQLAlchemy URL. Without it, `run` keeps none.
        run_id: Id for the next runs; left out, each run gets one of its own.
        flow_name: Shown in history, and how workers find the flow; the start node's class name by default.
        timeout: Seconds after its start at which a run fails if it has not ended; None for any time.
        max_inline_steps: How many steps in a row a worker may execute before it hands the run on: less to
            do for the broker with many cheap steps, at the price of other runs waiting a little longer.
            Each step is committed all the same.

    Raises:
        DefinitionError: The graph or an argument cannot work.
    """

    def __init__(
        self,
        start: Node,
        checkpoint_dir: str | Path | None = None,
        max_steps: int = 100,
        db_path: str | Path | None = None,
        run_id: str | None = None,
        flow_name: str | None = None,
        timeout: float | None = None,
        max_inline_steps: int = 1,
    ) -> None:
        if not isinstance(start, Node):
            raise DefinitionError(f"a flow starts with a Node object, got {start!r}")
        if not isinstance(max_steps, int) or max_steps < 1:
            raise DefinitionError(f"max_steps must be 1 or more, got {max_steps!r}")
        if timeout is not None and not (isinstance(timeout, int | float) and 0 < timeout < math.inf):
            raise DefinitionError(f"timeout must be more than 0 seconds, or None, got {timeout!r}")
        if not isinstance(max_inline_steps, int) or max_inline_steps < 1:
            raise DefinitionError(f"max_inline_steps must be 1 or more, got {max_inline_steps!r}")
        self.start = start
        self.checkpoint_dir = None if checkpoint_dir is None else Path(checkpoint_dir)
        self.max_steps = max_steps
        self.db_path = db_path
        self.timeout = timeout
        self.max_inline_steps = max_inline_steps
        self.run_id = None if run_id is None else checked_id(run_id, "run_id")
        self.flow_name = checked_id(flow_name or type(start).__name__, "flow_name")
        self._hooks = Hooks()
        self._resources = Resources()
        Graph(start)

    def __repr__(self) -> str:
        return f"Flow({self.flow_name!r})"

    def on(self, event: str, callback: Hook) -> Self:
        """Call `callback` at an event; returns the flow, so that calls can be written in a row.

        Events and arguments: `node_start(name, store)`, `node_end(name, action, elapsed, store)` with
        seconds, `node_error(name, exc, store)` when a step has failed for good, `flow_end(steps, store)`
        when the run has completed. Hooks run in the process that executes the step; one that raises is
        logged and changes nothing.

        Raises:
            DefinitionError: There is no such event.
        """
        self._hooks.add(event, callback)
        return self

    def resource(self, name: str, factory: Factory) -> Self:
        """Give the nodes something that no checkpoint can carry, such as a client, as `self.resources[name]`.

        Each process calls `factory` when a step there first asks for it, and again at the next use if it has
        raised. Returns the flow, so that calls can be written in a row.

        Raises:
            DefinitionError: The name is none or is taken, or the factory cannot be called.
        """
        self._resources.add(name, factory)
        return self

    def definition(self) -> Definition:
        """Return the flow as it is wired now, for the engine; later wiring does not change it.

        Raises:
            DefinitionError: The graph cannot work.
        """
        folder = None if self.checkpoint_dir is None else str(self.checkpoint_dir)
        return Definition(
            self.flow_name,
            Graph(self.start),
            self._hooks,
            self.max_steps,
            folder,
            self.max_inline_steps,
            self._resources,
        )

    def run(
        self, store: Store | dict[str, Any], resume_from: Node | str | None = None, run_id: str | None = None
    ) -> Store:
        """Run to the end in this thread.

        Args:
            store: Changed in place; a dict is put into a Store first.
            resume_from: Begin at this node (object or id) instead of the first one.
            run_id: Id of the run in history.

        Returns:
            The store given, or the one made of the dict.

        Raises:
            Exception: What the failing node raised.
            MaxStepsError: The run took too many steps; a RuntimeError.
            StepTimeoutError: A node took longer than its timeout.
            RunTimeoutError: The run took longer than the flow's timeout.
            RunConflictError: There is a run of this id already.
            RunCancelledError: Another process cancelled the run.
            RunInterruptedError: Another process paused the run; it can go on by `run_background`.
            SecretKeyError: The history has no key for the secrets of the store.
            DatabaseError: The history cannot be written.
        """
        store = _as_store(store)
        definition, ports = self.definition(), wiring.inline_ports(self.db_path)
        trail = Trail.begin(store, ports.ledger.cipher)
        owner = new_owner(f"{socket.gethostname()}:{os.getpid()}")
        home = f"inline:{owner}"
        new = self._new_run(definition, store, trail, ports, run_id, resume_from, home=home, owner=owner)
        if not ports.ledger.start(new).created:
            raise RunConflictError(
                f"there is a run {new.run_id!r} already: choose another run_id (one that was interrupted "
                "goes on by run_background with the same run_id and input)",
                new.run_id,
            )
        log_event(log, "run started", run_id=new.run_id, flow=self.flow_name, node=new.node)
        run_inline(
            Position(new.run_id, new.flow_name, 0, new.node, 1, owner, left_s=self.timeout),
            store,
            trail,
            flow=wiring.with_faults(definition, ports),
            ports=ports,
            home=home,
        )
        return store

    def run_background(
        self, store: Store | dict[str, Any], run_id: str | None = None, resume_from: Node | str | None = None
    ) -> RunHandle:
        """Start a run and return at once.

        With POCOFLOW_BROKER_URL set, Celery workers execute it; otherwise a worker inside this process
        does. A second start with the same run_id and the same input returns the same run, and lets it
        go on when the process that ran it was interrupted, or when it was paused because of a changed
        graph; a run that somebody paused stays paused.

        Args:
            store: The input; it is copied, so read the result from the handle.
            run_id: Id of the run, up to 200 printable characters; made up when left out.
            resume_from: Begin at this node (object or id) instead of the first one.

        Raises:
            RunConflictError: There is a run of this id with other input.
            StoreSerializationError: The input holds something that a checkpoint cannot carry.
            SecretKeyError: There is no key for the secrets of the store; or one of them is only a mask.
            DatabaseError: The run cannot be written down.
            DefinitionError: The graph or the run_id cannot work.
        """
        definition = self.definition()
        executor = wiring.executor(self.db_path)
        ports = executor.ports
        given = _as_store(store)
        trail = Trail.begin(given, ports.ledger.cipher)
        new = self._new_run(definition, given, trail, ports, run_id, resume_from, home=executor.home)
        return _begin(new, definition, executor)

    def fork(
        self,
        run_id: str,
        step: int,
        *,
        store_updates: Mapping[str, Any] | None = None,
        node: Node | str | None = None,
        new_run_id: str | None = None,
    ) -> RunHandle:
        """Start a new run where another one has been; that one stays as it is, and may still be going on.

        The same as `pocoflow.client.fork`, and executed where `run_background` would execute it: this is
        the way where no broker is configured.

        Args:
            run_id: A run in the database of this flow.
            step: The checkpoint to go on from; -1 is the input.
            store_updates: Values by key to go on with; `client.REMOVE` for a key that is to go.
            node: The first node (object or id); left out, the one that follows the checkpoint.
            new_run_id: Id of the new run; a second fork with this id and the same arguments returns the same
                run, and lets it go on when the process that ran it was interrupted.

        Raises:
            RunNotFoundError: There is no such run.
            CheckpointNotFoundError: It has no checkpoint of this step.
            InvalidTransitionError: No node follows the checkpoint, and none was given.
            RunConflictError: There is another run with this new id.
            StoreTypeError: The schema of the store forbids an update.
            StoreSerializationError: An update holds something that a checkpoint cannot carry.
            DefinitionError: It is a run of another flow, or this flow lacks the node.
        """
        definition = self.definition()
        graph, executor = definition.graph, wiring.executor(self.db_path)
        ledger, first = executor.ports.ledger, None if node is None else graph.id_of(node)
        point = ledger.get_fork_point(run_id, checked_step(step), node=first)
        if first is None and point.flow_name != self.flow_name:
            raise DefinitionError(
                f"run {run_id!r} is one of flow {point.flow_name!r}, not of {self.flow_name!r}: fork it by "
                "that flow, or name the node of this one to begin with (node=...)"
            )
        point = replace(
            point,
            flow_name=self.flow_name,
            flow_hash=graph.fingerprint,
            queue=None if point.node is None else graph.nodes[graph.id_of(point.node)].queue,
            timeout_s=self.timeout,
        )
        new = fork_of(point, ledger, updates=store_updates, run_id=new_run_id, home=executor.home)
        return _begin(new, definition, executor)

    def _run_id(self, given: str | None) -> str:
        if given is None:
            given = self.run_id
        if given is None:
            return fresh_run_id(self.flow_name)
        return checked_id(given, "run_id")

    def _new_run(
        self,
        definition: Definition,
        store: Store,
        trail: Trail,
        ports: Ports,
        run_id: str | None,
        resume_from: Node | str | None,
        *,
        home: str | None,
        owner: str | None = None,
    ) -> NewRun:
        graph = definition.graph
        node = graph.start if resume_from is None else graph.id_of(resume_from)
        texts = ports.ledger.encode(store)
        input_hash, *older_hashes = input_hashes(self.flow_name, node, trail.blinded(texts))
        return NewRun(
            run_id=self._run_id(run_id),
            flow_name=self.flow_name,
            flow_hash=graph.fingerprint,
            node=node,
            queue=graph.nodes[node].queue,
            input=trail.next(texts, whole=True),
            input_hash=input_hash,
            older_hashes=older_hashes,
            home=home,
            owner=owner,
            timeout_s=self.timeout,
            schema=ports.ledger.encode_schema(store),
            graph=graph.text,
        )


def _begin(new: NewRun, definition: Definition, executor: wiring.Executor) -> RunHandle:
    """Write a run down and have it executed, unless it is there already and goes its way."""
    ports = executor.ports
    started = ports.ledger.start(new)
    hint: Hint | None = Hint(new.run_id, 0, new.queue)
    if not started.created:
        hint = go_on(new, started, ports.ledger)
    if hint is not None:
        executor.execute(hint, definition)
    else:
        executor.stand_by(new.run_id, definition)
    log_event(log, "run started", run_id=new.run_id, flow=new.flow_name, created=started.created)
    return RunHandle(
        new.run_id,
        ledger=ports.ledger,
        flags=ports.flags,
        clock=ports.clock,
        room=wiring.waiting_room(ports),
        advice=executor.advice,
        resume=partial(_resume, executor, definition),
    )


def _resume(executor: wiring.Executor, definition: Definition, run_id: str) -> Status:
    """Let a run go on where this flow would be executed now."""
    hint = executor.ports.ledger.resume(run_id, home=executor.home)
    if hint is None:
        return Status.RUNNING
    executor.execute(hint, definition)
    return Status.QUEUED


def _as_store(store: Store | Mapping[str, Any]) -> Store:
    if isinstance(store, Store):
        return store
    if isinstance(store, Mapping):
        return Store(store)
    raise DefinitionError(f"a flow runs on a Store or a dict, got {store!r}")
