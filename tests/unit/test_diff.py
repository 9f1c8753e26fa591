"""What differs between two stores is told by path, to the last type, and leads from one to the other."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocoflow import codec
from pocoflow.engine.diff import StoreDiff, diff


def between(before: dict[Any, Any], after: dict[Any, Any]) -> StoreDiff:
    return diff(codec.dump_values(before), codec.dump_values(after))


def only(**found: Any) -> StoreDiff:
    return StoreDiff(**{"added": {}, "removed": {}, "changed": {}, **found})  # type: ignore[typeddict-item]


def test_keys_are_added_removed_and_changed() -> None:
    found = between({"a": 1, "b": 2, "c": 3}, {"c": 4, "d": 5, "a": 1})

    assert found == {"added": {"d": 5}, "removed": {"b": 2}, "changed": {"c": (3, 4)}}


def test_a_path_leads_into_dicts_lists_and_tuples() -> None:
    before = {"messages": [{"n": 0, "text": "a"}, {"n": 1, "text": "b"}], "pair": (1, {"x y": 2, 3: 4})}
    after = {"messages": [{"n": 0, "text": "a"}, {"n": 1, "text": "c"}], "pair": (1, {"x y": 5, 3: 6})}

    assert between(before, after) == only(
        changed={"messages[1].text": ("b", "c"), "pair[1]['x y']": (2, 5), "pair[1][3]": (4, 6)}
    )


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ([1, 2], [1, 2, 3, 4], only(added={"x[2]": 3, "x[3]": 4})),
        ([1, 2, 3], [1], only(removed={"x[1]": 2, "x[2]": 3})),
        ([1, 2, 3], [0, 1, 2, 3], only(added={"x[0]": 0})),
        ([1, 2, 3, 4], [1, 4], only(removed={"x[1]": 2, "x[2]": 3})),
        ([1, 2, 3], [1, 9, 8, 3], only(changed={"x[1]": (2, 9)}, added={"x[2]": 8})),
        ([1, 1], [1, 1, 1], only(added={"x[2]": 1})),
        ([], [1], only(added={"x[0]": 1})),
    ],
)
def test_in_a_list_what_comes_before_and_after_all_changes_stays(
    before: list[int], after: list[int], found: StoreDiff
) -> None:
    assert between({"x": before}, {"x": after}) == found


@pytest.mark.parametrize(
    ("before", "after"),
    [(1, True), (1, 1.0), (0.0, -0.0), ([1], (1,)), ({1}, frozenset({1})), (Decimal("1.0"), Decimal("1.00"))],
)
def test_values_of_another_type_or_form_have_changed_at_any_depth(before: Any, after: Any) -> None:
    found = between({"x": before, "deep": [{"y": before}]}, {"x": after, "deep": [{"y": after}]})

    assert list(found["changed"]) == ["x", "deep[0].y"]
    assert [type(value) for value in found["changed"]["x"]] == [type(before), type(after)]


def test_a_key_of_another_type_is_another_key() -> None:
    assert between({"x": {1: "a"}}, {"x": {True: "a"}}) == only(removed={"x[1]": "a"}, added={"x[True]": "a"})


def test_neither_order_nor_a_nan_makes_a_difference() -> None:
    before = {"a": {"x": math.nan, "y": {2, 1}}, "b": [math.nan, 1]}
    after = {"b": [math.nan, 2], "a": {"y": {1, 2}, "x": math.nan}}

    assert between(before, after) == only(changed={"b[1]": (1, 2)})


def test_a_key_of_the_store_that_is_no_name_is_quoted() -> None:
    assert between({}, {"a b": 1, 7: 2, "": 3}) == only(added={"['a b']": 1, "[7]": 2, "['']": 3})


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.floats(0, 2) | st.text("ab", max_size=2),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=12,
)
STORES = st.dictionaries(st.sampled_from("xyz"), VALUES, max_size=3)


@given(STORES, STORES)
def test_there_is_a_difference_exactly_where_the_texts_differ(before: Any, after: Any) -> None:
    found = between(before, after)

    differs = _sorted(before) != _sorted(after)
    assert any(found.values()) == differs
    assert len(between(after, before)["added"]) == len(found["removed"])


def _sorted(data: dict[str, Any]) -> Any:
    return {
        name: json.dumps(json.loads(text), sort_keys=True) for name, text in codec.dump_values(data).items()
    }
