"""The Markdown report of a digest: the same sources give the same bytes."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypedDict

from examples.digest_language import LANGUAGES

__all__ = ["Pick", "Skipped", "Source", "count_words", "report_of", "write_whole"]


_CODE = re.compile(r"([\w./-]*(?:(?<!\w)_|_(?!\w)|\*)[\w./*-]*(?<![./-])(?:\(\))?)")  # __init__(), *.po
_ESCAPED = re.compile(r"[\\`\[\]]|<(?=[a-zA-Z/!?])|&(?=#?\w+;)|^[#>+-](?=\s)|^\d+(?=[.)]\s)")


class Pick(TypedDict):
    """One sentence of the digest; `position` counts from 1, and is 0 where a model wrote the sentence."""

    text: str
    position: int


class Source(TypedDict):
    """What the report says of one document; `picks` stand best first."""

    title: str
    language: str
    words: int
    sentences: int
    note: str
    picks: list[Pick]


class Skipped(TypedDict):
    """A document that could not be read, and why."""

    title: str
    reason: str


def count_words(sources: Iterable[Source]) -> int:
    """Return the words of all picks, as `str.split` counts them."""
    return sum(len(pick["text"].split()) for source in sources for pick in source["picks"])


def report_of(sources: Sequence[Source], skipped: Sequence[Skipped], *, author: str) -> str:
    """Return the report: a heading, the sources in a table, the digest by source, the files left out.

    Args:
        author: The model that wrote the summaries; empty when the sentences are those of the sources.
    """
    parts = [_head(sources, author), _table_of(sources)]
    parts += [_section(source) for source in sources if source["picks"]]
    if skipped:
        rows = [f"| {_cell(file['title'])} | {_cell(file['reason'])} |" for file in skipped]
        parts.append("\n".join(["## Left out", "", "| File | Why |", "| --- | --- |", *rows]))
    return "\n\n".join(parts) + "\n"


def _head(sources: Sequence[Source], author: str) -> str:
    read = sum(source["words"] for source in sources)
    size = f"{count_words(sources):,} of {_counted(read, 'word')}"
    how = (
        f"Written by the model {_plain(author)} from the sentences that matter most."
        if author
        else "Each sentence stands as in its source; the number after it is its place there."
    )
    return f"# Digest of {_counted(len(sources), 'document')}\n\n{size}. {how}"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _table_of(sources: Sequence[Source]) -> str:
    lines = [
        "## Sources",
        "",
        "| Source | Language | Words | Sentences | Note |",
        "| --- | --- | ---: | ---: | --- |",
    ]
    for source in sources:
        language = (
            LANGUAGES[source["language"]].name if source["language"] in LANGUAGES else source["language"]
        )
        cells = [_cell(source["title"]), language, f"{source['words']:,}", f"{source['sentences']:,}"]
        lines.append(f"| {' | '.join([*cells, _cell(source['note'])])} |")
    return "\n".join(lines)


def _section(source: Source) -> str:
    lines = [f"## {_plain(source['title'])}", ""]
    for pick in sorted(source["picks"], key=lambda pick: pick["position"]):
        place = f" ({pick['position']})" if pick["position"] else ""
        lines.append(f"- {_plain(pick['text'])}{place}")
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Guard what Markdown would take for markup: names of code in backticks, the rest escaped."""
    pieces = _CODE.split(text)  # every second piece is the name of some code
    return "".join(
        f"`{piece}`" if at % 2 else _ESCAPED.sub(r"\\\g<0>", piece) for at, piece in enumerate(pieces)
    )


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all; safe to repeat."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        draft.write_text(text, encoding="utf-8", newline="\n")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
