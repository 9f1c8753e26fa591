"""A graph gives each node an id that depends on the wiring alone, and knows what follows what."""

from __future__ import annotations

import logging
from itertools import pairwise
from typing import Any

import pytest

from pocoflow import AsyncNode, DefinitionError, Flow, Node
from pocoflow.engine.graph import Graph


class AddNode(Node):
    pass


class LoadNode(Node):
    pass


def chain(*nodes: Node) -> Node:
    """Wire nodes one after the other and return the first."""
    for node, following in pairwise(nodes):
        node.then("default", following)
    return nodes[0]


def ids(start: Node) -> list[str]:
    return list(Graph(start).nodes)


def test_nodes_of_one_class_get_ids_of_their_own() -> None:
    start = chain(AddNode(), AddNode(), LoadNode(), AddNode())

    assert ids(start) == ["AddNode", "AddNode#2", "LoadNode", "AddNode#3"]


def test_a_name_that_was_given_is_the_id() -> None:
    late = AddNode()
    late.name = "late"

    assert ids(chain(AddNode(name="sum"), AddNode(), late)) == ["sum", "AddNode", "late"]


def test_a_name_that_looks_like_a_counted_one_is_not_given_twice() -> None:
    start = chain(AddNode(), AddNode(name="AddNode#2"), AddNode(), AddNode(name="LoadNode"), LoadNode())

    assert ids(start) == ["AddNode", "AddNode#2", "AddNode#3", "LoadNode", "LoadNode#2"]


def test_a_name_that_a_class_gives_is_counted_like_the_name_of_the_class() -> None:
    class Fetch(Node):
        name = "fetch"

    assert ids(chain(Fetch(), Fetch())) == ["fetch", "fetch#2"]


def test_two_nodes_with_the_same_given_name_are_refused() -> None:
    start = chain(AddNode(name="sum"), LoadNode(name="sum"), AddNode())

    with pytest.raises(DefinitionError, match="2 nodes of this flow are named 'sum'"):
        Flow(start=start)


def test_ids_are_counted_breadth_first_in_the_order_of_the_wiring() -> None:
    start, left, right, deep = LoadNode(name="start"), AddNode(), AddNode(), AddNode()
    start.then("left", left).then("right", right)
    left.then("default", deep)

    graph = Graph(start)

    assert [graph.id_of(node) for node in (left, right, deep)] == ["AddNode", "AddNode#2", "AddNode#3"]


def test_the_same_wiring_gives_the_same_ids_and_fingerprint_each_time() -> None:
    def build() -> Graph:
        return Graph(chain(AddNode(), AddNode(), LoadNode(name="load")))

    assert list(build().nodes) == list(build().nodes)
    assert build().fingerprint == build().fingerprint


@pytest.mark.parametrize(
    "other",
    [
        chain(AddNode(), AddNode()),
        chain(LoadNode(), AddNode(), LoadNode()),
        chain(AddNode(), AddNode(), LoadNode(name="load")),
        AddNode().then("ok", chain(AddNode(), LoadNode())),
    ],
)
def test_another_wiring_has_another_fingerprint(other: Node) -> None:
    graph = Graph(chain(AddNode(), AddNode(), LoadNode()))

    assert Graph(other).fingerprint != graph.fingerprint


def test_a_node_wired_twice_is_one_node() -> None:
    start, shared = LoadNode(), AddNode()
    start.then("ok", shared).then("retry", start).then("*", shared)

    graph = Graph(start)

    assert list(graph.nodes) == ["LoadNode", "AddNode"]
    assert dict(graph.edges["LoadNode"]) == {"ok": "AddNode", "retry": "LoadNode", "*": "AddNode"}


def test_a_node_is_found_by_object_and_by_id() -> None:
    second = AddNode()
    graph = Graph(chain(AddNode(), second))

    assert graph.id_of(second) == "AddNode#2"
    assert graph.id_of("AddNode#2") == "AddNode#2"


@pytest.mark.parametrize("node", [AddNode(), "AddNode#3", "", None])
def test_a_node_that_is_not_in_the_graph_is_refused_with_those_that_are(node: Any) -> None:
    graph = Graph(chain(AddNode(), AddNode()))

    with pytest.raises(DefinitionError, match=r"is not in this flow: it has AddNode, AddNode#2"):
        graph.id_of(node)


def test_wiring_after_the_graph_was_made_does_not_change_it() -> None:
    start = AddNode()
    graph = Graph(start)

    start.then("default", LoadNode())

    assert list(graph.nodes) == ["AddNode"]
    assert graph.after("AddNode", "default") is None


@pytest.mark.parametrize(
    ("action", "following"), [("ok", "good"), ("error", "fallback"), ("*", "fallback"), ("", "fallback")]
)
def test_the_wildcard_follows_every_action_without_an_edge_of_its_own(action: str, following: str) -> None:
    start = AddNode(name="start").then("*", AddNode(name="fallback")).then("ok", AddNode(name="good"))

    assert Graph(start).after("start", action) == following


def test_an_action_without_an_edge_ends_the_flow_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    graph = Graph(AddNode(name="start").then("ok", AddNode()))

    with caplog.at_level(logging.INFO, logger="pocoflow"):
        following = graph.after("start", "eror")

    assert following is None
    line = "no edge for this action, the flow ends here node=start action=eror"
    assert ("pocoflow.flow", logging.INFO, line) in caplog.record_tuples


def test_the_end_of_a_flow_that_was_wired_so_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    graph = Graph(AddNode(name="start"))

    with caplog.at_level(logging.DEBUG, logger="pocoflow"):
        following = graph.after("start", "done")

    assert following is None
    assert "no edge for this action" not in caplog.text


@pytest.mark.parametrize(
    ("attribute", "value", "complaint"),
    [
        ("max_retries", 0, "node 'AddNode': max_retries counts all tries, so it is 1 or more, got 0"),
        ("max_retries", -1, "got -1"),
        ("max_retries", 1.5, "got 1.5"),
        ("max_retries", "3", "got '3'"),
        ("max_retries", None, "got None"),
        ("retry_delay", -0.1, "node 'AddNode': retry_delay must be 0 or more seconds, got -0.1"),
        ("retry_delay", float("nan"), "got nan"),
        ("retry_delay", float("inf"), "got inf"),
        ("retry_delay", "1", "got '1'"),
        ("queue", "", "node 'AddNode': queue must be the name of a Celery queue, got ''"),
        ("queue", 5, "got 5"),
        ("name", "", "node name '' must be a printable string that is not empty"),
        ("name", 5, "node name 5 must be"),
        ("name", ["a"], "node name \\['a'\\] must be"),
        ("name", "a\nb", "must be a printable string"),
        ("name", "a\x00b", "must be a printable string"),
        ("name", "x" * 201, "has over 200 characters: shorten it"),
    ],
)
def test_a_setting_of_a_node_that_cannot_work_is_refused_when_the_flow_is_made(
    attribute: str, value: Any, complaint: str
) -> None:
    node = AddNode()
    setattr(node, attribute, value)

    with pytest.raises(DefinitionError, match=complaint):
        Flow(start=LoadNode().then("default", node))


class AsyncPrep(Node):
    async def prep(self, store: Any) -> None: ...


class AsyncExec(Node):
    async def exec(self, prep_result: Any) -> None: ...


class AsyncFallback(AsyncNode):
    async def exec_fallback(self, prep_result: Any, exc: BaseException) -> None: ...


class AsyncPost(AsyncNode):
    async def post(self, store: Any, prep_result: Any, exec_result: Any) -> str | None: ...


@pytest.mark.parametrize("node", [AsyncPrep(), AsyncExec(), AsyncFallback(), AsyncPost()])
def test_a_method_that_nobody_would_await_is_refused(node: Node) -> None:
    with pytest.raises(DefinitionError, match=r"is async: only exec_async\(\)"):
        Flow(start=node)


class ExecOfAsync(AsyncNode):
    def exec(self, prep_result: Any) -> Any:
        return prep_result


def test_an_async_node_does_its_work_in_one_place() -> None:
    with pytest.raises(DefinitionError, match="works in exec_async"):
        Flow(start=ExecOfAsync())
