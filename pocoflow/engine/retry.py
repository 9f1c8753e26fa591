"""When a failed step is tried again."""

from __future__ import annotations

import random
from collections.abc import Callable

from pocoflow.errors import RetryAfter
from pocoflow.node import Node


def delay_before_retry(
    node: Node, tries: int, error: BaseException, *, chance: Callable[[float, float], float] = random.uniform
) -> float | None:
    """Return the seconds to wait before the next try, or None when there is none.

    Exponential backoff with proportional jitter: `retry_delay * retry_backoff ** (tries - 1)`, made longer
    or shorter by up to the share `retry_jitter`, and never above `max_retry_delay`.

    Args:
        tries: How often user code was tried until now, from 1.
        chance: Returns a random number between two.
    """
    if tries >= node.max_retries or not worth_a_retry(node, error):
        return None
    if isinstance(error, RetryAfter):
        return error.seconds
    try:
        delay_s = node.retry_delay * float(node.retry_backoff) ** (tries - 1)
    except OverflowError:
        return float(node.max_retry_delay)
    return float(min(delay_s * chance(1 - node.retry_jitter, 1 + node.retry_jitter), node.max_retry_delay))


def worth_a_retry(node: Node, error: BaseException) -> bool:
    """Whether the node wants to be tried again after such an error."""
    if isinstance(error, node.give_up_on):
        return False
    kinds = node.retry_on if isinstance(node.retry_on, tuple) else (node.retry_on,)
    return isinstance(error, (RetryAfter, *kinds))
