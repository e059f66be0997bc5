"""What people and other systems tell a run: answers to questions, and signals.

Decides who may answer what, and that exactly one of answer, expiry and cancel wins; never what
follows from an answer (the planner does). Part of the engine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import uuid_utils

from iaflow.data.accounts import Asked
from iaflow.data.records import Claim, NewPause, PauseRecord, StepTask
from iaflow.data.status import NoticeKind, PauseStatus, RunStatus, StepStatus
from iaflow.database.connections import Connection
from iaflow.database.run_store.notices import StuckStep
from iaflow.database.run_store.settles import StepSettlement
from iaflow.errors import AnswerRefused, Conflict, NotAllowed, NotFound, Problem
from iaflow.pipeline.conditions import ConditionFailed
from iaflow.pipeline.core import Core, add_seconds, is_uuid
from iaflow.pipeline.endings import end_of_pause, is_rejection
from iaflow.pipeline.forms import describe_change, parse_form, validate_answer
from iaflow.pipeline.plans import Judged
from iaflow.pipeline.reading import Findings, Reader
from iaflow.pipeline.reminders import list_upcoming, merge_assignees
from iaflow.pipeline.settler import NOTHING_JUDGED, Settled
from iaflow.pipeline.step_config import judge_quorum, read_assignees
from iaflow.pipeline.strict_json import check_json_value

__all__ = ["PeopleVerbs"]


@dataclass(frozen=True, slots=True)
class Question:
    """Which question a notice is about."""

    run_id: str
    step_id: str
    pause_id: str
    slug: str


class PeopleVerbs(Core):
    """Verbs on pauses: questions to people, and events that are waited for."""

    def read_pause(self, pause_id: str, asked: Asked | None = None) -> PauseRecord:
        """
        Return a question to people; raises NotFound.

        Args:
            asked: who asks for it; what is not asked of them is not found.
        """
        pause = None
        if is_uuid(pause_id):
            known = self.pauses
            pause = known.read(pause_id) if asked is None else known.questions.find(pause_id, asked)
        if pause is None:
            raise NotFound(f"there is no pause {pause_id}; `iaflow inbox` lists the open ones")
        return pause

    def answer(
        self,
        pause_id: str,
        answer: Any,
        *,
        answered_by: str,
        roles: Collection[str] = (),
        is_admin: bool = False,
        key: str | None = None,
        digest: str | None = None,
        publish: Callable[[tuple[StepTask, ...]], object] = lambda tasks: None,
    ) -> PauseRecord:
        """
        Accept an answer: validated first, then one of answer, expiry and cancel wins.

        The step goes on by `resume`, in this process or by a message. With a quorum the pause
        stays open until enough different people have answered, or one of them rejected.

        Args:
            answer: an object with the form's fields.
            roles: of who answers, for the step's `assignees`.
            is_admin: may answer in anybody's place.
            key: a repeated request with the same key and answer gets the same reply.
            digest: what the person saw; an answer to something else is refused.
            publish: is given the steps that became ready by answers that were accepted before
                in the same run and whose worker has not come yet: one of them may withdraw this
                question, so they go first.

        Raises:
            NotFound: there is no such pause.
            NotAllowed: somebody else must answer.
            AnswerRefused: the fields do not fit the form; the pause stays open.
            Conflict: it was answered, expired or withdrawn before, or the digest is stale.
        """
        pause = self.read_pause(pause_id)
        if pause.event is not None:
            raise Conflict(
                f"pause {pause_id} waits for the signal {pause.event!r} and asks nobody: send that"
            )
        self._check_allowed(pause, answered_by, roles, is_admin=is_admin)
        form, problems = parse_form(pause.ui_schema)
        if form is None:
            raise AnswerRefused(tuple(problems))
        cleaned, problems = validate_answer(form, answer)
        if problems:
            raise AnswerRefused(tuple(problems))
        if digest is not None and digest != pause.digest:
            changed = describe_change(digest, pause.digest)
            raise Conflict(
                f"pause {pause_id} is not what was answered: {changed} changed since then; "
                "read it again, then answer"
            )
        now = self.clock.now()
        rejects = pause.quorum > 1 and self._rejects(pause, cleaned)

        def accept(tx: Connection) -> bool | None:
            self._settles.lock_run(tx, pause.run_id)
            if not settled_others and self.pauses.has_unsettled(tx, pause.run_id, but=pause_id):
                return None
            if pause.quorum > 1:
                given = self.pauses.insert_answer(
                    tx, pause_id, answer=cleaned, key=key, answered_by=answered_by, now=now
                )
                if given is None:
                    return False
                if given < pause.quorum and not rejects:
                    return True
            return self.pauses.mark_answered(
                tx, pause_id, answer=cleaned, key=key, answered_by=answered_by, now=now
            )

        settled_others = False
        accepted = self.database.perform(accept)
        if accepted is None:
            settled_others = True
            self._settle_others(pause.run_id, pause_id, publish)
            accepted = self.database.perform(accept)
        pause = self.read_pause(pause_id)
        if accepted or self._is_repeated(pause, answered_by, cleaned, key):
            return pause
        raise Conflict(f"pause {pause_id} cannot be answered any more: it {_fate(pause, now)}")

    def signal(
        self,
        run_id: str,
        name: str,
        payload: Any,
        *,
        sent_by: str,
        key: str | None = None,
        publish: Callable[[tuple[StepTask, ...]], object] = lambda tasks: None,
    ) -> tuple[PauseRecord, ...]:
        """
        Give a signal to a run: every step of it that waits for that name gets it.

        The steps go on by `resume`, in this process or by a message.

        Args:
            payload: an object within the limits of a document: the steps' output.
            key: a repeated signal with the same key and payload gets the same reply.
            publish: as for `answer`: what was accepted before goes first.

        Raises:
            NotFound: there is no such run.
            AnswerRefused: the payload is no legal output.
            Conflict: nothing in the run waits for that signal (yet, or any more).
        """
        self.pinned(run_id)
        payload = dict(payload) if isinstance(payload, Mapping) else payload
        _, problems = check_json_value(payload)
        if not isinstance(payload, dict):
            problems = [Problem("type_wrong", "", "a signal's payload is a JSON object")]
        if problems:
            raise AnswerRefused(tuple(problems))
        now = self.clock.now()
        events = self.pauses.list_events(run_id)
        waiting = [e for e in events if e.event == name and e.status is PauseStatus.OPEN]

        def accept(tx: Connection) -> list[str] | None:
            self._settles.lock_run(tx, run_id)
            if not settled_others and self.pauses.has_unsettled(tx, run_id, but=""):
                return None
            return [
                event.pause_id
                for event in waiting
                if self.pauses.mark_answered(
                    tx, event.pause_id, answer=payload, key=key, answered_by=sent_by, now=now
                )
            ]

        settled_others = not waiting
        accepted = self.database.perform(accept)
        if accepted is None:
            settled_others = True
            self._settle_others(run_id, None, publish)
            accepted = self.database.perform(accept)
        found = tuple(self.read_pause(pause_id) for pause_id in accepted or ())
        if not found and key is not None:
            found = tuple(
                event
                for event in events
                if event.event == name and self._is_repeated(event, sent_by, payload, key)
            )
        if found:
            return found
        names = sorted({e.event or "" for e in events if e.status is PauseStatus.OPEN})
        waits = f"it waits for {', '.join(names)}" if names else "it waits for none now"
        raise Conflict(f"run {run_id} does not wait for the signal {name!r}: {waits}")

    def resume(self, pause_id: str, judged: Judged = NOTHING_JUDGED) -> Settled:
        """Give a waiting step the end that its pause has got, with every consequence."""
        pause = self.read_pause(pause_id)
        header, graph = self.pinned(pause.run_id)

        def go_on(tx: Connection) -> Settled:
            locked = self._settler.lock(tx, graph, pause.run_id, pause.step_id, pause.index)
            if pause.status in (PauseStatus.ANSWERED, PauseStatus.EXPIRED):
                self.pauses.mark_settled(tx, pause_id)
            if locked.step_status is not StepStatus.WAITING or pause.status is PauseStatus.OPEN:
                return Settled(pause.run_id, locked.run.status, is_stale=True)
            answers = self.pauses.read_answers(tx, pause_id) if pause.quorum > 1 else ()
            node = graph.nodes[pause.step_id]
            ending = end_of_pause(node, pause, header.parameters, answers)
            return self._settler.apply(
                tx,
                graph,
                locked,
                ending.change,
                parameters=header.parameters,
                now=self.clock.now(),
                settlement=StepSettlement(pause.step_id, pause.index, output=ending.output),
                judged=judged,
            )

        return self.perform(pause.run_id, go_on)

    def open_pause(self, tx: Connection, claim: Claim, pause: NewPause, now: datetime) -> None:
        """Ask people, or wait for a signal, from now on; people are told that they are asked."""
        pause_id = str(uuid_utils.uuid7())
        self.pauses.insert_open(
            tx,
            pause_id=pause_id,
            run_id=claim.run_id,
            step_id=claim.step_id,
            index=claim.index,
            slug=claim.slug,
            pause=pause,
            now=now,
        )
        if pause.event is None:
            question = Question(claim.run_id, claim.step_id, pause_id, claim.slug)
            expires_at = add_seconds(now, pause.expires_in)
            self._tell(
                tx,
                question,
                NoticeKind.QUESTION_OPENED,
                "0",
                now,
                title=pause.ui_schema.get("title"),
                assignees=pause.assignees,
                expires_at=expires_at,
            )

    def reassign(
        self,
        pause_id: str,
        assignees: Mapping[str, Any],
        *,
        by: str,
        asked: Asked | None = None,
    ) -> PauseRecord:
        """
        Ask others in the place of those who are asked; they are told of it.

        What people have answered so far (`quorum`) stays, and a later escalation adds to these.

        Args:
            assignees: as in a definition, with somebody in it.
            by: who does it.
            asked: only what is seen by who does it is found.

        Raises:
            NotFound: there is no such question.
            AnswerRefused: these are no assignees, or fewer people than must answer.
            Conflict: it waits for a signal, or is open no more.
        """
        pause = self.read_pause(pause_id, asked)
        if pause.event is not None:
            raise Conflict(f"pause {pause_id} waits for the signal {pause.event!r}: it asks nobody")
        wanted = _read_assignees(assignees, pause.quorum)
        now = self.clock.now()

        def ask(tx: Connection) -> bool:
            self._settles.lock_run(tx, pause.run_id)
            revision = self.pauses.reassign(tx, pause_id, assignees=wanted, now=now)
            if revision is None:
                return False
            self._tell(
                tx,
                Question(pause.run_id, pause.step_id, pause_id, pause.slug),
                NoticeKind.QUESTION_REASSIGNED,
                f"r{revision}",
                now,
                title=pause.ui_schema.get("title"),
                assignees=wanted,
                expires_at=pause.expires_at,
                by=by,
            )
            return True

        was_open = self.database.perform(ask)
        # Those who ask may not be asked any more themselves.
        pause = self.read_pause(pause_id)
        if not was_open:
            raise Conflict(f"pause {pause_id} cannot be reassigned: it {_fate(pause, now)}")
        return pause

    def remind(self, pause_id: str) -> Settled:
        """
        Tell people of a question again, or let others answer as well, as far as is due.

        Of several reminders that are overdue, since nobody looked in time, one is sent.
        """
        pause = self.read_pause(pause_id)
        graph = self.pinned(pause.run_id)[1]
        upcoming = list_upcoming(graph.nodes[pause.step_id].step.config)

        def tell(tx: Connection) -> Settled:
            self._settles.lock_run(tx, pause.run_id)
            now = self.clock.now()
            locked = self.pauses.lock_to_remind(tx, pause_id, now=now)
            if locked is None:
                return Settled(pause.run_id, RunStatus.WAITING, is_stale=True)
            done, assignees = locked
            waited = (now - pause.created_at).total_seconds()
            count = sum(1 for one in upcoming if one.after <= waited)
            due = {one.kind: one for one in upcoming[done:count]}
            for one in upcoming[done:count]:
                assignees = merge_assignees(assignees, one.assignees)
            for kind in due:
                self._tell(
                    tx,
                    Question(pause.run_id, pause.step_id, pause_id, pause.slug),
                    kind,
                    str(count),
                    now,
                    title=pause.ui_schema.get("title"),
                    assignees=assignees,
                    expires_at=pause.expires_at,
                )
            following = upcoming[count].after if count < len(upcoming) else None
            self.pauses.mark_reminded(
                tx,
                pause_id,
                done=count,
                assignees=assignees,
                notice_at=add_seconds(pause.created_at, following),
            )
            return Settled(pause.run_id, RunStatus.WAITING, is_stale=True)

        return self.database.perform(tell)

    def tell_stuck(self, stuck: StuckStep) -> None:
        """Tell people of a step that nobody takes up, once for each time that it became ready."""
        body = {"slug": stuck.slug, "queue": stuck.queue, "hindrance": stuck.hindrance}
        self.database.perform(
            lambda tx: self.notices.insert(
                tx,
                notice_id=str(uuid_utils.uuid7()),
                run_id=stuck.run_id,
                kind=NoticeKind.RUN_STUCK,
                cause=f"{stuck.step_id}:{stuck.ready_seq}",
                body=body,
                now=self.clock.now(),
                step_id=stuck.step_id,
            )
        )

    # -- private

    def _tell(
        self,
        tx: Connection,
        question: Question,
        kind: NoticeKind,
        cause: str,
        now: datetime,
        *,
        title: Any,
        assignees: Mapping[str, Any],
        expires_at: datetime | None,
        by: str | None = None,
    ) -> None:
        """Keep a notice: whom to tell of which question, never what it shows."""
        self.notices.insert(
            tx,
            notice_id=str(uuid_utils.uuid7()),
            run_id=question.run_id,
            kind=kind,
            cause=f"{question.pause_id}:{cause}",
            body={
                "slug": question.slug,
                "title": title if isinstance(title, str) else "",
                "assignees": assignees,
                "expires_at": expires_at.isoformat() if expires_at is not None else None,
                **({} if by is None else {"by": by}),
            },
            now=now,
            step_id=question.step_id,
            pause_id=question.pause_id,
        )

    def _settle_others(
        self,
        run_id: str,
        pause_id: str | None,
        publish: Callable[[tuple[StepTask, ...]], object],
    ) -> None:
        for other in self.pauses.find_unsettled(run_id=run_id):
            # What needs code is left to the worker that was told.
            if other.pause_id != pause_id:
                publish(self.resume(other.pause_id).tasks)

    def _check_allowed(
        self, pause: PauseRecord, answered_by: str, roles: Collection[str], *, is_admin: bool
    ) -> None:
        """LANGUAGE 8: `assignees`, and the starter where that is excluded."""
        if pause.exclude_starter:
            starter = self.pinned(pause.run_id)[0].started_by
            if starter is not None and starter == answered_by:
                raise NotAllowed(
                    f"{answered_by} started this run, and somebody else must answer pause "
                    f"{pause.pause_id} (exclude_starter)"
                )
        users = pause.assignees.get("users") or ()
        wanted = pause.assignees.get("roles") or ()
        if not (users or wanted) or is_admin:
            return
        if answered_by not in users and not set(wanted) & set(roles):
            named = [*users, *(f"role {role}" for role in wanted)]
            raise NotAllowed(
                f"pause {pause.pause_id} asks {', '.join(named)}, and {answered_by} is none of them"
            )

    def _rejects(self, pause: PauseRecord, cleaned: Mapping[str, Any]) -> bool:
        header, graph = self.pinned(pause.run_id)
        try:
            return is_rejection(graph.nodes[pause.step_id], cleaned, header.parameters)
        except ConditionFailed:
            return True  # `resume` judges it once more, and records why it cannot be judged

    def _is_repeated(
        self, pause: PauseRecord, answered_by: str, answer: Mapping[str, Any], key: str | None
    ) -> bool:
        if key is None:
            return False
        if pause.quorum > 1:
            return self.pauses.find_answer(pause.pause_id, answered_by) == (key, answer)
        if pause.status is not PauseStatus.ANSWERED:
            return False
        return pause.answer == answer and self.pauses.read_answer_key(pause.pause_id) == key


def _read_assignees(assignees: Any, quorum: int) -> dict[str, list[str]]:
    text, problems = check_json_value({"assignees": assignees, "quorum": quorum})
    if not problems:
        findings = Findings()
        holder = Reader(json.loads(text), "", findings, frozenset({"assignees", "quorum"}))
        read_assignees(holder)
        judge_quorum(holder, quorum)
        problems = findings.errors
    if problems:
        raise AnswerRefused(tuple(problems))
    return {key: list(dict.fromkeys(people)) for key, people in assignees.items() if people}


def _fate(pause: PauseRecord, now: datetime) -> str:
    match pause.status:
        case PauseStatus.ANSWERED:
            return f"was answered by {pause.answered_by}"
        case PauseStatus.CANCELLED:
            return "was withdrawn when its step or run was cancelled"
        case PauseStatus.EXPIRED:
            return "expired"
        case PauseStatus.OPEN if pause.expires_at is not None and pause.expires_at <= now:
            return f"expired at {pause.expires_at} (it is {now})"
        case PauseStatus.OPEN:
            return "was answered by the same person before, and waits for others"
