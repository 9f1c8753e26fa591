"""Files that are there whole or not at all."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4


def write_whole(target: Path, text: str) -> None:
    """Write a text in UTF-8, in place of the file that is there; raises OSError."""
    # A name of its own: two runs in one folder may be writing the same file.
    draft = target.with_name(f".{uuid4().hex}.part")
    file = draft.open("x", encoding="utf-8")  # which follows no link that somebody has laid there
    try:
        with file:
            file.write(text)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
