"""Every setting comes from one known place, is checked before it is used, and never shows a password."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest

from pocoflow import SettingsError
from pocoflow.settings import Settings, mask_url

SECRETS = ("s3cret", "h4rd", "d33p")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without a pyproject.toml."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_pyproject(text: str) -> None:
    Path("pyproject.toml").write_text(text, encoding="utf-8")


def test_without_any_configuration_the_settings_work_on_a_laptop() -> None:
    settings = Settings.load()

    assert settings.database_url == "sqlite:///pocoflow.db"
    assert settings.broker_url is None
    assert settings.flags_url is None
    assert settings.flows == ()
    assert settings.embedded_threads >= 1
    assert settings.database_given is False


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("POCOFLOW_DATABASE_URL", "postgresql://db/flows", "database_url", "postgresql://db/flows"),
        ("POCOFLOW_BROKER_URL", "amqp://rabbit//", "broker_url", "amqp://rabbit//"),
        ("POCOFLOW_REDIS_URL", "rediss://cache:6380/1", "redis_url", "rediss://cache:6380/1"),
        ("POCOFLOW_FLOWS", "digest, examples.hello,", "flows", ("digest", "examples.hello")),
        ("POCOFLOW_QUEUE", "night-1.low_prio", "queue", "night-1.low_prio"),
        ("POCOFLOW_LEASE_S", "2.5", "lease_s", 2.5),
        ("POCOFLOW_SWEEP_S", "1e-1", "sweep_s", 0.1),
        ("POCOFLOW_GRACE_S", " 7 ", "grace_s", 7.0),
        ("POCOFLOW_UNROUTABLE_S", "600", "unroutable_s", 600.0),
        ("POCOFLOW_MAX_CRASHES", "0", "max_crashes", 0),
        ("POCOFLOW_EMBEDDED_THREADS", "16", "embedded_threads", 16),
        ("POCOFLOW_RETAIN_DAYS", "30", "retain_days", 30.0),
        ("POCOFLOW_RETAIN_FAILED", "true", "retain_failed", True),
        ("POCOFLOW_FAULTS", "in_exec=kill9*1", "faults", "in_exec=kill9*1"),
        ("POCOFLOW_EFFECT_LOG", "effects.jsonl", "effect_log", "effects.jsonl"),
    ],
)
def test_each_setting_is_read_from_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, name: str, value: Any
) -> None:
    monkeypatch.setenv(variable, text)

    assert getattr(Settings.load(), name) == value


def test_the_space_around_a_value_as_in_a_file_with_a_secret_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("POCOFLOW_BROKER_URL", " redis://cache\n")
    monkeypatch.setenv("POCOFLOW_QUEUE", "night\n")

    settings = Settings.load()

    assert (settings.broker_url, settings.queue) == ("redis://cache", "night")


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.setenv(f"POCOFLOW_{name.upper()}", "")

    assert Settings.load() == Settings()
    assert Settings.load().database_given is False


def test_settings_are_read_from_the_pyproject_of_the_working_directory() -> None:
    write_pyproject('[tool.pocoflow]\nflows = ["digest", "examples.hello"]\nlease_s = 5\n')

    settings = Settings.load()

    assert (settings.flows, settings.lease_s) == (("digest", "examples.hello"), 5.0)


def test_a_pyproject_without_our_table_changes_nothing() -> None:
    write_pyproject('[project]\nname = "x"\n\n[tool.ruff]\nline-length = 100\n')

    assert Settings.load() == Settings()


def test_a_pyproject_in_a_folder_above_does_not_count(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pyproject("[tool.pocoflow]\nlease_s = 5\n")
    (folder / "below").mkdir()
    monkeypatch.chdir(folder / "below")

    assert Settings.load().lease_s == 30.0


def test_an_argument_beats_the_environment_which_beats_pyproject_which_beats_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_pyproject("[tool.pocoflow]\nlease_s = 1\nsweep_s = 1\ngrace_s = 1\n")
    monkeypatch.setenv("POCOFLOW_LEASE_S", "2")
    monkeypatch.setenv("POCOFLOW_SWEEP_S", "2")

    settings = Settings.load(lease_s=3)

    assert (settings.lease_s, settings.sweep_s, settings.grace_s) == (3.0, 2.0, 1.0)
    assert settings.unroutable_s == 60.0


def test_a_database_that_somebody_chose_is_told_from_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POCOFLOW_DATABASE_URL", "sqlite:///pocoflow.db")

    assert Settings.load().database_given is True


def test_settings_cannot_be_changed_after_they_were_read() -> None:
    settings: Any = Settings.load()

    with pytest.raises(ValueError, match="frozen"):
        settings.lease_s = 5


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("database_url", "pocoflow.db"),
        ("database_url", "mysql://db/flows"),
        ("database_url", "postgresql+asyncpg://db/flows"),
        ("broker_url", "localhost:6379"),
        ("broker_url", "http://cache"),
        ("broker_url", "redis:/cache"),
        ("broker_url", "redis://cache:port"),
        ("broker_url", "redis://[::1"),
        ("broker_url", "sentinel://cache:26379"),
        ("redis_url", "amqp://rabbit"),
        ("flows", "my-module"),
        ("flows", "examples/digest.py"),
        ("flows", "a,,b c"),
        ("flows", ".relative"),
        ("queue", "a b"),
        ("queue", "a/b"),
        ("lease_s", "ten"),
        ("lease_s", "0"),
        ("sweep_s", "-1"),
        ("grace_s", "inf"),
        ("unroutable_s", "nan"),
        ("max_crashes", "-1"),
        ("max_crashes", "1.5"),
        ("embedded_threads", "0"),
        ("retain_days", "0"),
        ("retain_days", "inf"),
        ("retain_failed", "perhaps"),
        ("embedded_threads", "many"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name_and_itself(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    variable = f"POCOFLOW_{name.upper()}"
    monkeypatch.setenv(variable, text)

    with pytest.raises(SettingsError) as caught:
        Settings.load()

    assert isinstance(caught.value, ValueError)
    assert str(caught.value).startswith(f"{variable}=")
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_wrong_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POCOFLOW_LEASE_S", "ten")
    monkeypatch.setenv("POCOFLOW_QUEUE", "a b")

    with pytest.raises(SettingsError, match=r"POCOFLOW_QUEUE='a b': .*; POCOFLOW_LEASE_S='ten': "):
        Settings.load()


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('lease_s = "ten"', "POCOFLOW_LEASE_S='ten'"),
        ("flows = 5", "POCOFLOW_FLOWS=5"),
        ('flows = ["a b"]', "POCOFLOW_FLOWS="),
        (
            "leese_s = 5",
            "'leese_s' in .tool.pocoflow. of pyproject.toml is not a setting: known are .*lease_s",
        ),
    ],
)
def test_a_wrong_line_in_pyproject_is_refused_with_its_name(line: str, complaint: str) -> None:
    write_pyproject(f"[tool.pocoflow]\n{line}\n")

    with pytest.raises(SettingsError, match=complaint):
        Settings.load()


@pytest.mark.parametrize("content", [b"[tool.pocoflow", b"\xff\xfe", b"[tool]\npocoflow = 5\n"])
def test_a_broken_pyproject_is_refused_with_its_path(folder: Path, content: bytes) -> None:
    Path("pyproject.toml").write_bytes(content)

    with pytest.raises(SettingsError) as caught:
        Settings.load()

    assert str(folder / "pyproject.toml") in str(caught.value)


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("valkey://cache:6379/0", "redis://cache:6379/0"),
        ("valkeys://:pw@cache", "rediss://:pw@cache"),
        ("valkey://a;valkey://b", "redis://a;redis://b"),
        ("redis://valkey-0/0", "redis://valkey-0/0"),
    ],
)
def test_valkey_is_spoken_to_like_redis(given: str, used: str) -> None:
    assert Settings.load(broker_url=given).broker_url == used


@pytest.mark.parametrize(
    ("broker", "redis", "flags"),
    [
        (None, None, None),
        ("redis://cache/0", None, "redis://cache/0"),
        ("redis://cache/0", "redis://other/1", "redis://other/1"),
        ("amqp://rabbit//", None, None),
        ("amqp://rabbit//", "valkey://other/1", "redis://other/1"),
        (None, "redis://other/1", "redis://other/1"),
        ("redis://a:1;redis://b:2", None, "redis://a:1"),
        ("redis+socket:///run/redis.sock", None, "unix:///run/redis.sock"),
    ],
)
def test_flags_go_to_the_redis_url_or_else_to_a_broker_that_is_redis(
    broker: str | None, redis: str | None, flags: str | None
) -> None:
    assert Settings.load(broker_url=broker, redis_url=redis).flags_url == flags


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://cache:6379/0", "redis://cache:6379/0"),
        ("redis://:s3cret@cache:6379/0", "redis://:***@cache:6379/0"),
        ("postgresql://me:s3cret@db/flows", "postgresql://me:***@db/flows"),
        ("postgresql+psycopg://me:***@db/flows", "postgresql+psycopg://me:***@db/flows"),
        ("postgresql://me@db/flows?password=s3cret", "postgresql://me@db/flows?password=***"),
        ("postgresql://db/f?sslmode=require&sslpassword=s3cret&a=b",
         "postgresql://db/f?sslmode=require&sslpassword=***&a=b"),
        ("redis://cache/0?PASSWORD=s3cret", "redis://cache/0?PASSWORD=***"),
        ("redis://cache/0?ssl_cert_reqs=none&token=s3cret", "redis://cache/0?ssl_cert_reqs=none&token=***"),
        ("redis://cache/0?x=", "redis://cache/0?x="),
        ("redis://:s3cret@h4rd@cache", "redis://:***@cache"),
        ("redis://:s3cret/h4rd?d33p@cache", "redis://:***@cache"),
        ("redis://:s3cret#h4rd@cache", "redis://:***@cache"),
        ("redis://:s3cret@a:1;redis://:h4rd@b:2", "redis://:***@a:1;redis://:***@b:2"),
        ("redis://:s3cret@[::1]:6379", "redis://:***@[::1]:6379"),
        ("redis://me@cache:6379", "redis://me@cache:6379"),
        ("me:s3cret@cache", "me:***@cache"),
        ("host=db password=s3cret", "host=db password=***"),
        ("sqlite:///pocoflow.db", "sqlite:///pocoflow.db"),
        ("sqlite:////var/lib/pocoflow.db", "sqlite:////var/lib/pocoflow.db"),
        ("", ""),
        (None, "(none)"),
    ],
)  # fmt: skip
def test_a_url_is_shown_as_it_is_but_for_its_passwords(url: str | None, shown: str) -> None:
    assert mask_url(url) == shown


def test_settings_are_shown_without_passwords() -> None:
    settings = Settings.load(
        database_url="postgresql://me:s3cret@db/flows?sslpassword=d33p",
        broker_url="redis://:s3cret@cache",
        redis_url="redis://cache/0?password=h4rd",
        flows="digest,hello",
    )

    for shown in (repr(settings), str(settings), f"{settings}", repr(settings.shown())):
        assert not [secret for secret in SECRETS if secret in shown]
    assert settings.shown()["database_url"] == "postgresql://me:***@db/flows?sslpassword=***"
    assert settings.shown()["flows"] == "digest, hello"
    assert settings.shown()["lease_s"] == "30.0"


@pytest.mark.parametrize("name", ["database_url", "broker_url", "redis_url"])
@pytest.mark.parametrize(
    "url",
    [
        "http://me:s3cret@cache",
        "me:s3cret@cache",
        "cache?password=s3cret",
        "redis:/:s3cret@cache",
        "redis://:s3cret/h4rd@cache",
        "redis://:s3cret\u2100@cache",
        "postgres+x://me:s3cret@db/flows?sslpassword=h4rd",
        "host=db password=s3cret",
    ],
)
def test_a_refused_url_is_shown_without_its_password(
    monkeypatch: pytest.MonkeyPatch, name: str, url: str
) -> None:
    monkeypatch.setenv(f"POCOFLOW_{name.upper()}", url)

    with pytest.raises(SettingsError, match=f"POCOFLOW_{name.upper()}=") as caught:
        Settings.load()

    text = "".join(traceback.format_exception(caught.value))
    assert not [secret for secret in SECRETS if secret in text]


def test_a_refused_list_of_urls_is_shown_without_passwords() -> None:
    write_pyproject('[tool.pocoflow]\nbroker_url = ["redis://:s3cret@a", "redis://:h4rd@b"]\n')

    with pytest.raises(SettingsError, match="POCOFLOW_BROKER_URL=") as caught:
        Settings.load()

    assert not [secret for secret in SECRETS if secret in str(caught.value)]
