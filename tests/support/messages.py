"""Celery messages as a test writes them by hand: copies, forgeries, and such as no sender would make."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any
from uuid import uuid4

from pocoflow.broker import EXPIRE, RUN_STEP


def message(args: Any, *, task: str = RUN_STEP, **changes: Any) -> str:
    """What Celery would send; `changes` replace parts of the envelope."""
    body = json.dumps([args, {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    task_id = str(uuid4())
    envelope = {
        "body": b64encode(body.encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": task, "id": task_id, "root_id": task_id, "retries": 0},
        "properties": {
            "correlation_id": task_id,
            "delivery_info": {"exchange": "", "routing_key": "pocoflow"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": task_id,
        },
    }
    return json.dumps({**envelope, **changes})


MALFORMED = {
    "run id is a number": message([17, 0]),
    "run id is not a number": message([float("nan"), 0]),
    "run id is empty": message(["", 0]),
    "run id of 1 MB": message(["x" * 1_000_000, 0]),
    "run id with a NUL": message(["a\0b", 0]),
    "run id with half a surrogate pair": message(["\ud800", 0]),
    "unknown run": message(["nobody", 0]),
    "step is text": message(["nobody", "0"]),
    "step is true": message(["nobody", True]),
    "negative step": message(["nobody", -1]),
    "enormous step": message(["nobody", 10**30]),
    "too few arguments": message(["nobody"]),
    "too many arguments": message(["nobody", 0, 0]),
    "arguments are no list": message("nobody"),
    "wrong task": message(["nobody", 0], task="pocoflow.drop_all"),
    "wrong content type": message(["nobody", 0], **{"content-type": "application/x-python-serialize"}),
    "death of a number": message(["nobody", 0, 17], task=EXPIRE),
    "death of a NUL": message(["nobody", 0, "host\0:1"], task=EXPIRE),
    "death of nobody": message(["nobody", 0], task=EXPIRE),
    "death in an unknown run": message(["nobody", 0, "host:1"], task=EXPIRE),
    "death in a step that is text": message(["nobody", "0", "host:1"], task=EXPIRE),
    "body is no JSON": message([], body=b64encode(b"{").decode()),
    "no headers": message(["nobody", 0], headers={}),
}
NO_MESSAGES = ("no JSON at all", "[]", "{}")
