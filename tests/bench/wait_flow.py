"""The flow of the wait benchmark: one node that naps, and a hook that notes when its commit was through."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pocoflow import Flow, Node


class Nap(Node):
    def prep(self, store: Any) -> float:
        return float(store["nap_s"])

    def exec(self, nap_s: float) -> None:
        time.sleep(nap_s)


def note(name: str, action: str, elapsed: float, store: Any) -> None:
    Path(store["note"]).write_text(f"{time.perf_counter()}\n")


flow = Flow(Nap(), flow_name="nap").on("node_end", note)
