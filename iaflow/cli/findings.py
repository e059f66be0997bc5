"""A finding of `iaflow doctor`: what was looked at, how it stands, what to do.

Decides the shape alone, and that looking never fails; never looks. Used by the rooms that look,
and by the command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from iaflow.cli.terminal import as_clause

__all__ = ["Finding", "guarded"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `advice` says what to do, and is empty if nothing is."""

    name: str
    verdict: str  # ok, warn, fail
    message: str
    advice: str = ""

    def as_json(self) -> dict[str, str]:
        """Return the finding as an object."""
        return {
            "name": self.name,
            "verdict": self.verdict,
            "message": self.message,
            "advice": self.advice,
        }


def guarded(name: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Turn what goes wrong while looking into a finding: a doctor must not die of the patient."""
    try:
        yield from look()
    except Exception as error:  # noqa: BLE001  whatever a server answers is a finding
        message = f"{type(error).__name__}: {as_clause(str(error))}"
        yield Finding(name, "fail", message, "iaflow --debug doctor shows where")
