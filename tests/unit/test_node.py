"""A node is prep, exec and post, wired by actions; its coroutine runs wherever it is called from."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any

import pytest

from pocoflow import AsyncNode, DefinitionError, Flow, Node, Store
from tests.support.wait import wait_until

REQUEST = contextvars.ContextVar("REQUEST", default="nobody")


class AddNode(Node):
    pass


class Fetch(AsyncNode):
    """Waits for as many coroutines as it gets pages, so it ends only if they run at the same time."""

    def prep(self, store: Store) -> Any:
        return store["urls"]

    async def exec_async(self, urls: list[str]) -> list[str]:
        together = asyncio.Barrier(len(urls))

        async def fetch(url: str) -> str:
            await together.wait()
            return url.upper()

        return await asyncio.gather(*(fetch(url) for url in urls))

    def post(self, store: Store, prep_result: Any, pages: list[str]) -> str:
        store["pages"] = pages
        return "done"


class Failing(AsyncNode):
    async def exec_async(self, prep_result: Any) -> Any:
        raise ValueError("no such page")


class Cancelled(AsyncNode):
    async def exec_async(self, prep_result: Any) -> Any:
        raise asyncio.CancelledError


def in_no_loop(call: Callable[[], Any]) -> Any:
    return call()


def in_a_running_loop(call: Callable[[], Any]) -> Any:
    async def notebook() -> Any:
        return call()

    return asyncio.run(notebook())


anywhere = pytest.mark.parametrize("place", [in_no_loop, in_a_running_loop])


@pytest.mark.parametrize("node_class", [AddNode, AsyncNode])
def test_a_node_that_overrides_nothing_passes_its_input_through_and_goes_on_by_default(
    node_class: type[Node],
) -> None:
    node = node_class()

    assert node.prep(Store()) is None
    assert node.exec("work") == "work"
    assert node.post(Store(), None, "work") == "default"


def test_a_node_is_tried_once_without_delay_on_the_default_queue_unless_it_says_otherwise() -> None:
    node = AddNode()

    assert (node.max_retries, node.retry_delay, node.queue) == (1, 0.0, None)


@pytest.mark.parametrize(
    ("node", "name"), [(AddNode(), "AddNode"), (AddNode("sum"), "sum"), (AddNode(name="sum"), "sum")]
)
def test_a_node_is_called_like_its_class_or_as_it_was_told(node: Node, name: str) -> None:
    assert node.name == name
    assert repr(node) == f"<AddNode {name!r}>"


def test_a_class_may_give_its_nodes_a_name_that_its_subclasses_do_not_share() -> None:
    class Named(Node):
        name = "fetch"

    class Child(Named):
        pass

    assert Named().name == "fetch"
    assert Child().name == "Child"


def test_a_node_whose_init_forgets_super_can_be_wired_and_run() -> None:
    class Greet(Node):
        def __init__(self, greeting: str) -> None:
            self.greeting = greeting

        def post(self, store: Store, prep_result: Any, exec_result: Any) -> None:
            store["text"] = store.get("text", "") + self.greeting

    first = Greet("hello ").then("default", Greet("world"))

    store = Flow(start=first).run({})

    assert store["text"] == "hello world"


def test_then_returns_the_node_so_that_edges_are_written_in_a_row() -> None:
    start, good, bad = AddNode("start"), AddNode("good"), AddNode("bad")

    returned = start.then("ok", good).then("error", bad).then("*", start)

    assert returned is start
    assert dict(start.edges) == {"ok": good, "error": bad, "*": start}


def test_the_same_edge_may_be_wired_twice() -> None:
    start, after = AddNode(), AddNode()

    start.then("ok", after).then("ok", after)

    assert dict(start.edges) == {"ok": after}


def test_an_action_cannot_lead_to_two_nodes() -> None:
    start = AddNode("start").then("ok", AddNode("first"))

    with pytest.raises(
        DefinitionError, match=r"node 'start': action 'ok' leads to 'first' already.*'second'"
    ):
        start.then("ok", AddNode("second"))

    assert start.edges["ok"].name == "first"


@pytest.mark.parametrize("action", ["", None, 5, b"ok", ["ok"]])
def test_an_action_is_a_string_that_is_not_empty(action: Any) -> None:
    with pytest.raises(DefinitionError, match="node 'start': an action is a string that is not empty"):
        AddNode("start").then(action, AddNode())


@pytest.mark.parametrize("node", [AddNode, None, "AddNode", Flow(start=AddNode())])
def test_an_action_leads_to_a_node_object(node: Any) -> None:
    with pytest.raises(DefinitionError, match="node 'start': action 'ok' must lead to a Node object"):
        AddNode("start").then("ok", node)


def test_edges_are_changed_by_then_alone() -> None:
    edges: Any = AddNode().then("ok", AddNode()).edges

    with pytest.raises(TypeError):
        edges["more"] = AddNode()


@anywhere
def test_an_async_node_runs_its_parts_at_the_same_time_also_inside_a_running_loop(
    place: Callable[[Callable[[], Any]], Any],
) -> None:
    flow = Flow(start=Fetch())

    store = place(lambda: flow.run({"urls": ["a", "b", "c"]}))

    assert store["pages"] == ["A", "B", "C"]


@anywhere
def test_an_async_node_sees_the_context_variables_of_its_caller(
    place: Callable[[Callable[[], Any]], Any],
) -> None:
    class WhoAsks(AsyncNode):
        async def exec_async(self, prep_result: Any) -> str:
            return REQUEST.get()

    token = REQUEST.set("alice")

    seen = place(lambda: WhoAsks().exec(None))

    REQUEST.reset(token)
    assert seen == "alice"


@anywhere
def test_an_error_in_a_coroutine_arrives_as_it_is_with_nothing_of_ours_around_it(
    place: Callable[[Callable[[], Any]], Any],
) -> None:
    with pytest.raises(ValueError, match="no such page") as caught:
        place(lambda: Flow(start=Failing()).run({}))

    text = "".join(traceback.format_exception(caught.value))
    assert "During handling of the above exception" not in text
    assert "in exec_async" in text


@anywhere
def test_a_coroutine_that_was_cancelled_fails_its_step_like_any_other_error(
    place: Callable[[Callable[[], Any]], Any],
) -> None:
    failed = []
    flow = Flow(start=Cancelled("fetch")).on(
        "node_error", lambda name, exc, store: failed.append((name, exc))
    )

    with pytest.raises(CancelledError, match=r"exec_async\(\) of node 'fetch' was cancelled") as caught:
        place(lambda: flow.run({}))

    assert isinstance(caught.value, Exception)
    assert failed == [("fetch", caught.value)]


def test_a_coroutine_is_tried_again_like_exec() -> None:
    tries = []

    class Flaky(AsyncNode):
        max_retries = 3

        async def exec_async(self, prep_result: Any) -> str:
            tries.append(1)
            if len(tries) < 3:
                raise ConnectionError("busy")
            return "ok"

    Flow(start=Flaky()).run({})

    assert len(tries) == 3


def test_a_node_outside_a_run_is_not_cancelled() -> None:
    assert AddNode().cancelled is False


def test_a_node_in_a_run_that_nobody_cancels_is_not_cancelled() -> None:
    class Look(Node):
        def exec(self, prep_result: Any) -> bool:
            return self.cancelled

        def post(self, store: Store, prep_result: Any, exec_result: bool) -> None:
            store["cancelled"] = exec_result

    assert Flow(start=Look()).run({})["cancelled"] is False


def test_a_long_exec_notices_that_its_run_was_cancelled_and_other_runs_do_not() -> None:
    noticed, started = threading.Event(), threading.Event()

    class Long(Node):
        def exec(self, prep_result: Any) -> None:
            started.set()
            wait_until(lambda: self.cancelled, what="the cancel to be seen")
            noticed.set()

    node = Long().then("default", AddNode())
    handle = Flow(start=node).run_background({})
    wait_until(started.is_set, what="the step to start")

    handle.cancel()

    wait_until(noticed.is_set, what="the step to notice")
    wait_until(lambda: handle.is_done, what="the run to end")
    assert handle.status == "cancelled"
    assert node.cancelled is False


class Keyed(Node):
    """Collects the key of each execution; fails so many times before it succeeds."""

    max_retries = 3

    def __init__(self, keys: list[str | None], failures: int = 0) -> None:
        super().__init__()
        self.keys, self.failures = keys, failures

    def exec(self, prep_result: Any) -> None:
        self.keys.append(self.idempotency_key)
        self.failures -= 1
        if self.failures >= 0:
            raise ConnectionError("busy")


def test_a_node_outside_a_run_has_no_idempotency_key() -> None:
    assert AddNode().idempotency_key is None


def test_each_step_has_an_idempotency_key_of_its_own() -> None:
    keys: list[str | None] = []
    flow = Flow(start=Keyed(keys).then("default", Keyed(keys)))

    flow.run({}, run_id="order-17")

    assert keys == ["order-17:0", "order-17:1"]


def test_the_idempotency_key_is_the_same_in_each_retry_also_in_the_background() -> None:
    keys: list[str | None] = []

    Flow(start=Keyed(keys, failures=2)).run_background({}, run_id="order-17").wait(30)

    assert keys == ["order-17:0"] * 3


def test_a_node_object_may_be_in_several_runs_at_the_same_time() -> None:
    both_inside = threading.Barrier(2, timeout=30)

    class Meet(Node):
        def prep(self, store: Store) -> Any:
            return store["who"]

        def exec(self, who: str) -> str:
            both_inside.wait()
            return who.upper()

        def post(self, store: Store, prep_result: Any, exec_result: str) -> None:
            store["met"] = exec_result

    flow = Flow(start=Meet())

    with ThreadPoolExecutor(2) as pool:
        stores = list(pool.map(lambda who: flow.run({"who": who}), ["ann", "bob"]))

    assert [store["met"] for store in stores] == ["ANN", "BOB"]
