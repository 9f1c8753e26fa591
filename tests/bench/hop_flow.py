"""The flows of the benchmarks: one node that does nothing and leads to itself."""

from __future__ import annotations

from typing import Any

from pocoflow import Flow, Node


class Hop(Node):
    def prep(self, store: Any) -> int:
        return int(store["left"])

    def post(self, store: Any, prep_result: int, exec_result: int) -> str:
        store["left"] = prep_result - 1
        return "again" if prep_result > 1 else "done"


hop = Hop()
hop.then("again", hop)
flow = Flow(hop, flow_name="hop", max_steps=1_000_000)
streak = Flow(hop, flow_name="streak", max_steps=1_000_000, max_inline_steps=10)
