"""Brokers by their URL: what Redis and RabbitMQ each need from Celery.

Decides transports' options, kinds of queues and TLS; never sends anything and never connects.
Called by the Celery executor where an application is made.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from kombu.entity import Queue

from iaflow.errors import SettingsRefused

__all__ = ["CONNECT_SECONDS", "Broker", "BrokerKind", "read_broker"]

CONNECT_SECONDS: Final = 0.5
"""How long a publisher waits for each part of a connection: a message is a hint, a start is not."""

REPLY_SECONDS: Final = 0.75
"""How long a publisher waits for each answer of the broker."""

HEARTBEAT_SECONDS: Final = 30

_VERIFY: Final = {
    "required": ssl.CERT_REQUIRED,
    "optional": ssl.CERT_OPTIONAL,
    "none": ssl.CERT_NONE,
}
_FILES: Final = {"ssl_ca_certs": "ca_certs", "ssl_certfile": "certfile", "ssl_keyfile": "keyfile"}


class BrokerKind(Enum):
    """What speaks at the other end."""

    REDIS = "redis"
    RABBITMQ = "rabbitmq"
    OTHER = "other"


_KINDS: Final = {
    "redis": BrokerKind.REDIS,
    "rediss": BrokerKind.REDIS,
    "sentinel": BrokerKind.REDIS,
    "amqp": BrokerKind.RABBITMQ,
    "amqps": BrokerKind.RABBITMQ,
    "pyamqp": BrokerKind.RABBITMQ,
}


@dataclass(frozen=True, slots=True)
class Broker:
    """
    A broker as a URL names it; `read_broker` makes one.

    Attributes:
        url: without what it says of TLS, which Celery takes apart from it.
        kind: which server it is.
        tls: options of its encryption, as its transport names them; None without encryption.
    """

    url: str
    kind: BrokerKind
    tls: Mapping[str, Any] | None = None

    @property
    def takes_lowest_first(self) -> bool:
        """Tell whether priority 0 goes first: kombu reads the lists of a Redis queue upwards."""
        return self.kind is BrokerKind.REDIS

    def make_queue(self, name: str) -> Queue:
        """Return the queue of this name as it is declared there."""
        # No exchange: a flushed Redis then has no binding to lose.
        return Queue(name, queue_arguments=dict(self._queue_arguments) or None)  # type: ignore[no-untyped-call]

    def configuration(self) -> dict[str, Any]:
        """Return the values of Celery that this broker needs, each with its reason."""
        common: dict[str, Any] = {
            "broker_url": self.url,
            # Or Celery would prefer CELERY_BROKER_URL, whatever the settings say.
            "broker_read_url": self.url,
            "broker_write_url": self.url,
            "broker_use_ssl": False if self.tls is None else dict(self.tls),
            "broker_transport_options": self._transport_options(),
            "worker_consumer": "iaflow.pipeline.executors.consuming:Consumer",
        }
        if self.kind is BrokerKind.REDIS:
            # A message must not sit behind a long step while another worker idles. Celery can
            # do that on Redis alone.
            return {**common, "worker_disable_prefetch": True}
        if self.kind is BrokerKind.RABBITMQ:
            return {
                **common,
                "task_create_missing_queue_type": "quorum",
                # Their prefetch is each consumer's own.
                "worker_detect_quorum_queues": True,
                # A message that waits behind a long step is unacknowledged, and RabbitMQ closes
                # the channel after half an hour of that: connect again, instead of ending.
                "broker_channel_error_retry": True,
                "broker_heartbeat": HEARTBEAT_SECONDS,
            }
        return common

    def publisher_options(self) -> dict[str, Any]:
        """Return the transport options of connections that only publish: they give up soon."""
        # No second round: who publishes has a caller waiting, and the sweep publishes again.
        rounds = {
            "max_retries": self.url.count(";"),
            "interval_start": 0,
            "interval_step": 0,
            "interval_max": 0,
        }
        if self.kind is BrokerKind.REDIS:
            return {
                **rounds,
                "socket_connect_timeout": CONNECT_SECONDS,
                "socket_timeout": REPLY_SECONDS,
            }
        if self.kind is BrokerKind.RABBITMQ:
            # Not `read_timeout`: after that one the library only reads on.
            return {**rounds, "confirm_publish": True, "on_open": _bound_waits}
        return rounds

    @property
    def _queue_arguments(self) -> dict[str, str]:
        # Replicated, and what is confirmed is on disk; a single node has them too.
        return {"x-queue-type": "quorum"} if self.kind is BrokerKind.RABBITMQ else {}

    def _transport_options(self) -> dict[str, Any]:
        if self.kind is not BrokerKind.REDIS:
            return {}
        return {
            # No copy of unacknowledged messages: nothing is redelivered, two writes less.
            "ack_emulation": False,
            "health_check_interval": 10,
            "socket_keepalive": True,
            "socket_connect_timeout": 5,
            "socket_timeout": 10,
        }


def read_broker(url: str) -> Broker:
    """
    Return the broker that a URL names; several may stand in it, with ``;`` between them.

    ``rediss://`` and ``amqps://`` are encrypted and verified: by the system's authorities, or by
    ``?ssl_ca_certs=FILE``. ``ssl_certfile`` and ``ssl_keyfile`` name a certificate of ours;
    ``ssl_check_hostname=false`` and ``ssl_cert_reqs=none`` take the verifying back.

    Raises:
        SettingsRefused: it asks for something of TLS that there is not.
    """
    parts = [_split_tls(one) for one in url.split(";")]
    scheme = urlsplit(parts[0][0]).scheme
    kind = _KINDS.get(scheme, BrokerKind.OTHER)
    asked = parts[0][1]
    plain = ";".join(one for one, _ in parts)
    if scheme not in ("rediss", "amqps"):
        if asked:
            raise SettingsRefused(
                f"the broker URL has {', '.join(sorted(asked))}, but its line is not encrypted: "
                "write rediss:// or amqps://"
            )
        return Broker(plain, kind)
    # kombu connects to 127.0.0.1 where a URL says localhost: the name would not be its server's.
    name = urlsplit(plain).hostname if ";" not in plain else None
    return Broker(plain, kind, _read_tls(asked, kind, name))


def _split_tls(url: str) -> tuple[str, dict[str, str]]:
    parts = urlsplit(url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    asked = {name: value for name, value in query if name.startswith("ssl_")}
    rest = [(name, value) for name, value in query if name not in asked]
    return (urlunsplit(parts._replace(query=urlencode(rest))) if asked else url), asked


def _read_tls(asked: dict[str, str], kind: BrokerKind, name: str | None) -> dict[str, Any]:
    unknown = sorted(asked.keys() - {*_FILES, "ssl_cert_reqs", "ssl_check_hostname"})
    verify = _VERIFY.get(asked.get("ssl_cert_reqs", "required").lower())
    if unknown or verify is None:
        wrong = ", ".join(unknown) or f"ssl_cert_reqs={asked['ssl_cert_reqs']}"
        raise SettingsRefused(
            f"the broker URL has {wrong}; there are {', '.join(_FILES)}, "
            "ssl_cert_reqs=required|optional|none and ssl_check_hostname=true|false"
        )
    wants_name = asked.get("ssl_check_hostname", "true").lower() not in ("false", "0", "no")
    checks_name = wants_name and verify is not ssl.CERT_NONE
    files = {name: value for name, value in asked.items() if name in _FILES}
    if kind is BrokerKind.REDIS:
        return {"ssl_cert_reqs": verify, "ssl_check_hostname": checks_name, **files}
    options: dict[str, Any] = {"cert_reqs": verify}
    options |= {_FILES[name]: value for name, value in files.items()}
    # None stands for whichever host is connected to; without the key no name is checked.
    return {**options, "server_hostname": name} if checks_name else options


def _bound_waits(connection: Any) -> None:
    """Let no answer on a new connection to RabbitMQ be waited for without end."""
    connection.transport.sock.settimeout(REPLY_SECONDS)
