"""What anybody may have put into Redis, and ids that would like to be commands, harm no reader of flags."""

from __future__ import annotations

import pytest
import redis

from pocoflow.control import MAX_COMPLAINT_BYTES, RedisFlags


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b"\x80\x04\x95cos\nsystem\n", "\N{REPLACEMENT CHARACTER}?\N{REPLACEMENT CHARACTER}cos?system?"),
        (b"\xff\xfe", "\N{REPLACEMENT CHARACTER}" * 2),
        (b"\x1b[2Jall is well", "?[2Jall is well"),
        (b"x" * 1_000_000, "x" * MAX_COMPLAINT_BYTES),
        (b"", None),
    ],
    ids=["a pickle", "no UTF-8", "a terminal sequence", "a flood", "nothing"],
)
def test_what_anybody_may_have_left_as_a_complaint_can_be_shown(
    any_redis: str, text: bytes, shown: str | None
) -> None:
    redis.Redis.from_url(any_redis).set("pocoflow:complaint:run", text)

    assert RedisFlags(any_redis).complaint("run") == shown


@pytest.mark.parametrize("kind", ["rpush", "sadd"])
def test_a_flag_of_another_kind_is_no_flag_and_no_error(any_redis: str, kind: str) -> None:
    getattr(redis.Redis.from_url(any_redis), kind)("pocoflow:complaint:run", "x")

    assert RedisFlags(any_redis).complaint("run") is None


@pytest.mark.parametrize(
    "run_id", ["*", "run", "run:*", "a b", "x\r\nFLUSHALL\r\n", "run 1 EX 1", "{run}", "\0", "../run", "ü"]
)
def test_a_flag_is_about_one_run_whatever_its_id_holds(any_redis: str, run_id: str) -> None:
    client = redis.Redis.from_url(any_redis)
    client.set("bystander", "here")
    flags = RedisFlags(any_redis)

    flags.ask_cancel(run_id)
    flags.complain(run_id, run_id)

    expected = {b"bystander", *(f"pocoflow:{kind}:{run_id}".encode() for kind in ("cancel", "complaint"))}
    assert set(client.keys()) == expected
    flags.look_ahead(run_id)
    assert (flags.cancel_asked(run_id), flags.cancel_asked(f"{run_id}2")) == (True, False)
