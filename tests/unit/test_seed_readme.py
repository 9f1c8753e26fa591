"""What the README of version 0.2 shows still works as it is written there.

Each snippet stands here as it does there; added is only what it leaves open, such as `llm`.
"""

# ruff: noqa: E501, I001 - the snippets are quoted, not improved
# fmt: off

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.wait import wait_until

llm = SimpleNamespace(
    summarise=lambda text: f"summary of {text}",
    call=lambda prompt: f"answer to {prompt}",
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of its own: the README writes pocoflow.db and logs/ there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def pocoflow_logger() -> Iterator[logging.Logger]:
    """The logger that `setup_logging` changes, put back afterwards as it was."""
    from pocoflow.logging import disable_logging

    logger = logging.getLogger("pocoflow")
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    yield logger
    disable_logging()
    logger.handlers, logger.propagate = handlers, propagate
    logger.setLevel(level)


def test_quick_start(capsys: pytest.CaptureFixture[str]) -> None:
    from pocoflow import Node, Flow, Store

    class SummariseNode(Node):
        def prep(self, store):
            return store["document"]

        def exec(self, text):
            return llm.summarise(text)          # your LLM call here

        def post(self, store, prep, summary):
            store["summary"] = summary
            return "done"

    store = Store({"document": "...", "summary": ""})
    Flow(start=SummariseNode(), db_path="pocoflow.db", flow_name="summarise").run(store)
    print(store["summary"])

    assert capsys.readouterr().out == "summary of ...\n"
    assert Path("pocoflow.db").exists()


def test_node_that_tries_exec_up_to_three_times() -> None:
    from pocoflow import Node

    class CallLLMNode(Node):
        max_retries = 3       # retry exec() automatically on failure
        retry_delay = 1.0     # seconds between retries

        def prep(self, store):
            return store["prompt"]

        def exec(self, prompt):
            return llm.call(prompt)   # retried up to 3x on exception

        def post(self, store, prep, response):
            store["response"] = response
            return "done"

    from pocoflow import Flow

    store = Flow(start=CallLLMNode()).run({"prompt": "why?"})

    assert store["response"] == "answer to why?"
    assert CallLLMNode().exec("testable without a store") == "answer to testable without a store"


def test_store_that_is_typed_observed_and_saved(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pocoflow import Store

    store = Store(
        data={"query": "", "result": ""},
        schema={"query": str, "result": str},   # type-checked on every write
        name="my_pipeline",
    )
    store["query"] = "explain quantum entanglement"
    with pytest.raises(TypeError):
        store["query"] = 42          # raises TypeError immediately

    # Observer: fired on every write (logging, tracing, UI updates)
    store.add_observer(lambda key, old, new: print(f"{key}: {old!r} → {new!r}"))
    store["result"] = "spooky"

    # JSON snapshot / restore (lightweight backup)
    store.snapshot(f"{folder}/run_42/step_002.json")
    store2 = Store.restore(f"{folder}/run_42/step_002.json")

    assert capsys.readouterr().out == "result: '' → 'spooky'\n"
    assert store2 == {"query": "explain quantum entanglement", "result": "spooky"}
    assert store2.name == "my_pipeline"


@pytest.mark.parametrize(
    ("action", "printed"),
    [
        ("ok", ["▶ A", "✓ A → ok", "▶ B", "✓ B → default", "Done in 2 steps"]),
        ("error", ["▶ A", "✓ A → error", "▶ C", "alert C ValueError"]),
        ("unheard of", ["▶ A", "✓ A → unheard of", "▶ Fallback", "✓ Fallback → default", "Done in 2 steps"]),
    ],
)
def test_flow_with_edges_hooks_history_and_snapshots(
    folder: Path, capsys: pytest.CaptureFixture[str], action: str, printed: list[str]
) -> None:
    from pocoflow import Flow, Store
    from pocoflow import Node, WorkflowDB

    def alert(name, exc):
        print("alert", name, type(exc).__name__)

    class A(Node):
        def post(self, store, prep, result):
            return action

    class B(Node):
        pass

    class C(Node):
        def exec(self, prep):
            raise ValueError("broken")

    class Fallback(Node):
        pass

    a, b, c, fallback = A(), B(), C(), Fallback()

    # Wire nodes with unambiguous named edges
    a.then("ok",    b)
    a.then("error", c)
    a.then("*",     fallback)   # wildcard: matches any unhandled action

    # Build with SQLite persistence
    flow = Flow(
        start=a,
        flow_name="my_pipeline",    # label shown in the monitor UI
        db_path="pocoflow.db",      # SQLite: runs, events, checkpoints
        checkpoint_dir=f"{folder}/ckpt", # also write JSON snapshots (optional)
        max_steps=50,               # guard against infinite loops
    )

    # Hooks: wire to any logger, metrics sink, or progress bar
    flow.on("node_start", lambda name, store: print(f"▶ {name}"))
    flow.on("node_end",   lambda name, action, elapsed, store:
                              print(f"✓ {name} → {action}  ({elapsed:.2f}s)"))
    flow.on("node_error", lambda name, exc, store: alert(name, exc))
    flow.on("flow_end",   lambda steps, store: print(f"Done in {steps} steps"))

    store = Store({"query": "..."})
    try:
        flow.run(store)
    except ValueError:
        assert action == "error"

    run, = WorkflowDB("pocoflow.db").list_runs()
    shown = [line.partition("  (")[0] for line in capsys.readouterr().out.splitlines()]
    assert shown == printed
    assert (run["flow_name"], run["status"]) == ("my_pipeline", "failed" if action == "error" else "completed")
    assert (folder / "ckpt" / "step_000_A.json").exists()


def test_async_node_with_parallel_sub_tasks() -> None:
    from pocoflow import AsyncNode
    import asyncio

    async def fetch(url):
        return f"page at {url}"

    class FetchNode(AsyncNode):
        def prep(self, store):
            return store["urls"]

        async def exec_async(self, urls):
            return await asyncio.gather(*[fetch(u) for u in urls])

        def post(self, store, prep, results):
            store["pages"] = results
            return "done"

    from pocoflow import Flow

    store = Flow(start=FetchNode()).run({"urls": ["a", "b"]})

    assert store["pages"] == ["page at a", "page at b"]


def test_sqlite_backend(capsys: pytest.CaptureFixture[str]) -> None:
    from pocoflow import Flow, Node

    class Count(Node):
        def post(self, store, prep, result):
            store["n"] = store["n"] + 1

    first, second, third = Count(), Count(), Count()
    first.then("default", second)
    second.then("default", third)
    Flow(start=first, db_path="pocoflow.db", flow_name="my_pipeline", run_id="my_pipeline-3f9a1b2c").run({"n": 0})

    from pocoflow import WorkflowDB

    db = WorkflowDB("pocoflow.db")

    # List all runs
    for run in db.list_runs():
        print(run["run_id"], run["status"], run["total_steps"])

    # Inspect events for a run
    for event in db.get_events("my_pipeline-3f9a1b2c"):
        print(event["event"], event["node_name"], event["elapsed_ms"])

    # Restore Store from any checkpoint
    store = db.load_checkpoint("my_pipeline-3f9a1b2c", step=2)

    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "my_pipeline-3f9a1b2c completed 3"
    assert [line.split()[0] for line in shown[1:]] == ["flow_start", *["node_start", "node_end"] * 3, "flow_end"]
    assert store == {"n": 3}
    assert all(event["elapsed_ms"] >= 0 for event in db.get_events("my_pipeline-3f9a1b2c") if event["event"] == "node_end")


def test_history_written_by_hand() -> None:
    from pocoflow import Store, WorkflowDB

    db = WorkflowDB("pocoflow.db")
    db.create_run("run-1", "research")
    db.save_event("run-1", "node_start", step=0, node_name="fetch")
    db.save_checkpoint("run-1", 0, "fetch", Store({"pages": 3}))
    db.update_run("run-1", status="completed", total_steps=1)

    assert [checkpoint["node_name"] for checkpoint in db.get_checkpoints("run-1")] == ["fetch"]
    assert db.load_checkpoint("run-1", step=0) == {"pages": 3}
    assert db.get_run("run-1")["status"] == "completed"
    with pytest.raises(KeyError):
        db.load_checkpoint("run-1", step=1)


def test_long_running_workflow(capsys: pytest.CaptureFixture[str]) -> None:
    from pocoflow import Flow, Node, Store

    let_go = threading.Event()

    class Research(Node):
        def exec(self, prep):
            assert let_go.wait(60)

        def post(self, store, prep, result):
            store["found"] = "ducks"

    my_node, store = Research(), Store({"query": "?"})

    flow = Flow(start=my_node, db_path="pocoflow.db", flow_name="research")

    # Returns immediately: the flow runs in a daemon thread
    handle = flow.run_background(store)

    print(handle.run_id)          # e.g. "research-3f9a1b2c"
    wait_until(lambda: handle.status != "queued")
    print(handle.status)          # "running"   (reads live from SQLite)

    let_go.set()
    # Block until done (optional timeout)
    result = handle.wait(timeout=300)
    print(handle.status)          # "completed"

    shown = capsys.readouterr().out.splitlines()
    assert re.fullmatch("research-[0-9a-f]+", shown[0])
    assert shown[1:] == ["running", "completed"]
    assert result == {"query": "?", "found": "ducks"}


def test_cooperative_cancel_stops_between_nodes() -> None:
    from pocoflow import Flow, Node, RunCancelledError

    started, let_go, ran = threading.Event(), threading.Event(), []

    class First(Node):
        def exec(self, prep):
            started.set()
            assert let_go.wait(60)

    class Never(Node):
        def exec(self, prep):
            ran.append(1)

    flow = Flow(start=First().then("default", Never()), db_path="pocoflow.db", flow_name="research")
    handle = flow.run_background({})
    wait_until(started.is_set)

    # Cooperative cancel: stops between nodes
    handle.cancel()

    let_go.set()
    with pytest.raises(RunCancelledError):
        handle.wait(timeout=60)
    assert handle.status == "cancelled"
    assert ran == []


def test_resume_after_crash() -> None:
    from pocoflow import Node

    crashes = [True]

    class Start(Node):
        def post(self, store, prep, result):
            store["visited"] = [*store.get("visited", []), "start"]

    class AfterCrash(Node):
        def post(self, store, prep, result):
            if crashes:
                crashes.pop()
                raise MemoryError("crash")
            store["visited"] = [*store["visited"], "after crash"]

    my_flow_start, node_after_crash = Start(), AfterCrash()
    my_flow_start.then("default", node_after_crash)

    from pocoflow import WorkflowDB, Flow

    with pytest.raises(MemoryError):
        Flow(start=my_flow_start, db_path="pocoflow.db").run({})

    db = WorkflowDB("pocoflow.db")

    # Find the failed run
    runs = [r for r in db.list_runs() if r["status"] == "failed"]
    failed = runs[0]

    # Restore store from the last successful checkpoint
    checkpoints = db.get_checkpoints(failed["run_id"])
    last = checkpoints[-1]
    store = db.load_checkpoint(failed["run_id"], step=last["step"])

    # Resume from the node after the last checkpoint
    flow = Flow(start=my_flow_start, db_path="pocoflow.db")
    flow.run(store, resume_from=node_after_crash)

    assert store["visited"] == ["start", "after crash"]
    assert sorted(run["status"] for run in db.list_runs()) == ["completed", "failed"]


def test_logging(folder: Path, pocoflow_logger: logging.Logger) -> None:
    text = "a document"

    from pocoflow.logging import setup_logging, get_logger

    # Set up once at app start (e.g. in CLI entry point or Streamlit cache_resource)
    log_path = setup_logging("run", log_level="debug", adapter="openrouter")
    # -> logs/run-openrouter-20260217-143022.log

    # In any module
    _log = get_logger("nodes.summarise")   # -> pocoflow.nodes.summarise
    _log.info("summarising  len=%d", len(text))

    assert log_path.parent == folder / "logs"
    assert re.fullmatch(r"run-openrouter-\d{8}-\d{6}\.log", log_path.name)
    assert re.search(r"INFO +pocoflow\.nodes\.summarise +summarising  len=10", log_path.read_text())


def test_the_loggers_of_the_hierarchy_are_those_that_speak(pocoflow_logger: logging.Logger) -> None:
    from pocoflow import Flow, Node, Store
    from pocoflow.logging import setup_logging

    class Write(Node):
        def post(self, store, prep, result):
            store["a"] = 1

    store = Store()
    store.add_observer(lambda key, old, new: 1 / 0)
    log_path = setup_logging("run", log_level="debug")

    Flow(start=Write()).run(store)

    for name in ("pocoflow.store", "pocoflow.node", "pocoflow.flow"):
        assert re.search(rf" {re.escape(name)} ", log_path.read_text())


def test_migrating_from_pocketflow() -> None:
    shared_dict = {"visited": []}

    def visit(self: Any, shared: Any, prep: Any, result: Any) -> str:
        shared["visited"] = [*shared["visited"], type(self).__name__]
        return "action"

    def before() -> dict[str, Any]:
        from pocketflow import Node, Flow

        node_a, node_b = type("A", (Node,), {"post": visit})(), type("B", (Node,), {"post": visit})()
        flow = Flow(start=node_a)

        node_a - "action" >> node_b      # named edge (correct but inconsistent)
        shared = dict(shared_dict)                     # raw dict, no type safety

        flow.run(shared)
        return shared

    def after(as_store: bool) -> Any:
        from pocoflow import Node, Flow, Store

        node_a, node_b = type("A", (Node,), {"post": visit})(), type("B", (Node,), {"post": visit})()
        flow = Flow(start=node_a)

        node_a.then("action", node_b)    # single unambiguous API, always
        shared = Store(data=shared_dict) # typed, observable, checkpointable
        if not as_store:
            shared = dict(shared_dict)
        return flow.run(shared)                 # plain dict also accepted for backward compat

    assert before() == after(as_store=True) == after(as_store=False) == {"visited": ["A", "B"]}
