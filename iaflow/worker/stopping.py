"""Whether this worker is to stop, known to all its processes.

Decides how the head of a worker tells its children, over a byte of shared memory; never what
they do about it (the warden does). Made by the app before any fork.
"""

from __future__ import annotations

import mmap
import struct
import time

__all__ = ["StopFlag"]

_INSTANT = struct.Struct("d")


class StopFlag:
    """
    The instant by which the steps of a worker must have ended or been given back.

    It lies in memory that children share with the head, because Celery tells of SIGTERM in
    the head alone. The clock is the machine's monotonic one, the same in all its processes.
    """

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, _INSTANT.size)

    def stop(self, grace_seconds: float) -> None:
        """Let running steps go on for so long; the first call counts."""
        if not self.is_set:
            # Nothing but a whole number is ever seen: 8 aligned bytes are written at once.
            _INSTANT.pack_into(self._shared, 0, time.monotonic() + grace_seconds)

    @property
    def is_set(self) -> bool:
        """Tell whether the worker is stopping."""
        return self._until() > 0

    @property
    def is_over(self) -> bool:
        """Tell whether the grace is over."""
        return 0 < self._until() <= time.monotonic()

    def _until(self) -> float:
        until: float = _INSTANT.unpack_from(self._shared, 0)[0]
        return until
