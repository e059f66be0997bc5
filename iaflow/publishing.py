"""Publishing what was started inside a caller's transaction, once that is committed.

Decides when such a run is there to be published; never sends what nobody can see yet: a
message before the commit would find no row and be dropped. Used by the client.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from iaflow.data.records import StepTask
from iaflow.telemetry import get_logger

__all__ = ["LatePublisher"]

_log = get_logger(__name__)

MOST_KEPT = 10_000
FIRST_PAUSE = 0.002
LAST_PAUSE = 0.1
PATIENCE_SECONDS = 5.0


class LatePublisher:
    """
    Keeps tasks back until their run can be seen, which is when its transaction was committed.

    What is rolled back, or never committed, is forgotten after some seconds: the sweep of any
    worker publishes what such a hint would have, only later.

    Args:
        is_there: tells whether a run can be seen from outside.
        publish: sends the messages.
        leave: is called by the thread of this room when it rests, to give up its connection.
    """

    def __init__(
        self,
        is_there: Callable[[str], bool],
        publish: Callable[[Iterable[StepTask]], object],
        leave: Callable[[], None],
    ) -> None:
        self._is_there = is_there
        self._publish = publish
        self._leave = leave
        self._kept: dict[str, tuple[tuple[StepTask, ...], float | None]] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def keep(self, run_id: str, tasks: tuple[StepTask, ...]) -> None:
        """Keep the tasks of a run that is not committed yet."""
        with self._lock:
            self._kept[run_id] = (tasks, None)
            while len(self._kept) > MOST_KEPT:
                del self._kept[next(iter(self._kept))]

    def publish_soon(self, run_id: str) -> None:
        """Publish a run's tasks as soon as it is there: its commit is on its way."""
        with self._lock:
            kept = self._kept.get(run_id)
            if kept is None:
                return
            self._kept[run_id] = (kept[0], time.monotonic() + PATIENCE_SECONDS)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._serve, name="iaflow-publish", daemon=True
                )
                self._thread.start()

    def publish_now(self) -> int:
        """Publish the tasks of all runs that are there; return how many runs these were."""
        with self._lock:
            kept = list(self._kept)
        return self._publish_those(kept)

    def close(self) -> None:
        """Publish what is there, and forget the rest."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout=PATIENCE_SECONDS)

    def _serve(self) -> None:
        pause = FIRST_PAUSE
        while self._wants_more():
            try:
                found = self._publish_those(self._expected())
                pause = FIRST_PAUSE if found else min(pause * 2, LAST_PAUSE)
            except Exception as error:  # noqa: BLE001  a hint that is lost costs latency alone
                _log.warning("publish failed", error=str(error))
                pause = LAST_PAUSE
            time.sleep(pause)
        self._leave()

    def _expected(self) -> list[str]:
        with self._lock:
            return [run_id for run_id, (_, until) in self._kept.items() if until is not None]

    def _publish_those(self, run_ids: Iterable[str]) -> int:
        there = [run_id for run_id in run_ids if self._is_there(run_id)]
        for run_id in there:
            with self._lock:
                found = self._kept.pop(run_id, None)
            if found is not None:
                self._publish(found[0])
        return len(there)

    def _wants_more(self) -> bool:
        now = time.monotonic()
        with self._lock:
            for run_id, (_, until) in list(self._kept.items()):
                if until is not None and until < now:
                    del self._kept[run_id]
            if any(until is not None for _, until in self._kept.values()):
                return True
            self._thread = None
            return False
