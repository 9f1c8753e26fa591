"""Small flows in which each kind of thing happens that can happen to a step."""

from __future__ import annotations

import asyncio
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
    """Fails so many times before it succeeds."""

    max_retries = 3

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures

    def exec(self, prep_result: Any) -> str:
        self.failures -= 1
        if self.failures >= 0:
            raise ConnectionError(f"{self.failures} to go")
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


def linear() -> Flow:
    return Flow(Add(1, "one").then("small", Add(2, "two").then("small", Add(3, "three"))))


def branch() -> Flow:
    return Flow(Add(5, "ask").then("big", Add(100, "big")).then("*", Add(-1, "other")))


def loop(max_steps: int = 100) -> Flow:
    add = Add(4, "add")
    return Flow(add.then("small", add), max_steps=max_steps)


def after_one(node: Node) -> Flow:
    return Flow(Add(1, "one").then("*", node))
