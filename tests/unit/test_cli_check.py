"""`pocoflow check`: says which runs under way new code would strand, to a human, a program and a shell."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pocoflow import WorkflowDB
from pocoflow.cli.main import cli
from pocoflow.db.connect import database_url as parsed
from pocoflow.db.sqlite import SqliteLedger
from pocoflow.engine.graph import Graph
from pocoflow.engine.records import Failure, NewRun
from pocoflow.engine.timing import Timing
from tests.contract.builders import new_run, record, take
from tests.unit.test_changes import graph

MODULE = "checked_flows"
CODE = """
from pocoflow import Flow, Node, flow_factory

def wired(*names):
    nodes = [Node(name=name) for name in names]
    for before, after in zip(nodes, nodes[1:]):
        before.then("default", after)
    return nodes[0]
"""
OLD = graph(a={"default": "b"}, b={"default": "c"}, c={})

Write = Callable[[str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write the new code into the folder in which the command is called."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def into_module(code: str) -> None:
        (tmp_path / f"{MODULE}.py").write_text(f"{CODE}\n{code}\n")

    yield into_module
    sys.modules.pop(MODULE, None)


@pytest.fixture
def ledger(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> SqliteLedger:
    monkeypatch.setenv("POCOFLOW_DATABASE_URL", sqlite_url)
    WorkflowDB(sqlite_url)
    timing = Timing(lease_s=100.0, grace_s=100.0, max_crashes=2)
    return SqliteLedger(parsed(sqlite_url), timing, sleep=lambda seconds: None)


def run(run_id: str, node: str = "a", flow_name: str = "flow", made: Graph = OLD) -> NewRun:
    return new_run(run_id, node=node, flow_name=flow_name, flow_hash=made.fingerprint, graph=made.text)


def check(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["check", *arguments])


def test_a_database_without_runs_under_way_says_so(write: Write, ledger: SqliteLedger) -> None:
    write('flow = Flow(wired("a", "c"), flow_name="flow")')
    ledger.start(run("over"))
    ledger.cancel("over")
    WorkflowDB(ledger.url.render_as_string()).create_run("by hand", "flow")

    result = check(f"{MODULE}:flow")

    assert result.exit_code == 0
    assert result.output.splitlines() == [f"database  {ledger.url.render_as_string()}", "no runs under way"]


def test_runs_that_can_go_on_are_counted(write: Write, ledger: SqliteLedger) -> None:
    write('flow = Flow(wired("a", "b", "c", "d"), flow_name="flow")')
    ledger.start(run("one"))
    ledger.start(run("two", "b"))

    result = check(f"{MODULE}:flow")

    assert result.exit_code == 0
    assert result.output.splitlines()[1:] == [
        "checked   2 runs under way",
        "the new code can go on with all of them",
    ]


def test_each_run_that_would_be_stranded_is_named_with_what_is_missing(
    write: Write, ledger: SqliteLedger
) -> None:
    write('flow = Flow(wired("a", "c"), flow_name="flow")')
    ledger.start(run("queued"))
    ledger.start(run("held", "b"))
    take(ledger, run_id="held")
    ledger.start(run("paused", "b"))
    ledger.pause("paused")
    ledger.start(run("fine", "c"))

    result = check(f"{MODULE}:flow", "--json")

    assert result.exit_code == 1
    found = json.loads(result.output)
    assert (found["flows"], found["runs"]) == (["flow"], 4)
    reasons = {one["run_id"]: (one["status"], one["node"], one["missing"]) for one in found["stranded"]}
    assert reasons == {
        "queued": ("queued", "a", "node 'a' has lost its edges 'default' to 'b' (now 'c')"),
        "held": ("running", "b", "node 'b' is not there"),
        "paused": ("paused", "b", "node 'b' is not there"),
    }
    for_a_human = check(f"{MODULE}:flow").output
    assert "3 runs would be paused with FlowChangedError" in for_a_human
    assert all(run_id in for_a_human for run_id in reasons)


def test_failed_runs_are_looked_at_when_that_is_wanted(write: Write, ledger: SqliteLedger) -> None:
    write('flow = Flow(wired("a", "c"), flow_name="flow")')
    ledger.start(run("failed", "b"))
    ledger.fail(take(ledger, run_id="failed"), Failure("ValueError", "no luck"))

    assert check(f"{MODULE}:flow").exit_code == 0
    assert check(f"{MODULE}:flow", "--failed").exit_code == 1


def test_the_graph_that_counts_is_the_one_that_has_led_the_run_here(
    write: Write, ledger: SqliteLedger
) -> None:
    write('flow = Flow(wired("a", "c"), flow_name="flow")')
    ledger.start(run("moved"))
    newer = graph(a={"default": "c"}, c={})
    position = take(ledger, run_id="moved")
    ledger.adopt(position, graph=newer.text, fingerprint=newer.fingerprint)
    ledger.commit(position, record("c"))

    assert check(f"{MODULE}:flow").exit_code == 0


def test_flows_that_were_not_given_are_named_and_counted(write: Write, ledger: SqliteLedger) -> None:
    write('flow = Flow(wired("a", "b", "c"), flow_name="flow")')
    ledger.start(run("one"))
    for number in range(2):
        ledger.start(run(f"other-{number}", flow_name="renamed\x1b[2J"))

    result = check(f"{MODULE}:flow")

    assert result.exit_code == 0
    assert "left out  2 runs of flows that were not given: 'renamed\\x1b[2J' (2)" in result.output
    assert json.loads(check(f"{MODULE}:flow", "--json").output)["other_flows"] == {"renamed\x1b[2J": 2}


def test_several_flows_are_checked_at_once_made_by_a_factory_or_not(
    write: Write, ledger: SqliteLedger
) -> None:
    write(
        'one = Flow(wired("a", "b", "c"), flow_name="one")\n'
        "@flow_factory\n"
        'def two():\n    return Flow(wired("a", "c"), flow_name="two")'
    )
    ledger.start(run("fine", flow_name="one"))
    ledger.start(run("stranded", flow_name="two"))

    result = check(f"{MODULE}:one", f"{MODULE}:two", "--json")

    assert result.exit_code == 1
    assert [one["run_id"] for one in json.loads(result.output)["stranded"]] == ["stranded"]


@pytest.mark.parametrize(
    ("code", "target", "said"),
    [
        ("", f"{MODULE}:flow", f"'{MODULE}' has no flow 'flow': it has none"),
        ("1 / 0", f"{MODULE}:flow", "ZeroDivisionError"),
        ("", "nowhere_to_be_found:flow", "cannot be loaded"),
        ("", "no target", "is not MODULE:FLOW"),
    ],
)
def test_what_cannot_be_told_has_an_exit_code_of_its_own(
    write: Write, ledger: SqliteLedger, code: str, target: str, said: str
) -> None:
    write(code)

    result = check(target)

    assert result.exit_code == 2
    assert said in result.output


def test_a_database_that_is_not_there_is_not_made(write: Write, tmp_path: Path) -> None:
    write('flow = Flow(wired("a"), flow_name="flow")')

    result = check(f"{MODULE}:flow", "--database", str(tmp_path / "missing.db"))

    assert result.exit_code == 2
    assert "there is no database" in result.output
    assert not (tmp_path / "missing.db").exists()


def test_two_flows_of_one_name_cannot_both_be_meant(write: Write, ledger: SqliteLedger) -> None:
    write('one = Flow(wired("a"), flow_name="flow")\ntwo = Flow(wired("a"), flow_name="flow")')

    result = check(f"{MODULE}:one", f"{MODULE}:two")

    assert result.exit_code == 2
    assert "two of these flows are named 'flow'" in result.output
