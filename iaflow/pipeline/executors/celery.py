"""The Celery executor: a ready step becomes one message, ids only.

Decides what a message looks like and how Celery is set up so that Postgres stays the
truth; never executes a step. Called by workers, the sweep and the client, after a commit.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import uuid_utils
from celery import Celery, signals
from celery.utils.nodenames import anon_nodename
from kombu.entity import Queue
from kombu.exceptions import ChannelError, OperationalError

from iaflow.data.records import StepTask
from iaflow.settings import Settings
from iaflow.telemetry import get_logger

__all__ = ["RESUME_RUN", "RUN_STEP", "SWEEP", "CeleryExecutor", "make_app", "read_ids"]

_log = get_logger(__name__)

RUN_STEP = "iaflow.run_step"
RESUME_RUN = "iaflow.resume_run"
SWEEP = "iaflow.sweep"

MOST_URGENT = 9
"""The highest priority of a step (LANGUAGE section 2); steps without one have 0."""


class CeleryExecutor:
    """
    Publishes step tasks. A message that cannot be sent is no error: the sweep sends another.

    Args:
        app: the Celery application whose broker is used.
        queues: all queues that workers read; the first is for steps that name none.
    """

    def __init__(self, app: Celery, queues: tuple[str, ...]) -> None:
        self._app = app
        self._queues = queues
        self._default_queue = queues[0]
        self._origin = anon_nodename()
        # kombu reads the lists of a Redis queue from 0 upwards; RabbitMQ takes 9 first.
        self._lowest_first = _is_redis(str(app.conf.broker_url))

    def submit(self, tasks: Iterable[StepTask]) -> int:
        """Send a message for each step; return how many were sent."""
        waiting = list(tasks)
        if not waiting:
            return 0
        try:
            with self._app.producer_pool.acquire(block=True) as producer:
                self._send_all(producer, waiting)
        except (OperationalError, OSError) as error:
            # The rows are ready in the database: losing the message costs latency alone.
            _log.warning("publish failed", tasks=len(waiting), error=str(error))
            return 0
        return len(waiting)

    def submit_resume(self, pause_id: str, slug: str) -> bool:
        """Send a message for an accepted answer; return whether it was sent."""
        try:
            self._app.send_task(
                RESUME_RUN,
                args=(pause_id,),
                queue=self._default_queue,
                shadow=f"iaflow.{slug}.resume",
                ignore_result=True,
                retry=False,
            )
        except (OperationalError, OSError) as error:
            _log.warning("publish failed", pause_id=pause_id, error=str(error))
            return False
        return True

    def depth(self) -> int | None:
        """Return how many messages wait for workers; None if the broker does not tell."""
        with self._app.connection_for_read() as connection:
            try:
                return sum(_count_messages(connection, name) for name in self._queues)
            except (OperationalError, OSError, *connection.connection_errors):
                return None

    def _send_all(self, producer: Any, tasks: list[StepTask]) -> None:
        connection = producer.connection
        try:
            if len(tasks) == 1:
                self._send(producer, tasks[0])
                return
            with producer.batch():
                for task in tasks:
                    self._send(producer, task)
        except (*connection.connection_errors, *connection.channel_errors) as error:
            # Each transport has errors of its own; who publishes knows one.
            raise OperationalError(str(error)) from error

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
                producer=producer,
                ignore_result=True,
                retry=False,
                add_to_parent=False,
            )
            return
        message_id = str(uuid_utils.uuid4())
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


def _count_messages(connection: Any, queue: str) -> int:
    try:
        # Not `default_channel`: it tries again for ever while the broker is away.
        with connection.channel() as channel:
            return int(channel.queue_declare(queue, passive=True).message_count)
    except ChannelError:
        # Redis has no list for an empty queue: nothing waits in it.
        return 0


def make_app(settings: Settings, overrides: Mapping[str, Any] | None = None) -> Celery:
    """
    Return a Celery application that is set up as iaflow needs it; it has no tasks yet.

    Args:
        overrides: a deployment's own values (`celeryconfig.py`): pool, limits, events.
    """
    app = Celery("iaflow", broker=settings.broker_url, set_as_current=False)
    app.conf.update(_configuration(settings))
    app.conf.update(overrides or {})
    return app


def _configuration(settings: Settings) -> dict[str, Any]:
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
        "worker_disable_prefetch": True,
        # Running steps have leases of their own; losing the broker stops nothing.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "broker_connection_retry_on_startup": True,
        "broker_transport_options": _transport_options(settings),
        # Queue names alone, no exchange: a flushed Redis then has no binding to lose.
        "task_default_queue": settings.queues[0],
        "task_queues": [_queue(name) for name in settings.queues],
        "task_create_missing_queues": True,
        # The sent event would bring the plain task name back in Flower's rows.
        "task_send_sent_event": False,
        # What steps print and log belongs to them.
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
    }


def _is_redis(url: str) -> bool:
    return url.startswith(("redis", "rediss", "sentinel"))


def _queue(name: str) -> Any:
    return Queue(name)  # type: ignore[no-untyped-call]


def _transport_options(settings: Settings) -> dict[str, Any]:
    if not _is_redis(settings.broker_url or ""):
        return {}
    return {
        # No copy of unacknowledged messages: nothing is redelivered, two writes less.
        "ack_emulation": False,
        "health_check_interval": 10,
        "socket_keepalive": True,
        "socket_connect_timeout": 5,
        "socket_timeout": 10,
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
