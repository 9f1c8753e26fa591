"""Every error says what happened in one line, stands in the tree as drawn, and survives a process border."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest

import pocoflow
from pocoflow import errors
from pocoflow.errors import (
    CheckpointNotFoundError,
    MaxStepsError,
    PocoFlowError,
    PoisonStepError,
    RetryAfter,
    RunError,
    StepFailedError,
    StoreKeyError,
    WaitTimeoutError,
)

ALL = [
    error
    for error in vars(errors).values()
    if inspect.isclass(error) and issubclass(error, PocoFlowError) and error.__module__ == errors.__name__
]
MESSAGE = "what happened to 'it', what to do"


def make(error: type[PocoFlowError]) -> PocoFlowError:
    """Return an error that carries a value in each place that it has."""
    if issubclass(error, StepFailedError):
        return error(MESSAGE, "run-1", "fetch", 3, 2, "ValueError", "no such page")
    if issubclass(error, RetryAfter):
        return error(30, MESSAGE)
    return error(MESSAGE, "run-1") if issubclass(error, RunError) else error(MESSAGE)


def attributes(error: PocoFlowError) -> dict[str, object]:
    """Return the value of each attribute that the error's class documents as a property."""
    names = [name for name, _ in inspect.getmembers(type(error), lambda part: isinstance(part, property))]
    return {name: getattr(error, name) for name in names}


def through_pickle(error: PocoFlowError) -> PocoFlowError:
    return pickle.loads(pickle.dumps(error))


@pytest.mark.parametrize("error", ALL)
@pytest.mark.parametrize("copied", [through_pickle, copy.copy, copy.deepcopy])
def test_every_error_survives_a_process_border_with_all_that_it_carries(
    error: type[PocoFlowError], copied: Callable[[PocoFlowError], PocoFlowError]
) -> None:
    original = make(error)

    restored = copied(original)

    assert type(restored) is error
    assert str(restored) == str(original)
    assert MESSAGE in str(restored)
    assert restored.args == original.args
    assert attributes(restored) == attributes(original)


@pytest.mark.parametrize("error", [error for error in ALL if issubclass(error, RunError)])
def test_every_error_about_a_run_names_the_run(error: type[RunError]) -> None:
    assert make(error).run_id == "run-1"


@pytest.mark.parametrize("error", [StepFailedError, PoisonStepError])
def test_a_failed_step_names_node_step_attempts_and_the_error_of_the_node(
    error: type[StepFailedError],
) -> None:
    failed = error(
        MESSAGE,
        run_id="run-1",
        node="fetch",
        step=3,
        attempts=2,
        error_type="ValueError",
        error_text="no such page",
    )

    assert attributes(failed) == {
        "run_id": "run-1",
        "node": "fetch",
        "step": 3,
        "attempts": 2,
        "error_type": "ValueError",
        "error_text": "no such page",
    }


@pytest.mark.parametrize("error", [StoreKeyError, CheckpointNotFoundError])
def test_the_text_of_a_key_error_is_the_message_and_not_its_repr(error: type[PocoFlowError]) -> None:
    assert isinstance(make(error), KeyError)
    assert str(make(error)) == MESSAGE


@pytest.mark.parametrize(
    ("error", "builtin"), [(MaxStepsError, RuntimeError), (WaitTimeoutError, TimeoutError)]
)
def test_code_that_expects_the_built_in_error_catches_ours(
    error: type[PocoFlowError], builtin: type[Exception]
) -> None:
    with pytest.raises(builtin, match=MESSAGE):
        raise make(error)


def test_an_error_without_a_message_has_an_empty_text() -> None:
    assert str(PocoFlowError()) == ""


def test_the_tree_in_the_docstring_is_the_tree_in_the_code() -> None:
    drawn = drawn_tree(errors.__doc__ or "")

    built = {error.__name__: tuple(base.__name__ for base in error.__bases__) for error in ALL}

    assert drawn == built


def drawn_tree(text: str) -> dict[str, tuple[str, ...]]:
    """Return class name to names of its bases, as a tree of box characters shows them."""
    drawn: dict[str, tuple[str, ...]] = {}
    above: list[str] = []
    for line in text.splitlines():
        found = re.match(r"    ((?:[│ ]   )*)([├└]─ )?(\w+Error|RetryAfter)(?:\((\w+)\))?(?:  |$)", line)
        if found is None:
            continue
        bars, branch, name, builtin = found.groups()
        depth = len(bars) // 4 + (branch is not None)
        above[depth:] = [name]
        parent = above[depth - 1] if depth else "Exception"
        drawn[name] = (parent, builtin) if builtin else (parent,)
    return drawn


@pytest.mark.parametrize("error", ALL)
def test_every_error_can_be_imported_from_the_package_and_says_what_it_means(
    error: type[PocoFlowError],
) -> None:
    assert getattr(pocoflow, error.__name__) is error
    assert error.__name__ in pocoflow.__all__
    assert inspect.getdoc(error)


def test_the_package_offers_nothing_that_it_does_not_have() -> None:
    assert [name for name in pocoflow.__all__ if not hasattr(pocoflow, name)] == []
    assert set(pocoflow.__all__) <= set(dir(pocoflow))

    with pytest.raises(AttributeError, match="has no attribute 'Workflow'"):
        pocoflow.Workflow  # noqa: B018


def test_a_retry_after_takes_what_a_header_says() -> None:
    assert RetryAfter("3").seconds == 3.0


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), 1e10, "soon", None, [3]])
def test_a_retry_after_that_is_no_time_is_refused(seconds: Any) -> None:
    with pytest.raises(ValueError, match="RetryAfter takes seconds, from 0 to"):
        RetryAfter(seconds)
