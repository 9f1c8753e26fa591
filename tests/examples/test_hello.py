"""The hello example, as a person runs it and as a worker would load it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from examples.hello import build_flow
from pocoflow import Store

ROOT = Path(__file__).resolve().parents[2]


def hello(tmp_path: Path, *args: str) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "hello.py"), *args],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout


@pytest.mark.parametrize(("name", "greeting"), [("Ada", "Hello, Ada!"), ("ADA", "Hello, ADA!!!")])
def test_only_a_name_in_capitals_takes_the_way_by_shout(name: str, greeting: str) -> None:
    store = build_flow().run(Store({"name": name, "greeting": ""}))

    assert store["greeting"] == greeting


def test_the_hooks_tell_each_step_and_the_end(tmp_path: Path) -> None:
    printed = hello(tmp_path)

    assert printed.splitlines() == ["greet -> shout", "shout -> default", "Hello, WORLD!!! (2 steps)"]


def test_the_name_comes_from_the_command_line(tmp_path: Path) -> None:
    printed = hello(tmp_path, "Grace")

    assert printed.splitlines()[-1] == "Hello, Grace! (1 steps)"
