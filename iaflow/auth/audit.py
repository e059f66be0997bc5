"""Who did what, or was refused: kept for those who must be able to tell.

Decides what an event holds, and that no secret does; never what is allowed. Called by the other
parts of this room and by the faces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import uuid_utils

from iaflow.clock import Clock
from iaflow.data.accounts import AuditRecord
from iaflow.database.account_store import AuditStore
from iaflow.database.connections import Connection
from iaflow.database.dialects import Database
from iaflow.phrasing import plain

__all__ = ["Audit", "Caller", "clean"]

LONGEST: Final = 500


@dataclass(frozen=True, slots=True)
class Caller:
    """
    Who asks for something, from where, and in which request.

    The middleware puts one into every scope, as `iaflow.caller`; every method of this room that
    changes something takes one.

    Attributes:
        name: the user's; None: nobody has signed in.
    """

    name: str | None = None
    address: str = ""
    request_id: str = ""


class Audit:
    """What was done on one database, and by whom."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._store = AuditStore(database)
        self._clock = clock

    def record(
        self,
        action: str,
        target: str = "",
        *,
        caller: Caller,
        detail: Mapping[str, Any] | None = None,
        tx: Connection | None = None,
    ) -> None:
        """
        Keep an event.

        Args:
            action: such as `sign_in.refused` or `run.cancel`.
            target: what it was done to: an id, a slug or a name.
            detail: never a secret, never a run's data; long texts are cut.
            tx: the transaction of what it tells of; without one it is kept alone.
        """
        event = AuditRecord(
            event_id=str(uuid_utils.uuid7()),
            at=self._clock.now(),
            actor=None if caller.name is None else clean(caller.name),
            action=action[:64],
            target=clean(target),
            address=clean(caller.address),
            request_id=clean(caller.request_id),
            detail={key: _cut(value) for key, value in (detail or {}).items()},
        )
        self._store.insert(event, tx)

    def list(
        self,
        *,
        actor: str | None = None,
        target: str | None = None,
        action: str | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> Sequence[AuditRecord]:
        """Return events, the newest first; `before` is an event's id, which makes a next page."""
        return self._store.page(
            actor=None if actor is None else clean(actor),
            target=None if target is None else clean(target),
            action=None if action is None else clean(action),
            before=before,
            limit=limit,
        )


def clean(text: str, longest: int = LONGEST) -> str:
    """Return a text as it may be kept: cut, on one line, without what steers a terminal."""
    return " ".join(plain(text[:longest]).split())


def _cut(value: Any) -> Any:
    match value:
        case str():
            return clean(value)
        case list() | tuple():
            return [_cut(one) for one in value[:100]]
        case Mapping():
            return {clean(str(key)): _cut(one) for key, one in value.items()}
        case _:
            return value
