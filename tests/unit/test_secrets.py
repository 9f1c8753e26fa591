"""The value of a secret key is shown nowhere, and what stands in its place is never taken for it."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from cryptography.fernet import Fernet

from pocoflow import (
    Flow,
    Node,
    SecretKeyError,
    SettingsError,
    Store,
    StoreKeyError,
    StoreSchemaError,
    StoreSerializationError,
    StoreTypeError,
    WorkflowDB,
    codec,
)
from pocoflow.cipher import FernetCipher
from pocoflow.engine.history import MAX_DEPTH, Checkpoint, Saved, Trail
from pocoflow.masked import MASKED, redact
from pocoflow.schema import Schema

SECRET = 'sk-live 4711/"käse"'
KEY, OTHER_KEY = Fernet.generate_key().decode(), Fernet.generate_key().decode()
CIPHER = FernetCipher([KEY])


class Fails(Node):
    """Raises an error that quotes the secret; with `replace` it has just written another one."""

    def __init__(self, replace: str | None = None) -> None:
        super().__init__()
        self.replace = replace

    def prep(self, store: Store) -> Any:
        return store["api_key"]

    def exec(self, api_key: str) -> str:
        if self.replace is None:
            raise ConnectionError(f"no answer to {{'Authorization': {'Bearer ' + api_key!r}}}")
        return api_key

    def post(self, store: Store, prepared: Any, api_key: str) -> None:
        store["api_key"] = self.replace
        raise ConnectionError(f"{api_key} is not {store['api_key']}")


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POCOFLOW_SECRET_KEY", KEY)


def shown(store: Store) -> str:
    return f"{store!r} {store} {store.schema} {[*store.keys()]}"


def test_a_store_names_its_secrets_and_shows_none() -> None:
    store = Store({"api_key": SECRET, "n": 1}, secret={"api_key", "token"})

    assert store.secret == {"api_key", "token"}
    assert store["api_key"] == SECRET
    assert "4711" not in shown(store)


@pytest.mark.parametrize("secret", ["api_key", [7]])
def test_what_is_no_list_of_keys_is_refused_and_not_quoted(secret: Any) -> None:
    with pytest.raises(StoreSchemaError, match="secret takes the names of keys"):
        Store(secret=secret)


def test_secrets_travel_with_the_schema() -> None:
    schema = Store(schema={"n": int}, secret=["api_key"]).schema

    assert Schema.loads(schema.dumps()).secret == {"api_key"}
    assert Store(schema=schema).secret == {"api_key"}
    assert "secret" not in Store(schema={"n": int}).schema.dumps()


def test_a_wrong_write_to_a_secret_does_not_quote_it() -> None:
    store = Store(schema={"mode": Literal["a"], "keys": dict[str, int]}, secret={"mode", "keys"})

    for key, value in (("mode", SECRET), ("keys", {SECRET: "x"})):
        with pytest.raises(StoreTypeError, match=rf"key '{key}' takes .*\(secret\)") as refused:
            store[key] = value
        assert "4711" not in str(refused.value)


def test_observers_get_a_mask(caplog: pytest.LogCaptureFixture) -> None:
    store, calls = Store({"api_key": SECRET}, secret={"api_key", "token"}), []
    store.add_observer(lambda *call: calls.append(call))

    store["api_key"] = SECRET + "!"
    store["token"] = SECRET
    store["n"] = 1
    del store["token"]

    masked = [("api_key", MASKED, MASKED), ("token", None, MASKED), ("n", None, 1), ("token", MASKED, None)]
    assert calls == masked


def test_the_traceback_of_an_observer_is_logged_without_secrets(caplog: pytest.LogCaptureFixture) -> None:
    store = Store({"api_key": SECRET}, secret={"api_key"})
    store.add_observer(lambda *call: 1 / len(store["api_key"][0:0]) or Store()[store["api_key"]])
    store.add_observer(lambda *call: Store()[store["api_key"]])

    store["n"] = 1

    assert "ZeroDivisionError" in caplog.text
    assert "has no key '***'" in caplog.text
    assert "4711" not in caplog.text


def test_a_snapshot_names_secrets_and_leaves_them_out(tmp_path: Path) -> None:
    Store({"api_key": SECRET, "n": 1}, secret={"api_key"}).snapshot(tmp_path / "s.json")

    restored = Store.restore(tmp_path / "s.json")

    assert json.loads((tmp_path / "s.json").read_text()) == {
        "name": "store",
        "data": {"n": 1},
        "secret": ["api_key"],
    }
    assert (restored.secret, dict(restored)) == ({"api_key"}, {"n": 1})
    with pytest.raises(StoreKeyError):
        restored["api_key"]


def test_the_snapshots_of_a_run_leave_secrets_out(tmp_path: Path) -> None:
    Flow(Node(), checkpoint_dir=tmp_path).run(Store({"api_key": SECRET}, secret={"api_key"}))

    assert ["4711" in path.read_text() for path in tmp_path.iterdir()] == [False]


def test_the_mask_is_one_object_and_is_carried_by_nothing() -> None:
    assert copy.deepcopy(MASKED) is MASKED
    assert pickle.loads(pickle.dumps(MASKED)) is MASKED
    assert f"{MASKED} {[MASKED]}" == "*** [***]"
    with pytest.raises(StoreSerializationError, match=r"store\['a'\]\[0\] holds a mask in place of a secret"):
        codec.dumps({"a": [MASKED]})


@pytest.mark.parametrize("database", [None, "history.db"])
def test_a_run_does_not_start_with_a_mask(tmp_path: Path, database: str | None) -> None:
    flow = Flow(Node(), db_path=database and tmp_path / database)

    with pytest.raises(SecretKeyError, match="'api_key' holds a mask in place of a secret that could not"):
        flow.run(Store({"api_key": MASKED}))


def test_without_history_no_key_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POCOFLOW_SECRET_KEY")
    store = Store({"api_key": SECRET}, secret={"api_key"})

    assert Flow(Node()).run(store)["api_key"] == SECRET
    handle = Flow(Node()).run_background(store)
    assert handle.wait(60)["api_key"] == handle.store["api_key"] == SECRET
    assert handle.store.secret == {"api_key"}


def test_with_a_database_and_no_key_the_start_is_refused_and_says_how_to_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("POCOFLOW_SECRET_KEY")
    flow = Flow(Node(), db_path=tmp_path / "history.db")

    # Not only when the value is there: a node may be about to write it.
    for data in ({"api_key": SECRET}, {}):
        for start in (flow.run, flow.run_background):
            with pytest.raises(
                SecretKeyError, match=r"'api_key' is secret.*POCOFLOW_SECRET_KEY.*generate_key"
            ):
                start(Store(data, secret={"api_key"}))
    assert WorkflowDB(tmp_path / "history.db").list_runs() == []


def test_a_key_without_what_encrypts_is_refused_and_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POCOFLOW_SECRET_KEY", Fernet.generate_key().decode())
    monkeypatch.delitem(sys.modules, "pocoflow.cipher")
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)

    with pytest.raises(SettingsError, match=r"pip install 'pocoflow\[secrets\]'"):
        Flow(Node(), db_path=tmp_path / "history.db").run({})


def test_a_checkpoint_by_hand_takes_no_secrets(tmp_path: Path) -> None:
    with pytest.raises(SecretKeyError, match="save_checkpoint encrypts nothing"):
        WorkflowDB(tmp_path / "a.db").save_checkpoint("r", 0, "n", Store(secret={"api_key"}))


@pytest.mark.parametrize("replace", [None, "another-key"])
def test_an_error_that_quotes_a_secret_is_recorded_and_logged_without_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, replace: str | None
) -> None:
    flow = Flow(Fails(replace), db_path=tmp_path / "history.db")
    flow.on("node_error", lambda name, error, store: store[str(error)])
    caplog.set_level(logging.INFO)

    with pytest.raises(ConnectionError, match="4711"):
        flow.run(Store({"api_key": SECRET}, secret={"api_key"}), run_id="r")

    row = WorkflowDB(tmp_path / "history.db").get_run("r")
    assert row is not None
    expected = "*** is not ***" if replace else "no answer to {'Authorization': 'Bearer ***'}"
    assert row["error_msg"] == expected
    assert "hook raised for node_error" in caplog.text
    assert "4711" not in caplog.text
    assert "another-key" not in caplog.text


@dataclass
class Login:
    user: str
    password: str


@pytest.mark.parametrize(
    ("secret", "text", "expected"),
    [
        ("s3cret", "a s3cret b s3cret", "a *** b ***"),
        ("a\nb'c", r"it was 'a\nb\'c' and a\nb'c", r"it was '***' and ***"),
        ("käse/brot", "?q=k%C3%A4se%2Fbrot&r=k\\u00e4se/brot", "?q=***&r=***"),
        (b"s3cret", "got b's3cret'", "got b'***'"),
        (471147, "pin 471147", "pin ***"),
        ({"user": "anna", "roles": ["root"]}, "anna is root", "*** is ***"),
        (Login("anna", "s3cret"), "Login(user='anna', password='s3cret')", "***"),
        (Login("anna", "s3cret"), "anna:s3cret", "***:***"),
        ("-----BEGIN-----\nline-one\nline-two", "bad line-two", "bad ***"),
        ("s3cret and more", "only s3cret", "only s3cret"),
        ("", "nothing", "nothing"),
        ("abc", "abc is too short to be hidden", "abc is too short to be hidden"),
        (None, "None", "None"),
        (True, "True", "True"),
        (MASKED, "***", "***"),
    ],
)
def test_secrets_are_found_in_the_forms_that_messages_have_them_in(
    secret: object, text: str, expected: str
) -> None:
    assert redact(text, [secret]) == expected


def steps(values: list[dict[str, Any]], *secret: str) -> list[Checkpoint]:
    trail = Trail(secret, CIPHER)
    return [trail.next(codec.dump_values(data)) for data in values]


def stored(checkpoints: list[Checkpoint], step: int, cipher: FernetCipher | None = CIPHER) -> Saved:
    chain = checkpoints[step - checkpoints[step].depth : step + 1]
    blobs = {key: text for one in checkpoints for key, text in one.new_blobs.items() if text is not None}
    return Saved([one.text for one in chain], blobs, cipher=cipher)


LIVES = [
    pytest.param({"api_key": SECRET}, id="small"),
    pytest.param({"api_key": SECRET, "page": "x" * 5000}, id="beside a blob"),
    pytest.param({"api_key": [SECRET] * 2000}, id="large"),
]


@pytest.mark.parametrize("data", LIVES)
def test_a_secret_is_written_encrypted_whole_and_into_no_blob(data: dict[str, Any]) -> None:
    grown = [*data["api_key"], SECRET] if isinstance(data["api_key"], list) else SECRET + "!"
    values = [{**data, "n": n} for n in range(2 * MAX_DEPTH)] + [{**data, "n": 99, "api_key": grown}]

    checkpoints = steps(values, "api_key")

    assert all("4711" not in one.text for one in checkpoints)
    assert all("4711" not in (text or "") for one in checkpoints for text in one.new_blobs.values())
    for step in (0, MAX_DEPTH, MAX_DEPTH + 1, len(values) - 1):
        assert Trail.load(stored(checkpoints, step)).data() == values[step]


def test_a_secret_that_has_not_changed_is_not_written_again() -> None:
    page = "x" * 2000
    checkpoints = steps([{"api_key": SECRET, "page": page, "n": n} for n in range(3)], "api_key")

    assert [one.text.count(" =! ") for one in checkpoints] == [1, 0, 0]


@pytest.mark.parametrize("cipher", [None, FernetCipher([OTHER_KEY])], ids=["none", "other"])
def test_a_trail_that_cannot_read_a_secret_masks_it_and_carries_it_on(cipher: FernetCipher | None) -> None:
    first = steps([{"api_key": SECRET, "n": 0}], "api_key")
    blind = Trail.load(stored(first, 0, cipher))

    store = blind.store("s", lenient=True)
    with pytest.raises(SecretKeyError, match=r"'api_key' is secret.*POCOFLOW_SECRET_KEY"):
        blind.store("s")
    blind.fork()
    forked = blind.next({**blind.texts, "n": "7"}, whole=True)

    assert list(store.items()) == [("api_key", MASKED), ("n", 0)]
    assert store.secret == {"api_key"}
    assert Trail.load(Saved([forked.text], cipher=CIPHER)).data() == {"api_key": SECRET, "n": 7}


def test_a_token_opens_only_under_the_key_of_the_store_that_it_was_made_for() -> None:
    (checkpoint,) = steps([{"api_key": SECRET}], "api_key")
    moved = checkpoint.text.replace("api_key =!", "prompt =!")

    assert Trail.load(Saved([moved], cipher=CIPHER)).data() == {"prompt": MASKED}
    with pytest.raises(SecretKeyError, match="'prompt' is secret, and no key"):
        Trail.load(Saved([moved], cipher=CIPHER)).store("s")


def test_a_secret_that_is_yet_to_come_is_known_from_the_schema() -> None:
    schema = Store(secret={"token"}).schema.dumps()
    trail = Trail.load(Saved(["n = 1"], schema=schema, cipher=CIPHER))

    written = trail.next({"n": "1", "token": json.dumps(SECRET)})

    assert "4711" not in written.text
    assert Trail.load(Saved([written.text], cipher=CIPHER)).data()["token"] == SECRET
    with pytest.raises(SecretKeyError, match="'token'"):
        Trail.load(Saved(["n = 1"], schema=schema)).store("s")


def test_a_new_key_writes_and_the_old_one_still_reads() -> None:
    old, both, new = FernetCipher([KEY]), FernetCipher([OTHER_KEY, KEY]), FernetCipher([OTHER_KEY])

    token = both.encrypt("x")

    assert (old.decrypt(token), new.decrypt(token)) == (None, "x")
    assert both.decrypt(old.encrypt("x")) == "x"
    assert both.digests("x") == [*new.digests("x"), *old.digests("x")]


class Leads(Node):
    """Goes where the secret says."""

    def post(self, store: Store, prepared: Any, result: Any) -> str:
        return str(store["api_key"])


def test_an_action_that_would_tell_a_secret_fails_the_step_and_is_not_told(tmp_path: Path) -> None:
    flow = Flow(Leads(), db_path=tmp_path / "runs.db", run_id="run")

    with pytest.raises(ValueError, match="action that holds a secret"):
        flow.run(Store({"api_key": "sk-4711"}, secret=["api_key"]))

    events = WorkflowDB(tmp_path / "runs.db").get_events("run")
    assert "sk-4711" not in repr(events)
