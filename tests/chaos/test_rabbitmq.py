"""Faults of RabbitMQ: it crashes, it forgets, it takes nothing more."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pocoflow.broker import make_app
from pocoflow.settings import Settings
from tests.chaos.arena import Arena, endure
from tests.chaos.conftest import Found, Tier
from tests.chaos.verify import verify, verify_nobody_waited
from tests.support.services import rabbitmqctl

BACK_S = 60.0


@pytest.fixture
def arena(enter: Callable[..., Arena], database: str) -> Arena:
    return enter(broker="rabbitmq", database=database)


@pytest.mark.fault("B9", "RabbitMQ crashes, and its queue is purged", short=())
def test_runs_complete_although_rabbitmq_crashes_and_forgets(arena: Arena, tier: Tier, found: Found) -> None:
    runs, crashes = tier((30, 1), (200, 3))
    work = arena.workload(runs, pause_s=0.05, fails=("two",))
    purged = 0

    for _ in work.moments(crashes):
        arena.broker.kill()
        arena.broker.restart()
        purged += purge(arena)

    found(f"{crashes} crashes, {purged} messages purged")
    found(verify(arena, work, within_s=BACK_S))


@pytest.mark.fault("B9", "RabbitMQ has no memory left and blocks who publishes", short=("postgres",))
def test_nobody_waits_for_a_rabbitmq_that_takes_no_messages(arena: Arena, tier: Tier, found: Found) -> None:
    before = arena.log_mark()
    work = arena.workload(tier(40, 150), over_s=tier(8, 30), pause_s=0.05)

    for _ in work.moments(1):
        rabbitmqctl(arena.broker.folder, "set_vm_memory_high_watermark", "0.000001")
        endure(tier(8, 40))
        rabbitmqctl(arena.broker.folder, "set_vm_memory_high_watermark", "0.4")

    found(verify_nobody_waited(arena, work, within_s=BACK_S, since=before))


@pytest.mark.fault("B9", "RabbitMQ takes connections and commands and never answers", short=())
def test_nobody_waits_for_a_silent_rabbitmq(
    enter: Callable[..., Arena], database: str, tier: Tier, found: Found
) -> None:
    arena = enter(broker="rabbitmq", database=database, wired=True)
    before = arena.log_mark()
    work = arena.workload(tier(40, 150), over_s=tier(8, 30), pause_s=0.05)

    for _ in work.moments(1):
        arena.broker_proxy.freeze()
        endure(tier(10, 60))
        arena.broker_proxy.thaw()

    found(verify_nobody_waited(arena, work, within_s=BACK_S, since=before))


def purge(arena: Arena) -> int:
    with make_app(Settings.load(), arena.broker.url).connection() as connection:
        return int(connection.default_channel.queue_purge("pocoflow"))
