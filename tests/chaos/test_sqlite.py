"""Faults of an SQLite file and of those who share it: a long reader, a kill in mid-commit, a full disk."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random

import pytest

from pocoflow import DatabaseError
from pocoflow.db import shared_file
from pocoflow.db.connect import MAX_IDLE_WAL_BYTES
from pocoflow.db.workflow_db import WorkflowDB
from tests.chaos.actors import PROCESSES, commit_until_killed
from tests.chaos.arena import LEASE_S, Arena, endure
from tests.chaos.conftest import Found, Tier
from tests.chaos.flows import DISK_FULL
from tests.chaos.verify import TOOK, assert_no_promise_broken, verify
from tests.contract.test_storm import HASTY
from tests.support.wait import process_state, wait_until

WRITERS = 3
# Of the WAL format: the header of the file, that of each frame, and in the index how many frames may have
# been copied into the database by now. Those had reached the disk before.
WAL_HEADER, FRAME_HEADER, BACKFILL_OFFSET = 32, 24, 128


class Writers:
    """Processes that write to one file as quickly as they can."""

    def __init__(self, path: Path, *, seed: int) -> None:
        self._url, self._random = f"sqlite:///{path}", Random(seed)
        self._processes = [self._start() for _ in range(WRITERS)]

    def __enter__(self) -> Writers:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for process in self._processes:
            process.kill()
            process.join()

    def freeze(self) -> None:
        """Stop all of them where they are; raises AssertionError if one has ended by itself."""
        for process in self._processes:
            assert process.exitcode is None, f"a writer ended with exit code {process.exitcode}"
            os.kill(process.pid or 0, signal.SIGSTOP)
        stopped = [process.pid or 0 for process in self._processes]
        wait_until(lambda: {process_state(pid) for pid in stopped} == {"T"}, every_s=0.001)

    def kill_some_and_thaw(self) -> int:
        """Kill -9 one of them, or all; start as many anew.

        Returns:
            How many were killed.
        """
        killed = self._random.choice([1, 1, 1, WRITERS])
        doomed = self._random.sample(self._processes, killed)
        for process in self._processes:
            os.kill(process.pid or 0, signal.SIGKILL if process in doomed else signal.SIGCONT)
        for process in doomed:
            process.join()
        survivors = [process for process in self._processes if process not in doomed]
        self._processes = [*survivors, *(self._start() for _ in doomed)]
        return killed

    def _start(self) -> BaseProcess:
        process = PROCESSES.Process(target=commit_until_killed, args=(self._url,), daemon=True)
        process.start()
        return process


def is_in_commit(path: Path) -> bool:
    """Whether somebody holds the write lock; the file is not open in this process otherwise."""
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("begin immediate")
        except sqlite3.OperationalError:
            return True
        connection.execute("rollback")
    return False


def power_cut(path: Path, folder: Path, pick: Random) -> Path:
    """Copy what a disk may hold when the power fails now: the end of the WAL has perhaps not reached it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    copy = folder / path.name
    wal, index = path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")
    shutil.copy(path, copy)
    if not wal.exists():
        return copy
    written = wal.read_bytes()
    if len(written) > WAL_HEADER and pick.random() < 0.5:
        (page,) = struct.unpack_from(">I", written, 8)
        (safe,) = struct.unpack_from("=I", index.read_bytes(), BACKFILL_OFFSET)
        safe_bytes = WAL_HEADER + safe * (FRAME_HEADER + page)
        written = written[: pick.randint(min(safe_bytes, len(written)), len(written))]
    (folder / wal.name).write_bytes(written)
    return copy


def assert_intact(path: Path) -> int:
    """No page is broken and no promise; returns how many steps are in it."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]
        if not connection.execute("select 1 from sqlite_master where name = 'pf_events'").fetchone():
            return 0  # the power went before the tables were made
        (steps,) = connection.execute("select count(*) from pf_checkpoints").fetchone()
    assert_no_promise_broken(f"sqlite:///{path}", max_crashes=HASTY.max_crashes)
    return int(steps)


@pytest.mark.fault("D8", "kill -9 in mid-commit, and power cuts", database="sqlite")
def test_a_file_is_whole_whoever_is_killed_while_writing_it(tmp_path: Path, tier: Tier, found: Found) -> None:
    kills, look_each = tier((40, 1), (500, 10))
    path, pick = tmp_path / "pocoflow.db", Random(8)
    killed = in_commit = steps = moments = 0

    with Writers(path, seed=8) as writers:
        while killed < kills:
            endure(pick.uniform(0.005, 0.06))
            writers.freeze()
            moments += 1
            in_commit += is_in_commit(path)
            copy = power_cut(path, tmp_path / "cut", pick)
            killed += writers.kill_some_and_thaw()
            if moments % look_each == 0:
                steps = max(steps, assert_intact(copy))

    assert in_commit > moments / 10
    found(
        f"{killed} killed at {moments} moments, {in_commit} in a transaction; integrity_check ok and no "
        f"promise broken in {moments // look_each} power cuts and at the end, {assert_intact(path)} steps"
    )
    assert steps > 0


@pytest.mark.fault("D7", "eight processes write, and a monitor reads for long", database="sqlite")
def test_a_long_reader_holds_nobody_up_and_the_wal_shrinks_again(
    enter: Callable[..., Arena], tier: Tier, found: Found
) -> None:
    arena = enter(database="sqlite", children=4)
    runs, reads_s = tier((60, 3.0), (600, 60.0))
    wal = arena.folder / "pocoflow.db-wal"
    arena.meet(within_s=60)
    before = arena.log_mark()
    with closing(sqlite3.connect(arena.folder / "pocoflow.db", isolation_level=None)) as monitor:
        monitor.execute("begin")
        monitor.execute("select count(*) from pf_runs").fetchone()
        work = arena.workload(runs, over_s=reads_s, pause_s=0.0)
        work.wait_until_started()
        proof = verify(arena, work, within_s=60)
        longest = wal.stat().st_size
        monitor.execute("rollback")

    after = arena.workload(runs, pause_s=0.0)
    verify(arena, after, within_s=60)

    log = arena.logs(since=before)
    assert "locked" not in log
    slowest_s = max(map(float, TOOK.findall(log)))
    assert slowest_s < tier(5, 1)
    # Half as much again is what a busy moment may add.
    assert longest > 1.5 * MAX_IDLE_WAL_BYTES >= wal.stat().st_size
    found(
        f"slowest step {slowest_s:.2f} s; WAL {longest >> 10} KiB with the reader, "
        f"{wal.stat().st_size >> 10} KiB after as many runs more; {proof}"
    )


@pytest.mark.fault("D5", "the disk is full", database="sqlite")
def test_finished_steps_wait_for_room_on_a_full_disk(
    enter: Callable[..., Arena], tier: Tier, found: Found
) -> None:
    arena = enter(database="sqlite")
    # Longer than a step may be lost, were each commit that finds no room a lost worker.
    runs, full_s = tier((20, 4.0), (100, 6 * LEASE_S))
    work = arena.workload(runs, over_s=2, pause_s=0.05)

    for _ in work.moments(1):
        (arena.folder / DISK_FULL).touch()
        endure(full_s)
        (arena.folder / DISK_FULL).unlink()
    proof = verify(arena, work, within_s=60)

    assert len(work.executions()) == work.steps
    found(f"full for {full_s:.0f} s; {proof}")


@pytest.mark.fault("D9", "the file is on a network share, and SQLite is of any version", database="sqlite")
def test_an_unsafe_place_is_refused_and_an_unsafe_version_is_named(
    enter: Callable[..., Arena], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: Found
) -> None:
    arena = enter(database="sqlite")
    arena.meet(within_s=60)
    warned = [worker.log.count("can, rarely, corrupt") for worker in arena.supervisor.workers]
    mounts = tmp_path / "mounts"
    mounts.write_text(f"server:/ / ext4 rw 0 0\nserver:/runs {tmp_path} nfs4 rw 0 0\n")
    monkeypatch.setattr(shared_file, "MOUNTS", mounts)

    with pytest.raises(DatabaseError, match=r"nfs4.*local disk, or use Postgres"):
        WorkflowDB(tmp_path / "runs.db")

    unsafe = not shared_file.is_mended(sqlite3.sqlite_version_info)
    assert warned == [int(unsafe)] * len(warned)
    found(f"refused; {sqlite3.sqlite_version} {'named once by' if unsafe else 'accepted by'} each worker")
