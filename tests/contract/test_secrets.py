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
from pocoflow.engine.fork import fork_of
from pocoflow.engine.history import Trail
from pocoflow.engine.identity import input_hashes, require_same
from pocoflow.engine.local import LocalFlags, Unwatched
from pocoflow.engine.ports import Ledger, Ports
from pocoflow.engine.records import Finish, Hint, NewRun, Outcome, Position
from pocoflow.masked import MASKED
from tests.contract.builders import RUN, WORKER, facts, new_run
from tests.contract.subjects import SqlSubject, Subject
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
    trail, texts = Trail.begin(store, ledger.cipher), ledger.encode(store)
    (input_hash, *_) = input_hashes("flow", "A", trail.blinded(texts))
    state = trail.next(texts, whole=True)
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


def test_the_hash_of_an_input_cannot_be_found_by_guessing_its_secret() -> None:
    texts = {"pin": "4711"}

    hashes = [input_hashes("f", "n", Trail({"pin"}, key).blinded(texts)) for key in (OLD, NEW, BOTH)]
    plain = input_hashes("f", "n", [texts])

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


def fork(ledger: Ledger, **updates: Any) -> NewRun:
    return fork_of(ledger.get_fork_point(RUN, 0), ledger, updates=updates, run_id="fork", home=None)


@pytest.mark.parametrize("cipher", [OLD, None, NEW], ids=["the key", "no key", "another key"])
def test_a_fork_has_the_secrets_whether_they_can_be_read_where_it_is_made_or_not(
    sql_subject: SqlSubject, cipher: FernetCipher | None
) -> None:
    start(sql_subject.open_with(OLD), {"api_key": SECRET, "n": 0})
    meet(sql_subject.open_with(OLD))

    ledger = sql_subject.open_with(cipher)
    ledger.start(fork(ledger, n=1))
    again = ledger.start(fork(ledger, n=1))
    other = fork(ledger, n=2)

    saved = sql_subject.open_with(OLD).get_saved("fork")
    assert saved is not None
    assert Trail.load(saved).store("s") == {"api_key": SECRET, "n": 1, "token": f"{TOKEN}-1"}
    assert_kept_secret(sql_subject)
    require_same(fork(ledger, n=1), again)
    with pytest.raises(RunConflictError):
        require_same(other, again)


def test_a_fork_that_updates_a_secret_encrypts_it_or_is_refused(sql_subject: SqlSubject) -> None:
    start(sql_subject.open_with(OLD), {"api_key": SECRET, "n": 0})
    meet(sql_subject.open_with(OLD))

    with pytest.raises(SecretKeyError, match="'api_key' is secret"):
        fork(sql_subject.open_with(None), api_key=TOKEN)
    sql_subject.ledger.start(fork(sql_subject.open_with(OLD), api_key=TOKEN))

    saved = sql_subject.open_with(OLD).get_saved("fork")
    assert saved is not None
    assert Trail.load(saved).data()["api_key"] == TOKEN
    assert_kept_secret(sql_subject)


def test_a_diff_tells_of_secrets_that_came_and_shows_none(sql_subject: SqlSubject) -> None:
    start(sql_subject.open_with(OLD), {"api_key": SECRET, "n": 0})
    for step in range(2):
        meet(sql_subject.open_with(OLD), step)
    database = WorkflowDB(sql_subject.ledger.url.render_as_string(hide_password=False))

    assert database.diff(RUN, -1, 0) == {"added": {"token": MASKED}, "removed": {}, "changed": {"n": (0, 1)}}
    assert database.diff(RUN, 0, 1) == {"added": {}, "removed": {}, "changed": {"n": (1, 2)}}


def test_an_exported_run_has_its_secrets_encrypted_and_goes_on_where_the_key_is(
    sql_subject: SqlSubject,
) -> None:
    start(sql_subject.open_with(OLD), {"api_key": SECRET, "n": 0})
    meet(sql_subject.open_with(OLD))
    database = WorkflowDB(sql_subject.ledger.url.render_as_string(hide_password=False))

    text = database.export_run(RUN)
    sql_subject.wipe()
    database.import_run(text)

    assert not [clear for clear in (SECRET, TOKEN) if clear in text]
    sql_subject.ledger.resume(RUN, home=None)
    meet(sql_subject.open_with(OLD), 1)
    assert load(sql_subject.open_with(OLD)) == {"api_key": SECRET, "n": 2, "token": f"{TOKEN}-2"}
