"""Every knob, in one place: the only reader of the environment.

A value comes from the environment (`POCOFLOW_LEASE_S`), else from `[tool.pocoflow]` in the
pyproject.toml of the working directory (`lease_s`), else from the default here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    PyprojectTomlConfigSettingsSource,
    SettingsConfigDict,
)

from pocoflow.errors import SettingsError

PREFIX = "POCOFLOW_"
DATABASE_SCHEMES = ("sqlite", "postgresql", "postgresql+psycopg", "postgres")
REDIS_SCHEMES = ("redis", "rediss", "valkey", "valkeys", "redis+socket")
AMQP_SCHEMES = ("amqp", "amqps", "pyamqp")

# Celery takes several brokers in one value. A password may hold any character by mistake, so all that
# stands before the last @ is taken for one.
_SEPARATOR = re.compile(r";(?=[\w+.\-]+://)")
_LOGIN = re.compile(r"\A((?:[\w+.\-]+://)?+[^:@]*):.*@", re.DOTALL)
_FERNET_KEY = re.compile(r"[A-Za-z0-9_-]{43}=")
_SECRET = re.compile(r"((?:\A|[?&;\s])[^=&]*(?:pass|pwd|secret|token)[^=&]*=)[^&]*", re.IGNORECASE)

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Settings(BaseSettings):
    """The configuration of a process; read it with `Settings.load()`.

    Attributes:
        database_url: History and truth of all runs; SQLite or Postgres.
        broker_url: Redis or RabbitMQ; without one, runs execute inside the process that starts them.
        redis_url: For cancel flags and wake-ups; the broker itself when that is Redis.
        flows: Modules that a worker imports to find flows.
        queue: Celery queue for nodes that name none.
        lease_s: Seconds after which the step of a silent worker may be taken over.
        sweep_s: Seconds between two looks for what was lost or is due.
        grace_s: Seconds that a message may take before it is sent again.
        unroutable_s: Seconds after which a run fails when no worker knows its flow, or is paused when none
            has a graph that it can go on with.
        max_crashes: How many lost workers a step may cost before its run fails.
        retain_days: Days after which the sweeps of workers delete runs that have ended; None keeps all.
        retain_failed: Whether they leave those that failed.
        max_store_mb: Megabytes that a store may take in a checkpoint.
        secret_key: Encrypts the secret keys of stores: Fernet keys, the current one first, then older ones.
        embedded_threads: Steps that the worker inside a process executes at the same time.
        faults: For testing only: what is to go wrong on purpose, see `pocoflow.engine.fault_rules`.
        effect_log: For testing only: a file that gets a line before each execution of a node.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        str_strip_whitespace=True,
        pyproject_toml_table_header=("tool", "pocoflow"),
        extra="forbid",
        frozen=True,
    )

    database_url: str = "sqlite:///pocoflow.db"
    broker_url: str | None = None
    redis_url: str | None = None
    flows: Annotated[tuple[str, ...], NoDecode] = ()
    queue: str = Field(default="pocoflow", min_length=1, pattern=r"^[\w.\-]+$")
    lease_s: Seconds = 30.0
    sweep_s: Seconds = 1.0
    grace_s: Seconds = 5.0
    unroutable_s: Seconds = 60.0
    max_crashes: int = Field(default=3, ge=0)
    retain_days: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    retain_failed: bool = False
    max_store_mb: float = Field(default=64.0, gt=0, allow_inf_nan=False)
    secret_key: SecretStr | None = None
    embedded_threads: int = Field(default_factory=lambda: min(4, os.cpu_count() or 1), ge=1)
    faults: str | None = None
    effect_log: str | None = None

    @classmethod
    def load(cls, **given: Any) -> Self:
        """Read the settings of this process; `given` values win over all others.

        Raises:
            SettingsError: A value is wrong; or pyproject.toml is broken, or names an unknown setting.
        """
        try:
            return cls(**given)
        except ValidationError as exc:
            raise SettingsError("; ".join(_describe(error) for error in exc.errors())) from None
        except (ValueError, AttributeError, OSError) as exc:
            raise SettingsError(f"[tool.pocoflow] in {os.getcwd()}/pyproject.toml is broken: {exc}") from exc

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, PyprojectTomlConfigSettingsSource(settings_cls)

    @field_validator("flows", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return (
            tuple(part.strip() for part in value.split(",") if part.strip())
            if isinstance(value, str)
            else value
        )

    @field_validator("flows")
    @classmethod
    def _module_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not all(part.isidentifier() for part in name.split(".")):
                raise ValueError(f"{name!r} is not the name of a module (like examples.digest)")
        return value

    @field_validator("database_url")
    @classmethod
    def _database(cls, value: str) -> str:
        return _checked(value, DATABASE_SCHEMES)

    @field_validator("broker_url")
    @classmethod
    def _broker(cls, value: str | None) -> str | None:
        return None if value is None else _as_redis(_checked(value, REDIS_SCHEMES + AMQP_SCHEMES))

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, value: str | None) -> str | None:
        return None if value is None else _as_redis(_checked(value, REDIS_SCHEMES))

    @field_validator("secret_key")
    @classmethod
    def _fernet_keys(cls, value: SecretStr | None) -> SecretStr | None:
        keys = [] if value is None else value.get_secret_value().split(",")
        if not all(_FERNET_KEY.fullmatch(key.strip()) for key in keys):
            raise ValueError("must be a Fernet key (32 bytes in URL-safe Base64), or several between commas")
        return value

    @property
    def secret_keys(self) -> list[str]:
        """The Fernet keys, the current one first; none if none is set."""
        return [] if self.secret_key is None else re.split(r"\s*,\s*", self.secret_key.get_secret_value())

    @property
    def flags_url(self) -> str | None:
        """Where cancel flags and wake-ups go: `redis_url`, else a broker that is Redis, else nowhere."""
        url = self.redis_url or self.broker_url
        if url is None or urlsplit(url).scheme in AMQP_SCHEMES:
            return None
        # redis-py knows one server, and a socket by another name than Celery.
        url = _SEPARATOR.split(url)[0].replace("redis+socket://", "unix://", 1)
        url = url.replace("virtual_host=", "db=").replace("ssl_cert_reqs=CERT_", "ssl_cert_reqs=")
        return re.sub("ssl_cert_reqs=[A-Z]+", lambda found: found[0].lower(), url)

    @property
    def database_given(self) -> bool:
        """Whether somebody chose the database, in contrast to the default."""
        return "database_url" in self.model_fields_set

    def shown(self) -> dict[str, str]:
        """Name to value, with the passwords and keys masked."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {
            name: mask_url(value) if name.endswith("_url") else _plain(value)
            for name, value in values.items()
        }

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        shown = self.shown()
        masked = [name for name in shown if name.endswith(("_url", "_key"))]
        return [(name, shown[name] if name in masked else getattr(self, name)) for name in shown]


def mask_url(url: str | None) -> str:
    """Return the URL with `***` for every password in it.

    >>> mask_url("redis://:secret@cache:6379/0")
    'redis://:***@cache:6379/0'
    """
    if url is None:
        return "(none)"
    masked = (_LOGIN.sub(r"\1:***@", _SECRET.sub(r"\1***", part)) for part in _SEPARATOR.split(url))
    return ";".join(masked)


def _checked(url: str, schemes: tuple[str, ...]) -> str:
    begins = [f"{scheme}://" for scheme in schemes]
    if not url.startswith(tuple(begins)):
        raise ValueError(f"must be a URL that begins with one of {', '.join(begins)}")
    try:
        _ = [urlsplit(part).port for part in _SEPARATOR.split(url)]
    except ValueError:  # Its text quotes the password.
        raise ValueError("not a URL: percent-encode what is special in the user name or password") from None
    return url


def _as_redis(url: str) -> str:
    # Celery and redis-py know Valkey, which speaks the same protocol, by the older name only.
    return re.sub(r"\bvalkey(?=s?://)", "redis", url)


def _plain(value: Any) -> str:
    if isinstance(value, SecretStr):
        return "***"
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def _describe(error: Any) -> str:
    field = ".".join(str(part) for part in error["loc"])
    name = PREFIX + field.upper()
    if error["type"] == "extra_forbidden":
        known = ", ".join(Settings.model_fields)
        return f"{field!r} in [tool.pocoflow] of pyproject.toml is not a setting: known are {known}"
    value = error.get("input")
    shown = mask_url(str(value)) if field.endswith("_url") else repr(value)
    if field.endswith("_key"):
        shown = "***"
    return f"{name}={shown}: {error['msg'].removeprefix('Value error, ')}"


def unknown_names() -> list[str]:
    """Variables that look like settings and are none, so probably misspelt.

    They are reported, not refused: Kubernetes makes such variables for a service called pocoflow-redis.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    return sorted(
        name
        for name in os.environ
        if name.startswith(PREFIX) and name not in known and not name.startswith(f"{PREFIX}TEST_")
    )


def export(**values: str) -> None:
    """Set settings for the rest of this process and for the processes that it starts."""
    os.environ.update({PREFIX + name.upper(): value for name, value in values.items()})
