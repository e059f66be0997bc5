"""The consumer of workers on RabbitMQ: Celery's own, without what only a countdown needs.

Decides which of Celery's steps a worker takes when it connects; never how messages are consumed.
Named in Celery's configuration, loaded by `celery worker`.
"""

from __future__ import annotations

from typing import ClassVar

from celery.worker import consumer

__all__ = ["Consumer"]

_DELAYED = "celery.worker.consumer.delayed_delivery:DelayedDelivery"


class Consumer(consumer.Consumer):  # type: ignore[misc]
    """
    Does not declare 28 quorum queues, which Celery does wherever it sees one.

    They hold messages with a countdown, of which iaflow has none: what is due later is a row.
    """

    class Blueprint(consumer.Consumer.Blueprint):  # type: ignore[misc]
        """Celery's steps but one."""

        default_steps: ClassVar[list[str]] = [
            step for step in consumer.Consumer.Blueprint.default_steps if step != _DELAYED
        ]
