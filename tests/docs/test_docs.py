"""What the documents say is true: their code runs, their links lead somewhere, their tables equal the code.

The Python blocks of a page run one after the other, in one namespace and an empty folder, in a process of
their own without any setting. A comment right before a block says otherwise, invisible to the reader:

    <!-- not run: REASON -->    it is left out
    <!-- file: NAME -->         it is saved under this name, for a later block to import
"""

from __future__ import annotations

import ast
import builtins
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from pydantic.fields import FieldInfo

import pocoflow
from pocoflow import Flow, Node, errors
from pocoflow.engine.fault_rules import ACTIONS, POINTS
from pocoflow.engine.records import ENDED, TRANSITIONS, Status
from pocoflow.guard import guarded_popen
from pocoflow.settings import PREFIX, Settings
from tests.support.wait import wait_until

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
ALL_PAGES = [*PAGES, *sorted(DOCS.glob("*/*.md"))]
# Where events get their names; ledger.py has those that are parameters.
DATABASE_WRITERS = (
    "graph_verbs.py",
    "ledger.py",
    "run_verbs.py",
    "step_verbs.py",
    "sweep_verbs.py",
    "words.py",
)

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!--\s*(not run|file):\s*(.+?)\s*-->\s*\Z")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)

# Runs the blocks that stand on its standard input; the empty lines make an error name the line of the page.
_RUN = """
import json, sys
sys.path.insert(0, "")
for page, line, source in json.load(sys.stdin):
    exec(compile("\\n" * line + source, page, "exec"))
"""


class Block(NamedTuple):
    """A fenced block; `line` lines stand before its code."""

    language: str
    source: str
    line: int
    order: str
    about: str


def named(pages: Iterable[Path]) -> list[object]:
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages]


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for fence in _FENCE.finditer(text):
        order = _COMMENT.search(text[: fence.start()])
        line = text.count("\n", 0, fence.start(2))
        yield Block(fence[1], fence[2], line, *(order.groups() if order else ("", "")))


def prose(page: Path) -> str:
    return _FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings."""
    kept = (re.sub(r"[^\w\- ]", "", heading).lower() for heading in _HEADING.findall(prose(page)))
    return {text.replace(" ", "-") for text in kept}


def table(page: Path, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    below = re.split(rf"^#+ {re.escape(heading)}$", page.read_text(), flags=re.MULTILINE)[1]
    rows = re.search(r"(^\|.*\n)+", below, re.MULTILINE)[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


def save_files(page: Path, folder: Path) -> None:
    for block in blocks(page):
        if block.order == "file":
            (folder / block.about).write_text(block.source)


def run_blocks(page: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    chosen = [
        (page.name, block.line, block.source)
        for block in blocks(page)
        if block.language == "python" and not block.order
    ]
    return subprocess.run(
        [sys.executable, "-c", _RUN],
        input=json.dumps(chosen),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize("page", named(PAGES))
def test_the_python_code_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    save_files(page, tmp_path)

    done = run_blocks(page, tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_quick_start_counts_its_files_here_and_on_two_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_url: str
) -> None:
    """`redis_url` skips the test where there is no broker; `pocoflow dev` starts one of its own."""
    save_files(DOCS / "quickstart.md", tmp_path)
    make_quick(tmp_path / "lines.py")
    start = [sys.executable, "start.py"]
    count = r"^\d+ lines in \d+ files$"

    here = subprocess.run([*start, "one"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    with (tmp_path / "dev.log").open("w") as log:
        dev = guarded_popen(
            [sys.executable, "-m", "pocoflow", "dev", "--flows", "lines"],
            cwd=tmp_path,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        for name, value in exports(tmp_path / "dev.log"):
            monkeypatch.setenv(name, value)
        there = subprocess.run([*start, "three"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        history = run_blocks(DOCS / "quickstart.md", tmp_path)
    finally:
        dev.stop()

    result = re.search(count, here.stdout, re.MULTILINE)[0]
    assert re.search(count, there.stdout, re.MULTILINE)[0] == result, there.stdout + there.stderr
    assert len(set(re.findall(r"node_end Count (\S+)", there.stdout))) == 2
    assert re.search(r"^three completed \d+ steps$", history.stdout, re.MULTILINE), history.stderr


def make_quick(flow: Path) -> None:
    """Shorten the pause that gives a human the time to break something."""
    text = flow.read_text()
    assert "time.sleep(1) " in text
    flow.write_text(text.replace("time.sleep(1) ", "time.sleep(0.02) "))


def exports(log: Path) -> list[tuple[str, str]]:
    """What `pocoflow dev` says to copy into another terminal, once it has said it."""
    wait_until(lambda: "export POCOFLOW_FLOWS=" in log.read_text(), timeout_s=60, what=f"exports in {log}")
    return re.findall(r"^\s*export (\w+)=(\S+)$", log.read_text(), re.MULTILINE)


@pytest.mark.parametrize("page", named(ALL_PAGES))
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    broken = []
    for link in _LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)

    assert broken == []


@pytest.mark.parametrize("page", named(ALL_PAGES))
def test_every_setting_that_is_named_exists(page: Path) -> None:
    used = set(re.findall(rf"\b{PREFIX}([A-Z][A-Z_]*[A-Z])\b", page.read_text()))
    for_tests = {name for name in used if name.startswith("TEST_")}

    assert used - for_tests <= {name.upper() for name in Settings.model_fields}


def test_the_table_of_settings_is_the_one_in_the_code() -> None:
    documented = {name: default for name, default, _ in table(DOCS / "distributed.md", "Settings")}

    assert documented == {
        f"`{PREFIX}{name.upper()}`": shown(field) for name, field in Settings.model_fields.items()
    }


def test_the_points_and_actions_of_faults_are_those_in_the_code() -> None:
    below = (DOCS / "chaos.md").read_text().partition("## Faults on purpose")[2]
    names = re.findall(r"^\| (`[^|]+`) \|", below, re.MULTILINE)

    documented = {name.partition("=")[0] for cell in names for name in cell.replace("`", "").split(", ")}
    assert documented == {*POINTS, *ACTIONS}


def shown(field: FieldInfo) -> str:
    if field.default_factory is not None:
        assert field.get_default(call_default_factory=True) == min(4, os.cpu_count() or 1)
        return "(the cores, at most 4)"
    return "(none)" if field.default in (None, ()) else f"`{field.default}`"


@pytest.mark.parametrize("page", named(PAGES))
def test_settings_in_toml_are_accepted(page: Path) -> None:
    for block in blocks(page):
        if block.language == "toml":
            Settings.load(**tomllib.loads(block.source)["tool"]["pocoflow"])


@pytest.mark.parametrize("page", named(PAGES))
def test_every_error_that_is_named_exists(page: Path) -> None:
    used = set(re.findall(r"\b([A-Z]\w+Error)\b", page.read_text()))

    assert {name for name in used if not (hasattr(errors, name) or hasattr(builtins, name))} == set()


def test_public_names_of_the_concepts_exist() -> None:
    text = (DOCS / "concepts.md").read_text()
    of_handle = set(re.findall(r"`handle\.(\w+)", text))
    of_database = set(re.findall(r"`((?:list|get|load)_\w+)\(", text))
    of_flow = set(re.findall(r"`flow\.(\w+)", text))

    looks, acts = {"run_id", "status", "is_done", "wait", "store", "events"}, {"pause", "resume", "cancel"}
    assert looks | acts == of_handle
    assert all(hasattr(pocoflow.WorkflowDB, name) for name in of_database)
    assert all(hasattr(Flow(Node()), name) for name in of_flow)


def test_the_events_are_those_that_the_code_writes() -> None:
    documented = [row[0].strip("`") for row in table(DOCS / "concepts.md", "Events")]
    in_databases = written(ROOT / "pocoflow" / "db" / name for name in DATABASE_WRITERS)
    in_memory = written([ROOT / "pocoflow" / "engine" / "memory.py"])

    assert set(documented) == in_databases == in_memory
    assert len(documented) == len(set(documented))


def written(files: Iterable[Path]) -> set[str]:
    """Names that these files give to an event, or to the parameter that holds one."""
    found = []
    for file in files:
        for part in ast.walk(ast.parse(file.read_text())):
            if isinstance(part, ast.Call) and writes_an_event(part.func):
                found += part.args
            elif isinstance(part, ast.Dict):
                found += [
                    value
                    for key, value in zip(part.keys, part.values, strict=True)
                    if text_of(key) == "p_event"
                ]
    texts = {text_of(part) for value in found for part in chosen_from(value)}
    return {text for text in texts if text}


def writes_an_event(function: ast.expr) -> bool:
    """Whether it is `words.event`, or a method of the journal in memory."""
    if isinstance(function, ast.Name):
        return function.id == "event"
    return isinstance(function, ast.Attribute) and getattr(function.value, "attr", "") == "_journal"


def chosen_from(value: ast.expr) -> list[ast.expr]:
    return [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]


def text_of(value: ast.expr | None) -> str | None:
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None


def test_the_diagram_of_statuses_is_the_table_of_transitions() -> None:
    diagram = next(block.source for block in blocks(DOCS / "concepts.md") if block.language == "mermaid")
    arrows = re.findall(r"^\s*(\S+) --> (\S+)$", diagram, re.MULTILINE)

    between = [(before.value, after.value) for before, allowed in TRANSITIONS.items() for after in allowed]
    begin = [("[*]", status.value) for status in (Status.QUEUED, Status.RUNNING)]
    end = [(status.value, "[*]") for status in ENDED]
    assert sorted(arrows) == sorted([*begin, *between, *end])
