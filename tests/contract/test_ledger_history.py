"""A ledger keeps what each step changed, and gives back the whole store of any of them."""

from __future__ import annotations

from typing import Any

import pytest

from pocoflow import CheckpointNotFoundError, WorkflowDB, codec
from pocoflow.engine import memory
from pocoflow.engine.history import MAX_DEPTH, Trail
from pocoflow.engine.owner import new_owner
from pocoflow.engine.ports import Ledger
from pocoflow.engine.records import Position
from tests.contract.builders import RUN, WORKER, at_once, new_run, record
from tests.contract.subjects import MemorySubject, SqlSubject

LARGE = "x" * 20_000


def chat(turns: int) -> dict[str, Any]:
    """A store in which a list grows, a large value stays, and a small one changes."""
    messages = [{"n": number, "text": f"{number} " + "w" * 900} for number in range(turns)]
    return {"messages": messages, "page": LARGE, "turn": turns}


def begin(ledger: Ledger, data: dict[str, Any], **changes: Any) -> Trail:
    trail = Trail()
    ledger.start(new_run(input=trail.next(codec.dump_values(data), whole=True), **changes))
    return trail


def commit(ledger: Ledger, position: Position, trail: Trail, data: dict[str, Any], **changes: Any) -> None:
    made = trail.next(codec.dump_values(data), whole=position.step == 0)
    assert ledger.commit(position, record(state=made, **changes)) is not None


def claim(ledger: Ledger, step: int, run_id: str = RUN) -> tuple[Position, Trail]:
    claimed = ledger.claim(run_id, step, owner=new_owner(WORKER))
    assert claimed is not None
    return claimed.position, Trail.load(claimed.saved)


def test_each_claim_gets_the_store_as_the_step_before_has_left_it(ledger: Ledger) -> None:
    begin(ledger, chat(0))

    for step in range(2 * MAX_DEPTH + 5):
        position, trail = claim(ledger, step)
        assert trail.data() == chat(step)
        commit(ledger, position, trail, chat(step + 1))

    state = ledger.get_saved(RUN)
    assert state is not None
    assert Trail.load(state).data() == chat(2 * MAX_DEPTH + 5)
    assert len(state.texts) + len(state.blobs) <= 2 * MAX_DEPTH


def test_a_process_that_keeps_the_run_leaves_the_same_history(ledger: Ledger) -> None:
    trail = begin(ledger, chat(0), owner="host:1:" + "0" * 32)
    position = Position(RUN, "flow", 0, "A", 1, "host:1:" + "0" * 32)

    for step in range(MAX_DEPTH + 5):
        commit(ledger, position, trail, chat(step + 1), hold=True)
        position.step += 1

    state = ledger.get_saved(RUN)
    assert state is not None
    assert Trail.load(state).data() == chat(MAX_DEPTH + 5)


def test_a_store_that_is_empty_stays_empty(ledger: Ledger) -> None:
    begin(ledger, {})
    position, trail = claim(ledger, 0)
    commit(ledger, position, trail, {})

    position, trail = claim(ledger, 1)

    assert trail.data() == {}


def test_the_blobs_of_one_run_serve_another(ledger: Ledger) -> None:
    for run_id in ("first", "second"):
        begin(ledger, chat(1), run_id=run_id)
        position, trail = claim(ledger, 0, run_id)
        commit(ledger, position, trail, chat(2))

    assert claim(ledger, 1, "second")[1].data() == chat(2)


def test_sixteen_runs_that_keep_the_same_large_values_at_once_all_have_them(ledger: Ledger) -> None:
    pages = {f"page {number}": f"{number}" * 5000 for number in range(8)}
    for number in range(16):
        begin(ledger, {}, run_id=str(number))

    def step(number: int) -> None:
        position, trail = claim(ledger, 0, str(number))
        commit(ledger, position, trail, dict(reversed(pages.items())) if number % 2 else pages)

    at_once(16, step)

    assert [claim(ledger, 1, str(number))[1].data() for number in range(16)] == [pages] * 16


def test_a_discarded_step_leaves_no_blob(sql_subject: SqlSubject) -> None:
    ledger = sql_subject.ledger
    begin(ledger, {})
    position, trail = claim(ledger, 0)
    ledger.cancel(RUN, force=True)

    made = trail.next(codec.dump_values({"page": LARGE}))
    status = ledger.commit(position, record(state=made))

    assert status is None
    assert sql_subject.count("pf_blobs") == sql_subject.count("pf_blob_uses") == 0


def test_the_memory_forgets_blobs_with_the_last_run_that_has_named_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "MAX_ENDED_RUNS", 1)
    ledger = MemorySubject().ledger
    left = []

    for run_id in ("first", "second", "third"):
        begin(ledger, {"page": "other" if run_id == "third" else LARGE}, run_id=run_id)
        for step, page in enumerate((None, LARGE if run_id != "third" else None)):
            position, trail = claim(ledger, step, run_id)
            commit(ledger, position, trail, {"page": page})
        ledger.cancel(run_id)
        left.append(len(ledger._blobs._texts))

    assert left == [1, 1, 0]
    assert ledger.get_run("second") is None


@pytest.mark.parametrize("runs", [1, 3])
def test_a_large_value_is_kept_once_however_many_steps_and_runs_have_it(
    sql_subject: SqlSubject, runs: int
) -> None:
    ledger = sql_subject.ledger
    for number in range(runs):
        begin(ledger, {"page": LARGE, "n": -1}, run_id=str(number))
        for step in range(40):
            position, trail = claim(ledger, step, str(number))
            commit(ledger, position, trail, {"page": LARGE, "n": step})

    assert (sql_subject.count("pf_blobs"), sql_subject.count("pf_blob_uses")) == (1, runs)


def test_any_two_steps_can_be_compared_also_with_the_input(sql_subject: SqlSubject) -> None:
    ledger = sql_subject.ledger
    begin(ledger, chat(0))
    for step in range(MAX_DEPTH + 3):
        position, trail = claim(ledger, step)
        commit(ledger, position, trail, chat(step + 1))
    database = WorkflowDB(ledger.url.render_as_string(hide_password=False))

    near, far = database.diff(RUN, 4, 5), database.diff(RUN, MAX_DEPTH + 2, -1)

    assert near == {
        "added": {"messages[5]": chat(6)["messages"][5]},
        "removed": {},
        "changed": {"turn": (5, 6)},
    }
    assert far["changed"] == {"turn": (MAX_DEPTH + 3, 0)}
    assert list(far["removed"]) == [f"messages[{number}]" for number in range(MAX_DEPTH + 3)]
    assert database.load_checkpoint(RUN, -1).as_dict() == chat(0)
    for run_id, step in ((RUN, MAX_DEPTH + 3), (RUN, -2), ("nobody", -1)):
        with pytest.raises(CheckpointNotFoundError, match=f"{run_id}' has no checkpoint of step {step}"):
            database.diff(run_id, step, -1)
