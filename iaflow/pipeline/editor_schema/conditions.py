"""What an editor is told of conditions: their forms, operators and operands.

Decides how the rules of condition_parser are said in JSON Schema; never parses a condition.
Called by document.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, Final

from iaflow.pipeline.condition_parser import (
    AGENT_KEYS,
    COMPARE_KEYS,
    CONDITION_KEYS,
    FUNCTION_KEYS,
)
from iaflow.pipeline.editor_schema.pieces import (
    NOT_BLANK,
    Schema,
    choice,
    closed,
    is_one_of,
    list_meanings,
    listing,
    mapping,
    refer,
    text,
    word,
)
from iaflow.pipeline.operators import ALIASES, MAX_PATTERN, OPERATORS, UNARY

__all__ = ["condition_definitions"]


def condition_definitions() -> dict[str, Schema]:
    """
    Return the definitions that conditions are made of, by name.

    `condition` stands on a transition, `inner_condition` within another one, `answer_condition`
    judges an answer of a person.
    """
    plain = [kind for kind in CONDITION_KEYS if kind not in _OF_CODE]
    answers = ("result.decision == 'Reject'",)
    return {
        "condition": _condition("inner_condition", CONDITION_KEYS, _SAMPLES, ()),
        "inner_condition": _condition("inner_condition", CONDITION_KEYS, _SAMPLES, _ALONE),
        "answer_condition": _condition("answer_condition", plain, answers, _ALONE),
        "comparison": _comparison(),
        "function": closed(
            "A function that judges",
            FUNCTION_KEYS,
            {
                "module": word("The module it is in: one that the operator allowed."),
                "function": word("Its name; it takes the context and returns true or false."),
                "arguments": mapping("What it is given beside the context."),
            },
            "module",
            "function",
        ),
        "agent": closed(
            "A question to a routing service",
            AGENT_KEYS,
            {
                "service": word("The service that is asked, once per source step."),
                "question": word("What it is asked."),
                "choices": listing(
                    "The answers that are allowed; any other is an error.",
                    {"type": "string", "minLength": 1},
                    minItems=1,
                    uniqueItems=True,
                ),
                "choice": text("The answer that makes this condition true.", minLength=1),
            },
            *AGENT_KEYS,
        ),
    }


_OF_CODE: Final = ("function", "agent")
_ALONE: Final = ("otherwise",)
_CONFIG_OF: Final = {"expression": "comparison", "function": "function", "agent": "agent"}
_KINDS: Final = {
    "expression": "compares what a path finds with a literal or with another path.",
    "all": "true if every one of `conditions` is; judged in order up to the first that is not.",
    "any": "true if one of `conditions` is; judged in order up to it.",
    "not": "true if `condition` is not.",
    "function": "an allowed Python function judges, on a worker.",
    "agent": "a routing service is asked once, and its answer compared.",
}
_SAMPLES: Final = (
    "always",
    "otherwise",
    "parameter:name",
    "result.score > 0.8",
    "exists(result.title) and parameters.mode == 'auto'",
)


def _condition(
    inner: str, kinds: Collection[str], samples: Iterable[str], refused: Iterable[str]
) -> Schema:
    """Return a condition, as text or as an object; `inner` is what it is made of in its turn."""
    meanings = {kind: _KINDS.get(kind, "") for kind in kinds}
    described = {
        "type": choice(list_meanings("How it judges.", meanings), kinds),
        "config": mapping("What is compared, called or asked."),
        "conditions": listing("At least one condition.", refer(inner), minItems=1),
        "condition": refer(inner, "The condition whose contrary is meant."),
    }
    known = {"type"}.union(*(CONDITION_KEYS[kind] for kind in kinds))
    return closed("Condition", known, described, "type") | {
        "type": ["string", "object"],
        "pattern": NOT_BLANK,
        "not": {"enum": [*refused, "parameter:"]},
        "examples": [sample for sample in samples if sample not in refused],
        "allOf": [{"if": is_one_of("type", [kind]), "then": _then(kind, known)} for kind in kinds],
    }


def _then(kind: str, known: Collection[str]) -> Schema:
    wanted = CONDITION_KEYS[kind]
    properties: Schema = {key: False for key in sorted(known) if key not in ("type", *wanted)}
    if kind in _CONFIG_OF:
        properties["config"] = refer(_CONFIG_OF[kind])
    return {"required": list(wanted), "properties": properties}


def _comparison() -> Schema:
    spelled = {
        name: " ".join((meaning, _also(name))).rstrip() for name, meaning in OPERATORS.items()
    }
    described: dict[str, Schema] = {
        "source": word(
            "The path that is looked up, without braces: result.key, step_id.key, parameters.name"
            " or errors.step_id.code.",
        ),
        "operator": choice(
            list_meanings("True if the value that `source` finds …", spelled),
            (*OPERATORS, *ALIASES),
        ),
        "value": {"description": "The literal that it is compared with; no template."},
        "value_source": word("A second path, instead of `value`."),
    }
    return closed("Comparison", COMPARE_KEYS, described, "source", "operator") | {
        "allOf": [
            _operand(UNARY, {"type": "boolean"}, is_literal=True)
            | {"else": {"anyOf": [{"required": ["value"]}, {"required": ["value_source"]}]}},
            _operand(("in", "not_in"), {"type": ["array", "string"]}),
            _operand(("starts_with", "ends_with"), {"type": "string"}),
            _operand(("matches",), {"type": "string", "maxLength": MAX_PATTERN}, is_literal=True),
            _operand(("between",), _BOUNDS),
        ],
        "dependentSchemas": {"value": {"properties": {"value_source": False}}},
    }


_BOUNDS: Final[Schema] = {
    "type": "array",
    "items": {"type": ["number", "string"]},
    "minItems": 2,
    "maxItems": 2,
}


def _operand(names: Iterable[str], value: Schema, *, is_literal: bool = False) -> dict[str, Any]:
    """Return what `value` is for some operators; `is_literal`: no second path may stand for it."""
    properties: Schema = {"value": value}
    if is_literal:
        properties["value_source"] = False
    return {"if": is_one_of("operator", names), "then": {"properties": properties}}


def _also(name: str) -> str:
    aliases = [alias for alias, meant in ALIASES.items() if meant == name]
    return f"(also {', '.join(aliases)})" if aliases else ""
