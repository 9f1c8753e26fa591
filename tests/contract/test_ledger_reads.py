"""What can be read of a run, on every ledger that we ship."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from pocoflow.engine.ports import EventRow, Ledger, RunRow, Standing
from tests.contract.builders import BOOM, INPUT, LAST, RUN, facts, new_run, record, started, take


def test_of_an_unknown_run_there_is_nothing_to_read(ledger: Ledger) -> None:
    assert ledger.get_run("nobody") is None
    assert ledger.get_state("nobody") is None
    assert ledger.get_events("nobody") == []


def test_the_state_is_the_input_until_a_step_was_committed(ledger: Ledger) -> None:
    position = started(ledger)
    first = ledger.get_state(RUN)

    ledger.commit(position, record(state='{"n":1}'))

    assert (first, ledger.get_state(RUN)) == (INPUT, '{"n":1}')


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

    standings = ledger.get_standings(run_ids)

    rows: dict[str, Any] = {run_id: ledger.get_run(run_id) for run_id in run_ids}
    shown: dict[str, Any] = dict(standings)
    assert [standings[run_id]["status"] for run_id in run_ids] == ["queued", "queued", "failed"]
    assert [standings[run_id]["total_steps"] for run_id in run_ids] == [0, 1, 0]
    assert standings.keys() == set(run_ids)
    for run_id in run_ids:
        assert {name: shown[run_id][name] for name in Standing.__annotations__} == {
            name: rows[run_id][name] for name in Standing.__annotations__
        }


@pytest.mark.parametrize("strange", ["nobody", "", "a\0b", "\ud800", "x" * 100_000])
def test_an_id_that_no_run_can_have_hides_none_of_the_others(ledger: Ledger, strange: str) -> None:
    ledger.start(new_run("läuft '\"[]{},\\"))

    standings = ledger.get_standings([strange, "läuft '\"[]{},\\", strange])

    assert list(standings) == ["läuft '\"[]{},\\"]


def test_nobody_asks_how_no_runs_stand(ledger: Ledger) -> None:
    ledger.start(new_run())

    assert ledger.get_standings([]) == {}


def test_ten_thousand_runs_are_looked_at_in_one_read(ledger: Ledger) -> None:
    ledger.start(new_run())
    run_ids = [f"some-flow-{number:016x}" for number in range(10_000)]

    assert list(ledger.get_standings([*run_ids, RUN])) == [RUN]
