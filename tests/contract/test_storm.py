"""Workers do anything to anything at once: nothing is committed twice, lost, deadlocked or left unsound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from random import Random

import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.pool import NullPool

from pocoflow.engine.owner import new_owner
from pocoflow.engine.ports import Ledger
from pocoflow.engine.records import SAME_HOME, Position, Status
from pocoflow.engine.timing import MAX_BACKOFF_S, Timing
from pocoflow.errors import InvalidTransitionError, RunNotFoundError
from tests.contract.builders import BOOM, LAST, at_once, new_run, record
from tests.contract.subjects import SqlSubject
from tests.support.soundness import assert_sound

WORKERS, ACTS = 4, 800
RUNS_AT_A_TIME, ACTS_PER_RUNS = 6, 40
HOMES = [None, None, "home 0", "home 1"]
# So short that leases run out and hints get lost all the time.
HASTY = Timing(lease_s=0.02, grace_s=0.005, max_crashes=3)
VERBS = {
    "start": 2,
    "claim": 18,
    "commit": 14,
    "fail": 4,
    "release": 2,
    "beat": 3,
    "cancel": 1,
    "pause": 3,
    "resume": 6,
    "interrupt": 1,
    "sweep": 4,
    "expire": 1,
}


@dataclass
class Actor:
    """A worker that does whatever comes to its mind, also with what belongs to others or to the past."""

    ledger: Ledger
    random: Random
    everybody: list[Actor]
    held: list[Position] = field(default_factory=list)
    commits: list[tuple[str, int]] = field(default_factory=list)
    met: set[str] = field(default_factory=set)
    acts: int = 0

    def act(self) -> None:
        for verb in self.random.choices(list(VERBS), list(VERBS.values()), k=ACTS):
            getattr(self, verb)()
            self.acts += 1

    def start(self) -> None:
        run_id, owner = self.any_run(), self.random.choice([None, new_owner("host:1")])
        started = self.ledger.start(new_run(run_id, home=self.random.choice(HOMES), owner=owner))
        self.met.add(run_id)
        if started.created and owner is not None:
            self.held.append(Position(run_id, "flow", 0, "A", 1, owner))

    def claim(self) -> None:
        run_id = self.any_run()
        row = self.ledger.get_run(run_id)
        claim = row and self.ledger.claim(run_id, row["total_steps"], owner=new_owner("host:1"))
        if claim:
            self.held.append(claim.position)

    def commit(self) -> None:
        hold = self.random.random() < 0.3
        for token in self.any_token():
            status = self.ledger.commit(token, record("A", hold=hold))
            if status is not None:
                self.commits.append((token.run_id, token.step))
            if status is Status.RUNNING:
                self.held.append(replace(token, step=token.step + 1, attempt=1))

    def fail(self) -> None:
        retry_in_s, hold = self.random.choice([(None, False), (0.0, False), (0.005, False), (0.005, True)])
        for token in self.any_token():
            self.ledger.fail(token, BOOM, retry_in_s=retry_in_s, hold=hold)

    def release(self) -> None:
        for token in self.any_token():
            self.ledger.release(token, unroutable=self.random.random() < 0.5)

    def beat(self) -> None:
        self.ledger.heartbeat(self.held[-8:])

    def cancel(self) -> None:
        with suppress(RunNotFoundError):
            self.ledger.cancel(self.any_run(), force=self.random.random() < 0.5)

    def pause(self) -> None:
        with suppress(RunNotFoundError, InvalidTransitionError):
            self.ledger.pause(self.any_run())

    def resume(self) -> None:
        with suppress(RunNotFoundError, InvalidTransitionError):
            self.ledger.resume(self.any_run(), home=self.random.choice([*HOMES, SAME_HOME]))

    def interrupt(self) -> None:
        self.ledger.interrupt(self.random.choice(HOMES[2:]))

    def sweep(self) -> None:
        self.ledger.sweep(home=self.random.choice(HOMES))

    def expire(self) -> None:
        self.ledger.expire(self.any_run(), 0, worker="host:1")

    def any_run(self) -> str:
        """One of a few runs that all meet at; now and then they turn to new ones, since runs end."""
        return f"run {self.random.randrange(RUNS_AT_A_TIME)} of {self.acts // ACTS_PER_RUNS}"

    def any_token(self) -> list[Position]:
        """A position, mostly a recent one of its own; none when nobody has any."""
        owner = self if self.random.random() < 0.7 else self.random.choice(self.everybody)
        return [self.random.choice(owner.held[-6:])] if owner.held else []


@pytest.fixture
def hasty_url(database_url: str) -> str:
    """A database that notices a deadlock before anybody could think it was just slow."""
    url = make_url(database_url)
    if url.get_backend_name() == "postgresql":
        engine = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        # Only a superuser may; the others notice after a second.
        with suppress(ProgrammingError), engine.connect() as connection:
            connection.execute(text(f"ALTER DATABASE {url.database} SET deadlock_timeout = '100ms'"))
    return database_url


@pytest.fixture
def retries() -> list[float]:
    """The pauses that the ledger made before it tried a transaction again, after a deadlock or busy lock."""
    return []


@pytest.fixture
def storm(hasty_url: str, retries: list[float]) -> Iterator[SqlSubject]:
    subject = SqlSubject(hasty_url, timing=HASTY, sleep=retries.append)
    yield subject
    subject.close()


@pytest.mark.parametrize("seed", range(2))
def test_a_storm_commits_no_step_twice_and_leaves_every_history_sound(
    storm: SqlSubject, retries: list[float], seed: int
) -> None:
    actors: list[Actor] = []
    actors += [Actor(storm.ledger, Random(seed * WORKERS + number), actors) for number in range(WORKERS)]

    at_once(WORKERS, lambda number: actors[number].act())

    commits = Counter(commit for actor in actors for commit in actor.commits)
    assert retries == []
    assert set(commits.values()) == {1}
    assert_sound(storm.ledger)


def test_after_a_storm_one_worker_that_sweeps_finds_all_that_is_left_to_do(storm: SqlSubject) -> None:
    ledger, actors = storm.ledger, []
    actors += [Actor(ledger, Random(number), actors) for number in range(WORKERS)]
    at_once(WORKERS, lambda number: actors[number].act())

    storm.pass_time(10 * MAX_BACKOFF_S)
    for home in HOMES:
        for hint in ledger.sweep(home=home):
            claim = ledger.claim(hint.run_id, hint.step, owner=new_owner("host:1"))
            assert claim is not None, hint
            ledger.commit(claim.position, LAST)

    statuses = {ledger.get_run(run_id)["status"] for actor in actors for run_id in actor.met}
    assert statuses <= {"completed", "failed", "cancelled", "paused"}
    assert_sound(ledger)
