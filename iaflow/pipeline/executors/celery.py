"""The Celery executor: a ready step becomes one message, ids only.

Decides what a message looks like and how Celery is set up so that Postgres stays the
truth; never executes a step. Called by workers, the sweep and the client, after a commit.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from celery import Celery, signals
from celery.app.amqp import AMQP
from celery.utils.nodenames import anon_nodename
from kombu.exceptions import ChannelError
from kombu.pools import producers

from iaflow import failpoints
from iaflow.data.records import StepTask
from iaflow.pipeline.executors.breaker import Breaker
from iaflow.pipeline.executors.brokers import CONNECT_SECONDS, Broker, read_broker
from iaflow.settings import Settings
from iaflow.telemetry import get_logger

__all__ = ["RESUME_RUN", "RUN_STEP", "START_RUN", "SWEEP", "CeleryExecutor", "make_app", "read_ids"]

_log = get_logger(__name__)

RUN_STEP = "iaflow.run_step"
RESUME_RUN = "iaflow.resume_run"
START_RUN = "iaflow.start_run"
SWEEP = "iaflow.sweep"

MOST_URGENT = 9
"""The highest priority of a step (LANGUAGE section 2); steps without one have 0."""


BREAK_SECONDS = 1.0
"""How long nothing is published after a broker has failed."""

STALE_SECONDS = 0.1
"""A failure that comes sooner is a connection which broke while nobody used it: not the broker."""


class CeleryExecutor:
    """
    Publishes step tasks. A message that cannot be sent is no error: the sweep sends another.

    While the broker is away nobody waits for it: a connection is given up soon, and after a
    failure messages are dropped for a second (`Breaker`).

    Args:
        app: the Celery application whose broker is used; from `make_app`.
        queues: all queues that workers read; the first is for steps that name none.
    """

    def __init__(self, app: Celery, queues: tuple[str, ...]) -> None:
        self._app = app
        self._queues = queues
        self._default_queue = queues[0]
        self._origin = anon_nodename()
        self._breaker = Breaker(BREAK_SECONDS)
        self._lowest_first = read_broker(app.conf.broker_write_url).takes_lowest_first

    def submit(self, tasks: Iterable[StepTask]) -> int:
        """Send a message for each step; return how many were sent."""
        waiting = list(tasks)
        if not waiting:
            return 0
        if failpoints.ACTIVE:
            failpoints.reach("publish.before")
        sent = len(waiting) if self._publish(partial(self._send_all, waiting)) else 0
        if failpoints.ACTIVE:
            failpoints.reach("publish.after")
        return sent

    def submit_resume(self, pause_id: str, slug: str) -> bool:
        """Send a message for an accepted answer; return whether it was sent."""
        return self._publish(partial(self._send_resume, pause_id, slug))

    def depth(self) -> int | None:
        """Return how many messages wait for workers; None if the broker does not tell."""
        counted: list[int] = []
        try:
            self._try(lambda producer: counted.append(self._count_all(producer)))
        except Exception as error:  # noqa: BLE001  each transport has errors of its own
            _log.debug("depth unknown", error=str(error) or repr(error))
            return None
        return counted[-1] if counted else None

    def _publish(self, send: Callable[[Any], None]) -> bool:
        try:
            return self._try(send)
        except Exception as error:  # noqa: BLE001  each transport has errors of its own
            # The rows are in the database: losing the message costs latency alone, and what
            # is committed must not look as if it had failed.
            _log.warning("publish failed", error=str(error) or repr(error))
            return False

    def _try(self, work: Callable[[Any], None]) -> bool:
        """Do something with a producer; False if the broker has just failed somebody."""
        if self._breaker.is_open:
            return False
        with self._app.producer_pool.acquire(block=True) as producer:
            # Asked again: there may have been a queue for the producers.
            if not self._breaker.admits():
                return False
            try:
                _work_connected(producer, work)
            except Exception:
                self._breaker.note_failure()
                raise
            self._breaker.note_success()
            return True

    def _count_all(self, producer: Any) -> int:
        connection = producer.connection
        # Not `channel()` alone, which sleeps and tries again while the broker is away.
        _ = connection.default_channel
        return sum(_count_messages(connection, name) for name in self._queues)

    def _send_all(self, tasks: list[StepTask], producer: Any) -> None:
        if len(tasks) == 1:
            self._send(producer, tasks[0])
            return
        with producer.batch():
            for task in tasks:
                self._send(producer, task)

    def _send_resume(self, pause_id: str, slug: str, producer: Any) -> None:
        self._app.send_task(
            RESUME_RUN,
            args=(pause_id,),
            queue=self._default_queue,
            shadow=f"iaflow.{slug}.resume",
            producer=producer,
            ignore_result=True,
            retry=False,
            add_to_parent=False,
        )

    def _broker_priority(self, priority: int | None) -> int:
        """Return what the broker takes for a step's priority: 9 is the most urgent of ours."""
        own = priority or 0
        return MOST_URGENT - own if self._lowest_first else own

    def _send(self, producer: Any, task: StepTask) -> None:
        ids = (task.run_id, task.step_id, task.index, task.attempt)
        queue = task.queue or self._default_queue
        name = f"iaflow.{task.slug}.{task.step_id}"
        priority = self._broker_priority(task.priority)
        if signals.before_task_publish.receivers or signals.after_task_publish.receivers:
            # Somebody listens (tracing): Celery's own way, which takes twice as long, tells them.
            self._app.send_task(
                RUN_STEP,
                args=ids,
                queue=queue,
                priority=priority,
                shadow=name,
                task_id=task.message_id,
                producer=producer,
                ignore_result=True,
                retry=False,
                add_to_parent=False,
            )
            return
        message_id = task.message_id
        producer.publish(
            (ids, {}, _NO_CANVAS),
            # No exchange: the routing key is the queue's name, on every broker.
            exchange="",
            routing_key=queue,
            declare=[self._app.amqp.queues[queue]],
            serializer="json",
            delivery_mode=2,
            priority=priority,
            correlation_id=message_id,
            reply_to="",
            headers={
                **_HEADERS,
                "id": message_id,
                "root_id": message_id,
                "shadow": name,
                "argsrepr": repr(ids),
                "origin": self._origin,
            },
        )


# What Celery's message protocol 2 has beside ids and names, for a task that is alone.
_HEADERS: dict[str, Any] = {
    "lang": "py",
    "task": RUN_STEP,
    "parent_id": None,
    "group": None,
    "group_index": None,
    "eta": None,
    "expires": None,
    "retries": 0,
    "timelimit": [None, None],
    "kwargsrepr": "{}",
    "ignore_result": True,
    "replaced_task_nesting": 0,
    "stamped_headers": None,
    "stamps": {},
}
_NO_CANVAS = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def _work_connected(producer: Any, work: Callable[[Any], None]) -> None:
    """Do something with a producer; once more if its connection had gone stale in the pool."""
    began = time.monotonic()
    try:
        work(producer)
    except Exception:
        connection = producer.connection
        # Without a farewell, which the broker would have to answer.
        connection.collect()
        if time.monotonic() - began > STALE_SECONDS:
            raise
        producer.revive(connection)
        try:
            work(producer)
        except Exception:
            connection.collect()
            raise


def _count_messages(connection: Any, queue: str) -> int:
    try:
        with connection.channel() as channel:
            return int(channel.queue_declare(queue, passive=True).message_count)
    except ChannelError:
        # Nobody has declared it yet, or Redis has no list for an empty one: nothing waits.
        return 0


class _Messaging(AMQP):  # type: ignore[misc]
    """Celery's way to the broker, in which publishers have connections that give up soon."""

    _producer_pool: Any

    @property
    def producer_pool(self) -> Any:
        if self._producer_pool is None:
            limit = self.app.pool.limit
            options = read_broker(self.app.conf.broker_write_url).publisher_options()
            connection = self.app.connection_for_write(
                connect_timeout=CONNECT_SECONDS, transport_options=options
            )
            self._producer_pool = producers[connection]
            self._producer_pool.limit = limit
        return self._producer_pool


def make_app(settings: Settings, overrides: Mapping[str, Any] | None = None) -> Celery:
    """
    Return a Celery application that is set up as iaflow needs it; it has no tasks yet.

    Args:
        overrides: a deployment's own values (`celeryconfig.py`): pool, limits, events.
    """
    broker = read_broker(settings.broker_url or "")
    app = Celery("iaflow", amqp=_Messaging, set_as_current=False)
    app.conf.update(_configuration(settings, broker))
    app.conf.update(overrides or {})
    return app


def _configuration(settings: Settings, broker: Broker) -> dict[str, Any]:
    """Return the values on which durability and latency rest, each with its reason."""
    return {
        # Postgres keeps results and state; a backend would be a second truth.
        "result_backend": None,
        "task_ignore_result": True,
        # JSON alone: a broker that is broken into must not become code on a worker.
        "task_serializer": "json",
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        # A message is a hint. Acknowledged early, it is never delivered twice by a
        # visibility timeout; if its worker dies, the lease and the sweep bring it back.
        "task_acks_late": False,
        "task_reject_on_worker_lost": False,
        # A message must not sit behind a long step while another worker idles.
        "worker_prefetch_multiplier": 1,
        # Running steps have leases of their own; losing the broker stops nothing.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "broker_connection_retry_on_startup": True,
        **broker.configuration(),
        "task_default_queue": settings.queues[0],
        "task_queues": [broker.make_queue(name) for name in settings.queues],
        "task_create_missing_queues": True,
        # The sent event would bring the plain task name back in Flower's rows.
        "task_send_sent_event": False,
        # What steps print and log belongs to them.
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
    }


def read_ids(args: Any) -> tuple[str, str, int, int]:
    """
    Return the ids of a `run_step` message.

    Raises:
        ValueError: it is no message of ours; it is dropped.
    """
    match args:
        case [str(run_id), str(step_id), int(index), int(attempt)]:
            return run_id, step_id, index, attempt
        case _:
            raise ValueError(f"not a step task: {json.dumps(args, default=str)[:200]}")
