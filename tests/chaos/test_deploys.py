"""Rolling deploys: workers whose code does not know a flow, or knows another version of it."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from pocoflow import FlowChangedError, UnknownFlowError
from tests.chaos.arena import Arena
from tests.chaos.conftest import Found, Tier
from tests.chaos.verify import verify_runs

WITHOUT, BEFORE = "tests.integration.flows", "tests.chaos.flows_before"
UNKNOWN, CHANGED = "flow unknown here, step given back", "flow changed here, step given back"
WAIT_S = 60.0


@pytest.mark.fault(
    "W12",
    "workers without the flow, with another version of it, and with the right one",
    short=("sqlite",),
)
def test_steps_find_their_way_to_a_worker_that_knows_them(
    enter: Callable[..., Arena], database: str, tier: Tier, found: Found
) -> None:
    arena = enter(database=database, workers=0)
    with (
        arena.worker("-c", "2"),
        arena.worker(FLOWS=WITHOUT) as without,
        arena.worker(FLOWS=BEFORE) as before,
    ):
        work = arena.workload(tier(10, 100), fails=("two",))
        proof = verify_runs(arena, work, within_s=WAIT_S)

    back = without.log.count(UNKNOWN), before.log.count(CHANGED)
    assert min(back) > 0
    found(f"given back {back[0]} times by the one, {back[1]} by the other; {proof}")


@pytest.mark.parametrize(
    ("flows", "error", "what"),
    [
        pytest.param(
            WITHOUT,
            UnknownFlowError,
            "no worker knows the flow 'addition'",
            marks=pytest.mark.fault("W12", "no worker knows the flow", short=()),
        ),
        pytest.param(
            BEFORE,
            FlowChangedError,
            "the graph of flow 'addition' has changed, .* node 'one' is not there",
            marks=pytest.mark.fault("W12", "no worker knows the node", short=()),
        ),
    ],
)
def test_a_step_that_no_worker_knows_stops_its_run_with_a_clear_error(
    enter: Callable[..., Arena],
    database: str,
    found: Found,
    flows: str,
    error: type[Exception],
    what: str,
) -> None:
    arena, unroutable_s = enter(database=database, workers=0), 3.0
    work = arena.workload(3)
    work.wait_until_started()
    with arena.worker("-c", "2", FLOWS=flows, UNROUTABLE_S=str(unroutable_s)):
        began = time.monotonic()
        for handle in work.handles.values():
            with pytest.raises(error, match=what):
                handle.wait(WAIT_S)
        took_s = time.monotonic() - began

    assert took_s >= unroutable_s / 2
    assert work.executions() == []
    found(f"stopped after {took_s:.1f} s, allowed {unroutable_s:.0f} s")
