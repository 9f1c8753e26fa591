"""What the tests of the examples share: documents to digest, and an environment without a chat endpoint."""

from pathlib import Path

import pytest

ENGLISH = """# Checkpoints

A checkpoint is the data of a run after one of its steps. The worker writes the checkpoint to the database
before it sends the next step to the queue. A crash of the worker between two steps costs no checkpoint at
all. The next worker reads the last checkpoint from the database and goes on with the run. The database
keeps every checkpoint of a run, so that a person can look at any step later. A run without a database keeps
its checkpoints in memory only. The size of a checkpoint is the size of the data in the store of the run.

Copyright (c) 2026 by nobody at all.
"""
GERMAN = """Der Arbeiter nimmt einen Schritt aus der Warteschlange und führt ihn aus. Das Ergebnis wird in der
Datenbank gespeichert, bevor der nächste Schritt beginnt. Wenn der Arbeiter abstürzt, nimmt ein anderer den
Schritt noch einmal auf. Die Datenbank ist der einzige Ort, an dem der Stand eines Laufs gespeichert ist. Die
Warteschlange enthält nur Hinweise, und ein Hinweis darf verloren gehen. Jeder Arbeiter sieht von Zeit zu Zeit
nach, ob ein Hinweis fehlt."""
POLISH = "Program bierze następny krok i zapisuje w bazie danych to, co było do zrobienia. " * 8
SMALL = "# Note\n\nThis note is so small that it is its own digest.\n"


@pytest.fixture(autouse=True)
def no_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a document for each way through the flow."""
    docs = tmp_path / "docs"
    docs.mkdir()
    for name, text in {"a.md": ENGLISH, "b.txt": GERMAN, "c.txt": POLISH, "d.md": SMALL, "e.txt": ""}.items():
        (docs / name).write_text(text, encoding="utf-8")
    (docs / "f.txt").write_bytes(bytes(range(256)) * 9)
    (docs / "g.md").write_text("```\nonly = 'code'\n```\n")
    return docs
