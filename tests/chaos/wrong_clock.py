"""A clock that is wrong by as many seconds as a file says, at any moment, for a worker that imports this.

The file is called like the session of the worker, and the folder for all of them is in POCOFLOW_TEST_CLOCKS.
Without that, importing this changes nothing. It must be the first of the modules with flows.
"""

from __future__ import annotations

import datetime
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

VARIABLE = "TEST_CLOCKS"
FOLDER = os.environ.get(f"POCOFLOW_{VARIABLE}")

_time, _time_ns, _datetime = time.time, time.time_ns, datetime.datetime


def set_wrong(folder: Path, pid: int, seconds: float) -> None:
    """Make the clock of this worker wrong from now on."""
    folder.mkdir(exist_ok=True)
    new = folder / f"{pid}.new"
    new.write_text(str(seconds))
    new.rename(folder / str(pid))


def _wrong_by_s() -> float:
    with suppress(FileNotFoundError):
        return float((Path(str(FOLDER)) / str(os.getsid(0))).read_text())
    return 0.0


class _LikeDatetime(type):
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, _datetime)

    def __subclasscheck__(cls, kind: type) -> bool:
        return issubclass(kind, _datetime)


class _WrongDatetime(_datetime, metaclass=_LikeDatetime):
    """Makes real datetimes, of which only those for now are wrong."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return _datetime(*args, **kwargs)

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return _datetime.now(tz) + datetime.timedelta(seconds=_wrong_by_s())

    @classmethod
    def utcnow(cls) -> Any:
        return cls.now(datetime.UTC).replace(tzinfo=None)


def _replace(real: Any, wrong: Any) -> None:
    """Also where a module has imported it under a name of its own."""
    for module in list(sys.modules.values()):
        names = vars(module) if module is not None and module.__name__ != __name__ else {}
        for name in [name for name, value in list(names.items()) if value is real]:
            setattr(module, name, wrong)


if FOLDER is not None:
    _replace(_time, lambda: _time() + _wrong_by_s())
    _replace(_time_ns, lambda: _time_ns() + round(_wrong_by_s() * 1e9))
    _replace(_datetime, _WrongDatetime)
