"""The actors of the contract storm in processes of their own, to be counted or to be killed."""

from __future__ import annotations

import os
from itertools import chain, count
from multiprocessing import get_context
from random import Random

from pocoflow.engine.owner import new_owner
from pocoflow.engine.records import Hint
from tests.contract.builders import LAST, at_once, new_run, record
from tests.contract.subjects import SqlSubject
from tests.contract.test_storm import HASTY, WORKERS, Actor

# A server that has imported everything forks them: it takes milliseconds, and they inherit no connection.
PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.chaos.actors"])

# Of several pages each, for a transaction to have a middle.
RESULTS = [record("A", state='{"n":"%s"}' % ("x" * 20_000))] * 4 + [LAST]
Commits = list[tuple[str, int]]


def storm(url: str, seed: int, rounds: int) -> tuple[Commits, list[float]]:
    """Let a few actors do anything to anything, `rounds` times.

    Returns:
        What they committed, and the pauses after which a transaction was tried again.
    """
    retries: list[float] = []
    subject = SqlSubject(url, timing=HASTY, sleep=retries.append)
    actors: list[Actor] = []
    actors += [Actor(subject.ledger, Random(seed * WORKERS + number), actors) for number in range(WORKERS)]
    for _ in range(rounds):
        at_once(WORKERS, lambda number: actors[number].act())
    subject.close()
    return [commit for actor in actors for commit in actor.commits], retries


def commit_until_killed(url: str) -> None:
    """Commit step after step for as long as the process that asked for it lives, others' lost steps too."""
    server, worker = os.getppid(), f"host:{os.getpid()}"
    ledger = SqlSubject(url, timing=HASTY).ledger
    for number in count():
        run_id = f"{worker} run {number}"
        ledger.start(new_run(run_id))
        hints = [Hint(run_id, step) for step in range(len(RESULTS))]
        for hint in chain(hints, ledger.sweep()):
            claim = ledger.claim(hint.run_id, hint.step, owner=new_owner(worker))
            if claim is not None:
                ledger.commit(claim.position, RESULTS[hint.step])
        if os.getppid() != server:
            return
