"""The distributed example, with real servers and workers and a real kill."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "distributed.py"


def test_every_run_completes_although_a_worker_is_killed(
    postgres_url: str, redis_url: str, monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("POCOFLOW_DATABASE_URL", postgres_url)
    monkeypatch.setenv("POCOFLOW_BROKER_URL", redis_url)
    monkeypatch.setenv("POCOFLOW_LEASE_S", "2")
    documents = [tmp_path / f"{name}.md" for name in ("one", "two", "three")]
    for document in documents:
        document.write_text("The river rises in the hills. It crosses the plain. It ends in the sea.\n" * 5)

    done = subprocess.run(
        [sys.executable, EXAMPLE, "--workers", "2", *documents],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=tmp_path,
    )

    assert done.returncode == 0, done.stderr
    assert "killed worker 0" in done.stdout
    assert done.stdout.count("completed") == 3
    assert done.stdout.count("each committed once: True") == 3
