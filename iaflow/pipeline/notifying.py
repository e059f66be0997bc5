"""Delivering notices: the notifier service, and those that iaflow brings along.

Decides how a notice is sent and what becomes of one that cannot be; never what is worth one
(the engine and the settler keep them with their cause). Used by executors and workers.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

from iaflow.concurrency import run_in_own_thread
from iaflow.data.records import NoticeRecord
from iaflow.data.status import NoticeKind
from iaflow.pipeline.engine import Engine
from iaflow.pipeline.services import ServiceRegistry
from iaflow.pipeline.strict_json import dump_json
from iaflow.telemetry import get_logger

__all__ = [
    "Courier",
    "LogNotifier",
    "NOTIFIER",
    "Notifier",
    "WebhookNotifier",
    "as_message",
    "verify_signature",
]

_log = get_logger(__name__)

NOTIFIER: Final = "notifier"
"""The name of the service."""

DELIVERY_SECONDS: Final = 30.0
"""How long one delivery may take."""
TRIES: Final = 12
FIRST_PAUSE_SECONDS: Final = 5.0
LAST_PAUSE_SECONDS: Final = 3600.0
"""Pauses between tries: doubled from the first, up to the last: half a day in all."""

_URGENT: Final = frozenset({NoticeKind.RUN_FAILED, NoticeKind.RUN_STUCK})


class Notifier(Protocol):
    """A service that tells people: by mail, by chat, by whatever they read."""

    def notify(self, notice: NoticeRecord) -> Any:
        """
        Deliver a notice, plainly or as a coroutine; raise if it could not be.

        It may be called again for the same `notice_id`: at least once, never surely once.
        """
        ...


class LogNotifier:
    """Writes each notice to the log: what there is until another notifier is given."""

    def notify(self, notice: NoticeRecord) -> None:
        """Write it: a warning for what failed or is stuck, else an information."""
        write = _log.warning if notice.kind in _URGENT else _log.info
        write("notice", **as_message(notice))


class WebhookRefused(RuntimeError):
    """The webhook's receiver did not accept a notice."""


class WebhookNotifier:
    """
    Sends each notice as a POST with a JSON body, signed if there is a secret.

    Redirects are not followed. An answer other than 2xx is a failed delivery.

    Args:
        url: of the receiver.
        secret: shared with the receiver, who verifies by `verify_signature`.
    """

    def __init__(self, url: str, secret: bytes | None = None) -> None:
        self._url = url
        self._secret = secret
        self._http: Any = None

    async def notify(self, notice: NoticeRecord) -> None:
        """
        Send it.

        Raises:
            WebhookRefused: the receiver answered something else than 2xx.
        """
        body = dump_json(as_message(notice)).encode()
        headers = {"Content-Type": "application/json", "Idempotency-Key": notice.notice_id}
        if self._secret is not None:
            headers["Iaflow-Signature"] = _sign(self._secret, body, int(time.time()))
        reply = await self._open().post(self._url, content=body, headers=headers)
        if not 200 <= reply.status_code < 300:
            raise WebhookRefused(f"the webhook answered {reply.status_code}")

    async def aclose(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    def _open(self) -> Any:
        if self._http is None:
            import httpx2

            self._http = httpx2.AsyncClient(timeout=10.0, trust_env=False, follow_redirects=False)
        return self._http


def as_message(notice: NoticeRecord) -> dict[str, Any]:
    """Return a notice as what is sent and logged: ids, its kind, and what its body says."""
    known = {
        "notice_id": notice.notice_id,
        "kind": notice.kind.value,
        "run_id": notice.run_id,
        "step_id": notice.step_id,
        "pause_id": notice.pause_id,
        "created_at": notice.created_at.isoformat(),
    }
    named = {key: value for key, value in known.items() if value is not None}
    return {**notice.body, **named}


def verify_signature(
    secret: bytes, header: str, body: bytes, *, tolerance_seconds: float = 300.0
) -> bool:
    """
    Tell whether a webhook's request is from who has the secret, and is not an old one again.

    Args:
        header: the value of ``Iaflow-Signature``: ``t=<unix seconds>,v1=<hex HMAC-SHA256>`` of
            ``<unix seconds>.<body>``.
        body: the request's body, as it came.
        tolerance_seconds: how far its time may be from now.
    """
    parts = dict(part.partition("=")[::2] for part in header.split(","))
    try:
        sent_at = int(parts["t"])
    except (KeyError, ValueError):
        return False
    if abs(time.time() - sent_at) > tolerance_seconds:
        return False
    return hmac.compare_digest(_sign(secret, body, sent_at).encode(), header.encode())


def _sign(secret: bytes, body: bytes, at: int) -> str:
    digest = hmac.new(secret, f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


@dataclass(frozen=True, slots=True)
class _Delivery:
    notice: NoticeRecord
    error: str | None


class Courier:
    """
    Delivers what is due: claimed in the database, told to the service, and marked.

    Any number of processes may do it at once. One that dies on the way leaves its notices to
    the others, after a minute.

    Args:
        engine: keeps the notices.
        services: the notifier among them; without one nothing is delivered.
    """

    def __init__(self, engine: Engine, services: ServiceRegistry) -> None:
        self._engine = engine
        self._services = services

    async def deliver(self, run_id: str | None = None) -> int:
        """
        Deliver what is due, of one run if given; return how many were delivered.

        For code on a loop whose database calls are short; see `deliver_by` for the others.
        """
        notices = self._claim(run_id)
        deliveries = await self._notify_all(notices) if notices else []
        return self._mark(deliveries)

    def deliver_by(self, wait: Callable[[Any], list[_Delivery]]) -> int:
        """
        Deliver what is due from a thread; return how many were delivered.

        Args:
            wait: runs a coroutine where the services live, and returns its result.
        """
        notices = self._claim(None)
        return self._mark(wait(self._notify_all(notices))) if notices else 0

    def _claim(self, run_id: str | None) -> list[NoticeRecord]:
        if NOTIFIER not in self._services:
            return []
        now = self._engine.clock.now()
        until = now + timedelta(seconds=2 * DELIVERY_SECONDS)
        return self._engine.notices.claim_due(now=now, until=until, run_id=run_id)

    async def _notify_all(self, notices: list[NoticeRecord]) -> list[_Delivery]:
        return list(await asyncio.gather(*(self._notify(notice) for notice in notices)))

    async def _notify(self, notice: NoticeRecord) -> _Delivery:
        try:
            async with asyncio.timeout(DELIVERY_SECONDS):
                notify = self._services.get(NOTIFIER).notify
                if inspect.iscoroutinefunction(notify):
                    await notify(notice)
                else:
                    # Steps work on this loop: mail by a plain library must not hold them up.
                    told = await run_in_own_thread(notify, notice)
                    if inspect.isawaitable(told):
                        await told
        except Exception as error:  # noqa: BLE001  whatever a service raises: it is tried again
            return _Delivery(notice, f"{type(error).__name__}: {error}"[:1000])
        return _Delivery(notice, None)

    def _mark(self, deliveries: list[_Delivery]) -> int:
        notices = self._engine.notices
        for delivery in deliveries:
            notice, now = delivery.notice, self._engine.clock.now()
            if delivery.error is None:
                notices.mark_delivered(notice.notice_id, now=now)
                continue
            due_at = _next_try(notice.tries, now)
            _log.warning(
                "notice not delivered",
                notice_id=notice.notice_id,
                kind=notice.kind.value,
                run_id=notice.run_id,
                tries=notice.tries,
                is_given_up=due_at is None,
                error=delivery.error,
            )
            notices.mark_failed(notice.notice_id, error=delivery.error, due_at=due_at)
        return sum(1 for delivery in deliveries if delivery.error is None)


def _next_try(tries: int, now: datetime) -> datetime | None:
    if tries >= TRIES:
        return None
    pause = min(FIRST_PAUSE_SECONDS * 2 ** (tries - 1), LAST_PAUSE_SECONDS)
    return now.astimezone(UTC) + timedelta(seconds=pause)
