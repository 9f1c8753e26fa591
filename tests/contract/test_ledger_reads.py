"""What can be read of a run, on every ledger that we ship."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from pocoflow.engine.ports import Ledger
from pocoflow.engine.rows import EventRow, RunRow, Sighting, Standing
from tests.contract.builders import BOOM, HELD, INPUT, LAST, RUN, facts, new_run, record, started, take, whole


def test_of_an_unknown_run_there_is_nothing_to_read(ledger: Ledger) -> None:
    assert ledger.get_run("nobody") is None
    assert ledger.get_saved("nobody") is None
    assert ledger.get_events("nobody") == []


def test_the_state_is_the_input_until_a_step_was_committed(ledger: Ledger) -> None:
    position = started(ledger)
    first = ledger.get_saved(RUN)

    ledger.commit(position, record(state='{"n":1}'))

    assert (first, ledger.get_saved(RUN)) == (whole(INPUT), whole('{"n":1}'))


def test_events_can_be_read_on_from_the_last_one_seen(ledger: Ledger) -> None:
    position = started(ledger)
    seen = ledger.get_events(RUN)
    ledger.commit(position, LAST)

    new = ledger.get_events(RUN, after=seen[-1]["id"])

    assert [event["event"] for event in new] == ["node_start", "node_end", "flow_end"]
    assert ledger.get_events(RUN, after=new[-1]["id"]) == []
    assert ledger.get_events(RUN) == seen + new


def test_the_events_of_one_run_are_not_those_of_another(ledger: Ledger) -> None:
    ledger.start(new_run("other"))
    ledger.start(new_run())

    assert [event["run_id"] for event in ledger.get_events(RUN)] == [RUN]


def test_times_are_iso_8601_in_utc_with_milliseconds(ledger: Ledger) -> None:
    ledger.commit(started(ledger), LAST)
    moments = [*facts(ledger, "created_at", "started_at", "completed_at"), ledger.get_events(RUN)[0]["ts"]]

    for moment in moments:
        parsed = datetime.fromisoformat(moment)
        assert parsed.tzinfo is not None
        assert moment == parsed.astimezone(UTC).isoformat(timespec="milliseconds")


def test_a_run_shows_every_field_that_its_readers_know(ledger: Ledger) -> None:
    ledger.start(new_run())

    shown = ledger.get_run(RUN)

    assert shown is not None
    assert set(RunRow.__annotations__) <= set(shown)


def test_an_event_shows_exactly_the_fields_that_its_readers_know(ledger: Ledger) -> None:
    ledger.start(new_run())

    assert set(ledger.get_events(RUN)[0]) == set(EventRow.__annotations__)


def test_how_runs_stand_is_what_their_rows_say(ledger: Ledger) -> None:
    ledger.start(new_run("waiting", queue="gpu"))
    ledger.start(new_run("going on"))
    ledger.commit(take(ledger, run_id="going on"), record())
    ledger.start(new_run("failed"))
    ledger.fail(take(ledger, run_id="failed"), BOOM)
    run_ids = ["waiting", "going on", "failed"]

    changes: Any = ledger.get_changes(dict.fromkeys(run_ids, ""))

    rows: dict[str, Any] = {run_id: ledger.get_run(run_id) for run_id in run_ids}
    assert [rows[run_id]["status"] for run_id in run_ids] == ["queued", "queued", "failed"]
    assert changes.keys() == set(run_ids)
    for run_id in run_ids:
        assert set(changes[run_id]) == set(Sighting.__annotations__)
        assert all(changes[run_id][name] == rows[run_id][name] for name in Standing.__annotations__)


def test_every_change_of_how_a_run_stands_is_told_once(ledger: Ledger) -> None:
    def look() -> Any:
        """What is told of the run, and then that there is nothing more to tell."""
        seen = ledger.get_changes({RUN: mark[-1]}).get(RUN)
        assert seen is not None
        mark.append(seen["mark"])
        assert ledger.get_changes({RUN: mark[-1]}) == {}
        return seen["status"], seen["total_steps"], seen["attempt"], seen["error_type"]

    mark, told = [""], []
    ledger.start(new_run(home="here"))
    told.append(look())
    position = take(ledger)
    told.append(look())
    ledger.fail(position, BOOM, retry_in_s=0.0, hold=True)
    told.append(look())
    ledger.fail(replace(position, attempt=2), BOOM, retry_in_s=0.0, hold=True)
    told.append(look())
    ledger.release(replace(position, attempt=3))
    told.append(look())
    position = take(ledger)
    told.append(look())
    ledger.commit(position, HELD)
    told.append(look())
    ledger.commit(replace(position, step=1), HELD)
    told.append(look())
    ledger.interrupt("here")
    told.append(look())
    ledger.resume(RUN, home=None)
    told.append(look())
    ledger.commit(take(ledger, 2), LAST)
    told.append(look())

    assert told == [
        ("queued", 0, 0, None),
        ("running", 0, 1, None),
        ("running", 0, 2, "ValueError"),
        ("running", 0, 3, "ValueError"),
        ("queued", 0, 2, "ValueError"),
        ("running", 0, 3, "ValueError"),
        ("running", 1, 1, None),
        ("running", 2, 1, None),
        ("paused", 2, 1, "RunInterruptedError"),
        ("queued", 2, 0, None),
        ("completed", 3, 0, None),
    ]


@pytest.mark.parametrize("strange", ["nobody", "", "a\0b", "\ud800", "x" * 100_000])
def test_an_id_that_no_run_can_have_hides_none_of_the_others(ledger: Ledger, strange: str) -> None:
    name = "läuft '\"[]{},\\\n"
    ledger.start(new_run(name))

    changes = ledger.get_changes({strange: "", name: ""})

    assert changes.keys() == {strange, name}
    assert changes[strange] is None
    assert changes[name] is not None


def test_a_run_that_is_gone_is_told_of(ledger: Ledger) -> None:
    assert ledger.get_changes({"gone": "running 1 1 "}) == {"gone": None}


def test_who_asks_about_no_run_is_told_nothing(ledger: Ledger) -> None:
    ledger.start(new_run())

    assert ledger.get_changes({}) == {}


def test_ten_thousand_runs_are_looked_at_in_one_read(ledger: Ledger) -> None:
    ledger.start(new_run())
    known = {f"some-flow-{number:016x}": "" for number in range(10_000)}

    changes = ledger.get_changes({**known, RUN: ""})

    assert [run_id for run_id, seen in changes.items() if seen is not None] == [RUN]
    assert len(changes) == 10_001
