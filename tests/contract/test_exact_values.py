"""What a step leaves in its store is what the next one gets, values and types, on every ledger."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings

from pocoflow import (
    Flow,
    Node,
    Store,
    StoreSchemaError,
    StoreSerializationError,
    StoreTypeError,
    UnregisteredTypeError,
    WorkflowDB,
)
from pocoflow.engine.clock import SystemClock
from pocoflow.engine.deliver import deliver
from pocoflow.engine.history import Checkpoint, Trail
from pocoflow.engine.local import LocalFlags, Unwatched
from pocoflow.engine.owner import new_owner
from pocoflow.engine.ports import Ledger, Ports
from pocoflow.engine.records import Finish, Hint, Position, Status
from tests.contract.builders import RUN, WORKER, facts, new_run, record, take
from tests.contract.subjects import PassTime
from tests.support.kinds import EVERYTHING, STORES, Colour, Edge, Page, Pair, exact

SCHEMA = {"n": int, "rows": list[Edge] | None, "page": Page, "mark": Literal["a", Colour.RED], "pair": Pair}
UNKNOWN_SCHEMA = '{"keys":{"order":{"class":"shop.Order"}},"required":["order"]}'
UNKNOWN_STATE = '{"order":{"$t":"object","type":"shop.Order","v":{}}}'
slowly = settings(
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


class Idle:
    def send(self, hint: Hint) -> None:
        """Nobody is there to hear it."""

    def waiting(self, queue: str | None) -> int:
        return 0


def load(ledger: Ledger, run_id: str = RUN) -> Store:
    saved = ledger.get_saved(run_id)
    assert saved is not None
    return Trail.load(saved).store("s")


@slowly
@given(STORES)
def test_any_store_comes_back_exactly(ledger: Ledger, data: dict[str, Any]) -> None:
    run_id, state = uuid4().hex, Trail().next(ledger.encode(Store(data)), whole=True)
    ledger.start(new_run(run_id, input=state))
    claim = ledger.claim(run_id, 0, owner=new_owner(WORKER))
    assert claim is not None

    ledger.commit(claim.position, record(state=state))

    assert exact(Trail.load(claim.saved).store("s").as_dict()) == exact(data)
    assert exact(load(ledger, run_id).as_dict()) == exact(data)


def test_a_store_of_every_type_comes_back_exactly(ledger: Ledger) -> None:
    ledger.start(new_run(input=Trail().next(ledger.encode(Store(EVERYTHING)), whole=True)))

    assert exact(load(ledger).as_dict()) == exact(EVERYTHING)


def test_a_store_is_typed_again_when_it_is_claimed_and_after_each_step(ledger: Ledger) -> None:
    ledger.start(new_run(input=Checkpoint('{"n":1}'), schema=Store(schema=SCHEMA).schema.dumps()))
    ledger.commit(take(ledger), record(state='{"n":2}'))

    claim = ledger.claim(RUN, 1, owner=new_owner(WORKER))

    assert claim is not None
    for store in (Trail.load(claim.saved).store("s"), load(ledger)):
        with pytest.raises(StoreTypeError, match="'n' takes int, got str"):
            store["n"] = "two"
        with pytest.raises(StoreTypeError, match=r"store\['rows'\]\[0\] takes Edge, got int"):
            store["rows"] = [1]
        store["mark"], store["page"] = Colour.RED, Page(title="a")
        assert store["n"] == 2


@pytest.mark.parametrize("new", [{"schema": UNKNOWN_SCHEMA}, {"input": Checkpoint(UNKNOWN_STATE)}])
def test_a_step_whose_types_this_worker_lacks_is_given_back_and_fails_when_no_worker_has_them(
    ledger: Ledger, pass_time: PassTime, new: dict[str, str]
) -> None:
    flow = Flow(Node(name="A"), flow_name="flow")

    def meet() -> Any:
        ports = Ports(ledger, LocalFlags(), Unwatched(), SystemClock())
        find: Callable[[Position], Any] = lambda position: flow.definition()  # noqa: E731
        parts: dict[str, Any] = {"ports": ports, "dispatcher": Idle(), "worker": WORKER}
        return deliver(Hint(RUN, 0), find_flow=find, unroutable_s=60.0, **parts)

    ledger.start(new_run(**new))
    meet()
    before = facts(ledger, "status", "attempt", "error_type")
    pass_time(70.0)

    outcome = meet()

    assert before == ("queued", 0, None)
    assert isinstance(outcome, Finish)
    assert facts(ledger, "status", "error_type") == (Status.FAILED, UnregisteredTypeError.__name__)
    (error,) = facts(ledger, "error_msg")
    assert "shop.Order, which is not registered in this process: call pocoflow.register_type(Order)" in error


class Leaves(Node):
    """Writes what it was made with."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def post(self, store: Store, prepared: Any, result: Any) -> None:
        store["value"] = self.value


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def in_itself() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["self"] = value
    return value


class Word(str):
    """The kind of string of which no checkpoint can tell."""


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, {"a": object()}], r"store\['value'\]\[1\]\['a'\] holds a builtins\.object"),
        (Word("a"), r"store\['value'\] holds a .*Word, which a checkpoint cannot carry exactly"),
        (Pair(1, object()), r"store\['value'\]\.right holds a builtins\.object"),
        (nested(101), "nested more than 100 levels deep"),
        (in_itself(), "nested more than 100 levels deep or contains itself"),
        (
            "x" * 2_200_000,
            r"store takes 2\.1 MB, POCOFLOW_MAX_STORE_MB allows 2: store\['value'\], a str, has",
        ),
    ],
    ids=["object", "subclass", "in a field", "deep", "cyclic", "large"],
)
@pytest.mark.parametrize("place", ["memory", "sqlite", "postgres", "inline sqlite"])
def test_a_value_that_cannot_be_carried_fails_its_step_by_the_same_error_everywhere(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    value: Any,
    message: str,
) -> None:
    monkeypatch.setenv("POCOFLOW_MAX_STORE_MB", "2")
    database = None
    if place != "memory":
        database = request.getfixturevalue("shared_postgres_url" if place == "postgres" else "sqlite_url")
    flow = Flow(Leaves(value), flow_name="leaves", db_path=database)
    message = rf"(?s){message}.*\(node 'Leaves'\)"

    if place == "inline sqlite":
        with pytest.raises(StoreSerializationError, match=message):
            flow.run({})
        return
    handle = flow.run_background({})
    with pytest.raises(Exception, match=message) as caught:
        handle.wait(60)
    assert getattr(caught.value, "error_type", None) == "StoreSerializationError"
    assert handle.store == {}


@pytest.mark.parametrize("run_it", [Flow.run, Flow.run_background])
def test_a_schema_that_cannot_be_saved_is_refused_at_the_start(sqlite_url: str, run_it: Any) -> None:
    store = Store(schema={"value": Idle})

    with pytest.raises(StoreSchemaError, match="no checkpoint can carry an object of it"):
        run_it(Flow(Leaves(1), db_path=sqlite_url), store)


def test_a_run_without_history_takes_such_a_schema() -> None:
    assert Flow(Leaves(1)).run(Store({"value": 0}, schema={"other": Idle}))["value"] == 1


class Counts(Node):
    def post(self, store: Store, prepared: Any, result: Any) -> None:
        store["n"] = "two"


def test_a_wrong_write_in_the_background_fails_its_step(sqlite_url: str) -> None:
    handle = Flow(Counts(), db_path=sqlite_url).run_background(Store({"n": 1}, schema={"n": int}))

    with pytest.raises(Exception, match="StoreTypeError: store 'Counts': key 'n' takes int, got str"):
        handle.wait(60)


@pytest.mark.parametrize("database_fixture", ["sqlite_url", "shared_postgres_url"])
def test_whoever_reads_a_run_gets_a_typed_store(
    request: pytest.FixtureRequest, database_fixture: str
) -> None:
    database = request.getfixturevalue(database_fixture)
    flow = Flow(Leaves(Edge(start=(1, 2))), db_path=database)

    handle = flow.run_background(Store({"value": None}, schema={"value": Edge | None}))
    result = handle.wait(60)
    loaded = WorkflowDB(database).load_checkpoint(handle.run_id, 0)

    for store in (result, handle.store, loaded):
        assert store["value"] == Edge(start=(1, 2))
        with pytest.raises(StoreTypeError, match="'value' takes Edge or None, got int"):
            store["value"] = 5


def test_a_reader_without_the_class_of_a_schema_reads_all_the_same(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    ledger.start(new_run(schema=UNKNOWN_SCHEMA))
    saved = ledger.get_saved(RUN)
    assert saved is not None

    with caplog.at_level(logging.WARNING, logger="pocoflow"):
        store = Trail.load(saved).store("s", lenient=True)

    assert store == {"n": 0}
    assert "shop.Order" in caplog.text
