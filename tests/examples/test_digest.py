"""The digest flow for real: inline, on the command line and in the background."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from examples import digest
from examples.digest_report import Source, count_words, report_of
from pocoflow import Store, codec

ROOT = Path(__file__).resolve().parents[2]


def run(*paths: Path, words: int = 600) -> Store:
    store = digest.initial_store(paths, target_words=words, output=paths[0].parent / "digest.md")
    return digest.build_flow().run(store)


def cli(*args: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / "digest.py"), *map(str, args)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "POCOFLOW_DATABASE_URL": f"sqlite:///{cwd}/runs.db"} | env,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def by_name(store: Store) -> dict[str, Source]:
    return {Path(source["title"]).name: source for source in store["sources"]}


def test_each_document_goes_its_own_way(folder: Path) -> None:
    store = run(folder)

    sources = by_name(store)
    assert list(sources) == ["a.md", "b.txt", "c.txt", "d.md"]
    assert [source["language"] for source in sources.values()] == ["en", "de", "pl", "en"]
    assert sources["c.txt"]["picks"] == []
    assert "only English, German, French and Spanish" in sources["c.txt"]["note"]
    assert [pick["text"] for pick in sources["d.md"]["picks"]] == [
        "This note is so small that it is its own digest."
    ]


def test_what_cannot_be_digested_is_listed_with_its_reason(folder: Path) -> None:
    skipped = {Path(file["title"]).name: file["reason"] for file in run(folder)["skipped"]}

    assert skipped == {
        "e.txt": "empty",
        "f.txt": "not a text file",
        "g.md": "no prose in it, only markup, code or tables",
    }


def test_picks_are_sentences_of_the_source_at_their_place(folder: Path) -> None:
    picks = by_name(run(folder))["a.md"]["picks"]

    assert len(picks) > 3
    flat = " ".join((folder / "a.md").read_text().split())
    assert all(pick["text"] in flat for pick in picks)
    assert 1 in [pick["position"] for pick in picks]
    assert not any("Copyright" in pick["text"] for pick in picks)


@pytest.mark.parametrize("words", [120, 60, 30])
def test_the_digest_shrinks_until_it_fits(folder: Path, words: int) -> None:
    store = run(folder, words=words)

    assert 0 < count_words(store["sources"]) <= words


def test_one_sentence_is_left_however_long(folder: Path) -> None:
    store = run(folder, words=1)

    assert sum(len(source["picks"]) for source in store["sources"]) == 1
    assert "no room left for it" in store["report"]


def test_a_second_copy_of_a_document_adds_nothing(folder: Path) -> None:
    shutil.copy(folder / "a.md", folder / "copy.md")

    copy = by_name(run(folder / "a.md", folder / "copy.md"))["copy.md"]

    assert copy["picks"] == []
    assert copy["note"] == "says what sources above say"


def test_every_checkpoint_can_be_carried_and_finished_documents_leave_only_results(folder: Path) -> None:
    flow, carried = digest.build_flow(), []

    def carry(name: str, action: str, elapsed: float, store: Store) -> None:
        text = codec.dumps(store.as_dict())
        assert codec.loads(text) == store.as_dict()
        carried.append((name, text))

    flow.on("node_end", carry).run(digest.initial_store([folder], output=folder.parent / "digest.md"))

    assert [name for name, _ in carried].count("read") == 8  # seven documents and the end of the queue
    assert "Copyright" in next(text for name, text in carried if name == "read")
    assert "Copyright" not in carried[-1][1]


def test_a_document_that_vanished_is_left_out(folder: Path) -> None:
    store = digest.initial_store([folder / "a.md", folder / "d.md"], output=folder.parent / "digest.md")
    (folder / "a.md").unlink()

    done = digest.flow.run(store)

    assert [file["reason"] for file in done["skipped"]] == ["no such file where it was to be read"]


def test_the_report_of_an_earlier_run_is_no_document(folder: Path) -> None:
    output = folder / "digest.md"
    first = digest.flow.run(digest.initial_store([folder], output=output))["report"]

    second = digest.flow.run(digest.initial_store([folder], output=output))["report"]

    assert output.read_text(encoding="utf-8") == first == second
    assert not list(folder.glob(".*"))


def test_the_report_guards_what_markdown_would_take_for_markup() -> None:
    picks = [{"text": "Call __init__() on *.po with <b> and a [link](x).", "position": 7}]
    source: Any = {
        "title": "a|b.md",
        "language": "en",
        "words": 9,
        "sentences": 8,
        "note": "",
        "picks": picks,
    }

    report = report_of([source], [{"title": "x.bin", "reason": "not a text file"}], author="")

    assert r"| a\|b.md | English | 9 | 8 |  |" in report
    assert r"- Call `__init__()` on `*.po` with \<b> and a \[link\](x). (7)" in report
    assert "| x.bin | not a text file |" in report


def test_a_text_of_many_megabytes_is_digested_in_bounded_time(tmp_path: Path) -> None:
    lines = (
        f"The part {n} of the machine has the number {n % 97} and is made of steel.\n" for n in range(75_000)
    )
    big = tmp_path / "big.txt"
    big.write_text("".join(lines))
    assert big.stat().st_size > 4_500_000

    source = by_name(run(big, words=100))["big.txt"]

    assert "characters were read" in source["note"]
    assert source["picks"]


def test_the_command_line_digests_its_own_documents_by_default(tmp_path: Path) -> None:
    done = cli("--words", "150", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("digest.md: ")
    assert "# Digest of " in (tmp_path / "digest.md").read_text(encoding="utf-8")


def test_the_same_input_gives_the_same_report_byte_for_byte(folder: Path) -> None:
    for seed in ("1", "2"):
        done = cli(folder, "--output", f"{seed}.md", cwd=folder.parent, PYTHONHASHSEED=seed)
        assert done.returncode == 0, done.stderr

    assert (folder.parent / "1.md").read_bytes() == (folder.parent / "2.md").read_bytes()


def test_a_background_run_shows_its_steps_and_writes_the_same_report(folder: Path) -> None:
    background = cli(folder, "--background", "--output", "b.md", cwd=folder.parent)
    inline = cli(folder, "--output", "i.md", cwd=folder.parent)

    assert background.returncode == 0, background.stderr
    assert "collect" in background.stderr
    assert "report" in background.stderr
    assert (folder.parent / "b.md").read_bytes() == (folder.parent / "i.md").read_bytes()
    assert inline.stderr == ""


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["missing.md"], "no such file or folder: 'missing.md'"),
        (["--words", "0"], "0 is not above zero"),
        (["--words", "many"], "argument --words"),
        (["--output", "."], "is a folder: name a file"),
    ],
)
def test_a_wrong_argument_is_refused_before_the_run(tmp_path: Path, args: list[str], complaint: str) -> None:
    done = cli(*args, cwd=tmp_path)

    assert done.returncode == 2
    assert complaint in done.stderr


def test_nothing_to_digest_is_exit_code_one_with_a_report(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()

    done = cli("empty.txt", cwd=tmp_path)

    assert done.returncode == 1
    assert "nothing could be digested" in done.stderr
    assert "| empty.txt | empty |" in (tmp_path / "digest.md").read_text(encoding="utf-8")


def test_a_run_that_failed_is_exit_code_one_with_its_reason(folder: Path) -> None:
    done = cli(folder / "a.md", cwd=folder.parent, OPENAI_API_KEY="sk-1", OPENAI_BASE_URL="nonsense")

    assert done.returncode == 1
    assert "OPENAI_BASE_URL must look like" in done.stderr
    assert "Traceback" not in done.stderr
