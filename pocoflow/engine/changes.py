"""Whether a run can go on with a graph that is not the one which has led it to where it stands.

It can when its next node is there, and each action that had an edge at this node still leads to the same one.
"""

from __future__ import annotations

import json

from pocoflow.engine.graph import Graph
from pocoflow.engine.ports import Ledger
from pocoflow.engine.records import KeptGraph, Position
from pocoflow.errors import FlowChangedError


def is_same(position: Position, graph: Graph) -> bool:
    """Whether there is nothing to find out: the run was led here by this very graph."""
    return position.flow_hash == graph.fingerprint and position.node in graph.nodes


def lacks(node: str, graph: Graph, before: str | None) -> str | None:
    """Say what a graph lacks for a run that comes to this node by another one; None if that is nothing.

    Args:
        before: `Graph.text` of the other one; None if nobody has kept it, and then only the node counts.
    """
    if node not in graph.nodes:
        return f"node {node!r} is not there"
    edges = {} if before is None else json.loads(before)["edges"].get(node, {})
    gone = [
        f"{action!r} to {to!r} (now {_place(graph.following(node, action))})"
        for action, to in edges.items()
        if graph.following(node, action) != to
    ]
    return f"node {node!r} has lost its edges {', '.join(gone)}" if gone else None


def adopt(position: Position, graph: Graph, ledger: Ledger, *, in_time: bool) -> bool:
    """Let the run go on with this graph, and have history say so; False if its step is no longer held.

    Args:
        in_time: Whether a worker that suits the run better may still come. Then one with an older graph
            leaves the run to newer ones: it might pass by steps which only those know.

    Raises:
        FlowChangedError: The run cannot go on with this graph, or should not yet.
    """
    kept = ledger.get_graph(position.flow_hash) if position.flow_hash else None
    missing = lacks(position.node, graph, None if kept is None else kept.text)
    if missing is not None:
        raise FlowChangedError(
            f"the graph of flow {position.flow_name!r} has changed, and run {position.run_id!r} cannot go on "
            f"with it at step {position.step}: {missing}: start workers with the code that the run came "
            "from, or with code that has this again, and resume the run; or fork it at a node that is there"
        )
    if not position.flow_hash:
        return True  # Of PocoFlow 0.2, which kept no graphs.
    if in_time and kept is not None and _is_older(graph, kept, ledger):
        raise FlowChangedError(
            f"run {position.run_id!r} comes from a newer graph of flow {position.flow_name!r}: "
            "left to workers that have it"
        )
    if ledger.adopt(position, graph=graph.text, fingerprint=graph.fingerprint) is None:
        return False
    position.flow_hash = graph.fingerprint
    return True


def _is_older(graph: Graph, other: KeptGraph, ledger: Ledger) -> bool:
    mine = ledger.get_graph(graph.fingerprint)
    return mine is not None and mine.seen_at < other.seen_at


def _place(node: str | None) -> str:
    return "the end" if node is None else repr(node)
