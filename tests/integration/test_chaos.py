"""`pocoflow chaos` as a user runs it: real workers, real kills, and the truth about the user's nodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pocoflow import Store, WorkflowDB
from tests.integration import flows

ROOT = Path(__file__).resolve().parents[2]
FLOWS = """
import time
from pathlib import Path

from pocoflow import Flow, Node, flow_factory


class Append(Node):
    '''Writes a line to a file of its run, and counts the lines: not the same when it is repeated.'''

    def prep(self, store):
        return store["folder"]

    def exec(self, folder):
        path = Path(folder, self.idempotency_key.partition(":")[0])
        with path.open("a") as file:
            file.write("x")
        return len(path.read_text())

    def post(self, store, folder, count):
        store["count"] = count


class Stamp(Node):
    queue = "stamps"

    def post(self, store, given, result):
        store["at"], store["key"] = time.time(), self.idempotency_key
        store["left"] -= 1
        return "again" if store["left"] > 0 else "done"


class Never(Node):
    pass


class Broken(Node):
    def exec(self, given):
        raise ConnectionError("nobody there")


append, stamp = Append(name="append"), Stamp(name="stamp")
append.then("default", stamp)
stamp.then("again", stamp).then("never", Never())
flow = Flow(append, flow_name="counting")


@flow_factory
def broken():
    return Flow(Broken(), flow_name="broken")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my_flows.py").write_text(FLOWS)
    given = {"folder": str(tmp_path), "count": 0, "left": 2}
    (tmp_path / "input.json").write_text(json.dumps(given))
    return tmp_path


def chaos(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # A broker that somebody has configured must not be touched; this one would refuse every connection.
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "POCOFLOW_BROKER_URL": "redis://127.0.0.1:1/0"}
    command = [sys.executable, "-m", "pocoflow", "chaos", *arguments]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=110)


def test_a_flow_without_side_effects_ends_the_same_wherever_its_worker_is_killed(
    tmp_path: Path, redis_url: str
) -> None:
    """`redis_url` skips the test where there is no broker; the command starts one of its own."""
    (tmp_path / "input.json").write_text('{"name": "ADA", "greeting": ""}')

    done = chaos(tmp_path, "examples.hello:flow", "--input", "input.json")

    assert done.returncode == 0, done.stdout + done.stderr
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line.split()}
    assert rows["greet"] == ["1x", "1x", "1x", "2x", "2x", "2x", "2x", "1x", "1x", "1x"]
    assert rows["shout"] == ["1x", "1x", "1x", "2x", "2x", "2x", "2x", "1x", "-", "-"]
    assert "greet: repeatable as far as seen" in done.stdout
    assert "20 kills tried: 18 same, 2 not reached" in done.stdout
    assert "20/20 " in done.stderr


def test_a_node_that_does_harm_when_it_is_repeated_is_named(
    folder: Path, redis_url: str, postgres_url: str
) -> None:
    arguments = ("my_flows:flow", "--input", "input.json", "--points", "in_prep,after_exec", "--json")

    done = chaos(folder, *arguments, "--database", postgres_url, "--workers", "1")

    assert done.returncode == 1, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    cases = {(case["node"], case["point"]): case for case in found["cases"]}
    assert {place: case["outcome"] for place, case in cases.items()} == {
        ("append", "in_prep"): "same",
        ("append", "after_exec"): "differs",
        ("stamp", "in_prep"): "same",
        ("stamp", "after_exec"): "same",
    }
    assert [case["executed"] for case in cases.values()] == [1, 2, 1, 2]
    assert cases["append", "after_exec"]["keys"] == ["count"]
    assert [(node["node"], node["verdict"]) for node in found["nodes"]] == [
        ("append", "not safe to repeat"),
        ("stamp", "repeatable as far as seen"),
    ]
    # The key names the run, which is another one each time; that is no difference.
    assert found["ignored_keys"] == ["at"]
    assert found["not_visited"] == ["Never"]
    assert len(WorkflowDB(postgres_url).list_runs()) == 6


def test_a_flow_that_fails_undisturbed_cannot_be_examined(folder: Path, redis_url: str) -> None:
    done = chaos(folder, "my_flows:broken", "--workers", "1")

    assert done.returncode == 2
    assert "does not complete undisturbed" in done.stderr
    assert "ConnectionError: nobody there" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["my_flows"], "'my_flows' is not MODULE:FLOW"),
        (["no.such:flow"], "no.such:flow cannot be loaded from"),
        (["my_flows:other"], "'my_flows' has no flow 'other': it has flow, broken"),
        (["my_flows:flow", "--input", "none.json"], "none.json"),
        (["my_flows:flow", "--input", "list.json"], "holds a list, a JSON object is needed"),
        (["my_flows:flow", "--input", "my_flows.py"], "my_flows.py is not JSON"),
        (["my_flows:flow", "--points", "in_exec,in_exce"], "choose from after_receive"),
        (["my_flows:flow", "--points", "in_sweep_after_update"], "choose from after_receive"),
        (["my_flows:flow", "--database", "mysql://localhost/x"], "no support for 'mysql'"),
    ],
)
def test_what_is_wrong_with_the_call_is_told_and_is_not_a_difference(
    folder: Path, arguments: list[str], said: str
) -> None:
    (folder / "list.json").write_text("[]")

    done = chaos(folder, *arguments)

    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_database_with_runs_of_others_is_left_alone(folder: Path, sqlite_url: str) -> None:
    flow = flows.made_on_demand()
    flow.db_path = sqlite_url
    store = Store({"run": "order-17", "log": str(folder / "log")})
    flow.run(store, run_id="order-17")

    done = chaos(folder, "my_flows:flow", "--database", sqlite_url)

    assert done.returncode == 2
    assert "has other runs, such as 'order-17'" in done.stderr
    assert len(WorkflowDB(sqlite_url).list_runs()) == 1
