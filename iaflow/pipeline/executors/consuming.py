"""The consumer of workers: Celery's own, which nothing that a broker says can end.

Decides what becomes of messages that Celery cannot read, and which of its steps a worker takes
when it connects; never what a message of ours means. Named in Celery's configuration, loaded by
`celery worker`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from celery.worker import consumer

from iaflow.telemetry import get_logger

__all__ = ["Consumer"]

_log = get_logger(__name__)

_DELAYED = "celery.worker.consumer.delayed_delivery:DelayedDelivery"

_UNREADABLE = (TypeError, ValueError, LookupError, AttributeError, RecursionError)
"""What Celery and kombu raise of a message that is none. Errors of a connection are others."""

_WORDS = (
    *("id", "root_id", "parent_id", "group", "shadow", "argsrepr", "kwargsrepr", "origin"),
    *("lang", "eta", "expires"),
)
_IGNORED = ("timelimit", "stamps", "stamped_headers")


class Consumer(consumer.Consumer):  # type: ignore[misc]
    """
    Drops messages that cannot be read, and says so.

    Celery ends the worker for some of them, and on Redis puts them back as it leaves, for the
    next worker to end. A message is a hint: if there was one in it, the sweep gives it again.

    It declares no queues for countdowns on RabbitMQ, of which Celery would make 28: iaflow has
    none, what is due later is a row.
    """

    class Blueprint(consumer.Consumer.Blueprint):  # type: ignore[misc]
        """Celery's steps but one."""

        default_steps: ClassVar[list[str]] = [
            step for step in consumer.Consumer.Blueprint.default_steps if step != _DELAYED
        ]

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        """Return what is called with each message."""
        handle = super().create_task_handler(*args, **kwargs)
        _guard_reading(self.task_consumer.channel)

        def on_task_received(message: Any) -> Any:
            headers = message.headers
            if not _are_readable(headers):
                return self._drop(message, "its headers are not those of a task")
            # Believed before any look: the limits of a step are its own and the deployment's.
            for name in _IGNORED:
                headers.pop(name, None)
            try:
                return handle(message)
            except _UNREADABLE as error:
                return self._drop(message, repr(error)[:200])

        return on_task_received

    def _drop(self, message: Any, reason: str) -> None:
        _log.warning("message dropped", reason=reason)
        if not message.acknowledged:
            # Or it would be given back as the worker leaves.
            message.ack_log_error(_log, self.connection_errors)


def _are_readable(headers: Any) -> bool:
    """Tell whether Celery may be shown the headers: it looks up and counts by some of them."""
    if not isinstance(headers, dict) or not isinstance(headers.get("task"), str):
        return False
    words = (headers.get(name) for name in _WORDS)
    retries = headers.get("retries")
    return all((word is None or isinstance(word, str)) for word in words) and isinstance(
        retries, (int, type(None))
    )


def _guard_reading(channel: Any) -> None:
    """Let a channel to Redis drop what is no message at all."""
    # By kombu's transport: what to call when there is something to be read.
    handlers = getattr(channel, "handlers", {})
    read = handlers.get("BRPOP")
    if read is None:
        return

    def read_carefully(**options: Any) -> Any:
        try:
            return read(**options)
        except _UNREADABLE as error:
            _log.warning("message dropped", reason=repr(error)[:200])
            return True

    handlers["BRPOP"] = read_carefully
