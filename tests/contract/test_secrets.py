"""A secret is encrypted in every ledger; who has the key goes on with it, and who has not leaves it alone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.fernet import Fernet

from pocoflow import Flow, Node, RunConflictError, SecretKeyError, Store, WorkflowDB
from pocoflow.cipher import FernetCipher
from pocoflow.engine.clock import SystemClock
from pocoflow.engine.deliver import deliver
from pocoflow.engine.history import Trail
from pocoflow.engine.local import LocalFlags, Unwatched
from pocoflow.engine.ports import Ledger, Ports
from pocoflow.engine.records import Finish, Hint, Outcome, Position
from pocoflow.inputs import input_hashes, new_trail
from pocoflow.masked import MASKED
from tests.contract.builders import RUN, WORKER, facts, new_run
from tests.contract.subjects import Subject
from tests.support.kinds import EVERYTHING, exact

SECRET, TOKEN = "sk-live-4711", "token-0815"
OLD_KEY, NEW_KEY = (Fernet.generate_key().decode() for _ in range(2))
OLD, NEW, BOTH = FernetCipher([OLD_KEY]), FernetCipher([NEW_KEY]), FernetCipher([NEW_KEY, OLD_KEY])
SECRETS = {"api_key", "token"}


class Log(Node):
    """Gets a token for its key, and another one in each step."""

    def prep(self, store: Store) -> Any:
        return store["api_key"]

    def exec(self, api_key: str) -> str:
        assert api_key == SECRET
        return TOKEN

    def post(self, store: Store, prepared: Any, token: str) -> str:
        store["n"] += 1
        store["token"] = f"{token}-{store['n']}"
        return "again" if store["n"] < 3 else "enough"


class Quote(Node):
    def post(self, store: Store, prepared: Any, result: Any) -> None:
        raise ConnectionError(f"{store['api_key']} is refused")


flow = Flow((log_in := Log(name="A")).then("again", log_in), flow_name="flow")


class Idle:
    def send(self, hint: Hint) -> None:
        """Nobody is there to hear it."""

    def waiting(self, queue: str | None) -> int:
        return 0


def start(ledger: Ledger, data: dict[str, Any]) -> None:
    store = Store(data, secret=SECRETS)
    state = new_trail(store, ledger).next(ledger.encode(store), whole=True)
    (input_hash, *_) = input_hashes("flow", "A", store, ledger.encode(store), ledger)
    ledger.start(new_run(input=state, schema=ledger.encode_schema(store), input_hash=input_hash))


def meet(ledger: Ledger, step: int = 0, flow: Flow = flow) -> Outcome | None:
    """Let a worker have the hint for a step."""
    ports = Ports(ledger, LocalFlags(), Unwatched(), SystemClock())
    find: Callable[[Position], Any] = lambda position: flow.definition()  # noqa: E731
    parts: dict[str, Any] = {"ports": ports, "dispatcher": Idle(), "worker": WORKER}
    return deliver(Hint(RUN, step), find_flow=find, unroutable_s=60.0, **parts)


def load(ledger: Ledger) -> Store:
    saved = ledger.get_saved(RUN)
    assert saved is not None
    return Trail.load(saved).store("s", lenient=True)


def assert_kept_secret(subject: Subject) -> None:
    raw = subject.raw()
    assert "api_key" in raw
    assert not [clear for clear in (SECRET, TOKEN) if clear in raw]


def test_a_secret_is_encrypted_at_rest_and_plain_in_each_step(subject: Subject) -> None:
    ledger = subject.open_with(OLD)
    start(ledger, {"api_key": SECRET, "n": 0})

    last = [meet(ledger, step) for step in range(3)][-1]

    assert isinstance(last, Finish)
    assert last.error is None
    assert_kept_secret(subject)
    assert load(ledger) == {"api_key": SECRET, "n": 3, "token": f"{TOKEN}-3"}
    assert load(ledger).secret == SECRETS


def test_a_secret_of_any_type_comes_back_exactly(subject: Subject) -> None:
    ledger = subject.open_with(OLD)

    start(ledger, {"api_key": EVERYTHING, "token": ["x" * 100] * 1000})

    assert exact(load(ledger)["api_key"]) == exact(EVERYTHING)
    assert load(ledger)["token"] == ["x" * 100] * 1000


def test_after_a_rotation_new_steps_have_the_new_key_and_old_ones_are_read(subject: Subject) -> None:
    start(subject.open_with(OLD), {"api_key": SECRET, "n": 0})
    meet(subject.open_with(OLD))

    meet(subject.open_with(BOTH), 1)
    meet(subject.open_with(NEW), 2)

    assert facts(subject.ledger, "status", "error_type") == ("completed", None)
    assert load(subject.open_with(NEW))["token"] == f"{TOKEN}-3"
    assert load(subject.open_with(OLD))["token"] is MASKED


@pytest.mark.parametrize(
    ("cipher", "message"), [(None, "is secret, and a database"), (NEW, "no key in POCOFLOW_SECRET_KEY")]
)
def test_a_worker_without_the_key_gives_the_step_back_and_the_run_fails_if_no_worker_has_it(
    sql_subject: Subject,
    caplog: pytest.LogCaptureFixture,
    cipher: FernetCipher | None,
    message: str,
) -> None:
    caplog.set_level(logging.INFO)
    start(sql_subject.open_with(OLD), {"api_key": SECRET, "n": 0})
    blind = sql_subject.open_with(cipher)

    meet(blind)
    before = facts(blind, "status", "attempt", "error_type")
    sql_subject.pass_time(70.0)
    outcome = meet(blind)

    assert before == ("queued", 0, None)
    assert isinstance(outcome, Finish)
    assert facts(blind, "status", "error_type") == ("failed", SecretKeyError.__name__)
    assert message in facts(blind, "error_msg")[0]
    assert "no key here for a secret, step given back" in caplog.text
    assert load(blind) == {"api_key": MASKED, "n": 0}


def test_a_worker_with_the_key_takes_what_one_without_it_gave_back(sql_subject: Subject) -> None:
    start(sql_subject.open_with(OLD), {"api_key": SECRET, "n": 0})

    meet(sql_subject.open_with(None))
    sql_subject.pass_time(5.0)
    meet(sql_subject.open_with(OLD))

    assert facts(sql_subject.ledger, "status", "total_steps") == ("queued", 1)


def test_an_error_that_quotes_a_secret_is_kept_without_it(
    subject: Subject, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    start(subject.open_with(OLD), {"api_key": SECRET, "n": 0})

    meet(subject.open_with(OLD), flow=Flow(Quote(name="A"), flow_name="flow"))

    assert facts(subject.ledger, "error_msg") == ("*** is refused",)
    assert_kept_secret(subject)
    assert SECRET not in caplog.text


@pytest.mark.parametrize("database_fixture", ["sqlite_url", "shared_postgres_url"])
def test_the_same_start_is_known_again_under_a_new_key_and_another_secret_is_refused(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, database_fixture: str
) -> None:
    database = request.getfixturevalue(database_fixture)
    flow = Flow(Node(), db_path=database)
    monkeypatch.setenv("POCOFLOW_SECRET_KEY", OLD_KEY)
    handle = flow.run_background(Store({"pin": 4711}, secret={"pin"}))
    handle.wait(60)

    monkeypatch.setenv("POCOFLOW_SECRET_KEY", f"{NEW_KEY}, {OLD_KEY}")
    again = flow.run_background(Store({"pin": 4711}, secret={"pin"}), run_id=handle.run_id)

    assert again.wait(60)["pin"] == 4711
    for other in (Store({"pin": 4712}, secret={"pin"}), {"pin": 4711}):
        with pytest.raises(RunConflictError, match="with other input"):
            flow.run_background(other, run_id=handle.run_id)


def test_the_hash_of_an_input_cannot_be_found_by_guessing_its_secret(subject: Subject) -> None:
    store, texts = Store({"pin": 4711}, secret={"pin"}), {"pin": "4711"}

    hashes = [input_hashes("f", "n", store, texts, subject.open_with(key)) for key in (OLD, NEW, BOTH)]
    plain = input_hashes("f", "n", Store(), texts, subject.open_with(OLD))

    assert [len(some) for some in hashes] == [1, 1, 2]
    assert hashes[2] == [*hashes[1], *hashes[0]]
    assert plain[0] not in hashes[2]


@pytest.mark.parametrize("database_fixture", ["sqlite_url", "shared_postgres_url"])
def test_a_handle_with_the_key_reads_secrets_and_the_history_for_people_masks_them(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, database_fixture: str
) -> None:
    database = request.getfixturevalue(database_fixture)
    monkeypatch.setenv("POCOFLOW_SECRET_KEY", OLD_KEY)
    handle = Flow(Node(), db_path=database).run_background(Store({"api_key": SECRET}, secret={"api_key"}))

    result = handle.wait(60)
    looked_at = WorkflowDB(database).load_checkpoint(handle.run_id, 0)

    assert result["api_key"] == SECRET
    assert (looked_at["api_key"], looked_at.secret) == (MASKED, {"api_key"})
    with pytest.raises(SecretKeyError, match="'api_key' holds a mask"):
        Flow(Node(), db_path=database).run(looked_at)
