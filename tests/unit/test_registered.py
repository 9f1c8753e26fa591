"""Objects of registered classes come back as they were; no other class is ever rebuilt."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, make_dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import pytest
from pydantic import BaseModel, Field

from pocoflow import DefinitionError, StoreSerializationError, UnregisteredTypeError, register_type
from pocoflow.codec import dumps, loads
from tests.support.kinds import Open, Page, Pair, Point, Size

T = TypeVar("T")


def through(value: Any) -> Any:
    return loads(dumps({"value": value}))["value"]


def test_what_post_init_did_is_carried_and_it_is_not_run_again() -> None:
    point = Point(1)
    point.norm = 7.5

    restored = through(point)

    assert (restored.made, restored.norm) == (1, 7.5)


def test_the_text_names_class_and_fields() -> None:
    assert dumps({"at": Pair(1, "b")}) == (
        '{"at":{"$t":"object","type":"tests.support.kinds.Pair","v":{"left":1,"right":"b"}}}'
    )


def test_a_model_is_not_validated_again_and_knows_which_fields_were_set() -> None:
    page = Page(title="t")
    page.__dict__["title"] = 5

    restored = through(page)

    assert restored == page
    assert restored.model_fields_set == {"title"}


def test_a_model_keeps_extra_fields_and_private_attributes() -> None:
    model = Open(key=1, more=(2, 3))
    model._seen = {"x"}

    restored = through(model)

    assert restored == model
    assert (restored.more, restored._seen) == ((2, 3), {"x"})
    assert restored.model_fields_set == {"key", "more"}


def test_what_is_computed_when_it_is_first_read_is_computed_again() -> None:
    @register_type
    @dataclass
    class Circle:
        radius: float

        @cached_property
        def area(self) -> float:
            return self.radius**2 * 3

    circle = Circle(2.0)
    assert circle.area == 12

    assert "area" not in vars(through(circle))
    assert through(circle).area == 12


def test_a_generic_dataclass_comes_back() -> None:
    @register_type
    @dataclass
    class Box(Generic[T]):
        item: T

    assert through(Box[int](5)) == Box(5)


@pytest.mark.parametrize("make", [lambda: Point(1), lambda: Page(title="t")])
def test_an_attribute_that_is_no_field_is_refused(make: Callable[[], Any]) -> None:
    value = make()
    value.__dict__["colour"] = "red"

    with pytest.raises(StoreSerializationError, match=r"store\['value'\].*'colour' that is no field"):
        dumps({"value": value})


def test_an_object_without_one_of_its_fields_is_refused() -> None:
    point = Point(1)
    del point.norm

    with pytest.raises(StoreSerializationError, match=r"Point without one of its fields: .*'norm'"):
        dumps({"value": [point]})


def test_a_model_without_one_of_its_fields_is_refused() -> None:
    with pytest.raises(StoreSerializationError, match=r"Page without one of its fields: 'title'"):
        dumps({"value": Page.model_construct()})


@register_type
class Stubborn(BaseModel):
    """Does not like to be looked into, and has a word in how it is put together."""

    x: int = 0

    def __getstate__(self) -> dict[Any, Any]:
        if self.x == 1:
            raise RuntimeError("not now")
        return super().__getstate__()

    def __setstate__(self, state: dict[Any, Any]) -> None:
        if state["__dict__"]["x"] == 2:
            raise RuntimeError("not like this")
        super().__setstate__(state)


def test_what_a_class_raises_when_it_is_taken_apart_is_a_refusal_with_its_place() -> None:
    with pytest.raises(StoreSerializationError, match=r"store\['a'\]\[0\] holds a .*Stubborn .*not now"):
        dumps({"a": [Stubborn(x=1)]})


def test_what_a_class_raises_when_it_is_put_together_is_a_refusal() -> None:
    text = dumps({"a": Stubborn(x=2)})

    with pytest.raises(StoreSerializationError, match="not like this"):
        loads(text)


@pytest.mark.parametrize(("key", "shown"), [(5, "5"), (None, "null"), (Size.BIG, r'\{"\$t":"object".*\}')])
def test_a_value_under_a_key_that_is_no_text_is_refused_with_the_key(key: Any, shown: str) -> None:
    with pytest.raises(StoreSerializationError, match=rf"^store\['a'\]\[{shown}\] holds a builtins\.object"):
        dumps({"a": {key: object()}})


def test_a_key_that_cannot_be_carried_is_refused_with_its_number() -> None:
    with pytest.raises(
        StoreSerializationError, match=r"^store\['a'\]\.keys\(\)\[1\] holds a builtins\.object"
    ):
        dumps({"a": {5: 1, object(): 2}})


def test_a_value_inside_an_object_is_refused_with_the_path_to_it() -> None:
    with pytest.raises(StoreSerializationError, match=r"^store\['rows'\]\[0\]\.y\['a'\]\.body holds a "):
        dumps({"rows": [Point(1, {"a": Page(title="t", body=object())})]})


def test_an_object_of_a_subclass_is_not_taken_for_one_of_the_class() -> None:
    class Other(Point):
        pass

    with pytest.raises(
        StoreSerializationError, match=r"Other.*before it is registered: call pocoflow\.regis"
    ):
        dumps({"value": Other(1)})


def test_a_class_that_is_not_registered_here_is_named_with_the_way_out() -> None:
    text = '{"a":{"$t":"object","type":"shop.Order","v":{"id":1}}}'

    with pytest.raises(UnregisteredTypeError) as caught:
        loads(text)

    assert isinstance(caught.value, StoreSerializationError)
    assert str(caught.value) == (
        "checkpoint holds a shop.Order, which is not registered in this process: call "
        "pocoflow.register_type(Order) in the module that defines the flow"
    )


def test_no_module_is_imported_for_a_name_in_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trap.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))

    with pytest.raises(UnregisteredTypeError):
        loads('{"a":{"$t":"object","type":"trap.Order","v":{}}}')

    assert not (tmp_path / "sprung").exists()


def test_a_field_that_came_later_gets_its_default() -> None:
    register_type(make_dataclass("Order1", [("id", int)]), name="v1")
    old = dumps({"order": make(("v1", {"id": 1}))})
    new = make_dataclass("Order2", [("id", int), ("tags", list, field(default_factory=list)), ("n", int, 3)])
    register_type(new, name="v2")

    order = loads(old.replace("v1", "v2"))["order"]

    assert order == new(1, [], 3)


def make(saved: tuple[str, dict[str, Any]]) -> Any:
    """An object of the class registered by this name."""
    from pocoflow.registered import known_name

    known = known_name(saved[0])
    assert known is not None
    return known.cls(**saved[1])


def test_a_model_field_that_came_later_gets_its_default() -> None:
    @register_type(name="grown")
    class Grown(BaseModel):
        id: int
        tags: list[str] = Field(default_factory=list)

    grown = loads('{"a":{"$t":"object","type":"grown","v":{"id":1}}}')["a"]

    assert grown == Grown(id=1)
    assert grown.tags == []


def test_a_field_that_is_gone_is_refused_instead_of_lost() -> None:
    text = dumps({"value": Pair(1)}).replace('"right"', '"middle"')

    with pytest.raises(StoreSerializationError, match=r"Pair, but it has no field 'middle' here"):
        loads(text)


def test_a_class_can_be_read_by_an_older_name() -> None:
    @register_type(name="Invoice")
    @register_type(name="Bill")
    class Invoice(NamedTuple):
        id: int

    assert dumps({"a": Invoice(1)}) == '{"a":{"$t":"object","type":"Invoice","v":{"id":1}}}'
    assert loads('{"a":{"$t":"object","type":"Bill","v":{"id":1}}}')["a"] == Invoice(1)


def test_two_classes_with_one_name_are_refused() -> None:
    register_type(Enum("First", "A"), name="same")

    with pytest.raises(DefinitionError, match=r"two classes are registered as 'same'.*name="):
        register_type(Enum("Second", "A"), name="same")


def test_a_class_that_a_notebook_defines_again_replaces_the_first() -> None:
    first, second = (make_dataclass("Cell", [("x", int)], namespace={"__module__": "__main__"}) for _ in "12")
    for cls in (first, second):
        cls.__module__ = "__main__"
        register_type(cls)

    assert type(through(second(1))) is second


class Plain:
    pass


@dataclass
class Mistake(Exception):
    code: int


class Names(dict[str, int]):
    pass


@pytest.mark.parametrize("cls", [Plain, Mistake, Names, int])
def test_a_class_that_cannot_be_rebuilt_is_refused(cls: type) -> None:
    with pytest.raises(
        DefinitionError, match=rf"{cls.__name__} cannot be rebuilt from a checkpoint: make it"
    ):
        register_type(cls)


@pytest.mark.parametrize("wrong", ["Order", 5, list[int]])
def test_what_is_no_class_is_refused(wrong: Any) -> None:
    with pytest.raises(DefinitionError, match="register_type takes a class"):
        register_type(wrong)


@pytest.mark.parametrize("name", ["", "a\nb", 5])
def test_a_name_that_cannot_be_written_is_refused(name: Any) -> None:
    with pytest.raises(DefinitionError, match="the name of a type must be a printable string"):
        register_type(Point, name=name)


def test_a_base_class_can_be_registered_for_schemas() -> None:
    class Shape(ABC):
        @abstractmethod
        def area(self) -> float: ...

    assert register_type(Shape) is Shape
