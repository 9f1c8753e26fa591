"""A flow whose nodes share what cannot be saved, made once in each process that asks for it."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from pocoflow import Flow, Node, Store
from tests.support.wait import wait_until


class Client:
    """Knows which process has made it, and how many that process has made; no checkpoint could carry it."""

    made = 0

    def __init__(self) -> None:
        Client.made += 1
        self.lock = threading.Lock()
        self.made_by = (os.getpid(), Client.made)


class Use(Node):
    """Notes the process and the client that it gets, `left` times, once two processes are at it."""

    def prep(self, store: Store) -> Any:
        return store["meet_in"]

    def exec(self, prepared: Any) -> Any:
        meeting = Path(prepared)
        (meeting / str(os.getpid())).touch()
        wait_until(lambda: len(list(meeting.iterdir())) == 2, timeout_s=30.0, what="the other process")
        return [os.getpid(), *self.resources["client"].made_by]

    def post(self, store: Store, prepared: Any, result: Any) -> str:
        store["uses"].append(result)
        store["left"] -= 1
        return "again" if store["left"] > 0 else "enough"


use = Flow((user := Use(name="use")).then("again", user), flow_name="use", max_steps=1000)
use.resource("client", Client)
