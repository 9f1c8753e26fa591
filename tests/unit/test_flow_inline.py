"""`flow.run(store)`: the flow runs to its end in the calling thread, and its history tells what happened."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pocoflow import (
    DefinitionError,
    Flow,
    MaxStepsError,
    Node,
    RunConflictError,
    Store,
    StoreSerializationError,
    StoreTypeError,
    WorkflowDB,
)

Action = str | None


class Trace(Node):
    """Adds its name to `path` in the store and takes the action that it was made with."""

    def __init__(self, name: str | None = None, action: Action = "default") -> None:
        super().__init__(name)
        self.action = action

    def post(self, store: Store, prep_result: Any, exec_result: Any) -> Action:
        store["path"] = [*store.get("path", []), self.name]
        return self.action


class Call(Node):
    """Calls a function as its work."""

    def __init__(self, work: Callable[[], Any], name: str | None = None, tries: int = 1) -> None:
        super().__init__(name)
        self.work = work
        self.max_retries = tries

    def prep(self, store: Store) -> None:
        store["prepared"] = store.get("prepared", 0) + 1

    def exec(self, prep_result: Any) -> Any:
        return self.work()

    def post(self, store: Store, prep_result: Any, exec_result: Any) -> None:
        store["posted"] = store.get("posted", 0) + 1


class Write(Node):
    """Writes one key to the store."""

    def __init__(self, key: str, value: Any) -> None:
        self.key, self.value = key, value

    def post(self, store: Store, prep_result: Any, exec_result: Any) -> None:
        store[self.key] = self.value


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
def db(path: Path) -> WorkflowDB:
    return WorkflowDB(path)


def failing(times: int) -> Callable[[], int]:
    """Return a function that raises ValueError so often, and then returns how often it was called."""
    calls: list[int] = []

    def work() -> int:
        calls.append(1)
        if len(calls) <= times:
            raise ValueError(f"failure {len(calls)}")
        return len(calls)

    return work


def events(db: WorkflowDB, run_id: str) -> list[tuple[str, int | None, str | None]]:
    return [(event["event"], event["step"], event["node_name"]) for event in db.get_events(run_id)]


def press_ctrl_c() -> None:
    raise KeyboardInterrupt


def test_run_changes_the_given_store_and_returns_it() -> None:
    store = Store({"query": "ducks"})

    returned = Flow(start=Trace("a").then("default", Trace("b"))).run(store)

    assert returned is store
    assert store == {"query": "ducks", "path": ["a", "b"]}


def test_run_takes_a_plain_dict_and_returns_a_store() -> None:
    returned = Flow(start=Trace("a")).run({"query": "ducks"})

    assert isinstance(returned, Store)
    assert returned == {"query": "ducks", "path": ["a"]}


@pytest.mark.parametrize("store", [None, [], "store", [("a", 1)]])
def test_a_store_that_is_none_is_refused(store: Any) -> None:
    with pytest.raises(DefinitionError, match="a flow runs on a Store or a dict, got"):
        Flow(start=Trace()).run(store)


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("ok", ["start", "good"]),
        ("error", ["start", "bad"]),
        ("default", ["start", "fallback"]),
        (None, ["start", "fallback"]),
        ("anything else", ["start", "fallback"]),
        ("*", ["start", "fallback"]),
    ],
)
def test_the_action_decides_which_node_follows(action: Action, expected: list[str]) -> None:
    start = Trace("start", action).then("ok", Trace("good")).then("error", Trace("bad"))

    store = Flow(start=start.then("*", Trace("fallback"))).run({})

    assert store["path"] == expected


def test_a_post_that_returns_nothing_takes_the_action_default(path: Path, db: WorkflowDB) -> None:
    start = Trace("start", None).then("default", Trace("next", "done"))

    Flow(start=start, db_path=path).run({}, run_id="run-1")

    assert [event["action"] for event in db.get_events("run-1") if event["event"] == "node_end"] == [
        "default",
        "done",
    ]


def test_an_action_without_an_edge_ends_the_flow_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    start = Trace("start", "eror").then("error", Trace("never"))

    with caplog.at_level(logging.INFO, logger="pocoflow"):
        store = Flow(start=start).run({})

    assert store["path"] == ["start"]
    assert "no edge for this action, the flow ends here node=start action=eror" in caplog.text


@pytest.mark.parametrize("action", [5, True, ["ok"], b"ok", Node(), "\ud800", "a\0b", "x" * 201])
def test_an_action_that_is_no_printable_string_fails_the_step_with_the_name_of_the_node(action: Any) -> None:
    start = Trace("start", action).then("*", Trace("never"))

    with pytest.raises(TypeError, match=r"post\(\) of node 'start' must return an action \(printable str"):
        Flow(start=start).run({})


def test_a_node_that_is_reached_twice_runs_twice() -> None:
    shared = Trace("shared")
    start = Trace("start").then("default", shared)
    shared.then("default", Trace("end", "back").then("back", shared))

    with pytest.raises(MaxStepsError):
        Flow(start=start, max_steps=5).run(store := Store({}))

    assert store["path"] == ["start", "shared", "end", "shared", "end"]


def test_each_run_sees_the_wiring_as_it_was_when_it_began() -> None:
    start = Trace("start")
    flow = Flow(start=start)
    flow.on("node_start", lambda name, store: start.then("default", Trace("late")))

    first, second = flow.run({}), flow.run({})

    assert first["path"] == ["start"]
    assert second["path"] == ["start", "late"]


def test_a_flow_may_run_another_flow_in_a_node() -> None:
    inner = Flow(start=Trace("inner"))
    outer = Flow(start=Call(lambda: inner.run({}), "outer").then("default", Trace("after")))

    assert outer.run({})["path"] == ["after"]


@pytest.mark.parametrize("max_steps", [1, 3, 50])
def test_a_flow_may_take_exactly_max_steps(max_steps: int) -> None:
    nodes = [Trace(f"n{number}") for number in range(max_steps)]
    for node, following in pairwise(nodes):
        node.then("default", following)

    store = Flow(start=nodes[0], max_steps=max_steps).run({})

    assert len(store["path"]) == max_steps


def test_one_step_more_than_max_steps_ends_the_run_as_failed_with_the_reason(
    path: Path, db: WorkflowDB
) -> None:
    node = Trace("loop")
    flow = Flow(start=node.then("default", node), max_steps=3, db_path=path)
    store = Store({})

    with pytest.raises(MaxStepsError) as caught:
        flow.run(store, run_id="run-1")

    run = db.get_run("run-1")
    assert isinstance(caught.value, RuntimeError)
    assert caught.value.run_id == "run-1"
    assert str(caught.value).startswith("run 'run-1' exceeded max_steps=3: ")
    assert store["path"] == ["loop"] * 3
    assert run is not None
    assert (run["status"], run["error_type"], run["error_msg"]) == (
        "failed",
        "MaxStepsError",
        str(caught.value),
    )
    assert len(db.get_checkpoints("run-1")) == 3


def test_exec_alone_is_tried_again_and_max_retries_counts_all_tries() -> None:
    node = Call(failing(2), tries=3)

    store = Flow(start=node).run({})

    assert store == {"prepared": 1, "posted": 1}
    assert node.work() == 4


@pytest.mark.parametrize("tries", [1, 2, 5])
def test_the_error_of_the_last_try_is_raised_as_it_is(tries: int) -> None:
    store = Store({})

    with pytest.raises(ValueError, match=f"^failure {tries}$"):
        Flow(start=Call(failing(99), tries=tries)).run(store)

    assert store == {"prepared": 1}


@pytest.mark.parametrize("phase", ["prep", "post"])
def test_prep_and_post_are_not_tried_again(phase: str) -> None:
    calls = []

    def fail(*args: Any) -> None:
        calls.append(phase)
        raise ValueError("broken")

    node = type("Broken", (Node,), {phase: lambda self, *args: fail(), "max_retries": 3})()

    with pytest.raises(ValueError, match="broken"):
        Flow(start=node).run({})

    assert calls == [phase]


def test_between_two_tries_the_retry_delay_passes() -> None:
    tried_at: list[float] = []
    work = failing(1)
    node = Call(lambda: (tried_at.append(time.monotonic()), work()), tries=2)
    node.retry_delay = 0.05

    Flow(start=node).run({})

    assert tried_at[1] - tried_at[0] >= 0.05


def test_each_failed_try_is_an_event_with_its_number_and_error(path: Path, db: WorkflowDB) -> None:
    start = Trace("first").then("default", Call(failing(99), "second", tries=3))

    with pytest.raises(ValueError, match="failure 3"):
        Flow(start=start, db_path=path).run({}, run_id="run-1")

    told = [
        (event["event"], event["step"], event["node_name"], event["attempt"], event["error_msg"])
        for event in db.get_events("run-1")
        if event["event"] in ("node_retry", "node_error")
    ]
    run = db.get_run("run-1")
    assert told == [
        ("node_retry", 1, "second", 1, "failure 1"),
        ("node_retry", 1, "second", 2, "failure 2"),
        ("node_error", 1, "second", 3, "failure 3"),
    ]
    assert run is not None
    assert (run["status"], run["error_type"], run["error_msg"], run["current_node"]) == (
        "failed",
        "ValueError",
        "failure 3",
        "second",
    )


def test_a_step_that_succeeds_at_last_leaves_a_completed_run(path: Path, db: WorkflowDB) -> None:
    Flow(start=Call(failing(1), "call", tries=2), db_path=path).run({}, run_id="run-1")

    run = db.get_run("run-1")
    assert run is not None
    assert (run["status"], run["error_msg"]) == ("completed", None)
    assert [event["attempt"] for event in db.get_events("run-1") if event["event"] == "node_end"] == [2]


def test_an_error_of_a_node_is_raised_as_it_is_and_the_store_keeps_what_was_written_before() -> None:
    error = ConnectionError("no route")

    def fail() -> None:
        raise error

    store = Store({})
    flow = Flow(start=Trace("first").then("default", Call(fail)))

    with pytest.raises(ConnectionError) as caught:
        flow.run(store)

    assert caught.value is error
    assert store["path"] == ["first"]


def test_a_write_that_the_schema_forbids_fails_the_step_that_tried_it(path: Path, db: WorkflowDB) -> None:
    store = Store({"query": ""}, schema={"query": str})

    with pytest.raises(StoreTypeError, match="'query' takes str, got int"):
        Flow(start=Write("query", 42), db_path=path).run(store, run_id="run-1")

    run = db.get_run("run-1")
    assert run is not None
    assert (run["status"], run["error_type"]) == ("failed", "StoreTypeError")


@pytest.mark.parametrize("by_id", [True, False])
def test_a_run_may_begin_at_any_node_by_object_or_by_id(path: Path, db: WorkflowDB, by_id: bool) -> None:
    last = Trace()
    start = Trace().then("default", Trace().then("default", last))
    flow = Flow(start=start, db_path=path)

    store = flow.run({}, resume_from="Trace#3" if by_id else last, run_id="run-1")

    assert store["path"] == ["Trace"]
    assert ("node_end", 0, "Trace#3") in events(db, "run-1")


@pytest.mark.parametrize("node", [Trace("other"), "other", "Trace#9"])
def test_a_run_cannot_begin_at_a_node_of_another_flow(path: Path, db: WorkflowDB, node: Node | str) -> None:
    flow = Flow(start=Trace(), db_path=path)

    with pytest.raises(DefinitionError, match="is not in this flow: it has Trace"):
        flow.run({}, resume_from=node)

    assert db.list_runs() == []


def test_history_has_the_run_each_event_and_the_store_after_each_step(path: Path, db: WorkflowDB) -> None:
    flow = Flow(start=Trace().then("default", Trace()), db_path=path, flow_name="research")

    flow.run({"query": "ducks"}, run_id="run-1")

    run = db.get_run("run-1")
    assert run is not None
    assert (run["flow_name"], run["status"], run["total_steps"]) == ("research", "completed", 2)
    assert events(db, "run-1") == [
        ("flow_start", None, "Trace"),
        ("node_start", 0, "Trace"),
        ("node_end", 0, "Trace"),
        ("node_start", 1, "Trace#2"),
        ("node_end", 1, "Trace#2"),
        ("flow_end", 2, None),
    ]
    assert [row["node_name"] for row in db.get_checkpoints("run-1")] == ["Trace", "Trace#2"]
    assert db.load_checkpoint("run-1", step=0) == {"query": "ducks", "path": ["Trace"]}
    assert db.load_checkpoint("run-1", step=1) == {"query": "ducks", "path": ["Trace", "Trace"]}


def test_a_flow_can_be_run_again_and_each_run_has_an_id_of_its_own(path: Path, db: WorkflowDB) -> None:
    flow = Flow(start=Trace(), db_path=path, flow_name="research")

    flow.run({})
    flow.run({})

    ids = {run["run_id"] for run in db.list_runs()}
    assert len(ids) == 2
    assert all(run_id.startswith("research-") for run_id in ids)


def test_an_id_that_is_taken_is_refused_and_the_run_that_has_it_stays_as_it_is(
    path: Path, db: WorkflowDB
) -> None:
    flow = Flow(start=Trace(), db_path=path)
    flow.run({"input": 1}, run_id="run-1")
    before = db.get_run("run-1"), db.get_events("run-1")

    with pytest.raises(RunConflictError, match="there is a run 'run-1' already") as caught:
        flow.run({"input": 1}, run_id="run-1")

    assert caught.value.run_id == "run-1"
    assert (db.get_run("run-1"), db.get_events("run-1")) == before


def test_of_many_threads_that_start_one_run_id_exactly_one_runs_it(path: Path, db: WorkflowDB) -> None:
    flow = Flow(start=Trace(), db_path=path)
    together = threading.Barrier(6, timeout=60)

    def start(number: int) -> str:
        together.wait()
        try:
            flow.run({}, run_id="run-1")
        except RunConflictError:
            return "refused"
        return "ran"

    with ThreadPoolExecutor(6) as pool:
        outcomes = sorted(pool.map(start, range(6)))

    assert outcomes == ["ran", *["refused"] * 5]
    assert len(db.get_checkpoints("run-1")) == 1


@pytest.mark.parametrize(
    "run_id",
    [
        pytest.param("x" * 1_000_000, id="1 MB"),
        pytest.param("x" * 201, id="201 characters"),
        "a\nb",
        "a\x00b",
        "\x1b[31mred",
        "\u202etxt",
        "\ud800",
        5,
    ],
)
@pytest.mark.parametrize(
    "use",
    [
        lambda path, run_id: Flow(start=Trace(), db_path=path).run({}, run_id=run_id),
        lambda path, run_id: Flow(start=Trace(), db_path=path, run_id=run_id),
    ],
    ids=["run", "Flow"],
)
def test_a_run_id_that_cannot_be_shown_is_refused_in_one_short_line_and_nothing_is_written(
    path: Path, db: WorkflowDB, run_id: Any, use: Callable[[Path, Any], Any]
) -> None:
    with pytest.raises(DefinitionError, match="run_id") as caught:
        use(path, run_id)

    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()
    assert db.list_runs() == []


@pytest.mark.parametrize(
    "run_id", ["x" * 200, "nightly/2026-03-01 #7", "Grüße", "' or 1=1 --", "%s {0}", "\\"]
)
def test_any_printable_run_id_is_kept_as_it_is(path: Path, db: WorkflowDB, run_id: str) -> None:
    Flow(start=Trace(), db_path=path).run({}, run_id=run_id)

    run = db.get_run(run_id)
    assert run is not None
    assert run["status"] == "completed"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"start": Trace}, "a flow starts with a Node object, got"),
        ({"start": None}, "a flow starts with a Node object, got None"),
        ({"start": Trace(), "max_steps": 0}, "max_steps must be 1 or more, got 0"),
        ({"start": Trace(), "max_steps": "10"}, "max_steps must be 1 or more, got '10'"),
        ({"start": Trace(), "flow_name": "a\nb"}, "flow_name must be a printable string"),
        ({"start": Trace(), "flow_name": "x" * 201}, "flow_name has 201 characters, 200 are allowed"),
    ],
)
def test_a_flow_that_cannot_work_is_refused_when_it_is_made(
    arguments: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(DefinitionError, match=complaint):
        Flow(**arguments)


def test_with_a_database_a_value_that_json_cannot_carry_fails_its_step_and_nothing_of_it_is_kept(
    path: Path, db: WorkflowDB
) -> None:
    start = Trace("first").then("default", Write("handle", sys.stdout).then("default", Trace("never")))

    with pytest.raises(StoreSerializationError) as caught:
        Flow(start=start, db_path=path).run({}, run_id="run-1")

    run = db.get_run("run-1")
    assert run is not None
    assert (run["status"], run["error_type"], run["total_steps"]) == ("failed", "StoreSerializationError", 1)
    assert run["error_msg"] == str(caught.value)
    for part in ("store['handle']", type(sys.stdout).__qualname__, "node 'Write'"):
        assert part in str(caught.value)
    assert [row["step"] for row in db.get_checkpoints("run-1")] == [0]
    assert [event for event in events(db, "run-1") if event[1] == 1 and event[2]] == [
        ("node_start", 1, "Write"),
        ("node_error", 1, "Write"),
    ]
    assert db.load_checkpoint("run-1", step=0) == {"path": ["first"]}


def test_an_input_that_json_cannot_carry_is_refused_before_the_run_begins(path: Path, db: WorkflowDB) -> None:
    with pytest.raises(StoreSerializationError, match=r"store\['handle'\] holds a "):
        Flow(start=Trace(), db_path=path).run({"handle": object()})

    assert db.list_runs() == []


def test_without_a_database_the_store_may_hold_anything() -> None:
    handle = object()

    store = Flow(start=Write("handle", handle).then("default", Trace())).run({})

    assert store["handle"] is handle


@pytest.fixture
def usual_signals() -> Iterator[None]:
    """Ctrl-C interrupts, as in a terminal, and SIGTERM exits, as in a server."""
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: lambda *_: sys.exit(1)}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "stop"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_run_stopped_by_a_signal_is_paused_and_goes_on_from_there(
    path: Path, db: WorkflowDB, number: int, stop: type[BaseException], usual_signals: None
) -> None:
    signals = [number]

    def work() -> None:
        if signals:
            os.kill(os.getpid(), signals.pop())

    start = Trace("first").then("default", Call(work, "second").then("default", Trace("third")))
    flow = Flow(start=start, db_path=path)

    with pytest.raises(stop):
        flow.run({"input": 1}, run_id="run-1")
    paused = db.get_run("run-1")
    store = flow.run_background({"input": 1}, run_id="run-1").wait(timeout=30)

    assert paused is not None
    assert (paused["status"], paused["total_steps"], paused["current_node"]) == ("paused", 1, "second")
    assert "run_id='run-1'" in str(paused["error_msg"])
    assert store["path"] == ["first", "third"]
    ended = db.get_run("run-1")
    assert ended is not None
    assert (ended["status"], ended["total_steps"]) == ("completed", 3)
    assert [row["step"] for row in db.get_checkpoints("run-1")] == [0, 1, 2]


def test_ctrl_c_without_a_database_just_stops() -> None:
    store = Store({})

    with pytest.raises(KeyboardInterrupt):
        Flow(start=Trace("first").then("default", Call(press_ctrl_c))).run(store)

    assert store["path"] == ["first"]


@pytest.mark.parametrize("with_database", [True, False])
def test_one_flow_runs_in_many_threads_at_the_same_time(
    path: Path, db: WorkflowDB, with_database: bool
) -> None:
    runs = 6
    all_inside = threading.Barrier(runs, timeout=60)
    first, second = Trace(), Call(all_inside.wait)
    flow = Flow(start=first.then("default", second.then("default", Trace())))
    flow.db_path = path if with_database else None

    with ThreadPoolExecutor(runs) as pool:
        stores = list(pool.map(lambda number: flow.run({"number": number}), range(runs)))

    assert [store["number"] for store in stores] == list(range(runs))
    assert all(store["path"] == ["Trace", "Trace"] and store["posted"] == 1 for store in stores)
    history = db.list_runs()
    assert [(run["status"], run["total_steps"]) for run in history] == [("completed", 3)] * len(history)
    assert len(history) == (runs if with_database else 0)
