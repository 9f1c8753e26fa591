"""How commands word what they tell."""

from __future__ import annotations


def counted(number: int, thing: str) -> str:
    """Return the number with its noun, as "1 run" or "1,000 runs"."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def printable(text: str) -> str:
    """Return the text, escaped where needed: a row that somebody forged may hold what steers a terminal."""
    return text if text.isprintable() else repr(text)
