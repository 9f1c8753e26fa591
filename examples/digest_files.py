"""The documents of a digest: finding them, and reading one into text.

A document is a plain dict of `title` (what the report calls it, the same on every machine) and `path`. What
cannot be read is told by a reason, never by an exception, so that one bad file does not stop a run.
"""

import codecs
import os
import re
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TypedDict

__all__ = [
    "MAX_CHARACTERS",
    "MAX_DOCUMENTS",
    "Document",
    "Text",
    "default_documents",
    "find_documents",
    "read_text",
]

MAX_DOCUMENTS = 100
MAX_CHARACTERS = 400_000  # about 65,000 words: the rest of a document is not read, and the report says so

_SUFFIXES = frozenset({".md", ".markdown", ".rst", ".txt", ".html", ".htm"})
_BARE_NAMES = re.compile(
    r"(?:readme|license|licence|copying|changes|changelog|news|authors|notice)", re.IGNORECASE
)
_NOT_VISITED = frozenset({"__pycache__", "node_modules", "site-packages", "build", "dist", "venv"})
_FALLBACK_MODULES = ("argparse", "difflib", "statistics", "tempfile")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\ufffd]")


class Document(TypedDict):
    """One document to read; `path` is absolute."""

    title: str
    path: str


class Text(TypedDict):
    """What was read of a document; `reason` is empty unless it is to be skipped."""

    text: str
    note: str
    reason: str


def find_documents(requested: Iterable[Document], *, but: str = "") -> Iterator[Document]:
    """Yield each file asked for, and the text files of each folder in the order of their names; none twice.

    What does not exist is yielded too, for `read_text` to say so.

    Args:
        but: A path to leave out: the report of an earlier run, which may lie in a folder asked for.
    """
    seen = {but}
    for document in requested:
        for path in _files_in(Path(document["path"])):
            if str(path) not in seen:
                seen.add(str(path))
                inside = path.relative_to(document["path"]).as_posix()
                within = "" if document["title"] == "." else f"{document['title'].rstrip('/')}/"
                title = document["title"] if inside == "." else within + inside
                yield Document(title=_printable(title), path=str(path))


def _printable(title: str) -> str:
    """Return a title on one line; the bytes of a file name that are no UTF-8 cannot stand in a report."""
    return " ".join(title.encode("utf-8", "replace").decode().split())


def _files_in(given: Path) -> Iterator[Path]:
    if not given.is_dir():
        yield given
    for at, folders, names in os.walk(given):
        folders[:] = sorted(name for name in folders if name not in _NOT_VISITED and not name.startswith("."))
        yield from (Path(at, name) for name in sorted(names) if _is_document(name))


def _is_document(name: str) -> bool:
    suffix = Path(name).suffix.lower()
    return suffix in _SUFFIXES or (not suffix and bool(_BARE_NAMES.match(name)))


def default_documents(root: Path) -> list[Document]:
    """Return the documents of the project at `root` and the licence that ships with Python.

    Where Python came without its licence file: modules of the standard library, for their docstrings.
    """
    own = [root / "README.md", *sorted(root.glob("docs/*.md")), root / "LICENSE"]
    documents = [
        Document(title=path.relative_to(root).as_posix(), path=str(path)) for path in own if path.is_file()
    ]
    licence = next((path for path in _licence_places() if path.is_file()), None)
    if licence:
        return [*documents, Document(title="Python LICENSE.txt", path=str(licence))]
    return documents + _documented_modules()


def _licence_places() -> Iterator[Path]:
    standard_library = Path(os.__file__).resolve().parent
    yield standard_library / "LICENSE.txt"  # built from source, pyenv, conda, framework builds
    yield standard_library.parent / "LICENSE.txt"  # python.org on Windows
    data = Path(sysconfig.get_path("data"))
    yield data / "LICENSE.txt"
    version = sysconfig.get_python_version()
    for package in (f"libpython{version}-stdlib", f"python{version}", f"python{version}-minimal"):  # Debian
        yield Path("/usr/share/doc", package, "copyright")
    yield data / "share" / "licenses" / f"python{version}" / "LICENSE"


def _documented_modules() -> list[Document]:
    specs = [(name, find_spec(name)) for name in _FALLBACK_MODULES]
    return [
        Document(title=f"Python module {name}", path=spec.origin)
        for name, spec in specs
        if spec and spec.origin and spec.origin.endswith(".py")
    ]


def read_text(path: Path) -> Text:
    """Read one document of any encoding; past `MAX_CHARACTERS` it is cut at the end of a line."""
    try:
        if not path.is_file():
            return _skipped("no such file where it was to be read")
        with path.open("rb") as file:
            data = file.read(4 * MAX_CHARACTERS + 4)
        size = path.stat().st_size
    except OSError as exc:
        return _skipped(exc.strerror or type(exc).__name__)
    if not data.strip():
        return _skipped("empty")
    return _decoded(data, whole=len(data) >= size)


def _skipped(reason: str) -> Text:
    return Text(text="", note="", reason=reason)


def _decoded(data: bytes, *, whole: bool) -> Text:
    text, note = _as_text(data, whole=whole)
    if data.startswith(b"%PDF-") or len(_CONTROL.findall(text)) > len(text) // 1000:
        return _skipped("not a text file")
    if whole and len(text) <= MAX_CHARACTERS:
        return Text(text=text, note=note, reason="")
    text = text[:MAX_CHARACTERS]
    text = text[: text.rfind("\n") + 1] or text
    return Text(
        text=text, note=_listed(note, f"only its first {len(text):,} characters were read"), reason=""
    )


def _listed(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def _as_text(data: bytes, *, whole: bool) -> tuple[str, str]:
    """Return the text and, where the encoding was a guess, a note: UTF-8 by its form, else Windows-1252."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return codecs.getincrementaldecoder("utf-16")("replace").decode(data, final=whole), ""
    try:
        return codecs.getincrementaldecoder("utf-8-sig")().decode(data, final=whole), ""
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace"), "read as Latin-1 (Windows-1252)"
