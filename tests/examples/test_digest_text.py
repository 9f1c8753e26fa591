"""From bytes to sentences: reading, markup, languages, splitting."""

from pathlib import Path

import pytest

from examples.digest_files import MAX_CHARACTERS, Document, default_documents, find_documents, read_text
from examples.digest_language import UNKNOWN, detect_language, words_of
from examples.digest_markup import kind_of, paragraphs_of
from examples.digest_sentences import fitness, split_sentences

MARKDOWN = """---
title: front matter
---
# Heading

Some *emphasis*, a [link](https://example.org/a_(b)), `__code__` and ![an image](x.png) text.<br>

    indented = "code"

Setext
------
```yaml
---
fenced: code
```
---
| a | b |
|---|---|
| 1 | 2 |

- [ ] First item
  goes on here.
- Second **item**.

<!-- a comment
over two lines -->
> [!NOTE]
> A quoted note.

[ref]: https://example.org
"""
RST = """Title
=====

.. toctree::
   :maxdepth: 2

   page

A paragraph with ``literal``, :func:`os.path.join`, :class:`~pocoflow.Flow` and
a `link <https://example.org>`_::

    hidden = "code"

.. note:: Notes are
   prose.

.. code-block:: python

   more = "code"

Term
   Its definition.

:param x: a field

>>> 1 + 1
2

======  =====
a       b
======  =====
1       2
======  =====

* One item [1]_
* Another item
"""
HTML = """<!DOCTYPE html><html><head><title>T</title><script>var x = "<p>no</p>";</script><body>
<nav><a href="/">Home</a></nav><h1>Heading</h1>
<p>A paragraph with <code>code</code> &amp; an entity.<p>Not closed
<ul><li>One item<li>Another item</ul><pre>hidden</pre><table><tr><td>1</table>
"""
RFC = """
2.  Format ......................................................4

   A receiver keeps the checkpoint, because the

Example                      Informational                      [Page 1]
\f
RFC 9999              Checkpoint Transfer Protocol         November 2026

   sender deletes its copy.

      0                   1                   2
      +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
   o  Bullets are prose.
"""
PYTHON = '''"""Module docstring."""
def public():
    """What it does."""
def _private():
    """Hidden."""
'''


@pytest.mark.parametrize(
    ("kind", "text", "paragraphs"),
    [
        (
            "markdown",
            MARKDOWN,
            [
                "Some emphasis, a link, __code__ and text.",
                "First item goes on here.",
                "Second item.",
                "A quoted note.",
            ],
        ),
        (
            "rst",
            RST,
            [
                "A paragraph with literal, os.path.join, Flow and a link:",
                "prose.",
                "Term",
                "Its definition.",
                "One item",
                "Another item",
            ],
        ),
        ("html", "<html><table><tr><td><p>Laid out by a table.</table>", ["Laid out by a table."]),
        ("html", HTML, ["A paragraph with code & an entity.", "Not closed", "One item", "Another item"]),
        (
            "text",
            RFC,
            ["A receiver keeps the checkpoint, because the sender deletes its copy.", "Bullets are prose."],
        ),
        ("python", PYTHON, ["Module docstring.", "What it does."]),
        ("python", "def broken(:", []),
        ("text", "one\r\n\r\ntwo\rstill two", ["one", "two still two"]),
    ],
)
def test_only_prose_is_left(kind: str, text: str, paragraphs: list[str]) -> None:
    assert paragraphs_of(text, kind) == paragraphs


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("a.md", "", "markdown"),
        ("a.RST", "", "rst"),
        ("a.py", "", "python"),
        ("page", "<!doctype html><p>x", "html"),
        ("README", "# Title\n", "markdown"),
        ("notes.txt", ".. note:: x", "rst"),
        ("LICENSE", "Permission is granted", "text"),
    ],
)
def test_the_kind_comes_from_the_name_or_else_from_the_text(name: str, text: str, kind: str) -> None:
    assert kind_of(name, text) == kind


@pytest.mark.parametrize(
    ("language", "sentences"),
    [
        (
            "en",
            ["Dr. Smith paid $3.50 to J. R. Tolkien (see Fig. 3).", "He left at 5 p.m.", "Then it rained."],
        ),
        (
            "en",
            ["Use e.g. os.path.join() or i.e. the posix one.", "Python 3.11.7 is fine.", "See example.org."],
        ),
        ("en", ["What?", '"Yes!" she said.', "(He agreed.)", "Then left...", "The end"]),
        ("en", ["The U.S. Government agreed.", "It is item no. 5 of the list."]),
        ("en", ["Call flow.run(store).", "node.name is set.", "asyncio.run() too."]),
        ("en", ["1. Scope is a heading number."]),
        (
            "de",
            [
                "Das Gesetz vom 3. Oktober 1990 gilt z. B. auch hier.",
                "Die Fa. Müller wurde am 1. Mai gegründet.",
            ],
        ),
        ("de", ["Siehe Abs. 2 Nr. 4.", "Es gilt bis zum 31.", "Das ist spät."]),
        ("fr", ["M. Dupont est venu.", "Il mange."]),
        ("es", ["El Sr. García vive en la Av. Central.", "¿Dónde está?", "Aquí."]),
        ("ja", ["これは文です。", "次の文です。"]),
    ],
)
def test_a_paragraph_splits_into_its_sentences(language: str, sentences: list[str]) -> None:
    joined = ("" if language == "ja" else " ").join(sentences)

    assert split_sentences(joined, language) == sentences


@pytest.mark.parametrize(
    ("sentence", "value"),
    [
        ("The worker takes a step and commits the result of it.", 1.0),
        ("However, the worker does not always commit the result.", 0.5),
        ("For more details on the worker, see the manual of it.", 0.6),
        ("The settings are these, in the order of their names:", 0.0),
        ("IN NO EVENT SHALL THE AUTHORS BE LIABLE FOR ANY CLAIM.", 0.0),
        ("Copyright (c) 2026 by the authors of this library.", 0.0),
        ("and this is only the end of a longer sentence.", 0.0),
        ("Too short.", 0.0),
        ("Ada Lovelace, Alan Turing, Grace Hopper, Edsger Dijkstra.", 0.0),
        ("word " * 56 + "end.", 0.0),
    ],
)
def test_what_cannot_stand_alone_is_unfit_for_a_digest(sentence: str, value: float) -> None:
    assert fitness(sentence, "en") == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The worker takes the next step of a run and writes what it did to the database.", "en"),
        ("Der Arbeiter nimmt den nächsten Schritt und schreibt in die Datenbank, was er getan hat.", "de"),
        ("Le programme prend la prochaine étape et écrit dans la base ce qu'il a fait.", "fr"),
        ("El programa toma el paso siguiente y escribe en la base de datos lo que ha hecho.", "es"),
        ("Program bierze następny krok i zapisuje w bazie danych to, co było do zrobienia.", "pl"),
        ("Ohjelma ottaa seuraavan askeleen ja kirjoittaa tietokantaan kaiken tekemänsä työn.", UNKNOWN),
        ("これは日本語の文章です。次の文もそうです。", UNKNOWN),
        ("Too few words", UNKNOWN),
        ("", UNKNOWN),
    ],
)
def test_the_language_is_told_by_its_small_words(text: str, language: str) -> None:
    assert detect_language(text) == language


def test_words_keep_their_apostrophes_and_numbers_their_points() -> None:
    assert words_of("Don\u2019t pay 3.50, L'Été_x!") == ["don't", "pay", "3.50", "l'été", "x"]


@pytest.mark.parametrize(
    ("data", "text", "note"),
    [
        ("Grüße\n".encode(), "Grüße\n", ""),
        ("Grüße\n".encode("utf-8-sig"), "Grüße\n", ""),
        ("Grüße\n".encode("utf-16"), "Grüße\n", ""),
        ("Grüße\n".encode("latin-1"), "Grüße\n", "read as Latin-1 (Windows-1252)"),
    ],
)
def test_a_text_of_any_common_encoding_is_read(tmp_path: Path, data: bytes, text: str, note: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(data)

    assert read_text(path) == {"text": text, "note": note, "reason": ""}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b" \n\t", "empty"),
        (b"\x7fELF\x00\x01\x02\x00" * 50, "not a text file"),
        (b"%PDF-1.7 all text here", "not a text file"),
        (bytes(range(256)) * 20, "not a text file"),
    ],
)
def test_what_is_no_text_is_skipped_with_a_reason(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(data)

    assert read_text(path)["reason"] == reason


def test_a_missing_file_is_skipped_with_a_reason(tmp_path: Path) -> None:
    assert read_text(tmp_path / "gone.txt")["reason"] == "no such file where it was to be read"


def test_a_large_file_is_read_to_the_end_of_a_line_within_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "big.txt"
    path.write_text("A line of the big file, with an ü in it.\n" * 125_000, encoding="utf-8")

    read = read_text(path)

    assert MAX_CHARACTERS - 50 < len(read["text"]) <= MAX_CHARACTERS
    assert read["text"].endswith("in it.\n")
    assert read["note"] == f"only its first {len(read['text']):,} characters were read"


def test_folders_give_their_documents_by_name_and_nothing_twice(tmp_path: Path) -> None:
    for name in (
        "b.md",
        "a.txt",
        "LICENSE",
        "code.py",
        ".hidden/x.md",
        "sub/c.rst",
        "node_modules/d.md",
        "digest.md",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    asked = [Document(title="docs/", path=str(tmp_path)), Document(title="b.md", path=str(tmp_path / "b.md"))]

    found = list(find_documents(asked, but=str(tmp_path / "digest.md")))

    assert [document["title"] for document in found] == [
        "docs/LICENSE",
        "docs/a.txt",
        "docs/b.md",
        "docs/sub/c.rst",
    ]


def test_the_default_documents_are_never_none(tmp_path: Path) -> None:
    found = default_documents(tmp_path)

    assert found
    assert all(read_text(Path(document["path"]))["reason"] == "" for document in found)


def test_without_a_licence_the_docstrings_of_the_library_are_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("examples.digest_files._licence_places", lambda: iter([tmp_path / "LICENSE.txt"]))

    titles = [document["title"] for document in default_documents(tmp_path)]

    assert "Python module argparse" in titles
