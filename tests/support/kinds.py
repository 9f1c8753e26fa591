"""One class of each kind that can be registered, values of every type, and a way to tell them apart."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, PrivateAttr

from pocoflow import register_type

BERLIN = ZoneInfo("Europe/Berlin")


@register_type
class Colour(Enum):
    RED = (255, 0, 0)
    CRIMSON = RED
    BLUE = object()


@register_type
class Size(IntEnum):
    BIG = 1


@register_type
class Word(StrEnum):
    YES = "yes"


@register_type
class Access(Flag):
    READ = 1
    WRITE = 2


@register_type
@dataclass
class Point:
    x: Any
    y: Any = None
    norm: float = field(init=False, repr=False)
    made: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        self.norm = 1.0
        self.made += 1


@register_type(name="edge")
@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    start: Any
    end: Any = "end"


@register_type
class Pair(NamedTuple):
    left: Any
    right: Any = None


@register_type
class Page(BaseModel):
    title: str
    body: Any = None
    links: list[Any] = []


@register_type
class Open(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)

    key: Any
    _seen: Any = PrivateAttr(default=0)


EVERYTHING: dict[str, Any] = {
    "none": None,
    "bools": [True, False],
    "ints": [0, -1, 2**63, -(2**200), 10**400],
    "floats": [0.1, -0.0, 5e-324, math.inf, -math.inf, math.nan],
    "texts": ["Grüße", "\ud800", "\x00", ""],
    "bytes": b"\x00\xff",
    "tuple": (1, (2, [3])),
    "sets": [{1, "a"}, frozenset({(1, 2)})],
    "keys": {1: "int", 1.5: "float", None: "none", (1, "a"): "tuple", b"b": "bytes", Size.BIG: "enum"},
    "tag": {"$t": "tuple", "v": [1]},
    "moments": [
        datetime(2026, 3, 1, 12, 0, 0, 5),
        datetime(2026, 3, 1, tzinfo=UTC),
        datetime(2026, 3, 1, tzinfo=timezone(timedelta(hours=1), "CET")),
        datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1),
        time(2, 30, tzinfo=BERLIN),
        date(2026, 3, 1),
        timedelta(days=-1, microseconds=1),
    ],
    "decimals": [Decimal("-0"), Decimal("1E+30"), Decimal("NaN"), Decimal("sNaN12"), Decimal("1.10")],
    "uuid": UUID(int=7),
    "paths": [Path("a/../b c"), PurePosixPath("/x"), PureWindowsPath(r"c:\x")],
    "enums": [Colour.RED, Colour.BLUE, Size.BIG, Word.YES, Access.READ | Access.WRITE, Access(0)],
    "records": [Point(1, Edge(start=(1, 2))), Pair("a", {"b": Pair(1)})],
    "models": [Page(title="t", body=Point(1)), Open(key=1, more=(2,)), Page.model_construct(title=5)],
}

TEXT = st.text(st.characters(), max_size=8) | st.sampled_from(
    ["$t", "v", "fold", "zone", "", "\x00", "\ud800", "type", "object"]
)
_OFFSETS = st.builds(
    timezone,
    st.timedeltas(timedelta(hours=-24, microseconds=1), timedelta(hours=24, microseconds=-1)),
) | st.builds(timezone, st.timedeltas(timedelta(hours=-12), timedelta(hours=12)), st.text(max_size=5))
_NAMED = st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"]).map(ZoneInfo)
_ZONES = st.none() | st.just(UTC) | _OFFSETS | _NAMED
_FIELDS = st.text("abc", min_size=1, max_size=3)
_PATHS = TEXT.filter(lambda text: "\x00" not in text)
_HASHABLE_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    TEXT,
    st.binary(max_size=8),
    st.datetimes(timezones=_ZONES, allow_imaginary=True),
    st.dates(),
    st.times(timezones=_ZONES),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.uuids(),
    *(_PATHS.map(kind) for kind in (Path, PurePosixPath, PureWindowsPath)),
    st.sampled_from([*Colour, *Size, *Word, Access.READ, Access.READ | Access.WRITE, Access(0)]),
)
HASHABLES = st.recursive(
    _HASHABLE_SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.frozensets(inner, max_size=3),
        st.builds(Edge, start=inner, end=inner),
        st.builds(Pair, inner, inner),
        st.builds(Open, key=inner),
    ),
    max_leaves=6,
)
VALUES = st.recursive(
    HASHABLES | st.decimals(allow_nan=True),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.sets(HASHABLES, max_size=4),
        st.dictionaries(TEXT, inner, max_size=4),
        st.dictionaries(HASHABLES, inner, max_size=4),
        st.builds(Point, inner, inner),
        st.builds(Page, title=TEXT.filter(lambda text: "\ud800" not in text), body=inner),
        st.dictionaries(_FIELDS, inner, max_size=2).map(lambda more: Open(key=1, **more)),
    ),
    max_leaves=12,
)
STORES = st.dictionaries(TEXT, VALUES, max_size=4)


def exact(value: Any) -> Any:
    """Return something that is equal for two values only if they cannot be told apart."""
    name = type(value).__qualname__
    if isinstance(value, dict):
        return name, [(exact(key), exact(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return name, [exact(item) for item in value]
    if isinstance(value, set | frozenset):
        return name, sorted((exact(item) for item in value), key=repr)
    if isinstance(value, datetime | time):
        zone = getattr(value.tzinfo, "key", None)
        return name, value.replace(tzinfo=None), value.fold, value.utcoffset(), value.tzname(), zone
    if isinstance(value, BaseModel):
        return name, exact(value.__getstate__())
    if dataclasses.is_dataclass(value):
        return name, [(each.name, exact(getattr(value, each.name))) for each in dataclasses.fields(value)]
    return name, repr(value)
