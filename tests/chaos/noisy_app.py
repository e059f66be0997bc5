"""A worker that sends each message 0, 1, 2, 5 or 20 times, and says how often in a file."""

import os
import random
from pathlib import Path
from typing import Any

from iaflow.pipeline.executors.celery import CeleryExecutor
from tests.chaos.records import append

rng = random.Random(os.getpid())
send = CeleryExecutor._send


def send_noisily(self: CeleryExecutor, producer: Any, task: Any) -> None:
    times = rng.choices((0, 1, 2, 5, 20), (10, 30, 30, 20, 10))[0]
    append(Path(os.environ["CHAOS_LEDGER"]).with_name("sent"), str(times))
    for _ in range(times):
        send(self, producer, task)


CeleryExecutor._send = send_noisily  # type: ignore[method-assign]

from workers.app import app  # noqa: E402, F401  what Celery looks for
