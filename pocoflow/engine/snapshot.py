"""JSON snapshots of the store in a folder, one file per step, for a human to look into."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from urllib.parse import quote

from pocoflow.store import Store

_MAX_LENGTH = 120


def snapshot_path(folder: str, step: int, node: str) -> Path:
    """Return the file for a step; whatever the node is called, it lies in the folder."""
    return Path(folder) / f"step_{step:03d}_{_file_name(node)}.json"


def write_snapshot(folder: str, step: int, node: str, store: Store) -> None:
    """Write the store after a step; a step that runs again overwrites its file.

    Raises:
        OSError: It cannot be written, or the folder is a link that another user has laid there.
    """
    _refuse_link_of_another_user(Path(folder))
    store.snapshot(snapshot_path(folder, step, node))


def _refuse_link_of_another_user(folder: Path) -> None:
    """In a place like /tmp anybody can be there first, and have our files written into any folder of ours."""
    if sys.platform != "win32" and folder.is_symlink() and folder.lstat().st_uid not in (0, os.geteuid()):
        raise PermissionError(
            f"{folder} is a link that another user has laid: remove it or choose another folder"
        )


def _file_name(node: str) -> str:
    name = quote(node, safe=" #()[]")
    if len(name) <= _MAX_LENGTH:
        return name
    return f"{name[:_MAX_LENGTH]}-{hashlib.sha256(node.encode()).hexdigest()[:8]}"
