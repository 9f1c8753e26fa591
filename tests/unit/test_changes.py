"""When a run can go on with another graph than the one that has led it here, and what is said if not."""

from __future__ import annotations

import pytest

from pocoflow import Node
from pocoflow.engine.changes import lacks
from pocoflow.engine.graph import Graph


def graph(**edges: dict[str, str]) -> Graph:
    """Wire nodes by name; the first one is the start."""
    nodes = {name: Node(name=name) for name in edges}
    for name, following in edges.items():
        for action, to in following.items():
            nodes[name].then(action, nodes[to])
    return Graph(next(iter(nodes.values())))


BEFORE = graph(draft={"ok": "check"}, check={"good": "publish", "bad": "draft"}, publish={})


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(
            graph(check={"good": "publish", "bad": "draft"}, draft={"other": "check"}, publish={}),
            id="another start, other edges elsewhere",
        ),
        pytest.param(
            graph(
                draft={"ok": "check"},
                check={"good": "publish", "bad": "draft", "new": "extra"},
                publish={},
                extra={},
            ),
            id="one edge more",
        ),
        pytest.param(
            graph(draft={"ok": "check"}, check={"*": "publish", "bad": "draft"}, publish={}),
            id="an edge for every action in place of one of its own",
        ),
    ],
)
def test_a_graph_that_keeps_node_and_edges_lacks_nothing(after: Graph) -> None:
    assert after.fingerprint != BEFORE.fingerprint
    assert lacks("check", after, BEFORE.text) is None


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (graph(draft={"ok": "publish"}, publish={}), "node 'check' is not there"),
        (
            graph(draft={"ok": "check"}, check={"good": "publish"}, publish={}),
            "node 'check' has lost its edges 'bad' to 'draft' (now the end)",
        ),
        (
            graph(draft={"ok": "check"}, check={"good": "draft", "bad": "publish"}, publish={}),
            "node 'check' has lost its edges 'bad' to 'draft' (now 'publish'), "
            "'good' to 'publish' (now 'draft')",
        ),
    ],
    ids=["node gone", "edge gone", "edges lead elsewhere"],
)
def test_a_graph_says_what_it_lacks(after: Graph, said: str) -> None:
    assert lacks("check", after, BEFORE.text) == said


def test_of_a_graph_that_nobody_kept_only_the_node_counts() -> None:
    after = graph(check={})

    assert lacks("check", after, None) is None
    assert lacks("publish", after, None) == "node 'publish' is not there"


def test_a_node_that_ended_the_run_may_be_given_an_edge() -> None:
    after = graph(publish={"default": "tell"}, tell={})

    assert lacks("publish", after, BEFORE.text) is None


class Other(Node):
    pass


def test_the_same_wiring_of_other_classes_in_another_order_is_the_same_graph() -> None:
    start, left, right = Other(name="start"), Node(name="left"), Other(name="right")
    start.then("r", right).then("l", left)

    same = graph(start={"l": "left", "r": "right"}, left={}, right={})

    assert (same.text, same.fingerprint) == (Graph(start).text, Graph(start).fingerprint)
