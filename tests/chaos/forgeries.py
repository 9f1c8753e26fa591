"""What a stranger may put into the broker or the database, and signs by which to see that it was executed."""

from __future__ import annotations

import json
import pickle
import zlib
from base64 import b64encode
from pathlib import Path
from typing import Any

from pocoflow.broker import DATABASE_HEADER, EXPIRE, SWEEP
from tests.support.messages import message

PICKLE = "application/x-python-serialize"


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._mark,)


def payloads(mark: Path) -> dict[str, bytes]:
    """Bodies that make a file, for a reader that believes them."""
    call, packed = ["touch", str(mark)], pickle.dumps(Bomb(mark))
    return {
        PICKLE: pickle.dumps([["nobody", Bomb(mark)], {}, {}]),
        "application/x-python-serialize; old": pickle.dumps(Bomb(mark), protocol=0),
        "application/x-yaml": f"!!python/object/apply:subprocess.call [{json.dumps(call)}]".encode(),
        "application/x-msgpack": b"\x93\x91\xc8"
        + len(packed).to_bytes(2, "big")
        + b"\x2a"
        + packed
        + b"\x80\x80",
        "application/data": pickle.dumps(Bomb(mark)),
        "application/json": json.dumps(
            [["nobody", {"__type__": "subprocess.call", "__value__": call}], {}, {"py/reduce": call}]
        ).encode(),
    }


def disguised(mark: Path) -> list[str]:
    """Each payload under its own content type, under that of JSON, and one compressed."""
    bodies = payloads(mark)
    own = [
        message([], body=b64encode(body).decode(), **{"content-type": kind, "content-encoding": "binary"})
        for kind, body in bodies.items()
    ]
    as_json = [message([], body=b64encode(body).decode()) for body in bodies.values()]
    squeezed = json.loads(enveloped(["nobody", 0], compression="application/x-gzip"))
    squeezed |= {"body": b64encode(zlib.compress(bodies[PICKLE])).decode(), "content-type": PICKLE}
    return [*own, *as_json, json.dumps(squeezed)]


def checkpoints(mark: Path) -> list[str]:
    """Texts in the place of a store."""
    call = ["touch", str(mark)]
    old = pickle.dumps(Bomb(mark), protocol=0).decode("ascii")
    return [
        old,
        b64encode(pickle.dumps(Bomb(mark))).decode(),
        f"!!python/object/apply:subprocess.call [{json.dumps(call)}]",
        json.dumps({"a": {"$t": "subprocess.call", "v": call}}),
        json.dumps({"a": {"$t": "pickle", "v": old}}),
        json.dumps({"a": {"$t": "__import__", "v": "os"}}),
        json.dumps({"py/reduce": [{"py/function": "subprocess.call"}, {"py/tuple": [call]}]}),
        json.dumps({"lc": 1, "type": "constructor", "id": ["subprocess", "call"], "kwargs": {"args": call}}),
    ]


def enveloped(args: list[Any], *, task: str = "pocoflow.run_step", **headers: Any) -> str:
    """A message with headers that a forger chose."""
    forged = json.loads(message(args, task=task))
    forged["headers"].update(headers)
    return json.dumps(forged)


def junk(number: int) -> str:
    """One of a flood: a hint, a death or a sweep about nothing, with what makes it dear."""
    kinds = (
        message([f"nobody-{number}", number]),
        message([f"nobody-{number}", 0, f"host:{number}"], task=EXPIRE),
        message([], task=SWEEP),
        enveloped([f"nobody-{number}", 0], eta="2099-01-01T00:00:00+00:00"),
        enveloped([f"nobody-{number}", 0], **{DATABASE_HEADER: "sqlite:////elsewhere.db"}),
        enveloped([f"nobody-{number}", 0], id=["no", "id"]),
        enveloped([f"nobody-{number}", 0], expires=17),
        message([{"deep": [[[[[number]]]]]}, "x" * 1000]),
    )
    return kinds[number % len(kinds)]
