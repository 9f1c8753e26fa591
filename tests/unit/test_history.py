"""A checkpoint holds what a step has changed, and any of them can be loaded, from few rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocoflow import StoreSerializationError, codec
from pocoflow.engine.history import MAX_DEPTH, Checkpoint, Saved, Trail

LARGE = "x" * 5000


class Rows:
    """The checkpoints of a run, and all blobs, as a ledger keeps them."""

    def __init__(self) -> None:
        self.checkpoints: list[Checkpoint] = []
        self.blobs: dict[str, str] = {}
        self.named: set[str] = set()

    def add(self, checkpoint: Checkpoint) -> None:
        self.checkpoints.append(checkpoint)
        self.named |= checkpoint.new_blobs.keys()
        self.blobs |= {digest: text for digest, text in checkpoint.new_blobs.items() if text is not None}
        assert self.named >= set(checkpoint.blobs)

    def stored(self, step: int) -> Saved:
        chain = self.checkpoints[step - self.checkpoints[step].depth : step + 1]
        named = {digest for checkpoint in chain for digest in checkpoint.blobs}
        return Saved([row.text for row in chain], {digest: self.blobs[digest] for digest in named})

    @property
    def chars(self) -> int:
        return sum(map(len, self.blobs.values())) + sum(len(row.text) for row in self.checkpoints)


def lived(stores: Iterable[dict[Any, Any]]) -> Rows:
    """Let a run go through these stores, in one process."""
    rows, trail = Rows(), Trail()
    for data in stores:
        rows.add(trail.next(codec.dump_values(data)))
    return rows


def load(rows: Rows, step: int) -> dict[Any, Any]:
    return Trail.load(rows.stored(step)).data()


def items(data: dict[Any, Any]) -> list[tuple[Any, Any]]:
    """With their order, which a dict does not compare."""
    return list(data.items())


def chat(turns: int, *, large: int = 900) -> list[dict[str, Any]]:
    messages = [{"role": "user", "text": f"{number} " + "w" * large} for number in range(turns)]
    return [{"messages": messages[:number], "turn": number} for number in range(turns + 1)]


def test_what_a_step_does_not_change_is_not_written_again() -> None:
    first = {"a": "x" * 2000, "b": 1}

    rows = lived([first, {**first, "b": 2}])

    assert rows.checkpoints[1] == Checkpoint("b = 2", depth=1)
    assert load(rows, 1) == {**first, "b": 2}


def test_a_list_that_has_grown_leaves_its_new_items() -> None:
    rows = lived([{"m": ["x" * 2000]}, {"m": ["x" * 2000, {"n": 7}, 8]}])

    assert rows.checkpoints[1].text == 'm + [{"n":7},8]'


@pytest.mark.parametrize("after", [["b"], [], ["a"], ["a", "c", "b"], [["a", "b"]], "ab", ["ab", "b"]])
def test_a_list_that_has_changed_otherwise_is_written_whole(after: Any) -> None:
    pad = "x" * 2000

    rows = lived([{"pad": pad, "m": ["a", "b"]}, {"pad": pad, "m": after}])

    assert rows.checkpoints[1].text.startswith("m = ")
    assert load(rows, 1) == {"pad": pad, "m": after}


def test_a_large_value_is_kept_once_in_a_blob() -> None:
    rows = lived([{"page": LARGE, "n": number} for number in range(300)])

    assert list(rows.blobs.values()) == [f'"{LARGE}"']
    assert rows.chars < 5000 + 300 * 90
    assert load(rows, 299) == {"page": LARGE, "n": 299}


def test_a_store_with_other_keys_or_another_order_comes_back_in_its_order() -> None:
    stores: list[dict[Any, Any]] = [
        {"a": LARGE, "b": LARGE, "c": "y" * 2000},
        {"b": LARGE, "c": "y" * 2000},
        {"b": LARGE, "c": "y" * 2000, "a": 1},
        {"a": 1, "b": LARGE, "c": "y" * 2000},
        {},
        {"new": None},
    ]

    rows = lived(stores)

    assert [items(load(rows, step)) for step in range(6)] == [items(store) for store in stores]


def test_keys_of_any_kind_come_back() -> None:
    data = {"": 1, " a\nb ": 2, "%": 3, "ü\ud800": 4, 5: 5, None: 6, (1, "x"): 7, "$k1": 8, "$t": 9}

    rows = lived([data, {**data, 5: "changed"}, {**data, 5: "z" * 2000}])

    assert items(load(rows, 0)) == items(data)
    assert load(rows, 1) == {**data, 5: "changed"}


def test_a_step_is_loaded_from_few_rows_however_long_the_run() -> None:
    rows = lived(chat(3000, large=100))

    read = [len(stored.texts) + len(stored.blobs) for stored in map(rows.stored, (10, 700, 1999, 3000))]
    assert max(read) <= 3 * (MAX_DEPTH + 1)
    assert load(rows, 1999) == chat(3000, large=100)[1999]


def test_history_grows_with_what_is_written_and_not_with_what_is_there() -> None:
    content = 500 * 930

    half, full = lived(chat(500)).chars, lived(chat(1000)).chars

    assert half < 2.3 * content
    assert full < 2.2 * half


def test_values_that_are_replaced_again_and_again_are_not_read_to_load_the_last() -> None:
    rows = lived([{"page": f"{number}" + "x" * 100_000, "pad": "y" * 3000} for number in range(40)])

    read = [sum(map(len, rows.stored(step).blobs.values())) for step in range(40)]

    assert max(read) < 300_000


def test_a_trail_that_was_loaded_goes_on_like_the_one_that_wrote() -> None:
    stores = chat(200)
    rows = lived(stores[:1])

    for step, data in enumerate(stores[1:]):
        rows.add(Trail.load(rows.stored(step)).next(codec.dump_values(data)))

    assert [row.text for row in rows.checkpoints] == [row.text for row in lived(stores).checkpoints]


def test_a_fork_shares_the_blobs_of_its_parent() -> None:
    rows = lived(chat(100))
    trail = Trail.load(rows.stored(100))
    trail.fork()

    begun = trail.next(codec.dump_values({**chat(100)[100], "turn": -1}), whole=True)

    assert begun.depth == 0
    assert set(begun.new_blobs) == set(begun.blobs)
    kept = {digest for digest, text in begun.new_blobs.items() if text is None}
    assert kept == set(rows.stored(100).blobs)


def test_a_checkpoint_of_an_earlier_version_is_one_object() -> None:
    stored = Saved(['{"query":"ducks","n":{"$t":"tuple","v":[1]}}'])

    assert Trail.load(stored).data() == {"query": "ducks", "n": (1,)}


@pytest.mark.parametrize("text", ["nonsense", "a = ", "a =", "a = {", "a =@ 00", "a - 1", "a + [1]", "a ? 1"])
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(StoreSerializationError, match="checkpoint cannot be read back"):
        Trail.load(Saved([text])).data()


small = st.one_of(st.integers(0, 3), st.sampled_from(["", "s", "x" * 1500, LARGE]), st.none())
values = st.one_of(small, st.lists(small, max_size=5), st.tuples(small))
keys = st.sampled_from(["a", "b", "c d", "é", 1])


@st.composite
def histories(draw: st.DrawFn) -> list[dict[Any, Any]]:
    """Stores that change a little from one to the next: a value, a longer list, a key that goes or comes."""
    data: dict[Any, Any] = draw(st.dictionaries(keys, values, max_size=4))
    stores = [dict(data)]
    for _ in range(draw(st.integers(0, 12))):
        key = draw(keys)
        if isinstance(data.get(key), list) and draw(st.booleans()):
            data[key] = data[key] + draw(st.lists(small, max_size=3))
        elif draw(st.integers(0, 4)) == 0:
            data.pop(key, None)
        else:
            data[key] = draw(values)
        stores.append(dict(data))
    return stores


@given(histories(), st.sets(st.integers(0, 12)))
def test_every_step_comes_back_whoever_wrote_it(stores: list[dict[Any, Any]], handovers: set[int]) -> None:
    rows, trail = Rows(), Trail()

    for step, data in enumerate(stores):
        if step in handovers and step:
            trail = Trail.load(rows.stored(step - 1))
        rows.add(trail.next(codec.dump_values(data), whole=step == 0))

    assert [items(load(rows, step)) for step in range(len(stores))] == [items(data) for data in stores]
