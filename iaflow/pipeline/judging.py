"""Conditions that need code: functions of the operator's modules, and routing services.

Decides how their verdicts are found, on a worker, and how a verb of the engine is repeated with
them; never what follows from a verdict (the planner does). Called by executors and maintenance.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from iaflow.concurrency import run_blocking
from iaflow.pipeline.conditions import AgentCondition, FunctionCondition, code_conditions
from iaflow.pipeline.engine import Engine, Settled
from iaflow.pipeline.loader import StepLoader, StepNotLoadable
from iaflow.pipeline.plans import CodeQuestion, Judged
from iaflow.pipeline.services import ServiceMissing, ServiceRegistry
from iaflow.pipeline.strict_json import dump_json

__all__ = ["Concluding", "ConditionContext", "Judge", "Verb", "conclude_alone"]

Verb = Callable[[Judged], Settled]
"""A change of a run: done at once, or given back with what code must judge first."""

MESSAGE_KEPT = 4_096


@dataclass(frozen=True, slots=True)
class ConditionContext:
    """
    What a condition function, or a routing service, may look at.

    Attributes:
        run_id, step_id: the step whose end is routed.
        end: how it ended, such as ``success`` or ``failure``.
        result: its output; None if it did not succeed.
        error: ``{"code", "message", …}`` if it failed; else None.
        parameters: the run's.
        arguments: what the definition gives to the function.
    """

    run_id: str
    step_id: str
    end: str
    result: Any
    error: Mapping[str, Any] | None
    parameters: Mapping[str, Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)


class Concluding:
    """
    A verb on its way, with what it leads to in other runs.

    Whoever carries it out judges `wanted` until there is none, on its own event loop, and then
    has `settled`.

    Attributes:
        wanted: a `Settled` with questions, which has changed nothing; None at the end.
    """

    def __init__(self, verb: Verb) -> None:
        self._steps = _conclude(verb)
        self._settled: Settled | None = None
        self.wanted: Settled | None = None
        self._advance(lambda: next(self._steps))

    def send(self, judged: Judged) -> None:
        """Go on with the verdicts that were wanted."""
        self._advance(lambda: self._steps.send(judged))

    @property
    def settled(self) -> Settled:
        """What the verb led to, with the tasks of all that followed from it."""
        assert self._settled is not None, "something is still to be judged"
        return self._settled

    def _advance(self, step: Callable[[], Settled]) -> None:
        try:
            self.wanted = step()
        except StopIteration as done:
            self.wanted, self._settled = None, done.value


def conclude_alone(verb: Verb) -> Settled:
    """
    Do a verb where no code can run; what needs some is left to the next sweep of a worker.

    A `Settled` with questions has changed nothing. Otherwise the verb is done, and so is of what
    it leads to in other runs whatever needs no code.
    """
    settled = verb({})
    if settled.questions:
        return settled
    results, left = [settled], list(settled.follow_ups)
    while left:
        more = left.pop(0)({})
        if not more.questions:
            results.append(more)
            left += more.follow_ups
    return _merge(results)


def _conclude(verb: Verb) -> Generator[Settled, Judged, Settled]:
    judged: Judged = {}
    settled = verb(judged)
    while settled.questions:
        found = yield settled
        judged = {
            index: {**judged.get(index, {}), **found.get(index, {})} for index in {*judged, *found}
        }
        settled = verb(judged)
    results = [settled]
    for follow_up in settled.follow_ups:
        more = yield from _conclude(follow_up)
        results.append(more)
    return _merge(results)


def _merge(results: list[Settled]) -> Settled:
    """Return the first of these, with the tasks and ends of all and what is due first of any."""
    due = (settled.due_at for settled in results)
    return replace(
        results[0],
        tasks=tuple(task for settled in results for task in settled.tasks),
        ended=tuple(status for settled in results for status in settled.ended),
        due_at=min((instant for instant in due if instant is not None), default=None),
        follow_ups=(),
    )


class Judge:
    """
    Runs condition functions and asks routing services.

    Args:
        engine: keeps what services answered.
        loader: finds functions, in allowed modules only.
        services: the routing services among them.
        is_alone: nobody else could judge what this process has no code for, so that is the
            condition's error. Else `answer` raises, and nothing is settled here.
    """

    def __init__(
        self,
        engine: Engine,
        loader: StepLoader,
        services: ServiceRegistry,
        *,
        is_alone: bool = True,
    ) -> None:
        self._is_alone = is_alone
        self._engine = engine
        self._loader = loader
        self._services = services

    async def answer(self, settled: Settled) -> Judged:
        """
        Return the verdicts that a verb asks for; whatever fails is recorded as an error.

        Raises:
            StepNotLoadable: another process must judge, which has the function's module.
        """
        found: dict[int, dict[str, Mapping[str, Any]]] = {}
        header, graph = self._engine.pinned(settled.run_id)
        for question in settled.questions:
            condition = next(
                part
                for part in code_conditions(graph.edges[question.transition].condition)
                if part.pointer == question.pointer
            )
            context = ConditionContext(
                run_id=settled.run_id,
                step_id=question.source,
                end=question.end.value,
                result=question.result,
                error=question.error,
                parameters=header.parameters,
            )
            record = await self._judge(condition, context, question)
            found.setdefault(question.transition, {})[question.pointer] = record
        return found

    async def _judge(
        self,
        condition: FunctionCondition | AgentCondition,
        context: ConditionContext,
        question: CodeQuestion,
    ) -> Mapping[str, Any]:
        try:
            if isinstance(condition, FunctionCondition):
                return await self._call(condition, context)
            return await self._ask(condition, context)
        except StepNotLoadable as error:
            if not self._is_alone:
                raise
            return _describe(error)
        except Exception as error:  # noqa: BLE001  whatever code raises is recorded as its verdict
            return _describe(error)

    async def _call(
        self, condition: FunctionCondition, context: ConditionContext
    ) -> Mapping[str, Any]:
        function = self._loader.load_function(condition.module, condition.function)
        verdict = await _call(function, replace(context, arguments=condition.arguments or {}))
        if isinstance(verdict, bool):
            return {"verdict": verdict}
        name = f"{condition.module}.{condition.function}"
        message = f"{name} returned {type(verdict).__name__}, not True or False"
        return {"error": "condition_invalid", "message": message}

    async def _ask(self, condition: AgentCondition, context: ConditionContext) -> Mapping[str, Any]:
        """Ask once per step: a second condition, or attempt, finds what was answered before."""
        asked = dump_json([condition.service, condition.question, list(condition.choices)])
        known = self._engine.read_judged(context.run_id, context.step_id)
        if asked in known:
            record: Mapping[str, Any] = known[asked]
            return record
        try:
            service = self._services.get(condition.service)
            answer = await _call(
                service.choose, condition.question, list(condition.choices), context
            )
        except Exception as error:  # noqa: BLE001  what it raises is its answer, and is kept
            record = _describe(error)
        else:
            record = _read_answer(answer)
        self._engine.keep_judged(context.run_id, context.step_id, {**known, asked: record})
        return record


def _describe(error: Exception) -> Mapping[str, Any]:
    if isinstance(error, StepNotLoadable | ServiceMissing):
        return {"error": error.code, "message": str(error)[:MESSAGE_KEPT]}
    message = f"{type(error).__name__}: {error}"
    return {"error": "condition_failed", "message": message[:MESSAGE_KEPT]}


def _read_answer(answer: Any) -> Mapping[str, Any]:
    """A service answers with a choice, or with ``{"answer", "reason"}``."""
    if isinstance(answer, Mapping):
        return {"answer": answer.get("answer"), "reason": str(answer.get("reason") or "")}
    return {"answer": answer if isinstance(answer, str) else None}


async def _call(function: Any, *args: Any) -> Any:
    if inspect.iscoroutinefunction(function):
        return await function(*args)
    result = await run_blocking(function, *args)
    return await result if inspect.isawaitable(result) else result
