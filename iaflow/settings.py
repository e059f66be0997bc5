"""The frozen settings of a process; the only reader of the environment.

Decides names, defaults, units and legal values of `IAFLOW_*`; never acts on them. Read
once by `bootstrap` and the faces, which hand values down.
"""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from iaflow.errors import SettingsRefused

__all__ = ["Settings", "hide_password", "load_settings"]

_MIB = 1024 * 1024


class Settings(BaseSettings):
    """Every setting of iaflow, with its default, unit and meaning; read from the environment and `.env`."""

    model_config = SettingsConfigDict(
        env_prefix="IAFLOW_",
        env_file=".env",
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    database_url: str = Field(
        default="sqlite:///.iaflow/iaflow.db",
        validation_alias=AliasChoices("IAFLOW_DATABASE_URL", "DATABASE_URL"),
        description="where definitions and runs live: sqlite:///path, sqlite:// (memory), "
        "postgresql://user@host/name",
    )
    broker_url: str | None = Field(
        default=None,
        validation_alias=AliasChoices("IAFLOW_BROKER_URL", "CELERY_BROKER_URL"),
        description="Celery's broker; without one, steps run in the calling process",
    )
    schema_name: str = Field(
        default="iaflow",
        validation_alias="IAFLOW_SCHEMA",
        pattern=r"^[a-z_][a-z0-9_]{0,62}$",
        description="Postgres schema that holds the tables",
    )
    step_modules: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="modules that steps may come from, comma-separated: exact names or package.*",
    )
    queues: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("iaflow",),
        description="queues that steps may name, comma-separated; the first is the default",
    )
    services: str | None = Field(
        default=None,
        description="module:function that returns the ServiceRegistry that steps are given",
    )
    secrets_folder: Path | None = Field(
        default=None, description='folder with a file per secret, for {"$secret": "name"}'
    )
    secret_key: SecretStr | None = Field(
        default=None,
        description="signs what goes with sessions and links; at least 32 bytes, never printed",
    )
    public_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^/?#@\s]+/?$",
        description="where people reach the web, such as https://flows.example.org; none: taken "
        "from each request's Host",
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="networks of proxies whose X-Forwarded-For and -Proto are believed, "
        "comma-separated: 10.0.0.0/8,::1",
    )
    lease_seconds: float = Field(
        default=30.0, ge=1, le=3600, description="how long a claim lives without a heartbeat, s"
    )
    sweep_seconds: float = Field(
        default=5.0, ge=0.1, le=600, description="pause between two sweeps of a worker, s"
    )
    republish_seconds: float = Field(
        default=30.0,
        ge=0.5,
        le=3600,
        description="a ready step unclaimed for so long gets a new message, s",
    )
    grace_seconds: float = Field(
        default=25.0,
        ge=0,
        le=86_400,
        description="after SIGTERM a worker's steps may go on for so long, then go back, s",
    )
    stuck_seconds: float = Field(
        default=300.0,
        ge=1,
        description="a step that nobody takes up for so long is told of (`run_stuck`), s",
    )
    retention_days: float | None = Field(
        default=None,
        gt=0,
        le=36_500,
        description="runs that ended so many days ago are removed by workers; none: kept for ever",
    )
    notify_url: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="webhook that notices are sent to; none: they are only logged",
    )
    notify_secret: SecretStr | None = Field(
        default=None, description="signs the webhook's requests; at least 16 bytes, never printed"
    )
    notify_runs: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("failed", "stuck"),
        description="ends of runs that are told of, comma-separated: succeeded, failed, "
        "cancelled, stuck; or none",
    )
    flower_url: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="where Flower answers, for links from runs to their tasks",
    )
    metrics_address: str | None = Field(
        default=None,
        pattern=r"^[^:\s]+:\d{1,5}$",
        description="host:port on which a worker serves Prometheus metrics; none: it does not",
    )
    tracing: bool = Field(
        default=False,
        description="OpenTelemetry spans of steps (needs the extra `tracing`)",
    )
    max_parallel_steps: int = Field(
        default=16, ge=1, le=1024, description="steps at once in one embedded process"
    )
    max_definition_bytes: int = Field(
        default=_MIB, ge=1024, le=16 * _MIB, description="the longest text of a definition, bytes"
    )
    prepare_statements: bool = Field(
        default=True,
        description="prepare hot statements on the server; off behind a transaction pooler",
    )
    log_level: str = Field(
        default="WARNING",
        pattern=r"^(DEBUG|INFO|WARNING|ERROR|CRITICAL)$",
        description="the least urgent log line that is written to stderr",
    )

    @field_validator("step_modules", "queues", "notify_runs", "trusted_proxies", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("notify_runs")
    @classmethod
    def _known_ends(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if value == ("none",):
            return ()
        unknown = sorted(set(value) - {"succeeded", "failed", "cancelled", "stuck"})
        if unknown:
            raise ValueError(
                f"{', '.join(unknown)}: name succeeded, failed, cancelled or stuck; or none"
            )
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            try:
                ip_network(text)
            except ValueError:
                raise ValueError(f"{text} is no network such as 10.0.0.0/8") from None
        return value

    @field_validator("public_url")
    @classmethod
    def _is_origin(cls, value: str | None) -> str | None:
        return None if value is None else value.rstrip("/")

    @field_validator("notify_secret")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value().encode()) < 16:
            raise ValueError("write at least 16 bytes")
        return value

    @field_validator("queues")
    @classmethod
    def _some_queue(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("name at least one queue")
        return value

    def with_database(self, url: str | None) -> Self:
        """Return the same settings on another database; None changes nothing."""
        return self if url is None else self.model_copy(update={"database_url": url})


def load_settings() -> Settings:
    """
    Read the settings from the environment and `.env`.

    Raises:
        SettingsRefused: naming each setting that cannot work, never its value.
    """
    try:
        return Settings()
    except ValidationError as error:
        faults = "; ".join(
            f"IAFLOW_{'_'.join(str(part) for part in fault['loc']).upper()}: {fault['msg']}"
            for fault in error.errors(include_input=False, include_url=False)
        )
        raise SettingsRefused(f"settings cannot be used: {faults}") from None


def hide_password(url: str) -> str:
    """Return `url` with its password as `***`: what may be shown and logged."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    user = parts.username or ""
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}:***@{host}"))
