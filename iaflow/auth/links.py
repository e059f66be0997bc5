"""One-time links: the right of one person to answer one question once, without signing in.

Decides what a link is bound to and when it can be used; never what an answer does. Called by the
web.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

import uuid_utils

from iaflow.auth.audit import Audit, Caller
from iaflow.auth.secrets_kept import Signer, draw_token, hash_token
from iaflow.clock import Clock
from iaflow.data.accounts import NAME, LinkRecord
from iaflow.database.account_store import LinkStore
from iaflow.database.connections import Connection
from iaflow.database.dialects import Database
from iaflow.errors import AccountRefused, Conflict, NotFound, Problem

__all__ = ["LONGEST", "AnswerLinks"]

LONGEST: Final = timedelta(days=7)
_SHORTEST: Final = timedelta(minutes=1)
_MOST_ACTION: Final = 4_000
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_UNKNOWN: Final = "this link is unknown or over"


class AnswerLinks:
    """The one-time links of one database."""

    def __init__(self, database: Database, clock: Clock, audit: Audit, signer: Signer) -> None:
        self._database = database
        self._clock = clock
        self._audit = audit
        self._signer = signer
        self._store = LinkStore(database)

    def create(
        self,
        pause_id: str,
        person: str,
        action: Mapping[str, Any] | None = None,
        *,
        lifetime: timedelta = LONGEST,
        caller: Caller,
    ) -> tuple[LinkRecord, str]:
        """
        Make a link to an open question.

        Args:
            person: in whose name it answers: a user's, or such as a mail address.
            action: fields and the values that the answer must give them; none: any answer.
            lifetime: at most seven days; it ends with the question in any case.

        Returns:
            The link as it is kept, and its token for `/l/<token>`, which is shown this once.

        Raises:
            NotFound: no such question is open.
            AccountRefused: a person, action or lifetime cannot be used.
        """
        small = person.strip().lower()
        problems = _check(small, action or {}, lifetime)
        if problems:
            raise AccountRefused(problems)
        token, now = draw_token(), self._clock.now()
        wanted = LinkRecord(
            link_id=str(uuid_utils.uuid7()),
            pause_id=pause_id,
            person=small,
            action=dict(action or {}),
            created_by=caller.name or "",
            created_at=now,
            expires_at=now + lifetime,
        )

        def keep(tx: Connection) -> LinkRecord:
            kept = self._store.insert(tx, wanted, token_hash=hash_token(token))
            if kept is None:
                raise NotFound(f"no question {pause_id} is open")
            detail = {"person": small, "link_id": kept.link_id}
            self._audit.record("link.create", pause_id, caller=caller, detail=detail, tx=tx)
            return kept

        return self._database.perform(keep), token

    def read(self, token: str) -> LinkRecord:
        """
        Return the link of a token; it stays as it is, however often it is read.

        Raises:
            NotFound: it is unknown or over, or the person's account is disabled.
            Conflict: it was used before.
        """
        found = self._store.find(hash_token(token)) if _TOKEN.fullmatch(token) else None
        if found is None:
            raise NotFound(_UNKNOWN)
        if found.used_at is not None:
            raise Conflict("this link was used before")
        if found.expires_at <= self._clock.now():
            raise NotFound(_UNKNOWN)
        return found

    def use(self, token: str, *, caller: Caller) -> LinkRecord:
        """
        Use a link up: of any number who do it at once, one gets it.

        Raises:
            NotFound, Conflict: as for `read`.
        """
        self.read(token)
        now = self._clock.now()

        def use(tx: Connection) -> LinkRecord | None:
            link = self._store.use(tx, hash_token(token), now=now)
            if link is not None:
                whose = Caller(link.person, caller.address, caller.request_id)
                detail = {"link_id": link.link_id}
                self._audit.record("link.use", link.pause_id, caller=whose, detail=detail, tx=tx)
            return link

        link = self._database.perform(use)
        if link is None:
            # It was there a moment ago: read it again for what has become of it.
            self.read(token)
            raise Conflict("this link was used before")
        return link

    def give_back(self, link: LinkRecord) -> bool:
        """
        Let a link that was used be used again: its answer did not fit, and the question is open.

        False: it is not as `use` returned it any more.
        """
        used_at = link.used_at
        if used_at is None:
            return False
        return self._database.perform(
            lambda tx: self._store.give_back(tx, link.link_id, used_at=used_at)
        )

    def list(self, pause_id: str) -> Sequence[LinkRecord]:
        """Return the links to a question, the newest first, those that are used or over too."""
        return self._store.of_pause(pause_id)

    def revoke(self, pause_id: str, link_id: str, *, caller: Caller) -> None:
        """
        Take a link back.

        Raises:
            NotFound: there is none of that id to this question.
        """

        def revoke(tx: Connection) -> None:
            if not self._store.delete(tx, link_id, pause_id=pause_id):
                raise NotFound(f"there is no link {link_id}")
            detail = {"link_id": link_id}
            self._audit.record("link.revoke", pause_id, caller=caller, detail=detail, tx=tx)

        self._database.perform(revoke)

    def form_token(self, token: str) -> str:
        """Return what the page of a link puts into its form: who only posts does not know it."""
        return self._signer.sign("link", hash_token(token))

    def is_form_token(self, token: str, given: str) -> bool:
        """Tell whether a form came from the page of this link."""
        return self._signer.is_signature("link", hash_token(token), given)


def _check(person: str, action: Mapping[str, Any], lifetime: timedelta) -> tuple[Problem, ...]:
    problems = []
    if not NAME.fullmatch(person):
        hint = "a user's name or a mail address"
        problems.append(Problem("name_invalid", "/person", "nobody is called that", hint))
    if not _SHORTEST <= lifetime <= LONGEST:
        message = f"write 1 minute to {LONGEST.days} days"
        problems.append(Problem("lifetime_invalid", "/lifetime_seconds", message))
    if len(json.dumps(action)) > _MOST_ACTION:
        message = f"it is longer than {_MOST_ACTION} characters"
        problems.append(Problem("action_long", "/action", message))
    return tuple(problems)
