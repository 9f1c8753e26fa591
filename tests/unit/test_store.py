"""A Store is a dict with types and observers, and its snapshots come back exactly."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pocoflow import (
    Store,
    StoreKeyError,
    StoreSchemaError,
    StoreSerializationError,
    StoreTypeError,
)

Write = tuple[str, Any, Any]


@pytest.fixture
def writes() -> list[Write]:
    return []


@pytest.fixture
def observed(writes: list[Write]) -> Store:
    """A store with the content {"a": 1, "b": 2} that notes each write."""
    store = Store({"a": 1, "b": 2})
    store.add_observer(lambda key, old, new: writes.append((key, old, new)))
    return store


def test_a_store_reads_like_the_dict_it_was_made_of() -> None:
    store = Store({"a": 1, "b": None})

    assert store["a"] == 1
    assert store.get("b", 5) is None
    assert store.get("c", 5) == 5
    assert "a" in store
    assert "c" not in store
    assert list(store) == ["a", "b"]
    assert list(store.items()) == [("a", 1), ("b", None)]
    assert len(store) == 2
    assert store == {"a": 1, "b": None}


def test_a_store_without_arguments_is_empty() -> None:
    store = Store()

    assert len(store) == 0
    assert store == {}


def test_writes_to_a_store_leave_the_dict_it_was_made_of_alone() -> None:
    data = {"a": 1}

    Store(data)["a"] = 2

    assert data == {"a": 1}


def test_a_store_can_be_made_of_another_store() -> None:
    store = Store(Store({"a": 1}))

    assert store == {"a": 1}


@pytest.mark.parametrize(
    "read", [lambda s: s["topic"], lambda s: s.pop("topic"), lambda s: s.__delitem__("topic")]
)
def test_a_missing_key_is_a_key_error_that_names_it_and_what_there_is(read: Callable[[Store], Any]) -> None:
    store = Store({"text": 1}, name="research")

    with pytest.raises(StoreKeyError) as caught:
        read(store)

    assert isinstance(caught.value, KeyError)
    assert str(caught.value) == "store 'research' has no key 'topic': it has ['text']"


@pytest.mark.parametrize(
    ("change", "content", "returned"),
    [
        (lambda s: s.update({"b": 3, "c": 4}), {"a": 1, "b": 3, "c": 4}, None),
        (lambda s: s.update(b=3), {"a": 1, "b": 3}, None),
        (lambda s: s.setdefault("a", 9), {"a": 1, "b": 2}, 1),
        (lambda s: s.setdefault("c", 9), {"a": 1, "b": 2, "c": 9}, 9),
        (lambda s: s.pop("a"), {"b": 2}, 1),
        (lambda s: s.pop("c", 7), {"a": 1, "b": 2}, 7),
        (lambda s: s.__delitem__("b"), {"a": 1}, None),
        (lambda s: s.popitem(), {"b": 2}, ("a", 1)),
        (lambda s: s.clear(), {}, None),
    ],
)
def test_a_store_is_changed_like_a_dict(
    change: Callable[[Store], Any], content: dict[str, Any], returned: Any
) -> None:
    store = Store({"a": 1, "b": 2})

    result = change(store)

    assert store == content
    assert result == returned


def test_as_dict_is_the_dict_inside_so_a_write_to_it_skips_types_and_observers(
    observed: Store, writes: list[Write]
) -> None:
    observed.as_dict()["a"] = 5

    assert observed["a"] == 5
    assert type(observed.as_dict()) is dict
    assert writes == []


def test_the_repr_shows_the_keys_and_not_the_values() -> None:
    store = Store({"api_key": "s3cret"}, name="research")

    assert repr(store) == "Store(name='research', keys=['api_key'])"


def test_a_write_of_the_wrong_type_is_refused_and_changes_nothing() -> None:
    store = Store({"query": ""}, schema={"query": str}, name="my_pipeline")

    with pytest.raises(StoreTypeError) as caught:
        store["query"] = 42

    assert isinstance(caught.value, TypeError)
    assert str(caught.value) == "store 'my_pipeline': key 'query' takes str, got int"
    assert store["query"] == ""


@pytest.mark.parametrize(
    "write",
    [
        lambda s: s.update(query=42),
        lambda s: s.update({"query": 42}),
        lambda s: s.setdefault("query", 42),
        lambda s: s.__setitem__("query", 42),
    ],
)
def test_every_way_to_write_is_checked(write: Callable[[Store], Any]) -> None:
    store = Store(schema={"query": str})

    with pytest.raises(StoreTypeError, match="'query' takes str, got int"):
        write(store)


@pytest.mark.parametrize(
    ("expected", "value"),
    [
        (str, "text"),
        (int, True),
        ((int, str), "text"),
        ((int, (str, bytes)), b"text"),
        (str | None, None),
        (object, 3.5),
        (list, []),
    ],
)
def test_a_value_of_the_type_or_of_one_of_the_types_is_written(expected: Any, value: Any) -> None:
    store = Store(schema={"key": expected})

    store["key"] = value

    assert store["key"] == value


def test_a_refused_write_names_all_types_that_are_allowed() -> None:
    store = Store(schema={"size": (int, float)})

    with pytest.raises(StoreTypeError, match="'size' takes int or float, got str"):
        store["size"] = "big"


def test_a_key_that_the_schema_does_not_name_takes_anything() -> None:
    store = Store(schema={"query": str})

    store["other"] = 42

    assert store["other"] == 42


def test_the_first_content_may_be_a_placeholder_that_validate_finds() -> None:
    store = Store({"query": None}, schema={"query": str})

    with pytest.raises(StoreTypeError, match="'query' takes str, got NoneType"):
        store.validate()


def test_validate_names_all_keys_of_the_schema_that_are_missing() -> None:
    store = Store({"query": ""}, schema={"query": str, "result": str, "score": float}, name="research")

    with pytest.raises(StoreSchemaError) as caught:
        store.validate()

    assert isinstance(caught.value, ValueError)
    assert "store 'research' lacks ['result', 'score']" in str(caught.value)


def test_validate_accepts_content_that_fulfils_the_schema() -> None:
    store = Store({"query": "", "more": 1}, schema={"query": str})

    store.validate()


@pytest.mark.parametrize("expected", ["str", None, 5, (str, "int")])
def test_a_schema_that_names_no_type_is_refused_when_the_store_is_made(expected: Any) -> None:
    with pytest.raises(StoreSchemaError, match="schema of key 'query' must be a type or a tuple of types"):
        Store({"query": ""}, schema={"query": expected})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda s: s.__setitem__("a", 5), [("a", 1, 5)]),
        (lambda s: s.__setitem__("c", 5), [("c", None, 5)]),
        (lambda s: s.update(a=3, c=4), [("a", 1, 3), ("c", None, 4)]),
        (lambda s: s.setdefault("a", 5), []),
        (lambda s: s.setdefault("c", 5), [("c", None, 5)]),
        (lambda s: s.pop("a"), [("a", 1, None)]),
        (lambda s: s.__delitem__("a"), [("a", 1, None)]),
        (lambda s: s.clear(), [("a", 1, None), ("b", 2, None)]),
    ],
)
def test_an_observer_sees_each_change_with_the_old_and_the_new_value(
    observed: Store, writes: list[Write], change: Callable[[Store], Any], expected: list[Write]
) -> None:
    change(observed)

    assert writes == expected


def test_an_observer_does_not_hear_of_a_refused_write(writes: list[Write]) -> None:
    store = Store(schema={"query": str})
    store.add_observer(lambda key, old, new: writes.append((key, old, new)))

    with pytest.raises(StoreTypeError):
        store["query"] = 42

    assert writes == []


def test_an_observer_that_raises_is_logged_and_stops_neither_the_write_nor_the_others(
    observed: Store, writes: list[Write], caplog: pytest.LogCaptureFixture
) -> None:
    def broken(key: str, old: Any, new: Any) -> None:
        raise RuntimeError("observer is broken")

    store = Store({"a": 1})
    store.add_observer(broken)
    store.add_observer(lambda key, old, new: writes.append((key, old, new)))

    with caplog.at_level(logging.WARNING, logger="pocoflow"):
        store["a"] = 2

    assert store["a"] == 2
    assert writes == [("a", 1, 2)]
    line = "store observer raised for key 'a', the write stands"
    assert ("pocoflow.store", logging.WARNING, line) in caplog.record_tuples
    assert "observer is broken" in caplog.text


def test_a_removed_observer_hears_nothing_any_more(writes: list[Write]) -> None:
    def observer(key: str, old: Any, new: Any) -> None:
        writes.append((key, old, new))

    store = Store()
    store.add_observer(observer)

    store.remove_observer(observer)
    store["a"] = 1

    assert writes == []


def test_removing_an_unknown_observer_is_no_error(observed: Store, writes: list[Write]) -> None:
    observed.remove_observer(print)
    observed["a"] = 5

    assert writes == [("a", 1, 5)]


def test_a_snapshot_comes_back_with_name_and_exact_types(tmp_path: Path) -> None:
    data = {
        "text": "Grüße \U0001f986 \ud800",
        "pair": (1, 2.5),
        "tags": {"a", "b"},
        "by_id": {1: b"\x00\xff"},
        "at": datetime(2026, 3, 1, tzinfo=UTC),
        "$t": "a key that looks like a tag",
    }
    store = Store(data, name="research")

    store.snapshot(tmp_path / "run" / "step_002.json")
    restored = Store.restore(tmp_path / "run" / "step_002.json")

    assert restored == data
    assert restored.name == "research"
    assert type(restored["pair"]) is tuple
    assert type(restored["tags"]) is set


def test_a_snapshot_of_plain_data_is_plain_json(tmp_path: Path) -> None:
    data = {"query": "ducks", "scores": [1, 2.5, None, True], "nested": {"a": []}}

    Store(data, name="research").snapshot(str(tmp_path / "now.json"))

    assert json.loads((tmp_path / "now.json").read_text()) == {"name": "research", "data": data}


def test_a_restored_store_checks_later_writes_by_the_schema_given(tmp_path: Path) -> None:
    Store({"query": "ducks"}).snapshot(tmp_path / "now.json")

    store = Store.restore(tmp_path / "now.json", schema={"query": str})

    with pytest.raises(StoreTypeError):
        store["query"] = 42


def test_a_snapshot_replaces_an_older_one_and_leaves_nothing_else(tmp_path: Path) -> None:
    store = Store({"a": 1})
    store.snapshot(tmp_path / "now.json")
    store["a"] = 2

    store.snapshot(tmp_path / "now.json")

    assert Store.restore(tmp_path / "now.json") == {"a": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["now.json"]


def test_a_value_that_json_cannot_carry_is_refused_and_the_old_snapshot_stays(tmp_path: Path) -> None:
    store = Store({"a": 1})
    store.snapshot(tmp_path / "now.json")
    store["handle"] = object()

    with pytest.raises(StoreSerializationError, match=r"store\['handle'\] holds a builtins.object"):
        store.snapshot(tmp_path / "now.json")

    assert Store.restore(tmp_path / "now.json") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["now.json"]


def test_a_snapshot_may_have_the_longest_name_that_a_file_may_have(tmp_path: Path) -> None:
    path = tmp_path / f"{'x' * 250}.json"

    Store({"a": 1}).snapshot(path)

    assert Store.restore(path) == {"a": 1}


def test_threads_that_write_one_snapshot_at_the_same_time_leave_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "now.json"
    stores = [Store({"writer": number, "text": "x" * 50_000}) for number in range(4)]

    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(store.snapshot, path) for store in stores * 10]
    errors = [future.exception() for future in done if future.exception() is not None]

    assert errors == []
    assert Store.restore(path)["writer"] in range(4)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"[]",
        b'"text"',
        b"{}",
        b'{"name": "x", "data": [1]}',
        b'{"name": "x", "data": {"a": {"$t": "python/object", "v": "os.system"}}}',
        b"\xff\xfe\x00",
        b"[" * 100_000,
    ],
)
def test_a_file_that_is_no_snapshot_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.json"
    path.write_bytes(content)

    with pytest.raises(StoreSerializationError, match=r"other\.json"):
        Store.restore(path)


def test_restoring_a_file_that_is_not_there_is_a_file_not_found_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Store.restore(tmp_path / "none.json")
