"""The JSON Schema of a whole definition: the document, its steps, its flow, its error handling.

Decides how the rules of definition are said in JSON Schema, those that hang on a step's type
included; never reads a document. Called through the room.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import asdict
from typing import Any, Final

from iaflow.pipeline.definition import (
    BUILT_IN_CLASSES,
    CLASS_NAME,
    DOCUMENT_KEYS,
    FLOW_KEYS,
    FOREACH_KEYS,
    JOIN_KEYS,
    JOIN_WORDS,
    LANGUAGE_VERSION,
    MAX_ITEMS,
    MAX_SECONDS,
    MAX_STEPS,
    MAX_TRANSITIONS,
    MODULE_NAME,
    ON_FAILURE_OF_RUN,
    ON_FAILURE_OF_STEP,
    POLICY_KEYS,
    RANGES,
    RATE_LIMIT,
    RESERVED_IDS,
    ROUTINGS,
    RULE_KEYS,
    SLUG,
    STEP_ID,
    STEP_KEYS,
    TRANSITION_KEYS,
    UNATTENDED,
    ErrorPolicy,
    JoinType,
    On,
    StepType,
)
from iaflow.pipeline.editor_schema.conditions import condition_definitions
from iaflow.pipeline.editor_schema.configs import config_definitions, config_of
from iaflow.pipeline.editor_schema.pieces import (
    Schema,
    choice,
    closed,
    flag,
    is_one_of,
    list_meanings,
    listing,
    mapping,
    matching,
    number,
    refer,
    text,
    whole,
    word,
    words,
)
from iaflow.pipeline.policies import SELECTORS
from iaflow.pipeline.step_config import CONFIG_KEYS

__all__ = ["definition_schema"]


def definition_schema() -> dict[str, Any]:
    """
    Return the JSON Schema (draft 2020-12) of a definition, for editors.

    It is built from the keys, words and ranges that the reader of the language has. What it
    refuses, the check refuses; the check refuses more, as it knows what a document means.

    Returns:
        A JSON object of its own; keys that this release does not run yet say so.
    """
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:iaflow:definition:{LANGUAGE_VERSION}",
        **_document(),
        "$defs": {
            "step": _step(),
            "transition": _transition(),
            **condition_definitions(),
            **config_definitions(),
        },
    }
    # Some rules stand in it more than once.
    return deepcopy(schema)


# --- the document


def _document() -> Schema:
    described: dict[str, Schema] = {
        "name": word("The name of the pipeline, for people."),
        "description": text("What the pipeline is for, for people."),
        "version": word(
            "The version, for people; its major part is in the default slug.", default="1.0"
        ),
        "slug": matching(
            "The stable key. Default: the name in lower case, runs of other characters as -, then"
            " -v and the major version.",
            SLUG,
        ),
        "tags": words("Words for people."),
        "parameters": mapping(
            "Default values of the run's parameters; a run's input is laid over them key by key."
        ),
        "input_schema": {
            "description": "A JSON Schema that the merged parameters must satisfy; else no run is"
            " made.",
            "type": ["object", "boolean"],
        },
        "steps": listing("The nodes of the graph.", refer("step"), minItems=1, maxItems=MAX_STEPS),
        "flow": _flow(),
        "error_handling": {
            "description": "Defaults for all steps, and rules for the run.",
            **_error_handling(ON_FAILURE_OF_RUN, _ON_FAILURE_OF_RUN, is_global=True),
        },
        "outputs": mapping(
            "Templates of the run's result. Absent: the output of the end step; several: an object"
            " by step id; none: {}."
        ),
        "policies": listing("Rules that the graph must satisfy.", _rule()),
        "max_concurrent_runs": whole(
            "How many runs go on at once; further ones wait as pending.",
            *RANGES["max_concurrent_runs"],
        ),
        "language": whole(
            "The version of this language.", 1, LANGUAGE_VERSION, default=LANGUAGE_VERSION
        ),
        "metadata": mapping("A free object that is kept and ignored."),
    }
    return closed("iaflow pipeline", DOCUMENT_KEYS, described, "name", "steps", "flow") | {
        "description": "A pipeline as iaflow runs it: steps, and transitions between them."
    }


def _rule() -> Schema:
    names = "|".join(selector for selector in SELECTORS if selector != "type")
    selector = rf"^(?:{names}):[\s\S]|^type:(?:{'|'.join(StepType)})$"
    how = ", ".join(f"{selector}:…" for selector in SELECTORS)
    described = {
        "every_path_to": text(f"The steps that are guarded: {how}.", pattern=selector),
        "must_pass": text(f"The gates on the way to them: {how}.", pattern=selector),
    }
    return closed("Policy", RULE_KEYS, described, *sorted(RULE_KEYS))


# --- steps


_TYPES: Final = {
    StepType.TASK: "a class works on it, on a worker.",
    StepType.HUMAN_INPUT: "a person is asked.",
    StepType.PIPELINE: "another pipeline runs.",
    StepType.WAIT: "a timer, without a worker.",
    StepType.EVENT: "a signal from outside is waited for.",
    StepType.TERMINATE: "the run ends at once.",
}


def _step() -> Schema:
    meanings = {str(kind): _TYPES.get(kind, "") for kind in StepType}
    described: dict[str, Schema] = {
        "id": _id("The step's key: letters, digits, _ and -; unique also ignoring case.")
        | {"not": {"enum": sorted(RESERVED_IDS)}},
        "type": choice(
            list_meanings("What kind of thing the step does.", meanings),
            StepType,
            default=str(StepType.TASK),
        ),
        "module": matching("The module of the class: one that the operator allowed.", MODULE_NAME),
        "step_class": matching("The class, a public subclass of Step.", CLASS_NAME),
        "name": text("What people call the step; the id if absent."),
        "description": text("What the step does, for people."),
        "tags": words("Words for people and policies."),
        "inputs": mapping(
            "Templates and literals: all that work(data) gets. Absent: the parameters, overlaid"
            " with the outputs of the steps whose transitions led here."
        ),
        "config": mapping("A static object, handed to the class as self.config."),
        "outputs": words("Names that the step promises; without one of them it fails."),
        "error_handling": {
            "description": "Overrides of the document's error handling.",
            **_error_handling(ON_FAILURE_OF_STEP, _ON_FAILURE_OF_STEP, is_global=False),
        },
        "join": _join(),
        "routing": choice(
            list_meanings("Which of several true transitions are taken.", _ROUTINGS),
            ROUTINGS,
            default=ROUTINGS[0],
        ),
        "foreach": _foreach(),
        "cancels": listing(
            "Steps that are cancelled when this one succeeds; not itself nor one before it.",
            {"type": "string", "minLength": 1},
        ),
        "concurrency_key": word(
            "Steps with the same key never run at once, in whatever run; a template may build it."
        ),
        "queue": word("The queue that its messages go to; the first of IAFLOW_QUEUES if absent."),
        "priority": whole("0 to 9; workers take 9 first.", *RANGES["priority"], default=0),
        "rate_limit": matching(
            "How often the step may start over all runs and workers, such as 10/s or 100/m.",
            RATE_LIMIT,
        ),
        "pipeline": matching("The slug of the pipeline to run.", SLUG),
        "wait": flag(
            "Whether the step waits for the other pipeline and takes its outputs; else its output"
            " is the run's id.",
            default=True,
        ),
    }
    others = [{"if": is_one_of("type", [kind]), "then": _then(kind)} for kind in BUILT_IN_CLASSES]
    return closed("Step", STEP_KEYS, described, "id") | {
        # Most steps are tasks: they are done with after one question.
        "if": is_one_of("type", [StepType.TASK], default=StepType.TASK),
        "then": _then(StepType.TASK),
        "else": {"allOf": others},
    }


def _then(kind: StepType) -> Schema:
    """Return what else holds for a step of one type."""
    properties: Schema = {}
    required = ["config"] if kind in _NEED_CONFIG else []
    if kind is StepType.PIPELINE:
        required.append("pipeline")
    else:
        properties |= {"pipeline": False, "wait": False}
    if kind in UNATTENDED:
        properties["foreach"] = False
    if kind is StepType.HUMAN_INPUT:
        properties["concurrency_key"] = False
    if (name := config_of(kind)) is not None:
        properties["config"] = refer(name)
    if kind not in BUILT_IN_CLASSES:
        return {"required": ["module", "step_class", *required], "properties": properties}
    then: Schema = {
        "required": required,
        "properties": properties,
        "dependentRequired": {"module": ["step_class"]},
        "if": {"required": ["module"]},
        "else": {"properties": _without_class(kind)},
    }
    if "expires_in" in CONFIG_KEYS[kind]:
        conflict = {"config": {"properties": {"expires_in": False}}}
        timed = {"error_handling": {"type": "object", "required": ["timeout"]}}
        rule = {"if": {"required": [*timed], "properties": timed}, "then": {"properties": conflict}}
        then["allOf"] = [rule]
    return then


def _without_class(kind: StepType) -> Schema:
    """Return what a step of a built-in class may have: no keys but those of its type."""
    known = dict.fromkeys(sorted(CONFIG_KEYS[kind]), True)
    return {
        "step_class": {"const": BUILT_IN_CLASSES[kind]},
        "config": {"properties": known, "additionalProperties": False},
    }


_NEED_CONFIG: Final = frozenset({StepType.WAIT, StepType.EVENT, StepType.TERMINATE})
_ROUTINGS: Final = {
    "inclusive": "every true one.",
    "exclusive": "the first true one, in document order.",
}


def _join() -> Schema:
    kinds = (*JoinType, "any")
    counted = sorted({JoinType.N_OF_M, "any"})
    described: dict[str, Schema] = {
        "type": choice(list_meanings("When the step starts.", _JOINS), kinds),
        "n": whole("How many taken transitions start the step.", 1, MAX_TRANSITIONS),
        "cancel_remaining": flag("Whether what then only leads here is cancelled.", default=False),
    }
    rule = closed("Join", JOIN_KEYS, described, "type") | {
        "allOf": [
            {
                "if": is_one_of("type", [JoinType.N_OF_M]),
                "then": {"required": ["n"]},
                "else": {"properties": {"n": False}},
            },
            {
                "if": is_one_of("type", counted),
                "else": {"properties": {"cancel_remaining": False}},
            },
        ]
    }
    return {
        "description": list_meanings(
            "When a step with several incoming transitions starts.", _JOINS
        ),
        "default": str(JoinType.ALL_TAKEN),
        "anyOf": [{"type": "string", "enum": list(JOIN_WORDS)}, rule],
    }


_JOINS: Final = {
    "all_taken": "all of them are decided, and one at least was taken.",
    "all_success": "all were taken.",
    "n_of_m": "n of them were taken; written as an object.",
    "any": "one was taken.",
}


def _foreach() -> Schema:
    described: dict[str, Schema] = {
        "items": {
            "description": "The items: a list, or a template that gives one.",
            "type": ["array", "string"],
            "maxItems": MAX_ITEMS,
        },
        "max_parallel": whole("How many items run at once; all if absent.", 1, MAX_ITEMS),
        "tolerated_failures": whole(
            "How many items may fail before the step does.", 0, MAX_ITEMS, default=0
        ),
        "n": whole("The step is done when so many items succeeded.", 1, MAX_ITEMS),
    }
    return {
        "description": 'One execution per item; the output is {"results": […]} in their order.',
        **closed("Foreach", FOREACH_KEYS, described, "items"),
    }


# --- error handling


def _error_handling(ends: tuple[str, ...], meanings: dict[str, str], *, is_global: bool) -> Schema:
    """Return the keys of one level; `ends` are what may follow a failure, the default first."""
    described: dict[str, Schema] = {
        "retries": whole("Attempts beyond the first.", *RANGES["retries"]),
        "retry_delay": number("Seconds before the first retry.", 0, MAX_SECONDS),
        "backoff": number("Factor from one delay to the next.", *RANGES["backoff"]),
        "max_delay": number("The longest delay in seconds, before jitter.", 0, MAX_SECONDS),
        "jitter": number("How much of a delay is added by chance, at most.", *RANGES["jitter"]),
        "retry_on": words(
            "Names of exception classes, or codes, that are retried; all of them if absent."
        ),
        "give_up_on": words("Those that never are; wins over retry_on."),
        "timeout": number("Seconds that one attempt may take.", 0, MAX_SECONDS, above=True),
        "max_worker_losses": whole(
            "How often a step is taken up again after its worker was lost.",
            *RANGES["max_worker_losses"],
        ),
        "on_failure": choice(
            list_meanings("What follows a failure that nothing handles.", meanings),
            ends,
            default=ends[0],
        ),
        "run_timeout": number("Seconds for the whole run.", 0, MAX_SECONDS, above=True),
    }
    if not is_global:
        return closed("Error handling", POLICY_KEYS, described)
    # A step's own default is what the document says.
    for key, value in asdict(ErrorPolicy()).items():
        if isinstance(value, int | float):
            described[key]["default"] = int(value)
    return closed("Error handling", POLICY_KEYS | {"run_timeout"}, described)


_ON_FAILURE_OF_RUN: Final = {
    "fail_fast": "the run ends, and what is unfinished is cancelled.",
    "run_independent": "what does not depend on it runs on, then the run fails.",
}
_ON_FAILURE_OF_STEP: Final = {
    "fail": "the document's rule.",
    "continue": "the run goes on as after a success, with a null output.",
}


# --- the flow


def _flow() -> Schema:
    transitions = "The edges of the graph; may be absent with one step."
    described: dict[str, Schema] = {
        "start_at": _id("The first step, which no transition leads to."),
        "transitions": listing(transitions, refer("transition"), maxItems=MAX_TRANSITIONS),
        "paths": listing(
            "The old name of transitions.",
            refer("transition"),
            maxItems=MAX_TRANSITIONS,
            deprecated=True,
        ),
    }
    return {
        "description": "Where a run begins, and what follows what.",
        **closed("Flow", FLOW_KEYS, described, "start_at"),
        "dependentSchemas": {"paths": {"properties": {"transitions": False}}},
    }


def _transition() -> Schema:
    described: dict[str, Schema] = {
        "from": _id("The step that it leaves."),
        "to": _id("The step that it leads to."),
        "condition": refer("condition", "When it is taken, given that end; always if absent.")
        | {"default": "always"},
        "on": choice(
            list_meanings("The end of its source that it watches.", _ENDS),
            On,
            default=str(On.SUCCESS),
        ),
        "name": text("What people and drawings call it."),
    }
    return closed("Transition", TRANSITION_KEYS, described, "from", "to")


_ENDS: Final = {
    "success": "the step succeeded.",
    "failure": "it failed: by an error, a timeout, an expiry or a rejection.",
    "timeout": "its last attempt took too long; not on people, events and waits.",
    "expired": "nobody answered in time; only on people and events.",
    "rejected": "a person rejected; only on people.",
    "skipped": "it was skipped.",
    "completed": "it succeeded or failed.",
}


def _id(description: str) -> Schema:
    return matching(description, STEP_ID)
