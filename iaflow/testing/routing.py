"""A routing service that answers by a script, for pipelines with agent conditions.

Decides nothing by itself: it says what the test gave it, and keeps what it was asked. Given to
rehearsals as a service.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Asked", "ScriptedRouter"]


@dataclass(frozen=True, slots=True)
class Asked:
    """One question that was asked: its words, the choices, and the step whose end is routed."""

    question: str
    choices: tuple[str, ...]
    step_id: str


class ScriptedRouter:
    """
    Answers the questions of `agent` conditions as a test says.

    It has the interface of a real one, such as a language model's client: an async
    ``choose(question, choices, context)`` that returns a choice, or ``{"answer", "reason"}``.

    Args:
        answers: question to answer; a list is used up, one answer each time; an exception is
            raised.

    Attributes:
        asked: what was asked, in order.
    """

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self._answers = dict(answers)
        self.asked: list[Asked] = []

    async def choose(self, question: str, choices: Sequence[str], context: Any) -> Any:
        """
        Return the scripted answer.

        Raises:
            LookupError: the script has none to this question.
        """
        self.asked.append(Asked(question, tuple(choices), context.step_id))
        if question not in self._answers:
            raise LookupError(f"no answer was given for the question {question!r}")
        answer = self._answers[question]
        if isinstance(answer, list):
            if not answer:
                raise LookupError(f"all answers to the question {question!r} are used up")
            answer = answer.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer
