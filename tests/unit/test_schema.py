"""A schema checks every write to the inside of a value, and is the same after it was text."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, NewType, NotRequired, Optional, Required, TypedDict, Union

import pytest
import typing_extensions
from pydantic import BaseModel

from pocoflow import (
    DefinitionError,
    Store,
    StoreSchemaError,
    StoreSerializationError,
    StoreTypeError,
    UnregisteredTypeError,
)
from pocoflow.codec import dumps, loads
from pocoflow.schema import Schema
from tests.support.kinds import Colour, Edge, Page, Pair, Point

UserId = NewType("UserId", int)


class Row(TypedDict):
    id: int
    tags: NotRequired[list[str]]


class Loose(TypedDict, total=False):
    id: Required[int]
    name: str


class Tree(TypedDict):
    name: str
    children: list[Tree]


class Extended(typing_extensions.TypedDict):
    id: int


GOOD: list[tuple[Any, Any]] = [
    (str, "a"),
    (int, True),
    (object, 1.5),
    (Any, "anything"),
    (list[str], ["a", "b"]),
    (list[str], []),
    (list[list[int]], [[1], []]),
    (set[int], {1}),
    (frozenset[str], frozenset("a")),
    (dict[str, int], {"a": 1}),
    (dict[str, list[int | None]], {"a": [1, None]}),
    (tuple[int, ...], (1, 2)),
    (tuple[int, str], (1, "a")),
    (tuple[()], ()),
    (str | None, None),
    (Optional[str], "a"),  # noqa: UP045
    (Union[int, list[str]], ["a"]),  # noqa: UP007
    (Literal["a", 1, None, Colour.RED], Colour.RED),
    (Annotated[int, "a note"], 1),
    (UserId, 5),
    (Sequence[int], (1, 2)),
    (Mapping[str, int], {"a": 1}),
    (Collection[str], {"a"}),
    (Row, {"id": 1}),
    (Row, {"id": 1, "tags": ["a"], "more": 1}),
    (Loose, {"id": 1}),
    (Extended, {"id": 1}),
    (Tree, {"name": "a", "children": [{"any": "dict"}]}),
    ((int, (str, None.__class__)), None),
    (Point, Point(1)),
    (list[Edge], [Edge(start=1)]),
    (Page, Page(title="a")),
    (Colour, Colour.RED),
    (Pair, Pair(1)),
    (date, datetime(2026, 1, 1)),
    (Decimal, Decimal(1)),
    (Path, Path("a")),
]
BAD: list[tuple[Any, Any, str]] = [
    (str, 1, "key 'x' takes str, got int"),
    (bool, 1, "key 'x' takes bool, got int"),
    (float, 1, "key 'x' takes float, got int"),
    (list[str], ("a",), "key 'x' takes list[str], got tuple"),
    (list[str], ["a", 1], "key 'x' takes list[str]: store['x'][1] takes str, got int"),
    (list[list[int]], [[1], [2, "a"]], "key 'x' takes list[list[int]]: store['x'][1][1] takes int, got str"),
    (dict[str, int], {"a": "b"}, "key 'x' takes dict[str, int]: store['x']['a'] takes int, got str"),
    (dict[str, int], {1: 1}, "key 'x' takes dict[str, int]: store['x'].keys()[0] takes str, got int"),
    (tuple[int, ...], (1, "a"), "key 'x' takes tuple[int, ...]: store['x'][1] takes int, got str"),
    (tuple[int, str], (1,), "key 'x' takes tuple[int, str], got 1 items"),
    (tuple[int, str], (1, 2), "key 'x' takes tuple[int, str]: store['x'][1] takes str, got int"),
    (tuple[int, str], [1, "a"], "key 'x' takes tuple[int, str], got list"),
    (str | None, 1, "key 'x' takes str or None, got int"),
    (list[str] | None, [1], "key 'x' takes list[str] or None: store['x'][0] takes str, got int"),
    (Literal["a", 1], "b", "key 'x' takes 'a' or 1, got 'b'"),
    (Literal[1], True, "key 'x' takes 1, got True"),
    (Row, {"tags": []}, "key 'x' takes Row, got a dict without 'id'"),
    (Row, {"id": 1, "tags": "a"}, "key 'x' takes Row: store['x']['tags'] takes list[str], got str"),
    (Loose, {"name": "a"}, "key 'x' takes Loose, got a dict without 'id'"),
    (list[Row], [{"id": "1"}], "key 'x' takes list[Row]: store['x'][0]['id'] takes int, got str"),
    (
        Tree,
        {"name": "a", "children": [1]},
        "key 'x' takes Tree: store['x']['children'][0] takes dict, got int",
    ),
    (Point, {"x": 1}, "key 'x' takes Point, got dict"),
]


@pytest.fixture(params=["as given", "as text"])
def form(request: pytest.FixtureRequest) -> Any:
    """The schema as the program gave it, or as another process reads it."""
    if request.param == "as given":
        return Schema.of
    return lambda given: Schema.loads(Schema.of(given).dumps())


@pytest.mark.parametrize(("expected", "value"), GOOD)
def test_a_value_of_the_type_is_written(form: Any, expected: Any, value: Any) -> None:
    store = Store(schema=form({"x": expected}))

    store["x"] = value

    assert store["x"] == value


@pytest.mark.parametrize(("expected", "value", "message"), BAD)
def test_another_value_is_refused_with_the_place_what_it_takes_and_what_it_got(
    form: Any, expected: Any, value: Any, message: str
) -> None:
    store = Store(schema=form({"x": expected}), name="s")

    with pytest.raises(StoreTypeError) as caught:
        store["x"] = value

    assert str(caught.value) == f"store 's': {message}"
    assert "x" not in store


class State(TypedDict):
    query: str
    hits: NotRequired[list[str]]


@dataclass
class StateClass:
    query: str
    hits: list[str] = field(default_factory=list)


class StateModel(BaseModel):
    query: str
    hits: list[str] = []


@pytest.mark.parametrize("schema", [State, StateClass, StateModel])
def test_a_class_describes_a_whole_store(form: Any, schema: type) -> None:
    store = Store({"query": ""}, schema=form(schema))

    store["hits"] = ["a"]
    store["more"] = "a key that the class does not have"

    store.validate()
    with pytest.raises(StoreTypeError, match="key 'query' takes str, got int"):
        store["query"] = 5
    with pytest.raises(StoreTypeError, match=r"store\['hits'\]\[0\] takes str, got int"):
        store["hits"] = [5]


@pytest.mark.parametrize("schema", [State, StateClass, StateModel])
def test_a_complete_store_needs_the_keys_without_a_default(form: Any, schema: type) -> None:
    store = Store({"hits": []}, schema=form(schema), name="s")

    with pytest.raises(StoreSchemaError, match=r"store 's' lacks \['query'\]"):
        store.validate()


def test_validate_looks_into_what_was_changed_in_place() -> None:
    store = Store({"hits": ["a"]}, schema={"hits": list[str]})
    store["hits"].append(5)

    with pytest.raises(StoreTypeError, match=r"store\['hits'\]\[1\] takes str, got int"):
        store.validate()


class Nothing(TypedDict):
    x: Missing  # type: ignore[name-defined]  # noqa: F821


class Plain:
    pass


@pytest.mark.parametrize("schema", [Plain, 5, "str", Nothing, ["a"]])
def test_what_is_no_schema_is_refused(schema: Any) -> None:
    with pytest.raises(StoreSchemaError, match="schema"):
        Store(schema=schema)


@pytest.mark.parametrize("expected", [list["str"], type[int], Iterator[int], list[5]])  # type: ignore[misc]
def test_a_type_whose_inside_cannot_be_checked_is_refused(expected: Any) -> None:
    with pytest.raises(StoreSchemaError, match="schema of key 'x' must be a type"):
        Store(schema={"x": expected})


def test_the_classes_in_a_schema_are_registered() -> None:
    @dataclass
    class Found:
        x: int

    Store(schema={"rows": list[Found] | None})

    assert loads(dumps({"a": Found(1)})) == {"a": Found(1)}


def test_two_classes_of_one_name_in_schemas_are_refused() -> None:
    def define() -> type:
        class Twin(NamedDict):
            pass

        return Twin

    Store(schema={"a": define()})

    with pytest.raises(DefinitionError, match="two classes are registered as"):
        Store(schema={"a": define()})


class NamedDict(BaseModel):
    pass


def test_a_value_that_no_checkpoint_can_carry_is_refused_by_the_write() -> None:
    store = Store({"x": None}, schema={"x": object, "word": str})

    class Word(str):
        pass

    with pytest.raises(StoreSerializationError, match=r"^store\['x'\] holds a builtins\.object, which"):
        store["x"] = object()
    with pytest.raises(StoreSerializationError, match=r"^store\['word'\] holds a .*Word, which"):
        store["word"] = Word("a")
    store["other"] = object()

    assert store["x"] is None


def test_a_class_that_no_checkpoint_can_carry_cannot_be_in_a_schema_that_is_saved() -> None:
    store = Store(schema={"x": Plain})

    with pytest.raises(StoreSchemaError, match=r"names .*Plain, but no checkpoint can carry an object of it"):
        store.schema.dumps()


class Base(ABC):
    @abstractmethod
    def area(self) -> float: ...


def test_an_abstract_class_can_be_in_a_schema_that_is_saved(form: Any) -> None:
    Base.register(Point)
    store = Store(schema=form({"x": Base}))

    store["x"] = Point(1)

    with pytest.raises(StoreTypeError, match="takes Base, got int"):
        store["x"] = 1


UNKNOWN = [
    '{"class":"shop.Order"}',
    '{"of":"list","items":{"class":"shop.Order"}}',
    '{"values":[{"enum":"shop.Order","member":"A"}]}',
]


@pytest.mark.parametrize("shape", UNKNOWN)
def test_a_saved_schema_with_a_class_that_is_not_registered_here_names_it(shape: str) -> None:
    text = f'{{"keys":{{"a":"int","b":{shape}}},"required":["a","b"]}}'

    with pytest.raises(UnregisteredTypeError) as caught:
        Schema.loads(text)

    assert str(caught.value) == (
        "schema of the store names a shop.Order, which is not registered in this process: call "
        "pocoflow.register_type(Order) in the module that defines the flow"
    )


@pytest.mark.parametrize("shape", UNKNOWN)
def test_for_a_reader_only_the_key_with_that_class_is_not_checked(
    shape: str, caplog: pytest.LogCaptureFixture
) -> None:
    text = f'{{"keys":{{"a":"int","b":{shape}}},"required":["a","b"]}}'

    with caplog.at_level(logging.WARNING, logger="pocoflow"):
        store = Store(schema=Schema.loads(text, lenient=True))

    store["b"] = "anything"
    with pytest.raises(StoreTypeError, match="'a' takes int"):
        store["a"] = "anything"
    assert "values of a key are not checked" in caplog.text
    assert "shop.Order" in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"keys":{"a":"os.system"},"required":[]}',
        '{"keys":{"a":{"new":1}},"required":[]}',
        '{"keys":5,"required":[]}',
        '{"keys":{"a":{"of":{"class":"x"},"items":"int"}},"required":[]}',
    ],
)
def test_text_that_is_no_saved_schema_is_refused(text: str) -> None:
    with pytest.raises(StoreSerializationError):
        Schema.loads(text)


def test_an_enum_whose_member_is_gone_is_refused() -> None:
    class Gone(Enum):
        A = 1

    text = Schema.of({"x": Literal[Gone.A]}).dumps().replace('"A"', '"B"')

    with pytest.raises(StoreSerializationError):
        Schema.loads(text)
