"""A worker finds every flow in the modules it was told of, and says what it knows when asked for another."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pocoflow import DefinitionError, SettingsError, Store, UnknownFlowError
from pocoflow.engine.records import Position
from pocoflow.registry import Registry

Write = Callable[[str, str], None]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a module to the working directory, where workers import from; it is forgotten after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(name: str, source: str) -> None:
        path = tmp_path / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        head = "from pocoflow import Flow, Node, flow_factory\n\nclass Work(Node):\n    pass\n\n"
        path.write_text(head + textwrap.dedent(source), encoding="utf-8")

    yield write
    for name, loaded in list(sys.modules.items()):
        if str(getattr(loaded, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def at(flow_name: str, node: str = "Work") -> Position:
    return Position("run-1", flow_name, 0, node, 1, "worker:1")


def test_every_flow_at_module_level_is_found_by_its_name(module: Write) -> None:
    module("one", 'a = Flow(start=Work(), flow_name="alpha")\nb = Flow(start=Work(), flow_name="beta")')
    module("deep.two", 'c = Flow(start=Work(), flow_name="gamma")')

    registry = Registry(["one", "deep.two"])

    assert registry.names == ["alpha", "beta", "gamma"]
    assert registry.find(at("gamma")).name == "gamma"
    assert list(registry.find(at("alpha")).graph.nodes) == ["Work"]


def test_a_function_marked_as_factory_is_called_for_its_flow(module: Write) -> None:
    module(
        "one",
        """
        @flow_factory
        def build():
            return Flow(start=Work(), flow_name="made")

        def other():
            raise AssertionError("is not marked, so must not be called")
        """,
    )

    assert Registry(["one"]).names == ["made"]


def test_a_marked_factory_can_still_be_called_by_its_own_module(module: Write) -> None:
    module(
        "one",
        """
        @flow_factory
        def build():
            return Flow(start=Work(), flow_name="made")

        built = build().flow_name
        """,
    )

    Registry(["one"])

    assert sys.modules["one"].built == "made"


def test_a_flow_that_another_module_imports_is_the_same_flow(module: Write) -> None:
    module("one", 'flow = Flow(start=Work(), flow_name="alpha")')
    module("two", "from one import flow\nagain = flow")

    assert Registry(["one", "two"]).names == ["alpha"]


def test_a_factory_that_another_module_imports_is_called_once(module: Write) -> None:
    module(
        "one", '@flow_factory\ndef build():\n    return Flow(start=Work(), flow_name="made")\nalias = build'
    )
    module("two", "from one import build")

    assert Registry(["one", "two", "one"]).names == ["made"]


def test_two_flows_of_one_name_are_refused_with_both_modules(module: Write) -> None:
    module("one", 'flow = Flow(start=Work(), flow_name="alpha")')
    module("two", 'flow = Flow(start=Work(), flow_name="alpha")')

    with pytest.raises(DefinitionError, match="two flows are named 'alpha', in one and in two"):
        Registry(["one", "two"])


def test_an_object_that_answers_to_every_attribute_is_no_factory(module: Write) -> None:
    module(
        "one",
        """
        class Anything:
            def __getattr__(self, name):
                return "yes"

        anything = Anything()
        flow = Flow(start=Work(), flow_name="alpha")
        """,
    )

    assert Registry(["one"]).names == ["alpha"]


def test_a_factory_that_returns_no_flow_is_refused(module: Write) -> None:
    module("one", "@flow_factory\ndef build():\n    Flow(start=Work())")

    with pytest.raises(
        DefinitionError, match=r"flow factory <function build.*> must return a Flow, got None"
    ):
        Registry(["one"])


@pytest.mark.parametrize("name", ["absent", "one.absent", "needs_absent"])
def test_a_module_that_cannot_be_imported_is_refused_with_its_name_and_the_folder(
    module: Write, tmp_path: Path, name: str
) -> None:
    module("one", "")
    module("needs_absent", "import a_library_that_is_not_installed")

    with pytest.raises(SettingsError) as caught:
        Registry([name])

    assert str(caught.value).startswith(
        f"POCOFLOW_FLOWS names {name!r}, which cannot be imported from {tmp_path}: No module named"
    )


def test_an_error_in_a_module_is_shown_as_it_is(module: Write) -> None:
    module("one", "raise ZeroDivisionError('at import')")

    with pytest.raises(ZeroDivisionError, match="at import"):
        Registry(["one"])


def test_an_unknown_flow_is_refused_with_what_there_is_and_what_to_do(module: Write) -> None:
    module("one", 'flow = Flow(start=Work(), flow_name="alpha")')

    with pytest.raises(UnknownFlowError) as caught:
        Registry(["one"]).find(at("omega"))

    assert isinstance(caught.value, LookupError)
    assert str(caught.value) == (
        "no worker knows the flow 'omega': POCOFLOW_FLOWS='one' has alpha; "
        "add the module that defines it to POCOFLOW_FLOWS of the workers"
    )


def test_a_worker_without_any_module_says_so() -> None:
    with pytest.raises(UnknownFlowError, match="POCOFLOW_FLOWS='' has no flow"):
        Registry([]).find(at("omega"))


def test_the_queues_that_nodes_name_are_known(module: Write) -> None:
    module(
        "one",
        """
        gpu, slow = Work(), Work()
        gpu.queue, slow.queue = "gpu", "slow"
        first = Flow(start=Work().then("default", gpu), flow_name="alpha")
        second = Flow(start=slow.then("default", gpu), flow_name="beta")
        """,
    )

    registry = Registry(["one"])

    assert registry.queues == ["gpu", "slow"]


def test_hooks_of_a_flow_at_module_level_are_those_that_a_worker_calls(module: Write) -> None:
    module(
        "one",
        'heard = []\nflow = Flow(start=Work(), flow_name="alpha").on("flow_end", lambda *a: heard.append(a))',
    )

    Registry(["one"]).find(at("alpha")).hooks.fire("flow_end", 1, store=Store())

    assert sys.modules["one"].heard == [(1, {})]
