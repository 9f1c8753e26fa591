"""Lengths of time as they are written on a command line: 90s, 30m, 12h, 30d, 2w."""

from __future__ import annotations

import re
from typing import Any

import click

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_WRITTEN = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")


class Duration(click.ParamType[float]):
    """Converts to seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        found = _WRITTEN.fullmatch(str(value).strip().lower())
        if found is None:
            self.fail(f"{value!r} is no length of time: write it as 90s, 30m, 12h, 30d or 2w", param, ctx)
        return float(found[1]) * UNITS_S[found[2]]
