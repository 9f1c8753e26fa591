"""A value comes back from its text with every type as it was, or it is refused with its place and type."""

from __future__ import annotations

import json
from collections import Counter, OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings

from pocoflow import StoreSerializationError
from pocoflow.codec import dump_values, dumps, load_values, loads
from tests.support.kinds import EVERYTHING, STORES, VALUES, exact

# How long an example takes says nothing here, and a busy machine takes long.
slowly = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@slowly
@given(VALUES)
def test_any_value_comes_back_with_exactly_the_types_it_had(value: Any) -> None:
    assert exact(loads(dumps({"value": value}))) == exact({"value": value})


@slowly
@given(STORES)
def test_any_store_comes_back_with_its_keys_in_order(data: dict[str, Any]) -> None:
    assert exact(loads(dumps(data))) == exact(data)


@slowly
@given(VALUES)
def test_the_text_is_ascii_that_every_json_reader_accepts(value: Any) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    text = dumps({"value": value})

    assert text.isascii()
    json.loads(text, parse_constant=refuse)


def test_plain_data_stands_in_the_text_as_itself() -> None:
    data = {"text": "Grüße", "number": 5, "score": 0.1, "yes": True, "none": None, "list": [{"a": []}]}

    assert json.loads(dumps(data)) == data


def test_text_without_tags_as_version_0_2_wrote_it_is_read_as_it_stands() -> None:
    assert loads('{"query": "ducks", "pages": [{"v": 1}]}') == {"query": "ducks", "pages": [{"v": 1}]}


@pytest.mark.parametrize(
    "data",
    [
        {"$t": "tuple", "v": [1]},
        {"value": {"$t": "tuple", "v": [1]}},
        {"value": {"$t": None}},
        {"value": [{"$t": {"$t": "$t"}}]},
    ],
)
def test_a_dict_of_the_user_is_never_taken_for_a_tag(data: dict[str, Any]) -> None:
    assert exact(loads(dumps(data))) == exact(data)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({0, 8, 16}, {16, 8, 0}),
        (frozenset("abcdef"), frozenset("fedcba")),
        ({("a", frozenset({1, 9})), "b"}, {"b", ("a", frozenset({9, 1}))}),
    ],
)
def test_equal_sets_give_the_same_text(one: Any, other: Any) -> None:
    assert dumps({"value": one}) == dumps({"value": other})


class Colour(Enum):
    RED = 1


class Size(IntEnum):
    BIG = 1


class Word(str):
    pass


class Folder(type(Path())):  # type: ignore[misc]
    pass


@dataclass
class Point:
    x: int


class Decimal128(Decimal):
    pass


@pytest.mark.parametrize(
    ("value", "type_name"),
    [
        (object(), "builtins.object"),
        (len, "builtins.builtin_function_or_method"),
        (int, "builtins.type"),
        (bytearray(b"x"), "builtins.bytearray"),
        (1j, "builtins.complex"),
        (range(3), "builtins.range"),
        (iter([1]), "builtins.list_iterator"),
        (OrderedDict(a=1), "collections.OrderedDict"),
        (defaultdict(int), "collections.defaultdict"),
        (Counter("a"), "collections.Counter"),
        (namedtuple("Pair", "a b")(1, 2), "Pair"),
        (Colour.RED, "Colour"),
        (Size.BIG, "Size"),
        (Word("x"), "Word"),
        (Point(1), "Point"),
        (Folder("/tmp"), "Folder"),
        (Decimal128("1"), "Decimal128"),
        (ValueError("x"), "builtins.ValueError"),
    ],
)
def test_a_value_without_an_exact_form_is_refused_with_its_place_and_type(value: Any, type_name: str) -> None:
    with pytest.raises(StoreSerializationError) as caught:
        dumps({"pages": [1, {"meta": value}]})

    assert isinstance(caught.value, TypeError)
    assert str(caught.value).startswith("store['pages'][1]['meta'] holds a ")
    assert f"{type_name}, which a checkpoint cannot carry exactly" in str(caught.value)


def test_the_refusal_of_a_value_under_a_very_long_key_is_short() -> None:
    with pytest.raises(StoreSerializationError, match=r"holds a builtins\.object") as caught:
        dumps({"k" * 1_000_000: object()})

    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("container", [{Word("a"): 1}, (object(),), {"a": {object()}}, {1: object()}])
def test_such_a_value_is_found_in_every_kind_of_container(container: Any) -> None:
    with pytest.raises(StoreSerializationError, match=r"store\['value'\]"):
        dumps({"value": container})


class Fixed(tzinfo):
    def utcoffset(self, moment: datetime | None) -> timedelta:
        return timedelta(hours=1)


def test_a_time_in_a_zone_without_a_name_is_refused_with_the_advice_to_use_another() -> None:
    with pytest.raises(StoreSerializationError, match=r"in the zone <.*zoneinfo\.ZoneInfo.*store it in UTC"):
        dumps({"at": datetime(2026, 3, 1, tzinfo=Fixed())})


def test_a_time_in_a_named_zone_follows_its_rules_afterwards() -> None:
    before = datetime(2026, 3, 28, 12, tzinfo=ZoneInfo("Europe/Berlin"))

    restored = loads(dumps({"at": before}))["at"]

    assert restored.tzinfo is before.tzinfo
    assert (restored + timedelta(days=1)).utcoffset() == timedelta(hours=2)


def test_a_store_of_every_type_comes_back_exactly() -> None:
    assert exact(loads(dumps(EVERYTHING))) == exact(EVERYTHING)


def test_a_checkpoint_of_an_older_version_is_read_as_before() -> None:
    text = (
        '{"p":{"$t":"path","v":"a/b"},"t":{"$t":"tuple","v":[1,{"$t":"set","v":["x"]}]},'
        '"d":{"$t":"dict","v":[[1,{"$t":"bytes","v":"AP8="}]]},"z":{"$t":"datetime","v":"2026-03-01T00:00:00",'
        '"zone":[{"$t":"timedelta","v":[0,3600,0]},"CET"]},"i":{"$t":"int","v":"0x10000000000000000"}}'
    )

    assert loads(text) == {
        "p": Path("a/b"),
        "t": (1, {"x"}),
        "d": {1: b"\x00\xff"},
        "z": datetime(2026, 3, 1, tzinfo=timezone(timedelta(hours=1), "CET")),
        "i": 2**64,
    }


def test_a_store_that_is_too_large_is_refused_with_its_largest_key() -> None:
    data = {"topic": "tides", "pages": ["x" * 600_000] * 2, "more": "y" * 100_000}

    with pytest.raises(StoreSerializationError) as caught:
        dump_values(data, max_mb=1)

    assert str(caught.value).startswith(
        "store takes 1.2 MB, POCOFLOW_MAX_STORE_MB allows 1: store['pages'], a list, has 1.1 MB of it: keep"
    )
    assert load_values(dump_values(data, max_mb=2)) == data


def test_the_local_time_as_python_gives_it_keeps_the_name_of_its_zone() -> None:
    at = datetime(2026, 3, 1, tzinfo=timezone(timedelta(hours=1), "CET"))

    restored = loads(dumps({"at": at}))["at"]

    assert restored == at
    assert restored.tzname() == "CET"


@pytest.mark.parametrize("levels", [1, 50, 99])
def test_a_deeply_nested_value_comes_back(levels: int) -> None:
    value: Any = "bottom"
    for _ in range(levels):
        value = [value]

    assert loads(dumps({"value": value})) == {"value": value}


@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: {"a": v}, lambda v: (v,), lambda v: {1: v}])
def test_a_value_nested_too_deeply_is_refused(wrap: Any) -> None:
    value: Any = 1
    for _ in range(5_000):
        value = wrap(value)

    with pytest.raises(StoreSerializationError, match="nested more than 100 levels deep or contains itself"):
        dumps({"value": value})


def test_a_value_that_contains_itself_is_refused() -> None:
    value: dict[str, Any] = {}
    value["self"] = value

    with pytest.raises(StoreSerializationError, match="contains itself"):
        dumps({"value": value})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"text"',
        pytest.param("[" * 100_000, id="deep list"),
        pytest.param('{"a":' * 100_000, id="deep dict"),
        '{"a": {"$t": "os.system", "v": "true"}}',
        '{"a": {"$t": null, "v": 1}}',
        '{"a": {"$t": ["tuple"], "v": 1}}',
        '{"a": {"$t": "tuple"}}',
        '{"a": {"$t": "tuple", "v": 5}}',
        '{"a": {"$t": "tuple", "v": [], "fold": 1}}',
        '{"a": {"$t": "set", "v": [[1]]}}',
        '{"a": {"$t": "dict", "v": [[[1], 2]]}}',
        '{"a": {"$t": "dict", "v": [1]}}',
        '{"a": {"$t": "int", "v": 5}}',
        '{"a": {"$t": "uuid", "v": 5}}',
        '{"a": {"$t": "uuid", "v": "x"}}',
        '{"a": {"$t": "bytes", "v": "?"}}',
        '{"a": {"$t": "decimal", "v": "x"}}',
        '{"a": {"$t": "path", "v": null}}',
        '{"a": {"$t": "timedelta", "v": [1e300, 0, 0]}}',
        '{"a": {"$t": "datetime", "v": "yesterday"}}',
        '{"a": {"$t": "datetime", "v": "2026-03-01", "zone": [1, "x"]}}',
        '{"a": {"$t": "date", "v": 20260301}}',
        '{"a": {"$t": "datetime", "v": "2026-03-01", "key": "Europe/Nowhere"}}',
        '{"a": {"$t": "datetime", "v": "2026-03-01", "key": "/etc/passwd"}}',
        '{"a": {"$t": "object", "v": {}}}',
        '{"a": {"$t": "object", "type": "os.system", "v": "true"}}',
        '{"a": {"$t": "object", "type": ["edge"], "v": {}}}',
        '{"a": {"$t": "object", "type": "edge", "v": {"end": 1}}}',
        '{"a": {"$t": "object", "type": "edge", "v": {"start": 1, "middle": 2}}}',
        '{"a": {"$t": "object", "type": "edge", "v": [1, 2]}}',
        '{"a": {"$t": "object", "type": "tests.support.kinds.Colour", "v": "GREEN"}}',
        '{"a": {"$t": "object", "type": "tests.support.kinds.Access", "v": 64}}',
        '{"a": {"$t": "object", "type": "tests.support.kinds.Page"}}',
        pytest.param('{"a": ' + "9" * 5_000 + "}", id="5000 digits"),
    ],
)
def test_text_that_was_not_written_by_dumps_is_refused_and_nothing_of_it_is_executed(text: str) -> None:
    with pytest.raises(StoreSerializationError, match="checkpoint"):
        loads(text)


@pytest.mark.parametrize(
    "value",
    [
        2**63,
        -(2**63),
        pytest.param(10**5_000, id="5001 digits"),
        float("inf"),
        -0.0,
        5e-324,
        Decimal("1E+999999"),
        Decimal("sNaN123"),
        UUID(int=0),
        date.min,
        timedelta.max,
        b"",
        datetime(2026, 10, 25, 2, 30, fold=1),
        datetime(2026, 1, 1, tzinfo=timezone(timedelta(seconds=-1, microseconds=5))),
        time(23, 59, 59, 999999, tzinfo=UTC),
        Path("a/../b c"),
        {},
        {True: 1, 0: 2, None: 3, (1, 2): 4},
    ],
)
def test_values_at_the_edges_come_back(value: Any) -> None:
    restored = loads(dumps({"value": value}))["value"]

    if isinstance(value, int):
        assert restored == value
    else:
        assert exact(restored) == exact(value)
