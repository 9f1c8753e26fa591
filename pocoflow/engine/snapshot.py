"""JSON snapshots of the store in a folder, one file per step, for a human to look into."""

from __future__ import annotations

import hashlib
from pathlib import Path
from urllib.parse import quote

from pocoflow.store import Store

_MAX_LENGTH = 120


def snapshot_path(folder: str, step: int, node: str) -> Path:
    """Return the file for a step; whatever the node is called, it lies in the folder."""
    return Path(folder) / f"step_{step:03d}_{_file_name(node)}.json"


def write_snapshot(folder: str, step: int, node: str, store: Store) -> None:
    """Write the store after a step; a step that runs again overwrites its file."""
    store.snapshot(snapshot_path(folder, step, node))


def _file_name(node: str) -> str:
    name = quote(node, safe=" #()[]")
    if len(name) <= _MAX_LENGTH:
        return name
    return f"{name[:_MAX_LENGTH]}-{hashlib.sha256(node.encode()).hexdigest()[:8]}"
