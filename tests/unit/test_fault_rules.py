"""A fault strikes where its rule says; a rule that says nothing sensible is refused with what is known."""

from __future__ import annotations

import pytest

from pocoflow import SettingsError
from pocoflow.engine.fault_rules import ACTIONS, POINTS, Place, Rule, parse, quoted

HERE = Place("order-17", 2, "fetch")


def only(spec: str) -> Rule:
    (rule,) = parse(spec)
    return rule


def test_nothing_is_no_rule() -> None:
    assert parse("") == parse(" , ;") == ()


def test_a_rule_says_where_what_how_probably_and_how_often() -> None:
    text = "order-17/in_exec@fetch:2=sleep=1.5%0.25*3"

    assert only(text) == Rule(
        text=text,
        point="in_exec",
        action="sleep",
        run_id="order-17",
        node="fetch",
        step=2,
        seconds=1.5,
        probability=0.25,
        times=3,
    )


def test_what_is_left_out_is_any() -> None:
    rule = only("in_exec=kill9")

    assert (rule.run_id, rule.node, rule.step, rule.probability, rule.times) == (None, None, None, 1.0, None)
    assert rule.covers(HERE)


@pytest.mark.parametrize("separator", [",", ";", " ; ", ",\n  "])
def test_rules_are_separated_by_commas_or_semicolons(separator: str) -> None:
    rules = parse(f"in_exec=kill9{separator}in_post=stop")

    assert [(rule.point, rule.action) for rule in rules] == [("in_exec", "kill9"), ("in_post", "stop")]


@pytest.mark.parametrize(
    ("where", "covered"),
    [
        ("in_exec@fetch", True),
        ("in_exec@fetch:2", True),
        ("in_exec@:2", True),
        ("order-17/in_exec", True),
        ("in_exec@store", False),
        ("in_exec@fetch:1", False),
        ("order-18/in_exec@fetch:2", False),
    ],
)
def test_a_rule_covers_the_places_that_it_names(where: str, covered: bool) -> None:
    assert only(f"{where}=kill9").covers(HERE) is covered


@pytest.mark.parametrize("name", ["Step#2", "a/b", "1:2=3,4;5@6%7*8", "größe", "two words", "%41"])
def test_any_name_of_a_run_or_node_can_be_quoted(name: str) -> None:
    rule = only(f"{quoted(name)}/in_exec@{quoted(name)}:0=sleep=1%0.5*1")

    assert (rule.run_id, rule.node, rule.step) == (name, name, 0)


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("action", ["kill9", "sleep=0", "raise", "stop"])
def test_every_point_takes_every_action_that_needs_no_hint(point: str, action: str) -> None:
    assert only(f"{point}={action}").point == point


@pytest.mark.parametrize("point", ["after_receive", "after_commit_before_publish"])
@pytest.mark.parametrize("action", ["drop", "dup"])
def test_a_hint_can_be_swallowed_or_doubled(point: str, action: str) -> None:
    assert only(f"{point}={action}").action == action


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("in_exce=kill9", f"no point 'in_exce': known are {', '.join(POINTS)}"),
        ("=kill9", "no point ''"),
        ("order/", "no point ''"),
        ("in_exec", f"no action '': known are {', '.join(ACTIONS)}"),
        ("in_exec=kill", f"no action 'kill': known are {', '.join(ACTIONS)}"),
        ("in_exec=kill9=1", "gives kill9 the value '1'"),
        ("in_exec=sleep", "wants seconds to sleep, as sleep=0.5, as a number, got ''"),
        ("in_exec=sleep=long", "got 'long'"),
        ("in_exec=sleep=-1", "got '-1'"),
        ("in_exec=sleep=inf", "got 'inf'"),
        ("in_exec@fetch:two=kill9", "wants a step as a number, got 'two'"),
        ("in_exec@fetch:=kill9", "wants a step as a number, got ''"),
        ("in_exec@fetch:1.5=kill9", "wants a step as a number, got '1.5'"),
        ("in_exec=kill9%0", "has the probability 0: it is above 0 and at most 1"),
        ("in_exec=kill9%50", "has the probability 50"),
        ("in_exec=kill9%often", "wants a probability as a number, got 'often'"),
        ("in_exec=kill9*0", "wants times as a number, got '0'"),
        ("in_exec=kill9*", "wants times as a number, got ''"),
        ("in_exec=kill9*1%0.5", "wants times as a number, got '1%0.5'"),
        ("in_exec=drop", "has nothing to drop: that is for after_receive and after_commit_before_publish"),
        ("after_publish=dup", "has nothing to dup"),
        ("after_receive@fetch=kill9", "names a node, which is not known after_receive"),
        ("in_sweep_after_update@fetch=kill9", "names a node"),
        ("a/b/in_exec=kill9", "is no rule: write"),
    ],
)
def test_a_wrong_rule_is_refused_with_itself_and_what_is_known(text: str, why: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(f"in_prep=stop, {text}")

    assert str(caught.value).startswith(f"POCOFLOW_FAULTS: {text!r} ")
    assert why in str(caught.value)
