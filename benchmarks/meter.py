"""Wall time and CPU of a stretch of work, and how much of the machine others used meanwhile.

Decides what counts as ours (this process and all below it: workers, Postgres, Redis); never
what is measured. Used by the workloads.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["Meter"]

PROC = Path("/proc")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Meter:
    """
    A context manager around what is measured.

    Attributes:
        seconds: wall time.
        cpu_seconds: CPU time of ours; None where there is no /proc.
        foreign: share of the machine's CPU that others used, 0 to 1; None likewise.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.cpu_seconds: float | None = None
        self.foreign: float | None = None
        self._ours: dict[tuple[int, str], int] = {}
        self._busy = 0
        self._began = 0.0

    def __enter__(self) -> Self:
        if PROC.joinpath("stat").exists():
            self._ours = read_own_ticks()
            self._busy = read_busy_ticks()
        self._began = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.seconds = time.perf_counter() - self._began
        if not self._ours:
            return
        busy = read_busy_ticks() - self._busy
        ours = sum(
            ticks - self._ours.get(process, 0) for process, ticks in read_own_ticks().items()
        )
        self.cpu_seconds = ours / TICKS_PER_SECOND
        all_of_it = self.seconds * (os.cpu_count() or 1)
        self.foreign = max(0.0, busy / TICKS_PER_SECOND - self.cpu_seconds) / all_of_it


def read_busy_ticks() -> int:
    """Return the machine's ticks that were not idle, what a hypervisor took included."""
    first = PROC.joinpath("stat").read_text().splitlines()[0]
    user, nice, system, _idle, _waiting, *interrupts = map(int, first.split()[1:9])
    return user + nice + system + sum(interrupts)


def read_own_ticks() -> dict[tuple[int, str], int]:
    """Return (process id, its start) to ticks used, those of its reaped children included."""
    parents: dict[int, int] = {}
    ticks: dict[int, tuple[str, int]] = {}
    for entry in PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = entry.joinpath("stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended while we looked
        pid = int(entry.name)
        parents[pid] = int(fields[1])
        ticks[pid] = (fields[19], sum(map(int, fields[11:15])))
    ours = {os.getpid()}
    while below := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= below
    return {(pid, ticks[pid][0]): ticks[pid][1] for pid in ours if pid in ticks}
