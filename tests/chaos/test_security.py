"""A stranger at the broker, the database or the log: what he does costs time, and tells him nothing."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import threading
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from pocoflow.broker import EXPIRE
from pocoflow.cli.main import cli
from pocoflow.control import DONE_CHANNEL, PREFIX
from pocoflow.engine.owner import worker_of
from pocoflow.errors import StoreSerializationError
from pocoflow.guard import guarded_popen
from tests.chaos.arena import PASSWORD, Arena
from tests.chaos.conftest import Found, Tier
from tests.chaos.forgeries import Bomb, checkpoints, disguised, enveloped, junk
from tests.chaos.test_messages import QUEUE, fingerprint, push
from tests.chaos.verify import assert_executions, verify, wait_until_ended
from tests.chaos.workload import Workload
from tests.support.injections import PRINTABLE
from tests.support.messages import message
from tests.support.wait import wait_until
from tests.support.workers import ROOT, environment

SECRET = "sk-live-5ecret-0123456789"
ON_REDIS = re.compile(r'"body": "([A-Za-z0-9+/=]+)"')
MAX_GROWTH_BYTES = 8_000_000  # what a worker may need more after a flood than before: far less than the flood


@pytest.fixture
def arena(enter: Callable[..., Arena], database: str) -> Arena:
    return enter(database=database, password=True)


@pytest.mark.fault("X1", "run ids that would like to be SQL, patterns or commands", short=("postgres",))
def test_a_run_id_means_itself_all_the_way(arena: Arena, found: Found) -> None:
    bystanders = arena.workload(2)
    verify(arena, bystanders, within_s=60)
    before = fingerprint(arena, f"chaos-{bystanders.name}-%")

    work = arena.workload(len(PRINTABLE), suffixes=tuple(end[:150] for end in PRINTABLE), hold="four")
    work.wait_until_started()
    for handle in work.handles.values():
        handle.pause()
        handle.resume()
    with arena.redis() as broker:
        for run_id in work.run_ids:
            broker.set(f"{PREFIX}cancel:{run_id}", 1)  # a forgery: only the database may say so
        work.open_gate()
        proof = verify(arena, work, within_s=60)
        left = [key for key in broker.keys("*") if not key.startswith(b"pocoflow:_kombu.")]

    assert fingerprint(arena, f"chaos-{bystanders.name}-%") == before
    flags = {f"{PREFIX}cancel:{run_id}".encode() for run_id in work.run_ids}
    assert set(left) - {QUEUE.encode(), f"{QUEUE}.sweep".encode()} == flags
    found(f"{len(PRINTABLE)} ids, tables and bystanders unchanged; {proof}")


@pytest.mark.fault("X3", "pickles, YAML and the like as messages, checkpoints and flags", short=("postgres",))
def test_nothing_is_executed_that_stands_in_data(arena: Arena, found: Found) -> None:
    mark = arena.folder / "executed"
    poison = checkpoints(mark)
    poisoned, restarts = rested(arena, len(poison)), arena.supervisor.restarts

    work = arena.workload(10)
    with arena.redis() as broker:
        for run_id in work.run_ids:
            broker.set(f"{PREFIX}cancel:{run_id}", pickle.dumps(Bomb(mark)))
            broker.set(f"{PREFIX}complaint:{run_id}", pickle.dumps(Bomb(mark)))
            broker.publish(DONE_CHANNEL, pickle.dumps(Bomb(mark)))
        push(broker, disguised(mark))
        replace_stores(arena, dict(zip(poisoned.run_ids, poison, strict=True)))
        for handle in poisoned.handles.values():
            handle.resume()
        wait_until(lambda: broker.llen(QUEUE) == 0, timeout_s=60, what="workers to take the messages")
    wait_until_ended(arena, poisoned, 60)
    proof = verify(arena, work, within_s=60)

    assert {handle.status for handle in poisoned.handles.values()} == {"failed"}
    refused = [handle for handle in poisoned.handles.values() if is_refused(handle)]
    assert len(refused) >= len(poison) - 2  # two are JSON, and so data that means nothing
    assert not mark.exists()
    assert arena.supervisor.restarts == restarts
    found(f"{len(disguised(mark))} messages, {len(poison)} checkpoints, nothing executed; {proof}")


@pytest.mark.fault("X4", "forged deaths, hints and time limits of live steps", short=("postgres",))
def test_a_forger_costs_time_and_no_step_is_committed_twice(arena: Arena, tier: Tier, found: Found) -> None:
    held = arena.workload(arena.children // 2, hold="two")
    held.wait_for_executions(2 * len(held.run_ids))
    with arena.redis() as broker:
        push(broker, [message([run_id, 1, holder], task=EXPIRE) for run_id, holder in holders(arena, held)])
        held.wait_for_executions(3 * len(held.run_ids))  # taken for dead: others hold the steps too
    held.open_gate()
    twice = verify(arena, held, within_s=60)

    work = arena.workload(tier(20, 200), pause_s=0.1)
    with arena.redis() as broker:
        for run_id in work.run_ids:
            for step in range(len(work.trail)):
                limits = {"timelimit": [0.01, 0.01], "eta": "2001-01-01T00:00:00+00:00"}
                push(broker, [enveloped([run_id, step], **limits), message([run_id, step + 1])])
        proof = verify(arena, work, within_s=tier(60, 300))

    assert assert_executions(arena, work) == 0
    found(f"forged deaths: {twice}; forged hints and limits: {proof}")


@pytest.mark.fault("X4", "a flood of junk", short=("postgres",))
def test_a_flood_of_junk_changes_nothing_and_stays_nowhere(arena: Arena, tier: Tier, found: Found) -> None:
    verify(arena, arena.workload(2), within_s=60)
    before, count, restarts = fingerprint(arena), tier(1200, 20_000), arena.supervisor.restarts
    flood(arena, count // 4)
    slim = memory_of(arena)
    flood(arena, count)
    assert fingerprint(arena) == before
    grown = max(after - slim[pid] for pid, after in memory_of(arena).items())

    with arena.redis() as broker:
        push(broker, map(junk, range(count // 4)))
        proof = verify(arena, arena.workload(10), within_s=tier(60, 300))

    assert arena.supervisor.restarts == restarts
    assert grown < MAX_GROWTH_BYTES
    found(f"{count} junk messages, no row changed, a worker has grown by {grown / 1e6:.1f} MB; {proof}")


@pytest.mark.fault("X5", "a secret in the store, passwords in all URLs", short=("postgres",))
def test_secrets_stay_in_the_database(arena: Arena, found: Found) -> None:
    marked = arena.log_mark()
    with overheard(arena) as commands:
        work = arena.workload(5, fails=("two",), api_key=SECRET)
        proof = verify(arena, work, within_s=60)
        # What comes last was heard, and so was all before it.
        with arena.redis() as broker:
            broker.publish("the end", "of it")
        wait_until(lambda: any("the end" in command for command in commands), what="the last command")
    told = "".join(repr(event) for handle in work.handles.values() for event in handle.events())
    shown = [CliRunner().invoke(cli, words).output for words in (["config"], ["db", "check"])]
    lines, talk = developing(arena)

    on_redis = "\n".join(
        [*commands, *(str(b64decode(body)) for body in ON_REDIS.findall("\n".join(commands)))]
    )
    assert all(run_id in on_redis for run_id in work.run_ids)
    assert {str(handle.wait(1)["api_key"]) for handle in work.handles.values()} == {SECRET}
    for place in (on_redis, arena.logs(since=marked), told, *shown, *lines, talk):
        assert SECRET not in place
    for place in (arena.logs(since=marked), told, *shown, *lines, talk):
        assert PASSWORD not in place
    found(f"none in {len(commands)} commands to Redis, logs, events, `config`, `ps`; {proof}")


def rested(arena: Arena, count: int) -> Workload:
    """Runs that are paused."""
    work = arena.workload(count, hold="one")
    work.wait_until_started()
    for handle in work.handles.values():
        handle.pause()
    work.open_gate()
    handles = work.handles.values()
    wait_until(lambda: all(handle.status == "paused" for handle in handles), timeout_s=60, every_s=0.1)
    return work


def replace_stores(arena: Arena, stores: dict[str, str]) -> None:
    with create_engine(arena.own_url, poolclass=NullPool).begin() as connection:
        for run_id, store in stores.items():
            for change in ("pf_runs set input", "pf_checkpoints set store_json"):
                connection.execute(
                    text(f"update {change} = :store where run_id = :run"), {"store": store, "run": run_id}
                )


def is_refused(handle: Any) -> bool:
    try:
        return handle.store is None
    except StoreSerializationError:
        return True


def holders(arena: Arena, work: Workload) -> Iterator[tuple[str, str]]:
    """Which process holds each of the runs."""
    for run_id, handle in work.handles.items():
        yield run_id, worker_of(str(handle._row()["owner"]))


def flood(arena: Arena, count: int) -> None:
    with arena.redis() as broker:
        push(broker, map(junk, range(count)))
        wait_until(lambda: broker.llen(QUEUE) == 0, timeout_s=300, what="workers to take the flood")


def memory_of(arena: Arena) -> dict[int, int]:
    """What the main process of each worker has in memory, in bytes."""
    pages = {
        worker.pid: int(Path(f"/proc/{worker.pid}/statm").read_text().split()[1])
        for worker in arena.supervisor.workers
    }
    return {pid: count * os.sysconf("SC_PAGE_SIZE") for pid, count in pages.items()}


@contextmanager
def overheard(arena: Arena) -> Iterator[list[str]]:
    """All commands that reach Redis."""
    commands: list[str] = []
    with arena.redis() as broker, broker.monitor() as monitor:

        def listen() -> None:
            for heard in monitor.listen():
                commands.append(heard["command"])
                if "the end" in heard["command"]:
                    return

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        yield commands
        listener.join(10)


def developing(arena: Arena) -> tuple[list[str], str]:
    """The command lines of all processes of a `pocoflow dev` in this arena, and what it says."""
    path = arena.folder / "dev.txt"
    with path.open("wb") as talk:
        dev = guarded_popen(
            [sys.executable, "-m", "pocoflow", "dev", "--workers", "1"],
            env=environment(arena.cluster.settings),
            cwd=ROOT,
            stdout=talk,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_until(lambda: "POCOFLOW_FLOWS=" in path.read_text(), timeout_s=60, what="pocoflow dev")
            lines = command_lines(arena)
        finally:
            dev.stop()
    assert any("pocoflow.workers" in line for line in lines)
    return lines, path.read_text()


def command_lines(arena: Arena) -> list[str]:
    lines = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if arena.database_url.encode() in (process / "environ").read_bytes():
                lines.append((process / "cmdline").read_text(errors="replace"))
        except OSError:
            continue
    return lines
