"""The effect log keeps every line whole, and lets a counted fault strike no more often than it may."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pocoflow import SettingsError
from pocoflow.engine.clock import SystemClock
from pocoflow.engine.effects import EffectLog, read_effects
from pocoflow.engine.records import Position

ROOT = Path(__file__).resolve().parents[2]
POSITION = Position("order-17", "orders", 2, "fetch", epoch=5, owner="host:1:x", attempt=3)
STRIKE = """
import sys
from pocoflow.engine.clock import SystemClock
from pocoflow.engine.effects import EffectLog
log = EffectLog(sys.argv[1], SystemClock())
print(sum(log.strikes("rule", 20, run_id="r", step=0, node=None) for _ in range(40)))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "effects.jsonl"


def open_log(path: Path) -> EffectLog:
    return EffectLog(str(path), SystemClock())


def test_an_execution_is_one_line_with_who_and_when(path: Path) -> None:
    before = time.time()

    open_log(path).executes(POSITION)

    (line,) = path.read_text().splitlines()
    effect = json.loads(line)
    when = (effect.pop("t"), effect.pop("monotonic"))
    assert effect == {
        "kind": "exec",
        "run_id": "order-17",
        "step": 2,
        "node": "fetch",
        "attempt": 3,
        "epoch": 5,
        "pid": os.getpid(),
    }
    assert before <= when[0] <= time.time()
    assert when[1] > 0


def test_no_log_reads_as_nothing(path: Path) -> None:
    assert read_effects(path) == []


def test_a_name_with_a_line_break_stays_in_its_line(path: Path) -> None:
    log = open_log(path)

    log.strikes("a\nb", None, run_id="\n", step=0, node="\n")
    log.executes(POSITION)

    assert [effect["kind"] for effect in read_effects(path)] == ["fault", "exec"]


def test_what_is_not_counted_strikes_each_time(path: Path) -> None:
    log = open_log(path)

    assert all(log.strikes("rule", None, run_id="r", step=0, node=None) for _ in range(3))


def test_each_rule_is_counted_by_itself_and_executions_not_at_all(path: Path) -> None:
    log = open_log(path)
    log.executes(POSITION)

    struck = [log.strikes(rule, 1, run_id="r", step=0, node=None) for rule in ("a", "b", "a")]

    assert struck == [True, True, False]


def test_strikes_of_an_earlier_process_count(path: Path) -> None:
    open_log(path).strikes("rule", 1, run_id="r", step=0, node=None)

    assert not open_log(path).strikes("rule", 1, run_id="r", step=0, node=None)


def test_two_processes_cannot_both_take_the_last_strike(path: Path) -> None:
    command = [sys.executable, "-c", STRIKE, str(path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(4)]

    taken = [int(process.communicate(timeout=60)[0]) for process in processes]

    assert sum(taken) == 20
    assert len(read_effects(path)) == 20


def test_two_threads_cannot_both_take_the_last_strike(path: Path) -> None:
    log = open_log(path)

    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(lambda _: log.strikes("rule", 20, run_id="r", step=0, node=None), range(80)))

    assert sum(taken) == 20


def test_a_log_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"POCOFLOW_EFFECT_LOG=\S+/none/effects: cannot be written: No such"
    ):
        open_log(tmp_path / "none" / "effects")
