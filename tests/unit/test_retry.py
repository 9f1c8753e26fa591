"""When a failed try is followed by another one, and after how many seconds."""

from __future__ import annotations

from typing import Any

import pytest

from pocoflow import Node, RetryAfter
from pocoflow.engine.retry import delay_before_retry

ENOUGH = 5_000


def node(**policy: Any) -> Node:
    """Return a node with these attributes and more tries than any test needs."""
    made = Node()
    for name, value in {"max_retries": ENOUGH, **policy}.items():
        setattr(made, name, value)
    return made


def lowest(low: float, high: float) -> float:
    return low


def highest(low: float, high: float) -> float:
    return high


def delay(node: Node, tries: int = 1, error: BaseException | None = None) -> float | None:
    return delay_before_retry(node, tries, error or ValueError("no luck"))


def test_a_node_that_says_nothing_is_tried_once() -> None:
    assert delay(Node()) is None


def test_tries_follow_at_once_unless_the_node_asks_for_a_delay() -> None:
    assert delay(node()) == 0.0


def test_the_last_try_is_followed_by_none() -> None:
    three = node(max_retries=3, retry_delay=2.0)

    assert [delay(three, tries) for tries in (1, 2, 3, 4)] == [2.0, 2.0, None, None]


def test_the_delay_grows_by_its_factor_with_each_try() -> None:
    growing = node(retry_delay=0.5, retry_backoff=3)

    assert [delay(growing, tries) for tries in (1, 2, 3, 4)] == [0.5, 1.5, 4.5, 13.5]


def test_no_delay_is_longer_than_the_longest() -> None:
    capped = node(retry_delay=1.0, retry_backoff=10.0, max_retry_delay=50.0)

    assert [delay(capped, tries) for tries in (1, 2, 3, 4)] == [1.0, 10.0, 50.0, 50.0]


def test_a_delay_that_no_float_can_hold_is_the_longest() -> None:
    assert delay(node(retry_delay=1.0, retry_backoff=10.0, max_retry_delay=50), ENOUGH - 1) == 50.0


@pytest.mark.parametrize(("chance", "expected"), [(lowest, 6.0), (highest, 10.0)])
def test_jitter_changes_the_delay_by_up_to_its_share(chance: Any, expected: float) -> None:
    shaken = node(retry_delay=4.0, retry_backoff=2.0, retry_jitter=0.25)

    assert delay_before_retry(shaken, 2, ValueError(), chance=chance) == expected


def test_jitter_does_not_bring_a_delay_above_the_longest() -> None:
    shaken = node(retry_delay=4.0, retry_jitter=0.5, max_retry_delay=5.0)

    assert delay_before_retry(shaken, 1, ValueError(), chance=highest) == 5.0


def test_without_jitter_chance_has_no_say() -> None:
    asked: list[tuple[float, float]] = []

    def chance(low: float, high: float) -> float:
        asked.append((low, high))
        return low

    assert delay_before_retry(node(retry_delay=4.0), 1, ValueError(), chance=chance) == 4.0
    assert set(asked) <= {(1.0, 1.0)}


def test_an_unsteady_delay_is_not_the_same_each_time() -> None:
    shaken = node(retry_delay=4.0, retry_jitter=0.5)

    delays = [delay(shaken) for _ in range(50)]

    assert len(set(delays)) > 1
    assert all(seconds is not None and 2.0 <= seconds <= 6.0 for seconds in delays)


@pytest.mark.parametrize("seconds", [0, 7.5, 1000.0])
def test_retry_after_waits_for_its_own_seconds(seconds: float) -> None:
    policy = node(retry_delay=2.0, retry_backoff=2.0, retry_jitter=1.0, max_retry_delay=60.0)

    assert delay(policy, 3, RetryAfter(seconds)) == seconds


def test_retry_after_uses_up_a_try_like_any_other_error() -> None:
    assert delay(node(max_retries=2), 2, RetryAfter(1.0)) is None


def test_retry_after_is_tried_again_although_no_type_names_it() -> None:
    assert delay(node(retry_on=ConnectionError), 1, RetryAfter(1.0)) == 1.0


def test_retry_after_is_given_up_where_the_node_says_so() -> None:
    assert delay(node(give_up_on=RetryAfter), 1, RetryAfter(1.0)) is None


@pytest.mark.parametrize("retry_on", [OSError, (OSError,), (KeyError, OSError)])
@pytest.mark.parametrize(
    ("error", "again"), [(OSError(), True), (ConnectionResetError(), True), (ValueError(), False)]
)
def test_only_the_types_in_retry_on_are_worth_a_try(retry_on: Any, error: Exception, again: bool) -> None:
    assert (delay(node(retry_on=retry_on), 1, error) is not None) is again


@pytest.mark.parametrize("give_up_on", [OSError, (OSError,), (KeyError, OSError)])
@pytest.mark.parametrize(
    ("error", "again"), [(OSError(), False), (ConnectionResetError(), False), (ValueError(), True)]
)
def test_the_types_in_give_up_on_are_not(give_up_on: Any, error: Exception, again: bool) -> None:
    assert (delay(node(give_up_on=give_up_on), 1, error) is not None) is again


def test_give_up_on_is_stronger_than_retry_on() -> None:
    policy = node(retry_on=OSError, give_up_on=FileNotFoundError)

    assert delay(policy, 1, PermissionError()) == 0.0
    assert delay(policy, 1, FileNotFoundError()) is None


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt()])
def test_what_is_no_exception_is_tried_again_only_when_named(error: BaseException) -> None:
    assert delay(node(), 1, error) is None
    assert delay(node(retry_on=BaseException), 1, error) == 0.0
