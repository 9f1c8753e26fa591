"""What SQLite asks for where processes share a file: a local disk, and a version without a certain bug."""

from __future__ import annotations

import os
import re
import sqlite3
from functools import cache
from pathlib import Path

from pocoflow.errors import DatabaseError
from pocoflow.logging import WARNING, get_logger, log_event

log = get_logger("runner")

MOUNTS = Path("/proc/self/mounts")
_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "fuse"})
# Most that goes by FUSE is a network; this is how a container without root sees its own disk.
_LOCAL_FUSE = frozenset({"fuse.fuse-overlayfs"})
_OCTAL = re.compile(r"\\([0-7]{3})")


def refuse_network_file(path: Path) -> None:
    """Raise DatabaseError for a file on a network file system, as far as this machine tells (Linux does).

    The processes that share a WAL share memory too, and locks that not every network keeps.
    """
    kind = _file_system_of(os.path.realpath(path))
    if kind in _LOCAL_FUSE or kind.partition(".")[0] not in _NETWORK:
        return
    raise DatabaseError(
        f"SQLite file {str(path)!r} lies on a network file system ({kind}), where SQLite cannot share it "
        "safely: name a file on a local disk, or use Postgres (POCOFLOW_DATABASE_URL=postgresql://...)"
    )


@cache
def warn_of_old_sqlite() -> None:
    """Say, once in each process, that this SQLite should not serve several; call it where it will."""
    if is_mended(sqlite3.sqlite_version_info):
        return
    log_event(
        log,
        "this version of SQLite can, rarely, corrupt a file that several processes write",
        level=WARNING,
        version=sqlite3.sqlite_version,
        advice="update it to 3.51.3 (or 3.50.7, or 3.44.6), or use Postgres",
    )


def is_mended(version: tuple[int, ...]) -> bool:
    """Whether a checkpoint and a writer can no longer meet in the wrong moment (sqlite.org/wal.html)."""
    return version >= (3, 51, 3) or any(fix <= version < (3, fix[1] + 1) for fix in ((3, 50, 7), (3, 44, 6)))


def _file_system_of(real_path: str) -> str:
    """The kind of file system that the path is on, as the kernel calls it; empty where nobody tells."""
    try:
        lines = MOUNTS.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    longest, kind = "", ""
    for _, place, found, *_ in (line.split(" ") for line in lines):
        mount = _OCTAL.sub(lambda code: chr(int(code[1], 8)), place)
        inside = real_path == mount or real_path.startswith(mount.rstrip("/") + "/")
        # Of several on one place, the last hides the others.
        if inside and len(mount) >= len(longest):
            longest, kind = mount, found
    return kind
