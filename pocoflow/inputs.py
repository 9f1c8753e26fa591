"""What a run starts with: told apart from other inputs, and refused if its secrets could not be kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from pocoflow import codec
from pocoflow.engine.history import Trail
from pocoflow.engine.ports import Ledger
from pocoflow.engine.secrecy import needed
from pocoflow.errors import SecretKeyError
from pocoflow.masked import MASKED
from pocoflow.store import Store


def new_trail(store: Store, ledger: Ledger) -> Trail:
    """Return the trail of a new run.

    Raises:
        SecretKeyError: Its ledger has no key for the secrets of the store, or one of them is only a mask.
    """
    for key, value in store.items():
        if value is MASKED:
            raise SecretKeyError(
                f"store key {key!r} holds a mask in place of a secret that could not be read: "
                "set its value first"
            )
    for key in store.secret:
        needed(key, ledger.cipher)
    return Trail(store.secret, ledger.cipher)


def input_hashes(
    flow_name: str, node: str, store: Store, texts: Mapping[str, str], ledger: Ledger
) -> list[str]:
    """Tell inputs apart, whatever the order of their keys; one hash for each key of secrets.

    A secret goes in by its digest, since a plain hash would let short ones be guessed.
    """
    secret = {codec.name_of(key) for key in store.secret}.intersection(texts)
    if not secret:
        return [_hash(flow_name, node, texts)]
    digests = {name: needed(name, ledger.cipher).digests(texts[name]) for name in secret}
    number_of_keys = len(next(iter(digests.values())))
    return [
        _hash(flow_name, node, {**texts, **{name: json.dumps(digests[name][number]) for name in secret}})
        for number in range(number_of_keys)
    ]


def canonical(texts: Mapping[str, str]) -> str:
    """Return the values as one text, the same for each order of keys."""
    return json.dumps({name: json.loads(text) for name, text in texts.items()}, sort_keys=True)


def _hash(flow_name: str, node: str, texts: Mapping[str, str]) -> str:
    return hashlib.sha256(f"{flow_name}\0{node}\0{canonical(texts)}".encode()).hexdigest()
