"""Where a run of PocoFlow 0.2 goes on: found by the first worker that has its flow, or not at all.

0.2 kept the node that it had come to, or only the last one and its action, and knew nodes by their class.
From here on the run is like any other.
"""

from __future__ import annotations

import re

from pocoflow.engine.advance import fail, where_given_back
from pocoflow.engine.graph import Definition, Graph
from pocoflow.engine.ports import Ports
from pocoflow.engine.records import Outcome, Position, Status
from pocoflow.errors import DefinitionError, StoreSerializationError
from pocoflow.store import Store

# What `Position.stands` holds: this, or AFTER and the action that the node returned.
AT, AFTER = "at", "after "
_PLACEHOLDER = re.compile(r"<non-serialisable: [^<>]*>")


def place(position: Position, store: Store, *, flow: Definition, ports: Ports) -> Outcome:
    """Give the step back as one of the node that it is of, or end the run where none follows.

    The run fails where going on would be a guess: with a value that 0.2 did not save, or with a node of which
    the flow has several by that name.
    """
    try:
        _refuse_placeholders(position, store)
        node = _node(position, flow.graph)
    except (StoreSerializationError, DefinitionError) as unclear:
        return fail(position, unclear, ports=ports)
    queue = None if node is None else flow.graph.nodes[node].queue
    status = ports.ledger.place(position, node, queue)
    position.queue = queue
    if status is Status.COMPLETED:
        flow.hooks.fire("flow_end", position.step, store)
    return where_given_back(position, status)


def _node(position: Position, graph: Graph) -> str | None:
    same = [name for name in graph.nodes if name.partition("#")[0] == position.node]
    if len(same) > 1:
        raise DefinitionError(
            f"PocoFlow 0.2 left this run at node {position.node!r}, and the flow has several of that name "
            f"({', '.join(same)}): {_by_hand(position)}"
        )
    stands = position.stands or AT
    return position.node if stands == AT else graph.after(position.node, stands.removeprefix(AFTER))


def _refuse_placeholders(position: Position, store: Store) -> None:
    lost = [key for key, value in store.items() if isinstance(value, str) and _PLACEHOLDER.fullmatch(value)]
    if lost:
        raise StoreSerializationError(
            f"PocoFlow 0.2 did not save the values of {', '.join(map(repr, lost))}, only placeholders: put "
            f"the values back and {_by_hand(position)}"
        )


def _by_hand(position: Position) -> str:
    last = position.step - 1
    return f"go on with flow.run(db.load_checkpoint({position.run_id!r}, {last}), resume_from=...)"
