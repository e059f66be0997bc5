"""Conditions: judged once per transition, on what the run has so far.

Decides whether a transition is taken, and writes down what it saw; never computes what needs
code (functions, agents), whose recorded verdicts it is given. Called by graph and planner.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from iaflow.errors import IaflowError
from iaflow.pipeline.condition_parser import CODES, parse_condition
from iaflow.pipeline.expressions import (
    ALWAYS,
    MAX_DEPTH,
    AgentCondition,
    AllOf,
    Always,
    AnyOf,
    Compare,
    Condition,
    FunctionCondition,
    Not,
    Otherwise,
    ParameterTruthy,
    code_conditions,
    paths_of,
)
from iaflow.pipeline.operators import ALIASES, ASK_PRESENCE, OPERATORS, UNARY, ask, describe
from iaflow.pipeline.operators import compare as compare_values
from iaflow.pipeline.paths import MISSING, ReferenceMissing, Scope, resolve, try_resolve
from iaflow.pipeline.strict_json import dump_json

__all__ = [
    "ALIASES",
    "ALWAYS",
    "CODES",
    "MAX_DEPTH",
    "MAX_SUBJECT_BYTES",
    "OPERATORS",
    "AgentCondition",
    "AllOf",
    "Always",
    "AnyOf",
    "Compare",
    "Condition",
    "ConditionFailed",
    "FunctionCondition",
    "Not",
    "Otherwise",
    "ParameterTruthy",
    "Verdict",
    "VerdictMissing",
    "code_conditions",
    "evaluate",
    "parse_condition",
    "paths_of",
]

MAX_SUBJECT_BYTES: Final = 64 * 1024
"""How long the string may be in which `matches` searches, in bytes of UTF-8."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    What a condition came to.

    Attributes:
        taken: whether it is true.
        reason: a JSON object for the ledger: ``kind``, ``verdict``, and what was seen. A
            comparison has ``left`` and ``right`` (``{"path", "value"}`` or ``{"value"}``;
            ``{"path", "missing": true}`` if nothing is there), ``operator`` and, if the two are
            of different kinds, ``"note": "kind_mismatch"``. ``all``, ``any`` and ``not`` have
            the judged ones under ``conditions``.
    """

    taken: bool
    reason: dict[str, Any]


class ConditionFailed(IaflowError):
    """
    A condition cannot be judged, which is no verdict: the step's end turns into a failure.

    Attributes:
        code: ``reference_missing``, ``condition_invalid``, or what the recorded error says.
        message: what went wrong.
        reason: what was judged so far, in the shape of `Verdict.reason`, with ``error`` where
            the verdict would stand.
    """

    def __init__(self, code: str, message: str, reason: dict[str, Any]) -> None:
        self.code = code
        self.message = message
        self.reason = reason
        super().__init__(message)


class VerdictMissing(Exception):
    """
    A condition needs code, and no worker has judged it yet.

    Attributes:
        pointer: which one, relative to the transition's condition.
    """

    def __init__(self, pointer: str) -> None:
        self.pointer = pointer
        super().__init__(pointer)


def evaluate(
    condition: Condition,
    scope: Scope,
    recorded: Mapping[str, Mapping[str, Any]] | None = None,
) -> Verdict:
    """
    Judge a condition; the same scope and records give the same verdict.

    `Otherwise` is true here: the caller asks only when no sibling was.

    Args:
        condition: the parsed tree.
        scope: the values that paths may look into.
        recorded: what a worker found for each of `code_conditions`, by pointer:
            ``{"verdict": bool}`` of a function, ``{"answer": str, "reason"?: str}`` of an agent,
            or ``{"error": code, "message": str}`` of either.

    Raises:
        ConditionFailed: a path finds nothing, a path alone is no boolean, the subject of
            `matches` is too long, or code failed.
        VerdictMissing: a part of it needs code, and is not among the recorded.
    """
    match condition:
        case Compare():
            return _judge_compare(condition, scope)
        case Always():
            return Verdict(True, {"kind": "always", "verdict": True})
        case ParameterTruthy():
            return _judge_parameter(condition.name, scope)
        case AllOf():
            return _judge_group("all", condition.conditions, False, scope, recorded)
        case AnyOf():
            return _judge_group("any", condition.conditions, True, scope, recorded)
        case Not():
            return _judge_not(condition, scope, recorded)
        case Otherwise():
            return Verdict(True, {"kind": "otherwise", "verdict": True})
        case FunctionCondition():
            return _judge_function(condition, recorded)
        case AgentCondition():
            return _judge_agent(condition, recorded)


# --- judging


def _judge_compare(compare: Compare, scope: Scope) -> Verdict:
    name = compare.operator
    seen: dict[str, Any] = {"path": compare.left.text}
    reason: dict[str, Any] = {"kind": "compare", "left": seen, "operator": name}
    try:
        left = (try_resolve if name in ASK_PRESENCE else resolve)(compare.left, scope)
        _write_down(seen, left)
        right = compare.value
        if compare.right is not None:
            reason["right"] = {"path": compare.right.text}
            right = resolve(compare.right, scope)
            _write_down(reason["right"], right)
        elif name not in UNARY or right is not True:
            reason["right"] = _write_down({}, right)
    except ReferenceMissing as error:
        reason.get("right", seen)["missing"] = True
        raise _failed(error.code, error.message, reason) from None
    if compare.must_be_boolean and not isinstance(left, bool):
        message = f"{compare.left.text} stands alone and is {describe(left)}, not true or false"
        raise _failed("condition_invalid", message, reason)
    if name in UNARY:
        verdict, mismatch = ask(name, left, left is not MISSING) is right, False
    elif compare.pattern is not None:
        verdict, mismatch = _search(compare, left, reason)
    else:
        verdict, mismatch = compare_values(name, left, right)
    if mismatch:
        reason["note"] = "kind_mismatch"
    reason["verdict"] = verdict
    return Verdict(verdict, reason)


def _search(compare: Compare, subject: Any, reason: dict[str, Any]) -> tuple[bool, bool]:
    if not isinstance(subject, str):
        return False, True
    if len(subject.encode("utf-8", "surrogatepass")) > MAX_SUBJECT_BYTES:
        message = f"{compare.left.text} is longer than the {MAX_SUBJECT_BYTES} bytes to search in"
        raise _failed("condition_invalid", message, reason)
    return compare.pattern.search(subject) is not None, False


def _judge_parameter(name: str, scope: Scope) -> Verdict:
    value = scope.parameters.get(name)
    verdict = bool(value)
    reason = _write_down({"kind": "parameter", "name": name}, value)
    return Verdict(verdict, reason | {"verdict": verdict})


def _judge_group(
    kind: str,
    conditions: tuple[Condition, ...],
    stop_at: bool,
    scope: Scope,
    recorded: Mapping[str, Mapping[str, Any]] | None,
) -> Verdict:
    """Judge in order up to the first that has the verdict `stop_at`, which then decides."""
    reasons: list[dict[str, Any]] = []
    reason: dict[str, Any] = {"kind": kind, "conditions": reasons}
    verdict = not stop_at
    for condition in conditions:
        judged = _judge_child(condition, scope, recorded, reason)
        reasons.append(judged.reason)
        if judged.taken is stop_at:
            verdict = stop_at
            break
    reason["verdict"] = verdict
    return Verdict(verdict, reason)


def _judge_not(
    condition: Not, scope: Scope, recorded: Mapping[str, Mapping[str, Any]] | None
) -> Verdict:
    reason: dict[str, Any] = {"kind": "not", "conditions": []}
    judged = _judge_child(condition.condition, scope, recorded, reason)
    reason["conditions"].append(judged.reason)
    reason["verdict"] = not judged.taken
    return Verdict(not judged.taken, reason)


def _judge_child(
    condition: Condition,
    scope: Scope,
    recorded: Mapping[str, Mapping[str, Any]] | None,
    around: dict[str, Any],
) -> Verdict:
    """Judge a part; its failure is the failure of the whole, which keeps what was seen."""
    try:
        return evaluate(condition, scope, recorded)
    except ConditionFailed as error:
        around["conditions"].append(error.reason)
        raise _failed(error.code, error.message, around) from None


def _judge_function(
    condition: FunctionCondition, recorded: Mapping[str, Mapping[str, Any]] | None
) -> Verdict:
    reason: dict[str, Any] = {
        "kind": "function",
        "module": condition.module,
        "function": condition.function,
    }
    verdict = _read_record(condition.pointer, recorded, reason).get("verdict")
    if not isinstance(verdict, bool):
        message = f"{condition.module}.{condition.function} gave {describe(verdict)}, not a boolean"
        raise _failed("condition_invalid", message, reason)
    reason["verdict"] = verdict
    return Verdict(verdict, reason)


def _judge_agent(
    condition: AgentCondition, recorded: Mapping[str, Mapping[str, Any]] | None
) -> Verdict:
    reason: dict[str, Any] = {
        "kind": "agent",
        "service": condition.service,
        "question": _shown(condition.question),
        "choice": condition.choice,
    }
    record = _read_record(condition.pointer, recorded, reason)
    answer = record.get("answer")
    reason["answer"] = _shown(answer)
    if "reason" in record:
        reason["reason"] = _shown(record["reason"])
    if answer not in condition.choices:
        message = f"the service {condition.service} answered outside of the choices"
        raise _failed("condition_invalid", message, reason)
    verdict = answer == condition.choice
    reason["verdict"] = verdict
    return Verdict(verdict, reason)


def _read_record(
    pointer: str, recorded: Mapping[str, Mapping[str, Any]] | None, reason: dict[str, Any]
) -> Mapping[str, Any]:
    record = None if recorded is None else recorded.get(pointer)
    if record is None:
        raise VerdictMissing(pointer)
    if "error" in record:
        message = str(record.get("message", "its code failed"))
        raise _failed(str(record["error"]), message, reason)
    return record


def _failed(code: str, message: str, reason: dict[str, Any]) -> ConditionFailed:
    reason["error"] = code
    return ConditionFailed(code, message, reason)


def _write_down(entry: dict[str, Any], value: Any) -> dict[str, Any]:
    if value is MISSING:
        entry["missing"] = True
    else:
        entry["value"] = _shown(value)
    return entry


def _shown(value: Any) -> Any:
    """Return the value as the ledger keeps it: whole if it is small, else its beginning."""
    match value:
        case None | bool() | float():
            return value
        case str() if len(value) <= _SURELY_SHORT:
            return value
        case int() if -_SURELY_SMALL < value < _SURELY_SMALL:
            return value
    text = dump_json(value)
    data = text.encode("utf-8", "surrogatepass")
    if len(data) <= _MAX_SHOWN_BYTES:
        return value
    return {
        "truncated": text[:_SHOWN_LETTERS],
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
    }


_MAX_SHOWN_BYTES: Final = 2048
_SHOWN_LETTERS: Final = 200
# Six bytes is the most that JSON needs for a letter: below this nothing has to be measured.
_SURELY_SHORT: Final = 340
_SURELY_SMALL: Final = 2**64
