"""Small flows in which each kind of thing happens that can happen to a step.

A worker finds them when POCOFLOW_FLOWS names this module. They keep nothing of their runs but what `Flaky`
counts, by step, so any number of executors may share them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from pocoflow import AsyncNode, Flow, Node


class Add(Node):
    def __init__(self, number: int, name: str | None = None) -> None:
        super().__init__(name)
        self.number = number

    def prep(self, store: Any) -> Any:
        return store["n"]

    def exec(self, prep_result: Any) -> Any:
        return prep_result + self.number

    def post(self, store: Any, prep_result: Any, exec_result: Any) -> str:
        store["n"] = exec_result
        return "big" if exec_result > 9 else "small"


class Flaky(Node):
    """Fails in each step so many times before it succeeds, if one process makes all the tries."""

    max_retries = 3

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures
        self.tries: Counter[str | None] = Counter()

    def exec(self, prep_result: Any) -> str:
        self.tries[self.idempotency_key] += 1
        to_go = self.failures - self.tries[self.idempotency_key]
        if to_go >= 0:
            raise ConnectionError(f"{to_go} to go")
        return "done"

    def post(self, store: Any, prep_result: Any, exec_result: Any) -> None:
        store["result"] = exec_result


class FailsAfterWork(Node):
    max_retries = 3

    def post(self, store: Any, prep_result: Any, exec_result: Any) -> None:
        store["half"] = "written"
        raise KeyError("not in post")


class Stores(Node):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def post(self, store: Any, prep_result: Any, exec_result: Any) -> None:
        store["value"] = self.value


class Returns(Node):
    def __init__(self, action: Any) -> None:
        super().__init__()
        self.action = action

    def post(self, store: Any, prep_result: Any, exec_result: Any) -> Any:
        return self.action


class Gather(AsyncNode):
    async def exec_async(self, prep_result: Any) -> list[int]:
        return list(await asyncio.gather(*(self.double(number) for number in range(3))))

    async def double(self, number: int) -> int:
        await asyncio.sleep(0)
        return 2 * number

    def post(self, store: Any, prep_result: Any, exec_result: Any) -> None:
        store["doubled"] = exec_result


class GatherFails(AsyncNode):
    async def exec_async(self, prep_result: Any) -> None:
        raise TimeoutError("no answer")


def loop(flow_name: str, max_steps: int) -> Flow:
    add = Add(4, "add")
    return Flow(add.then("small", add), flow_name=flow_name, max_steps=max_steps)


def after_one(node: Node, flow_name: str) -> Flow:
    return Flow(Add(1, "one").then("*", node), flow_name=flow_name)


VALUES = (1, {2, 3}, b"\0", None, float("inf"))

linear = Flow(
    Add(1, "one").then("small", Add(2, "two").then("small", Add(3, "three"))),
    flow_name="linear",
)
branch = Flow(
    Add(5, "ask").then("big", Add(100, "big")).then("*", Add(-1, "other")),
    flow_name="branch",
)
no_edge = Flow(Returns("elsewhere").then("here", Add(1)), flow_name="no_edge")
turns = loop("turns", max_steps=100)
too_many_turns = loop("too_many_turns", max_steps=2)
gather = Flow(Gather(), flow_name="gather")
gather_fails = Flow(GatherFails(), flow_name="gather_fails")
rich_values = Flow(Stores(VALUES), flow_name="rich_values")
flaky = Flow(Flaky(2), flow_name="flaky")
hopeless = after_one(Flaky(9), "hopeless")
fails_in_post = after_one(FailsAfterWork(), "fails_in_post")
no_action = after_one(Returns(7), "no_action")
no_plain_data = after_one(Stores(object()), "no_plain_data")
