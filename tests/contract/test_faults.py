"""Each fault strikes at its point and nowhere else, does what it is called, and leaves history sound."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pocoflow import Flow, Node, SettingsError
from pocoflow.engine.clock import SystemClock
from pocoflow.engine.deliver import deliver, send
from pocoflow.engine.effects import EffectLog, read_effects
from pocoflow.engine.fault_rules import POINTS, Place
from pocoflow.engine.faults import Faults
from pocoflow.engine.heartbeat import Heartbeats
from pocoflow.engine.local import LocalFlags
from pocoflow.engine.ports import Ledger, Ports
from pocoflow.engine.records import Hint, Outcome
from pocoflow.errors import BrokerError, DatabaseError
from tests.contract.builders import INPUT, RUN, facts, new_run, record, take, whole
from tests.contract.subjects import PassTime, Subject, near
from tests.support.wait import process_state, wait_until

CLOCK = SystemClock()
ALL = ["prep", "exec", "post"]
QUEUED, RUNNING, FAILED = "queued", "running", "failed"


@dataclass
class Recorder:
    """A dispatcher that keeps what it is given."""

    sent: list[Hint] = field(default_factory=list)

    def send(self, hint: Hint) -> None:
        self.sent.append(hint)


class Recording(Node):
    """Writes down which of its methods were called."""

    def __init__(self, name: str, calls: list[str]) -> None:
        super().__init__(name)
        self.calls = calls

    def prep(self, store: Any) -> Any:
        self.calls.append("prep")
        return "given"

    def exec(self, prep_result: Any) -> Any:
        self.calls.append("exec")
        return prep_result

    def post(self, store: Any, prep_result: Any, exec_result: Any) -> None:
        self.calls.append("post")
        store["n"] = exec_result


class World:
    """One worker with faults on one ledger, and a run of two nodes, A and B, on it."""

    def __init__(self, ledger: Ledger, log: Path) -> None:
        self.ledger = ledger
        self.log = log
        self.calls: list[str] = []
        self.recorder = Recorder()
        self.flow = Flow(Recording("A", self.calls).then("*", Recording("B", self.calls))).definition()
        ledger.start(new_run())

    def worker(self, spec: str) -> Callable[[Hint], Outcome | None]:
        faults = Faults(spec, EffectLog(str(self.log), CLOCK), CLOCK)
        ledger = faults.ledger(self.ledger)
        flags = LocalFlags()
        ports = Ports(ledger, flags, Heartbeats(ledger, flags, CLOCK, lease_s=1000), CLOCK)
        faulty = faults.deliver(deliver)
        return lambda hint: faulty(
            hint,
            find_flow=faults.find_flow(lambda position: self.flow),
            ports=ports,
            dispatcher=faults.dispatcher(self.recorder),
            worker="host:1",
            unroutable_s=60,
        )

    @property
    def lines(self) -> list[str]:
        """The kinds of the lines in the effect log; of a fault, its point."""
        effects = read_effects(self.log)
        return [
            effect["rule"].partition("=")[0] if effect["kind"] == "fault" else "exec" for effect in effects
        ]


@pytest.fixture
def world(ledger: Ledger, tmp_path: Path) -> World:
    return World(ledger, tmp_path / "effects.jsonl")


@pytest.mark.parametrize(
    ("point", "error", "calls", "status", "steps", "hints"),
    [
        ("after_receive", DatabaseError, [], QUEUED, 0, 0),
        ("after_claim", DatabaseError, [], RUNNING, 0, 0),
        ("in_prep", None, [], FAILED, 0, 0),
        ("in_exec", None, ["prep"], FAILED, 0, 0),
        ("after_exec", None, ["prep", "exec"], FAILED, 0, 0),
        ("in_post", None, ["prep", "exec"], FAILED, 0, 0),
        ("before_commit", DatabaseError, ALL, RUNNING, 0, 0),
        ("after_commit_before_ack", DatabaseError, ALL, QUEUED, 1, 0),
        ("after_commit_before_publish", None, ALL, QUEUED, 1, 0),
        ("after_publish", None, ALL, QUEUED, 1, 1),
    ],
)
def test_a_fault_strikes_at_its_point_with_all_before_done_and_nothing_after(
    world: World,
    point: str,
    error: type[Exception] | None,
    calls: list[str],
    status: str,
    steps: int,
    hints: int,
) -> None:
    worker = world.worker(f"{point}=raise")

    if error is None:
        worker(Hint(RUN, 0))
    else:
        with pytest.raises(error, match=f"fault on purpose: {point}=raise"):
            worker(Hint(RUN, 0))

    assert world.calls == calls
    assert facts(world.ledger, "status", "total_steps") == (status, steps)
    assert len(world.recorder.sent) == hints


def test_a_step_meets_its_points_in_their_order_with_the_execution_noted_before_exec(world: World) -> None:
    worker = world.worker(",".join(f"{point}=sleep=0" for point in POINTS))

    worker(Hint(RUN, 0))

    met = [point for point in POINTS if not point.startswith(("in_heartbeat", "in_sweep"))]
    met.insert(met.index("in_exec"), "exec")
    # Whether the run was cancelled is asked at the ledger here, by a heartbeat.
    assert [line for line in world.lines if line != "in_heartbeat"] == met


def test_the_last_step_sends_no_hint_so_it_does_not_meet_the_points_around_it(world: World) -> None:
    worker = world.worker("after_commit_before_publish=sleep=0, after_publish@B=sleep=0")

    worker(Hint(RUN, 0))
    worker(Hint(RUN, 1))

    assert facts(world.ledger, "status") == ("completed",)
    assert world.lines == ["exec", "after_commit_before_publish", "exec"]


def test_a_rule_for_a_node_strikes_in_no_other(world: World) -> None:
    worker = world.worker("in_exec@B=sleep=0, after_publish@A:0=sleep=0, other/in_exec=sleep=0")

    worker(Hint(RUN, 0))
    worker(Hint(RUN, 1))

    assert world.lines == ["exec", "after_publish@A:0", "exec", "in_exec@B"]


def test_a_counted_fault_strikes_so_often_and_no_more(world: World) -> None:
    worker = world.worker("after_receive=drop*2")

    outcomes = [worker(Hint(RUN, 0)) for _ in range(3)]

    assert [outcome is None for outcome in outcomes] == [True, True, False]


@pytest.mark.parametrize(("probability", "strikes"), [("1", 20), ("0.000001", 0)])
def test_a_fault_strikes_as_probably_as_it_is_told(world: World, probability: str, strikes: int) -> None:
    worker = world.worker(f"after_receive=drop%{probability}")

    for step in range(20):
        worker(Hint(RUN, step))

    assert world.lines.count("after_receive") == strikes


def test_a_heartbeat_that_fails_extends_nothing(world: World, subject: Subject, pass_time: PassTime) -> None:
    position = take(world.ledger)
    pass_time(400)
    faulty = Faults("in_heartbeat@A=raise", None, CLOCK).ledger(world.ledger)

    with pytest.raises(DatabaseError):
        faulty.heartbeat([position])

    assert subject.counters(RUN).wake_in_s == near(600)


def test_a_sweep_is_struck_when_it_has_taken_steps_up_and_sent_nothing(
    world: World, subject: Subject, pass_time: PassTime
) -> None:
    faulty = Faults("in_sweep_after_update@:0=raise", None, CLOCK).ledger(world.ledger)
    assert faulty.sweep() == []
    pass_time(500)

    with pytest.raises(DatabaseError):
        faulty.sweep()

    assert subject.counters(RUN).dispatches == 2


def test_a_dropped_hint_is_not_sent_and_a_doubled_one_three_times(world: World) -> None:
    worker = world.worker(
        "after_commit_before_publish@A=drop, run-2/after_commit_before_publish=dup, after_publish=sleep=0"
    )
    world.ledger.start(new_run("run-2"))

    worker(Hint(RUN, 0))
    worker(Hint("run-2", 0))

    assert world.recorder.sent == [Hint("run-2", 1)] * 3


def test_a_hint_that_follows_no_commit_of_this_process_passes(world: World) -> None:
    faults = Faults("after_commit_before_publish=drop", None, CLOCK)

    send(Hint(RUN, 0), faults.dispatcher(world.recorder))

    assert world.recorder.sent == [Hint(RUN, 0)]


def test_a_hint_that_a_sweep_sends_after_a_lost_commit_passes(world: World) -> None:
    faults = Faults("after_commit_before_ack=raise, after_commit_before_publish=drop", None, CLOCK)
    with pytest.raises(DatabaseError):
        faults.ledger(world.ledger).commit(take(world.ledger), record())

    send(Hint(RUN, 1), faults.dispatcher(world.recorder))

    assert world.recorder.sent == [Hint(RUN, 1)]


def test_a_dropped_delivery_does_nothing_and_a_doubled_one_is_executed_once(world: World) -> None:
    assert world.worker("after_receive=drop")(Hint(RUN, 0)) is None
    assert world.calls == []

    assert world.worker("after_receive=dup")(Hint(RUN, 0)) is not None
    assert world.calls == ALL


def test_sleep_waits(world: World) -> None:
    began = CLOCK.monotonic()

    world.worker("in_prep=sleep=0.2")(Hint(RUN, 0))

    assert CLOCK.monotonic() - began >= 0.2


def test_a_broker_that_fails_on_purpose_is_one_that_fails() -> None:
    recorder = Recorder()
    faults = Faults("after_commit_before_publish=raise", None, CLOCK)
    faults.committed.place = Place(RUN, 0, "A")

    with pytest.raises(BrokerError):
        faults.dispatcher(recorder).send(Hint(RUN, 1))

    assert recorder.sent == []


def test_what_has_no_point_is_the_ledgers_own(world: World) -> None:
    faulty: Any = Faults("in_exec=kill9", None, CLOCK).ledger(world.ledger)

    assert faulty.get_saved(RUN) == whole(INPUT)
    with pytest.raises(AttributeError):
        faulty.no_such_verb()


def test_times_without_a_log_to_count_them_in_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"'in_exec=kill9\*1': .* POCOFLOW_EFFECT_LOG"):
        Faults("in_exec=kill9*1", None, CLOCK)


STRIKE = """
import sys
from pocoflow.engine.clock import SystemClock
from pocoflow.engine.effects import EffectLog
from pocoflow.engine.faults import Faults, Place
log = EffectLog(sys.argv[2], SystemClock())
Faults(sys.argv[1], log, SystemClock()).strike("in_exec", Place("r", 0, "A"))
print("went on")
"""


def strike(spec: str, log: Path) -> subprocess.Popen[str]:
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", STRIKE, spec, str(log)]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)


def test_kill9_ends_the_process_on_the_spot_after_it_was_noted(tmp_path: Path) -> None:
    process = strike("in_exec=kill9*1", tmp_path / "log")

    assert process.communicate(timeout=60)[0] == ""
    assert process.returncode == -signal.SIGKILL
    assert [effect["rule"] for effect in read_effects(tmp_path / "log")] == ["in_exec=kill9*1"]


def test_stop_freezes_the_process_until_it_is_continued(tmp_path: Path) -> None:
    process = strike("in_exec=stop", tmp_path / "log")

    wait_until(lambda: process_state(process.pid) == "T", timeout_s=60)
    os.kill(process.pid, signal.SIGCONT)

    assert process.communicate(timeout=60)[0] == "went on\n"


BUSY = """
import sys, threading, time
from pocoflow.engine.clock import SystemClock
from pocoflow.engine.fault_rules import Place
from pocoflow.engine.faults import Faults

def work():
    faults = Faults("in_heartbeat=stop", None, SystemClock())
    while True:
        faults.strike("in_heartbeat", Place("run", 0))
        print(end=".", flush=True)

threading.Thread(target=work, daemon=True).start()
while True:
    time.sleep(0.001)
"""


def test_stop_stops_the_thread_that_it_strikes_before_it_does_anything_more(tmp_path: Path) -> None:
    said, gone_on = tmp_path / "said", []
    with said.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-c", BUSY], stdout=output)

    for strikes in range(100):
        wait_until(lambda: process_state(process.pid) == "T", timeout_s=60, every_s=0.001)
        gone_on.append(said.stat().st_size)
        process.send_signal(signal.SIGCONT)
        wait_until(lambda so_far=strikes: said.stat().st_size > so_far, timeout_s=60, every_s=0.001)
    process.kill()
    process.wait()

    assert gone_on == list(range(100))
