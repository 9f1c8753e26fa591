"""A flow whose steps work with secrets, and at times quote them in errors."""

from __future__ import annotations

import os
from typing import Any

from pocoflow import Flow, Node, Store


class LogIn(Node):
    """Gets a new token for its key, `left` times; notes the process."""

    max_retries = 2

    def prep(self, store: Store) -> Any:
        return store["api_key"], store["fails"]

    def exec(self, given: Any) -> str:
        api_key, fails = given
        if fails:
            raise ConnectionError(f"no answer to Authorization: Bearer {api_key}")
        return f"token-of-{api_key}-{os.getpid()}"

    def post(self, store: Store, given: Any, token: str) -> str:
        store["token"] = token
        store["pids"] = [*store["pids"], os.getpid()]
        store["left"] -= 1
        return "again" if store["left"] > 0 else "enough"


log_in = Flow((node := LogIn(name="log_in")).then("again", node), flow_name="log_in", max_steps=1000)
