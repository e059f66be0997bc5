"""What `iaflow doctor` looks at outside the database: broker, queues, workers, Flower, notifier.

Decides what is in order there and what must be mended; never mends anything, and sends nothing
but questions. Called by `diagnosing`.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from iaflow.cli.findings import Finding
from iaflow.cli.terminal import as_clause, format_seconds
from iaflow.errors import SettingsRefused
from iaflow.settings import Settings, hide_password

__all__ = ["find_in_broker", "find_in_flower", "find_in_notifier", "find_in_web", "is_open_line"]

CONNECT_SECONDS: Final = 3.0
ANSWER_SECONDS: Final = 1.5
"""How long workers have to say which queues they read; one that is busy answers all the same."""

ENCRYPTED: Final = frozenset({"amqps", "rediss"})

Figures = Mapping[str, Mapping[str, float]]


def is_open_line(url: str) -> bool:
    """Tell whether a URL leads to another machine."""
    host = urlsplit(url).hostname
    if host is None or host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True


def find_in_broker(settings: Settings, figures: Figures) -> Iterator[Finding]:
    """
    Look at the broker, and through it at workers and their queues.

    Args:
        figures: of the database, by their names; empty if it could not be read.
    """
    url = settings.broker_url
    if url is None:
        message = "none set: steps run in the process that starts a run"
        yield Finding("broker", "ok", message)
        return
    shown = hide_password(url)
    is_redis = urlsplit(url).scheme in ("redis", "rediss")
    depths: dict[str, int] = {}
    try:
        if is_redis:
            policy, depths = _ask_redis(url, settings.queues)
        else:
            _connect(url)
            policy = None
    except Exception as error:  # noqa: BLE001  every transport has errors of its own
        message = f"{shown} does not answer: {as_clause(str(error))}"
        yield Finding("broker", "fail", message, "see IAFLOW_BROKER_URL; is the server up?")
        return
    yield Finding("broker", "ok", f"{shown} answers")
    yield from _judge_line(url)
    if is_redis:
        yield _judge_policy(policy)
    yield from _find_workers(settings, depths, figures)


def find_in_flower(settings: Settings) -> Iterator[Finding]:
    """Look whether Flower answers where links lead."""
    if settings.flower_url is None:
        return
    import httpx2

    url = settings.flower_url.rstrip("/")
    try:
        httpx2.get(f"{url}/healthcheck", timeout=CONNECT_SECONDS, trust_env=False)
    except httpx2.HTTPError as error:
        message = f"{url} does not answer: {as_clause(str(error))}"
        advice = "iaflow flower; or see IAFLOW_FLOWER_URL: links of runs lead there"
        yield Finding("flower", "warn", message, advice)
        return
    yield Finding("flower", "ok", f"{url} answers")


def find_in_notifier(settings: Settings) -> Iterator[Finding]:
    """Look whether the webhook can be reached; nothing is posted to it."""
    url = settings.notify_url
    if url is None:
        message = "no webhook: notices are logged, unless IAFLOW_SERVICES brings a notifier"
        yield Finding("notifier", "ok", message)
        return
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    where = f"{parts.hostname}:{port}"
    try:
        socket.create_connection((parts.hostname or "", port), CONNECT_SECONDS).close()
    except OSError as error:
        message = f"{where} cannot be reached: {as_clause(str(error))}"
        yield Finding("notifier", "fail", message, "see IAFLOW_NOTIFY_URL; notices are kept")
        return
    yield Finding("notifier", "ok", f"{where} can be reached")
    if parts.scheme == "http" and is_open_line(url):
        message = "notices can be read on the way: the line is not encrypted"
        yield Finding("notifier", "warn", message, "write https:// in IAFLOW_NOTIFY_URL")
    if settings.notify_secret is None:
        message = "notices are not signed: who receives them cannot know that they are ours"
        yield Finding("notifier", "warn", message, "set IAFLOW_NOTIFY_SECRET")


def find_in_web(settings: Settings) -> Iterator[Finding]:
    """Look at what the web signs with, and how it is reached; nothing is asked of it."""
    from iaflow.auth.secrets_kept import require_strong_key

    key = settings.secret_key.get_secret_value() if settings.secret_key is not None else ""
    if not key:
        message = "IAFLOW_SECRET_KEY is not set: `iaflow web` starts with --dev alone"
        # Who says where people reach it means to serve it.
        verdict = "ok" if settings.public_url is None else "fail"
        advice = "" if settings.public_url is None else "set it to at least 32 random bytes"
        yield Finding("web", verdict, message, advice)
    else:
        try:
            require_strong_key(key)
        except SettingsRefused as error:
            problem, _, advice = as_clause(str(error)).partition(": ")
            yield Finding("web", "fail", f"IAFLOW_SECRET_KEY: {problem}", advice)
        else:
            yield Finding("web", "ok", "IAFLOW_SECRET_KEY is long enough, and none that is known")
    url = settings.public_url
    if url is not None and urlsplit(url).scheme == "http" and is_open_line(url):
        message = f"{url}: browsers keep the cookie of a sign-in over https alone"
        advice = "put a proxy with TLS before it, and write https:// in IAFLOW_PUBLIC_URL"
        yield Finding("web", "fail", message, advice)
    if url is not None and url.startswith("https://") and not settings.trusted_proxies:
        message = "no proxy is trusted: behind one, all people seem to come from its address"
        advice = "name its network in IAFLOW_TRUSTED_PROXIES; with TLS of its own, nothing is amiss"
        yield Finding("web", "warn", message, advice)
    for text in settings.trusted_proxies:
        if ipaddress.ip_network(text).prefixlen == 0:
            message = f"{text}: everybody is trusted to say where they come from"
            yield Finding("web", "fail", message, "name the proxy's network alone")


# --- the broker


def _connect(url: str) -> None:
    from kombu.connection import Connection

    open_connection: Any = Connection
    with open_connection(url, connect_timeout=CONNECT_SECONDS) as connection:
        connection.ensure_connection(max_retries=1, timeout=CONNECT_SECONDS)


def _ask_redis(url: str, queues: tuple[str, ...]) -> tuple[str | None, dict[str, int]]:
    """Return what becomes of keys when memory is full, and how much waits in each queue."""
    import redis

    client = redis.Redis.from_url(
        url,
        socket_connect_timeout=CONNECT_SECONDS,
        socket_timeout=CONNECT_SECONDS,
        decode_responses=True,
    )
    try:
        client.ping()
        depths = {queue: sum(client.llen(name) for name in _lists_of(queue)) for queue in queues}
        try:
            policy = client.config_get("maxmemory-policy").get("maxmemory-policy")
        except redis.ResponseError:
            policy = None
        return policy, depths
    finally:
        client.close()


def _lists_of(queue: str) -> list[str]:
    """Return the lists that a queue is on Redis: one for each class of priority (kombu's names)."""
    return [queue, *(f"{queue}\x06\x16{lowest}" for lowest in (3, 6, 9))]


def _judge_policy(policy: str | None) -> Finding:
    if policy is None:
        message = "the server does not tell its maxmemory-policy"
        return Finding("eviction", "warn", message, "see to it that it is noeviction")
    if policy == "noeviction":
        return Finding("eviction", "ok", "maxmemory-policy is noeviction")
    message = f"maxmemory-policy is {policy}: a full server would drop messages"
    return Finding("eviction", "fail", message, "redis-cli CONFIG SET maxmemory-policy noeviction")


def _judge_line(url: str) -> Iterator[Finding]:
    """Look at a broker on another machine: whoever writes to it decides what workers do."""
    parts = urlsplit(url)
    if not is_open_line(url):
        return
    if parts.scheme not in ENCRYPTED:
        message = "what is said to the broker can be read on the way: the line is not encrypted"
        advice = f"write {parts.scheme}s:// in IAFLOW_BROKER_URL, and TLS on the server"
        yield Finding("broker", "warn", message, advice)
    if not parts.password:
        message = "anybody who reaches the broker may write to it: it wants no password"
        yield Finding("broker", "warn", message, "give it a password, and IAFLOW_BROKER_URL too")


# --- workers


def _find_workers(
    settings: Settings, depths: Mapping[str, int], figures: Figures
) -> Iterator[Finding]:
    from iaflow.pipeline.executors.celery import make_app

    control = make_app(settings).control
    answers = control.inspect(timeout=ANSWER_SECONDS).active_queues() or {}
    read = {
        queue: sorted(name for name, found in answers.items() if queue in _names_of(found))
        for queue in settings.queues
    }
    if answers:
        yield Finding("workers", "ok", f"{len(answers)} answer: {', '.join(sorted(answers)[:8])}")
    else:
        message = f"no worker answered within {ANSWER_SECONDS:g} s"
        advice = "iaflow worker; a hardened deployment without remote control never answers"
        yield Finding("workers", "warn", message, advice)
    for queue, workers in read.items():
        yield _judge_queue(queue, workers, depths.get(queue), settings, figures)


def _names_of(found: Any) -> set[str]:
    return {str(one.get("name")) for one in found or ()}


def _judge_queue(
    queue: str, workers: list[str], depth: int | None, settings: Settings, figures: Figures
) -> Finding:
    ready = int(figures.get("iaflow_ready_steps", {}).get(queue, 0))
    oldest = figures.get("iaflow_oldest_ready_seconds", {}).get(queue, 0.0)
    told = [f"{ready} steps ready" if figures else "", "" if depth is None else f"{depth} messages"]
    if ready:
        told.append(f"the first has waited {format_seconds(oldest)}")
    words = ", ".join(filter(None, told)) or "nothing is known of it"
    if not workers:
        message = f"{queue}: nobody reads it; {words}"
        advice = f"iaflow worker -- -Q {queue}; or take it out of IAFLOW_QUEUES"
        return Finding("queue", "fail" if ready else "warn", message, advice)
    readers = f"{len(workers)} worker{'s' if len(workers) > 1 else ''}"
    message = f"{queue}: read by {readers}; {words}"
    if ready and oldest > settings.stuck_seconds:
        advice = "more workers, or more of --concurrency; what do they do? see iaflow flower"
        return Finding("queue", "warn", message, advice)
    return Finding("queue", "ok", message)
