"""A resource is made once in a process, when a step first asks for it, and no checkpoint holds it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pocoflow import AsyncNode, DefinitionError, Flow, Node, ResourceError, WorkflowDB
from pocoflow.engine.resources import Resources


class Ask(Node):
    """Puts what it does with the resources into the store."""

    def __init__(self, ask: Callable[[Node], Any], name: str | None = None, tries: int = 1) -> None:
        super().__init__(name)
        self.ask = ask
        self.max_retries = tries

    def exec(self, prepared: Any) -> Any:
        return self.ask(self)

    def post(self, store: Any, prepared: Any, result: Any) -> None:
        store["answers"] = [*store.get("answers", []), result]


class Counting:
    """A factory that knows how often it was called; raises the first few times."""

    def __init__(self, *, failures: int = 0, error: Exception | None = None) -> None:
        self.calls = 0
        self._failures = failures
        self._error = error or ConnectionError("refused")

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self._failures:
            raise self._error
        return f"client {self.calls}"


def asking(*names: str) -> Flow:
    first, *others = [Ask(lambda node: node.resources["llm"], name) for name in names or ("ask",)]
    last = first
    for node in others:
        last.then("default", node)
        last = node
    return Flow(first, flow_name="asking")


def test_nodes_of_all_runs_get_one_and_the_same_object() -> None:
    flow = asking("one", "two").resource("llm", make := Counting())

    stores = [flow.run({}), flow.run({})]

    assert make.calls == 1
    assert [store["answers"] for store in stores] == [["client 1", "client 1"]] * 2


def test_nothing_is_made_before_a_step_asks_for_it() -> None:
    flow = Flow(Ask(lambda node: [*node.resources, "llm" in node.resources, len(node.resources)]))
    flow.resource("llm", make := Counting())

    assert flow.run({})["answers"] == [["llm", True, 1]]
    assert make.calls == 0


def test_threads_that_ask_at_the_same_time_wait_for_the_one_that_makes_it() -> None:
    entered, leave = threading.Event(), threading.Event()

    def make() -> object:
        assert not entered.is_set()
        entered.set()
        assert leave.wait(30)
        return object()

    resources = Resources()
    resources.add("llm", make)
    resources.add("other", lambda: "at once")

    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(lambda: resources["llm"])
        assert entered.wait(30)
        others = [pool.submit(lambda: resources["llm"]) for _ in range(6)]
        assert pool.submit(lambda: resources["other"]).result(30) == "at once"
        leave.set()
        assert all(other.result(30) is first.result(30) for other in others)


def test_a_resource_that_cannot_be_made_is_the_error_of_the_node_and_names_it(tmp_path: Path) -> None:
    flow = asking().resource("llm", Counting(failures=9))
    flow.db_path = tmp_path / "history.db"

    with pytest.raises(ConnectionError, match="refused\nwhile making"):
        flow.run({}, run_id="r")

    row = WorkflowDB(flow.db_path).get_run("r")
    assert row is not None
    assert (row["error_type"], row["error_msg"]) == (
        "ConnectionError",
        "refused (while making the resource 'llm')",
    )


def test_it_is_made_again_at_the_next_use_if_that_has_failed() -> None:
    ask = Ask(lambda node: node.resources["llm"], tries=3)
    flow = Flow(ask).resource("llm", make := Counting(failures=2))

    assert flow.run({})["answers"] == ["client 3"]
    assert flow.run({})["answers"] == ["client 3"]
    assert make.calls == 3


def test_a_key_error_of_a_factory_is_no_missing_resource() -> None:
    flow = Flow(Ask(lambda node: node.resources.get("llm", "none")))
    flow.resource("llm", Counting(failures=1, error=KeyError("LLM_URL")))

    with pytest.raises(KeyError, match="LLM_URL"):
        flow.run({})


@pytest.mark.parametrize("others", [(), ("db", "llm")])
def test_an_unknown_name_is_refused_with_those_that_there_are(others: tuple[str, ...]) -> None:
    flow = Flow(Ask(lambda node: node.resources["gpu"]))
    for name in others:
        flow.resource(name, Counting())

    with pytest.raises(ResourceError, match=f"no resource 'gpu': it has {', '.join(others) or 'none'}; add"):
        flow.run({})


def test_outside_a_step_there_are_none() -> None:
    with pytest.raises(ResourceError, match="node 'Node' asks for resources outside a step"):
        _ = Node().resources


@pytest.mark.parametrize("name", ["", 7, "a\nb"])
def test_a_name_that_is_none_is_refused(name: Any) -> None:
    with pytest.raises(DefinitionError, match="must be a printable string that is not empty"):
        asking().resource(name, Counting())


def test_a_name_that_is_taken_is_refused() -> None:
    with pytest.raises(DefinitionError, match="resource 'llm' is there already"):
        asking().resource("llm", Counting()).resource("llm", Counting())


def test_an_object_in_place_of_a_factory_is_refused() -> None:
    with pytest.raises(DefinitionError, match="resource 'llm' takes a function that makes it, got 'client'"):
        asking().resource("llm", "client")  # type: ignore[arg-type]


def test_coroutines_and_the_threads_that_they_start_see_the_resources() -> None:
    class Gather(AsyncNode):
        async def exec_async(self, prepared: Any) -> Any:
            return [self.resources["llm"], await asyncio.to_thread(lambda: self.resources["llm"])]

        def post(self, store: Any, prepared: Any, result: Any) -> None:
            store["answers"] = result

    flow = Flow(Gather()).resource("llm", Counting())

    assert flow.run({})["answers"] == ["client 1", "client 1"]


def test_the_worker_inside_the_process_shares_it_with_inline_runs_and_saves_nothing_of_it() -> None:
    flow = Flow(Ask(lambda node: node.resources["llm"] is client)).resource("llm", lambda: client)
    client = threading.Lock()  # no checkpoint could carry it

    assert flow.run({})["answers"] == [True]
    assert dict(flow.run_background({}).wait(60)) == {"answers": [True]}


def test_nodes_see_the_resources_through_the_wrapper_of_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POCOFLOW_FAULTS", "in_exec@ask=sleep=0.001")
    flow = asking().resource("llm", Counting())

    assert flow.run_background({}).wait(60)["answers"] == ["client 1"]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_makes_its_own_even_if_it_was_forked_while_a_thread_made_one() -> None:
    entered, leave, parent = threading.Event(), threading.Event(), os.getpid()

    def make() -> int:
        if os.getpid() == parent:
            entered.set()
            assert leave.wait(30)
        return os.getpid()

    resources = Resources()
    resources.add("pid", make)
    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(lambda: resources["pid"])
        assert entered.wait(30)
        child = os.fork()
        if child == 0:
            os._exit(0 if resources["pid"] == os.getpid() else 1)
        _, status = os.waitpid(child, 0)
        leave.set()
        assert made.result(30) == parent

    assert status == 0
