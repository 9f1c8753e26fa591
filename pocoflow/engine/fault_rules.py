"""The language of POCOFLOW_FAULTS: at which point a fault strikes, what it does there, how often.

    RULE [, RULE ...]        RULE is [RUN/]POINT[@[NODE][:STEP]]=ACTION[%PROBABILITY][*TIMES]

`in_exec@fetch:2=kill9%0.5*1` kills the process in every second execution of node fetch as step 2, once in
all. What is left out is any. In the names of runs and nodes, what has a meaning here is percent-encoded. A
wrong rule is refused with the words that are known.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import quote, unquote

from pocoflow.errors import SettingsError

# Point to when it comes, in the order in which a step meets them.
POINTS: Mapping[str, str] = MappingProxyType(
    {
        "after_receive": "a worker has taken a hint from the broker",
        "after_claim": "the step is claimed",
        "in_prep": "prep begins",
        "in_exec": "exec begins",
        "after_exec": "exec has returned",
        "in_post": "post begins",
        "before_commit": "the result is ready to be committed",
        "after_commit_before_ack": "the result is committed, the worker does not know yet",
        "after_commit_before_publish": "the hint for the next step is ready to be sent",
        "after_publish": "the hint for the next step is sent",
        "in_heartbeat": "the lease of a long step is to be extended",
        "in_sweep_after_update": "a sweep has taken steps up, their hints are not sent yet",
    }
)
ACTIONS = ("kill9", "sleep", "raise", "drop", "dup", "stop")
# What has no node yet, or is about several at once.
_NODELESS = ("after_receive", "in_sweep_after_update")
# Where there is a hint to swallow or to double.
_HANDING_ON = ("after_receive", "after_commit_before_publish")

_RULE = re.compile(
    r"(?:(?P<run>[^/@=]+)/)?(?P<point>[^/@=]*)(?:@(?P<node>[^:=]*)(?::(?P<step>[^=]*))?)?"
    r"(?:=(?P<action>[^=%*]*)(?:=(?P<value>[^%*]*))?(?:%(?P<probability>[^*]*))?(?:\*(?P<times>.*))?)?"
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an execution stands; `node` is None where nobody knows it."""

    run_id: str
    step: int
    node: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One fault; None stands for any run, node or step, and for any number of times.

    Attributes:
        text: As it was written.
        seconds: How long to sleep.
        times: How often it strikes at most, over all processes.
    """

    text: str
    point: str
    action: str
    run_id: str | None = None
    node: str | None = None
    step: int | None = None
    seconds: float = 0.0
    probability: float = 1.0
    times: int | None = None

    def covers(self, place: Place) -> bool:
        return (
            self.run_id in (None, place.run_id)
            and self.step in (None, place.step)
            and self.node in (None, place.node)
        )


def quoted(name: str) -> str:
    """Return the name of a run or node as a rule takes it."""
    return quote(name, safe=" #()[]")


def parse(spec: str) -> tuple[Rule, ...]:
    """Read rules; raises SettingsError, which names the part that is wrong."""
    return tuple(_rule(part.strip()) for part in re.split("[,;]", spec) if part.strip())


def _rule(text: str) -> Rule:
    found = _RULE.fullmatch(text)
    if found is None:
        raise _wrong(text, "is no rule: write [RUN/]POINT[@[NODE][:STEP]]=ACTION[%PROBABILITY][*TIMES]")
    point, action = found["point"], found["action"]
    if point not in POINTS:
        raise _wrong(text, f"names no point {point!r}: known are {', '.join(POINTS)}")
    if action not in ACTIONS:
        raise _wrong(text, f"names no action {action or ''!r}: known are {', '.join(ACTIONS)}")
    if action in ("drop", "dup") and point not in _HANDING_ON:
        raise _wrong(text, f"has nothing to {action}: that is for {' and '.join(_HANDING_ON)}")
    if found["node"] and point in _NODELESS:
        raise _wrong(text, f"names a node, which is not known {point}: name the step alone, as @:2")
    return Rule(
        text=text,
        point=point,
        action=action,
        run_id=unquote(found["run"]) if found["run"] else None,
        node=unquote(found["node"]) if found["node"] else None,
        step=None if found["step"] is None else int(_number(text, found["step"], "a step", r"\d+")),
        seconds=_seconds(text, action, found["value"]),
        probability=_probability(text, found["probability"]),
        times=None if found["times"] is None else int(_number(text, found["times"], "times", r"[1-9]\d*")),
    )


def _seconds(text: str, action: str, value: str | None) -> float:
    if action == "sleep":
        return _number(text, value or "", "seconds to sleep, as sleep=0.5,")
    if value is not None:
        raise _wrong(text, f"gives {action} the value {value!r}: only sleep takes one")
    return 0.0


def _probability(text: str, value: str | None) -> float:
    number = 1.0 if value is None else _number(text, value, "a probability")
    if not 0 < number <= 1:
        raise _wrong(text, f"has the probability {value}: it is above 0 and at most 1")
    return number


def _number(text: str, value: str, what: str, pattern: str = ".*") -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number < 0 or not re.fullmatch(pattern, value):
        raise _wrong(text, f"wants {what} as a number, got {value!r}")
    return number


def _wrong(text: str, why: str) -> SettingsError:
    return SettingsError(f"POCOFLOW_FAULTS: {text!r} {why}")
