"""Steps that stand in for the real ones in a rehearsal.

Decides how what a test wrote for a step becomes a step class; never runs one. Called by
rehearsals; executors find the stubs through the loader.
"""

from __future__ import annotations

import copy
import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from iaflow.pipeline.definition import StepDefinition, StepType
from iaflow.pipeline.graph import Graph
from iaflow.pipeline.loader import StepLoader, StepNotLoadable
from iaflow.pipeline.step import Step

__all__ = ["Stopped", "Stub", "StubLoader", "make_stub", "require_known"]

Stub = (
    Mapping[str, Any]
    | Callable[..., Any]
    | type[Step]
    | BaseException
    | Sequence[Mapping[str, Any] | Callable[..., Any] | BaseException]
)
"""An output; a function of `data`, or of `data` and the context; a step class; an exception to
be raised; or a list of these, one per attempt (the last one stays)."""


class Stopped(BaseException):
    """
    A rehearsal can go no further: something was asked that nobody has answered.

    No `Exception`, as what a step or a condition raises is recorded as its end.
    """


class StubLoader(StepLoader):
    """
    A loader that gives the stubs of a test, and real classes for all other steps.

    Args:
        stubs: by step id, or by ``slug/step_id`` for the steps of one pipeline alone.
        graphs: the definitions whose steps are stubbed, the main one first.
        modules, folders: where real step classes may come from, as in `StepLoader`.

    Raises:
        ValueError: a stub is for no step, or for a step that has no code of its own.
    """

    def __init__(
        self,
        stubs: Mapping[str, Stub],
        graphs: Sequence[Graph],
        modules: Iterable[str] = (),
        folders: Sequence[Path] = (),
    ) -> None:
        super().__init__(modules, folders)
        # Compared as a whole, since two pipelines may have the same ids.
        self._stubs: dict[str, list[tuple[StepDefinition, type[Step]]]] = {}
        known: dict[str, list[StepDefinition]] = {}
        for graph in graphs:
            for node in graph.nodes.values():
                known.setdefault(node.step.id, []).append(node.step)
                known[f"{graph.definition.slug}/{node.step.id}"] = [node.step]
        for name, stub in stubs.items():
            require_known(name, [key for key in known if "/" not in key or "/" in name], "stub")
            made = make_stub(name, stub)
            for step in known[name]:
                _require_code(name, step, made)
                self._stubs.setdefault(step.id, []).append((step, made))

    def load(self, step: StepDefinition) -> type[Step]:
        """
        Return the stub of a step, or its class.

        Raises:
            StepNotLoadable: as `StepLoader.load`; the message names the step.
        """
        stub = self.find_stub(step)
        if stub is not None:
            return stub
        try:
            return super().load(step)
        except StepNotLoadable as error:
            raise StepNotLoadable(
                error.code,
                f"step {step.id!r} has no stub, and its class cannot be used: {error}; give "
                f"steps={{{step.id!r}: …}}, or allow its module by modules=[{step.module!r}]",
            ) from error

    def find_stub(self, step: StepDefinition) -> type[Step] | None:
        """Return the stub that was given for a step, if there is one."""
        for stubbed, stub in self._stubs.get(step.id, ()):
            if stubbed is step or stubbed == step:
                return stub
        return None


def require_known(name: str, known: Iterable[str], what: str) -> None:
    """
    Return if `name` is one of the steps that are known.

    Raises:
        ValueError: naming the nearest.
    """
    names = list(known)
    if name in names:
        return
    near = difflib.get_close_matches(name, names, n=2)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are {names}"
    raise ValueError(f"{what} for step {name!r}: the definition has no such step; {hint}")


def make_stub(name: str, stub: Stub) -> type[Step]:
    """
    Return the step class that does what was written for a step.

    Raises:
        ValueError: it is nothing that stands for a step.
    """
    if isinstance(stub, type) and issubclass(stub, Step):
        return stub
    parts = stub if isinstance(stub, list | tuple) else [stub]
    legal = bool(parts) and all(
        isinstance(part, Mapping | BaseException) or callable(part) for part in parts
    )
    if not legal:
        raise ValueError(
            f"the stub for step {name!r} is {stub!r}: give an output (a dict), a function, a step "
            "class, an exception, or a list of these, one per attempt"
        )
    kept = tuple(parts) if parts is stub else parts[0]
    # In `staticmethod`, so that a function is not taken for a method of the class.
    value = staticmethod(kept) if callable(kept) else kept
    return type("StubOf_" + name.replace("/", "_"), (_Stubbed,), {"stub": value})


def _require_code(name: str, step: StepDefinition, made: type[Step]) -> None:
    if step.type is StepType.TASK:
        return
    if step.type is StepType.HUMAN_INPUT:
        if not issubclass(made, _Stubbed):
            return
        cure = f"give answers=[Answer({step.id!r}, …)]"
    else:
        cure = {
            StepType.PIPELINE: "give pipelines={slug: definition}",
            StepType.EVENT: "give signals=[Signal(…)]",
        }.get(step.type, "it needs none, its time is virtual")
    raise ValueError(f"step {name!r} is of type {step.type}, which has no stub: {cure}")


class _Stubbed(Step):
    """A step that does what a test wrote for it."""

    stub: Any = None

    async def work(self, data: Any) -> Any:
        stub = self.stub
        if isinstance(stub, tuple):
            stub = stub[min(self.context.attempt, len(stub)) - 1]
        if isinstance(stub, BaseException) or _is_exception(stub):
            raise stub
        if isinstance(stub, type) and issubclass(stub, Step):
            real = stub(self.config, self._services)
            real.context = self.context
            stub = real.work
        if not callable(stub):
            return copy.deepcopy(dict(stub))
        given = (data, self.context) if _takes_context(stub) else (data,)
        result = stub(*given)
        return await result if inspect.isawaitable(result) else result


def _is_exception(stub: Any) -> bool:
    return isinstance(stub, type) and issubclass(stub, BaseException)


def _takes_context(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = [
        one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
    ]
    required = [one for one in positional if one.default is one.empty]
    return len(required) > 1 or any(one.name == "context" for one in positional[1:])
