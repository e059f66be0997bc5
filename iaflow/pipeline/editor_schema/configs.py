"""What an editor is told of `config` on the types of steps that iaflow brings along.

Decides how the rules of step_config and forms are said in JSON Schema; never reads a `config`.
Called by document.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from iaflow.pipeline.definition import MAX_SECONDS, StepType
from iaflow.pipeline.editor_schema.pieces import (
    Schema,
    choice,
    closed,
    flag,
    is_one_of,
    list_meanings,
    listing,
    matching,
    number,
    refer,
    text,
    whole,
    word,
    words,
)
from iaflow.pipeline.fields import CHOICES, DATE, DATES, DATETIME, LINES, NUMBERS, FieldType
from iaflow.pipeline.forms import (
    DEFAULT_MAX_LENGTH,
    FIELD_KEYS,
    FIELD_NAME,
    FORM_KEYS,
    LONGEST_TEXT,
    OPTION_KEYS,
    REQUIRED_BY_DEFAULT,
    TYPES_OF_KEY,
)
from iaflow.pipeline.operators import MAX_PATTERN
from iaflow.pipeline.step_config import (
    ASSIGNEE_KEYS,
    CONFIG_KEYS,
    ESCALATION_KEYS,
    MAX_QUORUM,
    STATUSES,
)

__all__ = ["config_definitions", "config_of"]


def config_of(kind: StepType) -> str | None:
    """Return the name of the definition of a type's `config`; None if its class knows it."""
    return f"{kind}_config" if kind in CONFIG_KEYS else None


def config_definitions() -> dict[str, Schema]:
    """
    Return the definitions of `config`, one for each type that iaflow brings along, and their parts.

    They say what the keys of a type are and leave others alone: a class of one's own may have
    more, and where there is none the step says so.
    """
    configs = {}
    for kind, known in CONFIG_KEYS.items():
        config = closed(f"Config of type {kind}", known, _DESCRIBED.get(kind, dict)())
        del config["additionalProperties"]
        configs[f"{kind}_config"] = config | _MORE.get(kind, {})
    return configs | {
        "form": closed(
            "Form",
            FORM_KEYS,
            {
                "title": text("What is shown above the form."),
                "description": text("What is shown below the title."),
                "fields": listing("The questions, in their order.", refer("field")),
            },
        ),
        "field": _field(),
        "assignees": closed(
            "Assignees",
            ASSIGNEE_KEYS,
            {"users": words("Names of people."), "roles": words("Names of roles.")},
        )
        | {"anyOf": [_has_some("users"), _has_some("roles")]},
    }


# --- types of steps


def _person() -> dict[str, Schema]:
    escalation = closed(
        "Escalation",
        ESCALATION_KEYS,
        {
            "after": _seconds("Seconds after which the others are asked."),
            "assignees": refer("assignees", "Who is asked then."),
        },
        "after",
        "assignees",
    )
    return {
        "ui_schema": refer("form", "The form; without fields it asks only to go on."),
        "show": {
            "description": "Templates of what the person sees; absent: the step's `inputs`, if any."
        },
        "reject_when": refer(
            "answer_condition",
            "A condition on the answer, such as result.decision == 'Reject': then the step ends as"
            " rejected.",
        ),
        "expires_in": _expiry(),
        "assignees": refer("assignees", "Who may answer: at least one user or role."),
        "quorum": whole("How many different people must answer.", 1, MAX_QUORUM, default=1),
        "exclude_starter": flag("Whether who started the run may not answer.", default=False),
        "escalate": listing("Whom else to ask after a while.", escalation),
        "reminders": listing(
            "Seconds after which those who were asked are reminded.",
            _seconds("Seconds after which the person is reminded."),
        ),
    }


def _wait() -> dict[str, Schema]:
    return {
        "seconds": {
            "description": "How many seconds to wait, or a template that gives them.",
            "type": ["number", "string"],
            "minimum": 0,
            "maximum": MAX_SECONDS,
            "pattern": _TEMPLATE,
        },
        "until": word("The time to wait for, in ISO 8601, or a template that gives it."),
    }


def _event() -> dict[str, Schema]:
    return {
        "name": word("The name of the signal; its payload is the output."),
        "expires_in": _expiry(),
    }


def _terminate() -> dict[str, Schema]:
    return {
        "status": choice("How the run ends.", STATUSES),
        "message": text("Why it ends."),
    }


def _expiry() -> Schema:
    return _seconds(
        "Seconds until it expires; `error_handling.timeout` of the step means the same."
    )


def _seconds(description: str) -> Schema:
    return number(description, 0, MAX_SECONDS, above=True)


def _has_some(key: str) -> Schema:
    return {"required": [key], "properties": {key: {"minItems": 1}}}


_TEMPLATE: Final = r"\{\{"
_DESCRIBED: Final = {
    StepType.HUMAN_INPUT: _person,
    StepType.WAIT: _wait,
    StepType.EVENT: _event,
    StepType.TERMINATE: _terminate,
}
_MORE: Final[Mapping[StepType, Schema]] = {
    StepType.WAIT: {
        "anyOf": [{"required": ["seconds"]}, {"required": ["until"]}],
        "dependentSchemas": {"seconds": {"properties": {"until": False}}},
    },
    StepType.EVENT: {"required": ["name"]},
    StepType.TERMINATE: {"required": ["status"]},
}


# --- forms


_TYPES: Final[Mapping[FieldType, str]] = {
    FieldType.TEXT: "a line of text.",
    FieldType.TEXTAREA: "a text.",
    FieldType.NUMBER: "a finite number.",
    FieldType.INTEGER: "a whole number.",
    FieldType.BOOLEAN: "true or false.",
    FieldType.CHECKBOX: "true or false; false without an answer.",
    FieldType.RADIO: "one of the options.",
    FieldType.SELECT: "one of the options.",
    FieldType.MULTISELECT: "a list of options, none twice.",
    FieldType.DATE: "a text as 2026-01-31.",
    FieldType.DATETIME: "a text with a zone, as 2026-01-31T09:30:00Z.",
    FieldType.EMAIL: "an e-mail address.",
    FieldType.URL: "an address that begins with http or https.",
    FieldType.JSON: "any JSON value.",
}


def _field() -> Schema:
    names = " and ".join(sorted(REQUIRED_BY_DEFAULT))
    meanings = {str(kind): _TYPES.get(kind, "") for kind in FieldType}
    described: dict[str, Schema] = {
        "name": matching("The key of the answer.", FIELD_NAME),
        "label": text("What is shown for it; the name if absent."),
        "type": choice(list_meanings("What kind of value it takes.", meanings), FieldType),
        "required": {
            "description": f"Whether it must be answered; default: true for {names}, else false.",
            "type": "boolean",
        },
        "options": listing("The choices.", _option(), minItems=1, uniqueItems=True),
        "default": {"description": "Stands for an answer that is not given."},
        "minimum": {"description": "The least value that is accepted."},
        "maximum": {"description": "The greatest value that is accepted."},
        "min_length": whole("How many characters it has at least.", 0, LONGEST_TEXT, default=0),
        "max_length": whole(
            "How many characters it has at most.", 0, LONGEST_TEXT, default=DEFAULT_MAX_LENGTH
        ),
        "pattern": text("RE2 that the whole text must match.", maxLength=MAX_PATTERN),
        "help": text("Further text for the page."),
        "placeholder": text("Text that stands in the empty field."),
    }
    return closed("Field", FIELD_KEYS, described, "name", "type") | {
        "allOf": [
            *(
                {"if": is_one_of("type", kinds), "else": {"properties": {key: False}}}
                for key, kinds in TYPES_OF_KEY.items()
            ),
            {"if": is_one_of("type", CHOICES), "then": {"required": ["options"]}},
            _bounds(NUMBERS, {"type": "number"}),
            _bounds((FieldType.DATE,), matching("A date, as 2026-01-31.", DATE)),
            _bounds(
                (FieldType.DATETIME,),
                matching("A time with its zone, as 2026-01-31T09:30:00Z.", DATETIME),
            ),
            _default(LINES | DATES, "string"),
            _default(NUMBERS, "number"),
            _default((FieldType.BOOLEAN, FieldType.CHECKBOX), "boolean"),
            _default((FieldType.RADIO, FieldType.SELECT), "string", "number", "boolean"),
            _default((FieldType.MULTISELECT,), "array"),
        ]
    }


def _option() -> Schema:
    described = {
        "value": {
            "description": "What is kept.",
            "type": ["string", "number", "boolean"],
        },
        "label": text("What is shown for it; the value if absent."),
    }
    option = closed("Option", OPTION_KEYS, described, "value")
    return {"anyOf": [{"type": "string"}, option]}


def _bounds(kinds: Iterable[FieldType], bound: Schema) -> dict[str, Any]:
    properties = dict.fromkeys(("minimum", "maximum"), bound)
    return {"if": is_one_of("type", kinds), "then": {"properties": properties}}


def _default(kinds: Iterable[FieldType], *types: str) -> dict[str, Any]:
    properties = {"default": {"type": [*types, "null"]}}
    return {"if": is_one_of("type", kinds), "then": {"properties": properties}}
