"""What differs between two stores: which values were added, removed and changed, and where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

from pocoflow import codec
from pocoflow.engine.secrecy import MARK, load_values

# Equal to nothing but their like: no need to compare the texts that a checkpoint would hold.
_PLAIN = (str, int, bool, bytes, type(None))
_MISSING: Any = object()


class StoreDiff(TypedDict):
    """What leads from one store to another, by path, as in `messages[3].text`.

    `changed` holds pairs: the value before, and after. A path says where the value is now, or was, if it was
    removed. Items put into a list, or taken out of it, do not make those behind them count as changed.
    """

    added: dict[str, Any]
    removed: dict[str, Any]
    changed: dict[str, tuple[Any, Any]]


class _Difference(NamedTuple):
    path: str
    before: Any
    after: Any


def diff(before: Mapping[str, str], after: Mapping[str, str]) -> StoreDiff:
    """Return what differs between two stores, given as `codec.dump_values` writes them.

    Values are equal if they would be written the same: 1, 1.0 and True are three values. The order of keys
    does not matter. What has the same text is not even decoded. A secret that cannot be decrypted is masked,
    and whether it has changed is not told.

    Raises:
        StoreSerializationError: A text is not what `dump_values` writes.
    """
    names = [name for name in {**before, **after} if not _known_same(before.get(name), after.get(name))]
    old, new = (load_values({name: side[name] for name in names if name in side}) for side in (before, after))
    made = StoreDiff(added={}, removed={}, changed={})
    for path, was, now in _in_dicts("", old, new):
        if was is _MISSING:
            made["added"][path] = now
        elif now is _MISSING:
            made["removed"][path] = was
        else:
            made["changed"][path] = (was, now)
    return made


def _known_same(before: str | None, after: str | None) -> bool:
    """Whether there is nothing to compare; a secret is another token each time that it is written."""
    if before is None or after is None:
        return False
    return before == after or (before.startswith(MARK) and after.startswith(MARK))


def _differences(path: str, before: Any, after: Any) -> Iterator[_Difference]:
    if type(before) is type(after):
        if type(before) is dict:
            yield from _in_dicts(path, before, after)
            return
        if type(before) in (list, tuple):
            yield from _in_lists(path, before, after)
            return
    if not _same(before, after):
        yield _Difference(path, before, after)


def _in_dicts(path: str, before: dict[Any, Any], after: dict[Any, Any]) -> Iterator[_Difference]:
    old, new = _by_exact_key(before), _by_exact_key(after)
    for key in {**old, **new}:
        where, was, now = _below(path, key[1]), old.get(key, _MISSING), new.get(key, _MISSING)
        if was is _MISSING or now is _MISSING:
            yield _Difference(where, was, now)
        else:
            yield from _differences(where, was, now)


def _in_lists(path: str, before: Sequence[Any], after: Sequence[Any]) -> Iterator[_Difference]:
    shared = min(len(before), len(after))
    first = 0
    while first < shared and _same(before[first], after[first]):
        first += 1
    behind = 0
    while behind < shared - first and _same(before[-1 - behind], after[-1 - behind]):
        behind += 1
    for index in range(first, shared - behind):
        yield from _differences(f"{path}[{index}]", before[index], after[index])
    for index in range(shared - behind, len(before) - behind):
        yield _Difference(f"{path}[{index}]", before[index], _MISSING)
    for index in range(shared - behind, len(after) - behind):
        yield _Difference(f"{path}[{index}]", _MISSING, after[index])


def _same(before: Any, after: Any) -> bool:
    kind = type(before)
    if kind is not type(after):
        return False
    if kind in _PLAIN:
        return bool(before == after)
    if kind is dict:
        return before.keys() == after.keys() and next(_in_dicts("", before, after), None) is None
    if kind in (list, tuple):
        return len(before) == len(after) and all(map(_same, before, after))
    return codec.dump_values({"": before}) == codec.dump_values({"": after})


def _by_exact_key(values: dict[Any, Any]) -> dict[tuple[type, Any], Any]:
    """The same values by keys that tell 1 from True."""
    return {(type(key), key): value for key, value in values.items()}


def _below(path: str, key: Any) -> str:
    if type(key) is not str or not key.isidentifier():
        return f"{path}[{key!r}]"
    return f"{path}.{key}" if path else key
