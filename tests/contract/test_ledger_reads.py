"""What can be read of a run, on every ledger that we ship."""

from __future__ import annotations

from datetime import UTC, datetime

from pocoflow.engine.ports import EventRow, Ledger, RunRow
from tests.contract.builders import INPUT, LAST, RUN, facts, new_run, record, started


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
