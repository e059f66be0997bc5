"""Tries with a password: each is counted before it costs anything, in every process alike.

Decides when a try counts as failed; never how long the next one waits (throttle does). Called by
sessions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import uuid_utils

from iaflow.auth.audit import clean
from iaflow.auth.secrets_kept import Signer
from iaflow.auth.throttle import (
    ADDRESS_WINDOW,
    KEPT_FAILED,
    KEPT_SUCCEEDED,
    NAME_WINDOW,
    PAIR_WINDOW,
    decide_delay,
    neighbourhood_of,
)
from iaflow.clock import Clock
from iaflow.database.account_store import SignInStore
from iaflow.database.dialects import Database
from iaflow.errors import TooMany
from iaflow.telemetry import get_logger

__all__ = ["OneTry", "SignInTries"]

_log = get_logger(__name__)


class OneTry:
    """A try that may be made; it has failed until `succeed`."""

    def __init__(self, store: SignInStore, sign_in_id: str) -> None:
        self._store = store
        self._id = sign_in_id

    def succeed(self) -> None:
        """Let it count as no failure any more."""
        self._store.mark_succeeded(self._id)


class SignInTries:
    """The tries on one database."""

    def __init__(self, database: Database, clock: Clock, signer: Signer) -> None:
        self._store = SignInStore(database)
        self._clock = clock
        self._signer = signer

    @contextmanager
    def one(self, name: str, address: str) -> Iterator[OneTry]:
        """
        Give a try, if it may be made now.

        It is written down as failed first and counted then, so that of any number who try at
        once no more get through than one after the other would.

        Raises:
            TooMany: it has to wait; it is not counted, nor is one that raises this itself.
        """
        # Under the key: what is typed as a name is at times a password.
        name_hash = self._signer.sign("name", name)
        neighbourhood = neighbourhood_of(clean(address, 64))
        sign_in_id = str(uuid_utils.uuid7())
        # Looked at first, so that what has to wait writes nothing.
        self._require_turn(name_hash, neighbourhood, sign_in_id)
        self._store.insert(sign_in_id, name_hash, neighbourhood, now=self._clock.now())
        try:
            self._require_turn(name_hash, neighbourhood, sign_in_id)
            yield OneTry(self._store, sign_in_id)
        except TooMany:
            self._store.withdraw(sign_in_id)
            raise

    def prune(self) -> None:
        """Remove tries that no window will ever hold again."""
        now = self._clock.now()
        self._store.prune(failed_before=now - KEPT_FAILED, succeeded_before=now - KEPT_SUCCEEDED)

    def _require_turn(self, name_hash: str, neighbourhood: str, but: str) -> None:
        now = self._clock.now()
        tries = self._store.count(
            name_hash,
            neighbourhood,
            pair_since=now - PAIR_WINDOW,
            day_since=now - KEPT_FAILED,
            name_since=now - NAME_WINDOW,
            address_since=now - ADDRESS_WINDOW,
            but=but,
        )
        delay = decide_delay(tries, now)
        if delay > 0:
            _log.info("sign_in.delayed", address=neighbourhood, after_seconds=round(delay, 1))
            raise TooMany(delay)
