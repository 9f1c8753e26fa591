"""Log lines go to one file under the names of the README, and nowhere at all unless somebody asks."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pocoflow import Flow, Node
from pocoflow.logging import ROOT, disable_logging, get_logger, log_event, setup_logging


@pytest.fixture(autouse=True)
def logger(monkeypatch: pytest.MonkeyPatch) -> Iterator[logging.Logger]:
    """The `pocoflow` logger, put back afterwards as it was."""
    for name in ("DD_LOG_DIR", "DD_LOG_LEVEL", "DD_LOG_FORMAT"):
        monkeypatch.delenv(name, raising=False)
    root = logging.getLogger(ROOT)
    handlers, level, propagate = list(root.handlers), root.level, root.propagate
    yield root
    disable_logging()
    root.handlers, root.propagate = handlers, propagate
    root.setLevel(level)


class Work(Node):
    pass


def test_a_logger_stands_under_the_name_of_the_package() -> None:
    assert get_logger("nodes.summarise").name == "pocoflow.nodes.summarise"
    assert get_logger("nodes.summarise") is logging.getLogger("pocoflow.nodes.summarise")


def test_the_file_is_called_after_the_run_the_adapter_and_the_time(tmp_path: Path) -> None:
    path = setup_logging("run", log_dir=tmp_path / "logs", adapter="openrouter")

    assert path.parent == tmp_path / "logs"
    assert re.fullmatch(r"run-openrouter-\d{8}-\d{6}\.log", path.name)
    assert path.exists()


def test_without_a_folder_the_file_lies_in_logs_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert setup_logging().parent == tmp_path / "logs"


@pytest.mark.parametrize(
    ("log_level", "written"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("ERROR", ["error"]),
    ],
)
def test_lines_from_the_chosen_level_on_are_written(
    tmp_path: Path, log_level: str, written: list[str]
) -> None:
    path = setup_logging(log_dir=tmp_path, log_level=log_level)
    log = get_logger("nodes.summarise")

    for level in ("debug", "info", "warning", "error"):
        getattr(log, level)("said %s", level)

    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line.rpartition(" ")[2] for line in lines] == written
    assert all("pocoflow.nodes.summarise" in line for line in lines)


@pytest.mark.parametrize("log_level", ["verbose", "", "10"])
def test_an_unknown_level_is_refused_with_those_that_there_are(tmp_path: Path, log_level: str) -> None:
    with pytest.raises(ValueError, match="log_level must be one of debug, info, warning, error"):
        setup_logging(log_dir=tmp_path, log_level=log_level)

    assert list(tmp_path.iterdir()) == []


def test_a_second_setup_replaces_the_first(tmp_path: Path) -> None:
    first = setup_logging("first", log_dir=tmp_path)
    second = setup_logging("second", log_dir=tmp_path)

    get_logger("nodes").info("hello")

    assert first.read_text() == ""
    assert "hello" in second.read_text()


def test_a_run_is_logged_under_the_names_of_the_parts_that_say_it(tmp_path: Path) -> None:
    path = setup_logging(log_dir=tmp_path)

    Flow(start=Work(), flow_name="summarise").run({}, run_id="run-1")

    text = path.read_text(encoding="utf-8")
    assert re.search(r"pocoflow\.flow +run started run_id=run-1 flow=summarise node=Work", text)
    assert re.search(r"pocoflow\.node +step done run_id=run-1 step=0 node=Work action=default", text)
    assert re.search(r"pocoflow\.node +run ended run_id=run-1 status=completed steps=1", text)


def test_an_event_is_a_fixed_sentence_with_fields(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger=ROOT):
        log_event(get_logger("flow"), "step done", run_id="run-1", step=3)

    record = caplog.records[-1]
    assert record.getMessage() == "step done run_id=run-1 step=3"
    assert (vars(record)["run_id"], vars(record)["step"]) == ("run-1", 3)


def test_with_console_the_lines_are_seen_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = setup_logging(log_dir=tmp_path, console=True)

    get_logger("nodes").warning("look at this")

    assert "look at this" in capsys.readouterr().err
    assert "look at this" in path.read_text()


def test_after_disabling_nothing_is_written_and_nothing_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = setup_logging(log_dir=tmp_path, console=True)
    log = get_logger("nodes")

    disable_logging()
    log.warning("nobody hears this")

    assert path.read_text() == ""
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("before", ["", "from pocoflow.logging import *; disable_logging(); "])
def test_a_program_that_did_not_ask_for_logging_hears_nothing(tmp_path: Path, before: str) -> None:
    program = (
        "from pocoflow import Flow, Node, Store\n"
        f"{before}\n"
        "store = Store({})\n"
        "store.add_observer(lambda *change: 1 / 0)\n"
        "class Write(Node):\n"
        "    def post(self, store, prep, result): store['a'] = 1\n"
        "Flow(start=Write()).run(store)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )

    assert done.stdout + done.stderr == ""
    assert list(tmp_path.iterdir()) == []
