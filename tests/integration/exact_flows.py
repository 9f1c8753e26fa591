"""Flows for workers whose stores have types, and hold every type that there is."""

from __future__ import annotations

from typing import Any, Literal

from pocoflow import Flow, Node, Store
from tests.support.kinds import Colour, Edge, Open, Page, Pair, Point

SCHEMA = {
    "left": int,
    "texts": list[str],
    "records": list[Point | Pair | Edge],
    "models": list[Page | Open],
    "mark": Literal["none", Colour.RED],
    "edges": dict[str, Edge],
}


class Carry(Node):
    """Takes all out of the store and puts it back, `left` times."""

    def post(self, store: Store, prepared: Any, result: Any) -> str:
        for key, value in dict(store).items():
            store[key] = value
        store["left"] -= 1
        return "again" if store["left"] > 0 else "enough"


class Mistype(Node):
    def post(self, store: Store, prepared: Any, result: Any) -> None:
        store["texts"] = ["fine", 5]


carry = Flow((carrier := Carry(name="carry")).then("again", carrier), flow_name="carry", max_steps=1000)
mistype = Flow(Mistype(name="mistype"), flow_name="mistype")
