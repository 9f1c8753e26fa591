"""Flows that PocoFlow 0.2.1 and this version can run; as a program, the runs that 0.2.1 leaves behind.

The program is started by `tests.support.seed`, in an environment that has 0.2.1, with the file, the run id
and the name of a trouble. Workers of this version import the same flows and meet no trouble.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from itertools import pairwise
from typing import Any

from pocoflow import Flow, Node, Store


class Trouble:
    """What is to go wrong, and where."""

    fails = ""
    dies = ""


class First(Node):
    def exec(self, prep_result: Any) -> Any:
        if Trouble.fails == self.name:
            raise ValueError(f"{self.name} is out of luck")
        if Trouble.dies == self.name:
            die()
        return None

    def post(self, store: Any, prep_result: Any, exec_result: Any) -> str:
        store["done"] = [*store.get("done", []), self.name]
        return "go"


class Second(First):
    pass


class Third(First):
    pass


class Elsewhere(First):
    """In this version, in a queue of its own; 0.2.1 has none."""

    queue = "elsewhere"


def row_of(*nodes: Node, **options: Any) -> tuple[Flow, tuple[Node, ...]]:
    for node, following in pairwise(nodes):
        node.then("go", following)
    return Flow(nodes[0], **options), nodes


def three(**options: Any) -> tuple[Flow, tuple[Node, ...]]:
    return row_of(First(), Second(), Third(), flow_name="three", **options)


def twins(**options: Any) -> tuple[Flow, tuple[Node, ...]]:
    return row_of(First(), Second(), Second(), flow_name="twins", **options)


def routed(**options: Any) -> tuple[Flow, tuple[Node, ...]]:
    return row_of(First(), Elsewhere(), flow_name="routed", **options)


known = [make()[0] for make in (three, twins, routed)]
three_flow, twins_flow, routed_flow = known


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_write(file: str, run_id: str) -> None:
    """End this process before its so manieth write; the run id ends in the number."""
    calls: list[str] = []
    for method in ("create_run", "update_run", "save_event", "save_checkpoint"):
        die_at(method, int(run_id.rpartition("-")[2]), calls=calls)
    three(db_path=file, run_id=run_id)[0].run(Store({}))


def die_at(method: str, call: int, *, after: bool = False, calls: list[str] | None = None) -> None:
    """End this process before, or after, it calls a method of the database for the so manieth time."""
    from pocoflow import WorkflowDB

    original, calls = getattr(WorkflowDB, method), [] if calls is None else calls

    def deadly(*args: Any, **kwargs: Any) -> Any:
        calls.append(method)
        if len(calls) == call and not after:
            die()
        result = original(*args, **kwargs)
        if len(calls) == call and after:
            die()
        return result

    setattr(WorkflowDB, method, deadly)


def complete(file: str, run_id: str) -> None:
    three(db_path=file, run_id=run_id)[0].run(Store({"tag": {"$t": "tuple", "v": [1]}, "nan": float("nan")}))


def fail(file: str, run_id: str, at: str = "Second", **data: Any) -> None:
    Trouble.fails = at
    with suppress(ValueError):
        three(db_path=file, run_id=run_id)[0].run(Store(data))
    Trouble.fails = ""


def lose_a_value(file: str, run_id: str) -> None:
    fail(file, run_id, client=object(), kept="as it is")


def exceed(file: str, run_id: str) -> None:
    with suppress(RuntimeError):
        three(db_path=file, run_id=run_id, max_steps=1)[0].run(Store({}))


def cancel(file: str, run_id: str) -> None:
    flow, _ = three(db_path=file, run_id=run_id)
    flow.on("node_end", lambda *args: flow._cancel_event.set())
    flow.run_background(Store({})).wait()


def go_on(file: str, run_id: str) -> None:
    """Fail, and complete by the way of 0.2 to resume, with the same id."""
    fail(file, run_id)
    flow, nodes = three(db_path=file, run_id=run_id)
    flow.run(Store({"done": ["First"]}), resume_from=nodes[1])


def go_on_and_die(file: str, run_id: str) -> None:
    """Fail after two steps, resume with the same id, and die after one."""
    fail(file, run_id, at="Third")
    flow, nodes = three(db_path=file, run_id=run_id)
    Trouble.dies = "Third"
    flow.run(Store({"done": ["First"], "again": True}), resume_from=nodes[1])


def go_on_and_die_at_once(file: str, run_id: str) -> None:
    fail(file, run_id)
    flow, nodes = three(db_path=file, run_id=run_id)
    Trouble.dies = "Second"
    flow.run(Store({"done": ["First"]}), resume_from=nodes[1])


def die_in(node: str, make: Any = three) -> Any:
    def run(file: str, run_id: str) -> None:
        Trouble.dies = node
        make(db_path=file, run_id=run_id)[0].run(Store({}))

    return run


def die_when(method: str, call: int, *, after: bool = False, fails: str = "", make: Any = three) -> Any:
    def run(file: str, run_id: str) -> None:
        die_at(method, call, after=after)
        Trouble.fails = fails
        make(db_path=file, run_id=run_id)[0].run(Store({}))

    return run


def write_by_hand(file: str, run_id: str) -> None:
    from pocoflow import WorkflowDB

    db = WorkflowDB(file)
    db.create_run(run_id, "mine")
    db.save_checkpoint(run_id, 0, "Mine", Store({"n": 1}))
    db.update_run(run_id, status="paused", total_steps=1)


# Events of a run of three: flow_start, then node_start and node_end of each step, then flow_end.
TROUBLES = {
    "completed": complete,
    "by-hand": write_by_hand,
    "deleted": complete,
    "failed": fail,
    "failed-at-first": lambda file, run_id: fail(file, run_id, "First"),
    "lost-value": lose_a_value,
    "exceeded": exceed,
    "cancelled": cancel,
    "gone-on": go_on,
    "gone-on-and-killed": go_on_and_die,
    "gone-on-and-killed-at-once": go_on_and_die_at_once,
    "killed-in-first": die_in("First"),
    "killed-in-second": die_in("Second"),
    "killed-in-third": die_in("Third"),
    "killed-before-any-event": die_when("save_event", 1),
    "killed-before-checkpoint": die_when("save_checkpoint", 2),
    "killed-after-checkpoint": die_when("save_checkpoint", 2, after=True),
    "killed-between-steps": die_when("save_event", 4),
    "killed-before-its-end": die_when("save_event", 8),
    "killed-at-its-end": die_when("save_event", 8, after=True),
    "killed-while-failing": die_when("save_event", 5, after=True, fails="Second"),
    "twins": die_in("Second", twins),
    "routed": die_when("save_checkpoint", 1, after=True, make=routed),
}

if __name__ == "__main__":
    (TROUBLES | {"die-at-write": die_at_write})[sys.argv[3]](sys.argv[1], sys.argv[2])
