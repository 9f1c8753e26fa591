"""Faults on purpose and the effect log reach every way to run, and are not there unless asked for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from pocoflow import Flow, StepFailedError, wiring
from pocoflow.db.sqlite import SqliteLedger
from pocoflow.embedded import EmbeddedWorker
from pocoflow.engine.deliver import deliver
from pocoflow.engine.effects import Effect, read_effects
from pocoflow.engine.faults import FaultyLedger
from tests.integration import flows
from tests.support.workers import MakeCluster, Trace, committed_steps

WAIT_S = 60.0


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "effects.jsonl"


def executions(log: Path) -> list[Effect]:
    return [effect for effect in read_effects(log) if effect["kind"] == "exec"]


def test_without_the_settings_nothing_is_wrapped(sqlite_url: str) -> None:
    settings = wiring.load_settings()
    ports = wiring.database_ports(sqlite_url, settings)
    definition = flows.made_on_demand().definition()

    assert wiring.faults(settings) is None
    assert type(ports.ledger) is SqliteLedger
    assert wiring.with_faults(definition, ports) is definition
    assert EmbeddedWorker(settings)._deliver_hint is deliver


@pytest.mark.parametrize("background", [True, False], ids=["embedded", "inline"])
def test_runs_in_this_process_write_their_executions_and_meet_their_faults(
    monkeypatch: pytest.MonkeyPatch, sqlite_url: str, trace: Trace, log: Path, background: bool
) -> None:
    monkeypatch.setenv("POCOFLOW_EFFECT_LOG", str(log))
    monkeypatch.setenv("POCOFLOW_FAULTS", "after_exec@flaky=raise*1")
    node = flows.Flaky(name="flaky")
    node.retry_delay = 0
    flow = Flow(flows.line(flows.Step(name="fine"), node), flow_name="faulty", db_path=sqlite_url)
    store = {"run": "r", "log": str(trace.path), "failures": 0}

    if background:
        flow.run_background(store, run_id="r").wait(WAIT_S)
    else:
        flow.run(store, run_id="r")

    found = [(effect["node"], effect["step"], effect["attempt"]) for effect in executions(log)]
    assert found == [("fine", 0, 1), ("flaky", 1, 1), ("flaky", 1, 2)]
    assert isinstance(wiring.inline_ports(sqlite_url).ledger, FaultyLedger)


def test_a_fault_can_fail_a_run_without_any_database(monkeypatch: pytest.MonkeyPatch, trace: Trace) -> None:
    monkeypatch.setenv("POCOFLOW_FAULTS", "in_prep@second=raise")

    handle = trace.start(flows.made_on_demand())

    with pytest.raises(StepFailedError, match="fault on purpose: in_prep@second=raise"):
        handle.wait(WAIT_S)


def test_a_worker_is_killed_where_it_was_told_and_once_and_the_step_is_committed_once(
    make_cluster: MakeCluster, redis_url: str, database_url: str, trace: Trace, log: Path
) -> None:
    cluster = make_cluster(
        BROKER_URL=redis_url, DATABASE_URL=database_url, LEASE_S="2", SWEEP_S="0.3", GRACE_S="1"
    )
    worker = cluster.start_worker(
        "-c", "2", EFFECT_LOG=str(log), FAULTS="after_exec@two=kill9*1, after_receive@:3=kill9*1"
    )

    handle = trace.start(flows.chain)
    handle.wait(WAIT_S)

    assert worker.exit_code is None
    assert committed_steps(handle, cluster.database) == [0, 1, 2, 3, 4]
    begun = executions(log)
    assert Counter(effect["node"] for effect in begun) == Counter([*flows.NAMES, "two"])
    first, second = [effect for effect in begun if effect["node"] == "two"]
    assert first["pid"] != second["pid"]
    assert first["epoch"] < second["epoch"]
    struck = [effect["rule"] for effect in read_effects(log) if effect["kind"] == "fault"]
    assert struck == ["after_exec@two=kill9*1", "after_receive@:3=kill9*1"]
