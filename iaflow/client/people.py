"""What people are asked, and what they and other systems tell a run.

Decides that a question which is not asked of somebody is, to them, not there; never whether an
answer fits. Part of the client.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from iaflow.client.core import ClientCore
from iaflow.data.accounts import Asked
from iaflow.data.records import NoticeRecord, PauseRecord
from iaflow.pipeline.core import is_uuid
from iaflow.pipeline.runner import waiting_payload

__all__ = ["PeopleRequests"]


class PeopleRequests(ClientCore):
    """What is asked about questions, and told to runs."""

    def inbox(
        self,
        run_id: str | None = None,
        *,
        asked: Asked | None = None,
        after: str | None = None,
        limit: int = 200,
    ) -> list[PauseRecord]:
        """
        Return the open questions, the oldest first.

        Args:
            run_id: only those of this run and of the runs below it.
            asked: only those that are seen by who asks; None: all.
            after: the last question of the page before.
        """
        if any(one is not None and not is_uuid(one) for one in (run_id, after)):
            return []
        return self._engine.pauses.questions.list_open(
            run_id=run_id, asked=asked, after=after, limit=limit
        )

    def inbox_mark(self) -> str:
        """
        Return a fingerprint of all open questions, cheap enough to be asked for every second.

        It is another one once a question opens, closes, asks others or has one answer more.
        """
        return self._engine.pauses.questions.read_mark()

    def notices(self, run_id: str) -> list[NoticeRecord]:
        """Return what people were told of a run, or are to be, with what became of it."""
        return self._engine.notices.of_run(run_id) if is_uuid(run_id) else []

    def pause(self, pause_id: str, *, asked: Asked | None = None) -> PauseRecord:
        """
        Return a question, open or not.

        Args:
            asked: who wants to see it; what waits for a signal is no question, and not seen.

        Raises:
            NotFound: there is none of that id, or it is not asked of them.
        """
        return self._engine.read_pause(pause_id, asked)

    def answers_to(self, pause_id: str) -> int:
        """Return how many people have answered a question that wants several."""
        return self._engine.pauses.count_answers(pause_id) if is_uuid(pause_id) else 0

    def has_answered(self, pause_id: str, name: str) -> bool:
        """Tell whether somebody has answered a question that wants several people."""
        return is_uuid(pause_id) and self._engine.pauses.find_answer(pause_id, name) is not None

    def waiting_payload(self, run_id: str) -> dict[str, Any]:
        """Return what a run waits for: its questions to people, and its events."""
        self._engine.pinned(run_id)
        return waiting_payload(self._engine, run_id)

    def answer(
        self,
        pause_id: str,
        answer: Mapping[str, Any],
        *,
        answered_by: str,
        roles: Collection[str] = (),
        is_admin: bool = False,
        key: str | None = None,
        digest: str | None = None,
        asked: Asked | None = None,
    ) -> PauseRecord:
        """
        Accept an answer and let the run go on: by a worker, else when its run is driven again.

        Args:
            roles, is_admin: what who answers may do; see `Engine.answer`.
            asked: who answers, in the place of these two; what is not asked of them is not found.

        Returns:
            The pause as it stands: still open if it wants more people's answers.

        Raises:
            NotFound, NotAllowed, AnswerRefused, Conflict: see `Engine.answer`.
        """
        if asked is not None:
            self._engine.read_pause(pause_id, asked)
            roles, is_admin = asked.roles, asked.is_admin
        pause = self._engine.answer(
            pause_id,
            dict(answer),
            answered_by=answered_by,
            roles=roles,
            is_admin=is_admin,
            key=key,
            digest=digest,
            publish=self._publish,
        )
        self._go_on((pause,))
        return pause

    def reassign(
        self,
        pause_id: str,
        assignees: Mapping[str, Any],
        *,
        by: str,
        asked: Asked | None = None,
    ) -> PauseRecord:
        """
        Ask others in the place of those who are asked, who are told of it.

        Args:
            assignees: ``{"users": […], "roles": […]}`` with somebody in it, as in a definition.
            by: who does it; told to the new people, and kept.
            asked: only what is seen by who does it is found.

        Raises:
            NotFound: there is no such question.
            AnswerRefused: these are no assignees.
            Conflict: it is open no more.
        """
        return self._engine.reassign(pause_id, assignees, by=by, asked=asked)

    def signal(
        self,
        run_id: str,
        name: str,
        payload: Mapping[str, Any] | None = None,
        *,
        sent_by: str,
        key: str | None = None,
    ) -> tuple[PauseRecord, ...]:
        """
        Give a signal to a run, whose waiting steps of that name go on as after an answer.

        Returns:
            The events that it ended.

        Raises:
            NotFound, AnswerRefused, Conflict: see `Engine.signal`.
        """
        events = self._engine.signal(
            run_id,
            name,
            {} if payload is None else payload,
            sent_by=sent_by,
            key=key,
            publish=self._publish,
        )
        self._go_on(events)
        return events
