"""The structure of a definition: JSON text becomes plain, frozen data.

Decides which keys, types, names and ranges are legal, and what an absent key means; never looks
at what templates, conditions or the graph mean. Called by graph, check and the importer.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from iaflow.errors import Problem
from iaflow.pipeline.reading import Findings, Reader, clip, describe, nearest
from iaflow.pipeline.shapes import (
    BUILT_IN_CLASSES,
    UNATTENDED,
    Definition,
    ErrorPolicy,
    Foreach,
    Join,
    JoinType,
    On,
    StepDefinition,
    StepType,
    Transition,
)
from iaflow.pipeline.strict_json import (
    MAX_BYTES,
    MAX_DEPTH,
    JsonRefused,
    check_json_value,
    dump_json,
    join_pointer,
    read_json,
)

__all__ = [
    "BUILT_IN_CLASSES",
    "CLASS_NAME",
    "CODES",
    "DOCUMENT_KEYS",
    "FLOW_KEYS",
    "FOREACH_KEYS",
    "JOIN_KEYS",
    "JOIN_WORDS",
    "LANGUAGE_VERSION",
    "MAX_ITEMS",
    "MAX_SECONDS",
    "MAX_STEPS",
    "MAX_TRANSITIONS",
    "MODULE_NAME",
    "ON_FAILURE_OF_RUN",
    "ON_FAILURE_OF_STEP",
    "POLICY_KEYS",
    "RANGES",
    "RATE_LIMIT",
    "RESERVED_IDS",
    "ROUTINGS",
    "RULE_KEYS",
    "SLUG",
    "STEP_ID",
    "STEP_KEYS",
    "TRANSITION_KEYS",
    "UNATTENDED",
    "Definition",
    "ErrorPolicy",
    "Foreach",
    "JoinType",
    "Join",
    "On",
    "StepDefinition",
    "StepType",
    "Transition",
    "check_json_value",
    "default_slug",
    "nearest",
    "parse_definition",
    "parse_document",
    "read_json",
]

LANGUAGE_VERSION: Final = 1
MAX_STEPS: Final = 10_000
MAX_TRANSITIONS: Final = 50_000
MAX_ITEMS: Final = 100_000
MAX_POLICIES: Final = 100
MAX_SECONDS: Final = 1_000_000_000
"""The longest duration that can be written, some 31 years: later instants have no calendar."""

CODES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "key_misplaced": "a key is known, but has no meaning here",
        "id_invalid": "a step's id is not letters, digits, _ and -, beginning with a letter",
        "id_reserved": "a step's id is a word that templates use",
        "id_duplicate": "two steps have the same id, also ignoring case",
        "name_invalid": "a module or class name is not a public Python name",
        "slug_invalid": "the slug is not lower-case letters, digits, - and _",
        "language_unknown": "the document is written in a version of the language yet to come",
        "limit_exceeded": "there are more steps, transitions or items than the limit",
        "deprecated_paths": "the old key flow.paths stands where flow.transitions should",
    }
)
"""Codes of the problems that `parse_definition` finds beside those of strict JSON."""

RESERVED_IDS: Final = frozenset({"parameters", "steps", "errors", "item", "index", "run", "result"})


Parsed = tuple[Definition | None, list[Problem], list[Problem]]
"""A definition (None if its structure is broken), errors, warnings."""


def parse_definition(text: str | bytes, *, max_bytes: int = MAX_BYTES) -> Parsed:
    """
    Read the text of a definition; never raises, whatever the text is.

    Args:
        text: JSON; bytes must be UTF-8.
        max_bytes: the longest text that is read.

    Returns:
        The definition, the errors and the warnings. There may be both a definition and errors:
        what is wrong then has its default, so that the checks of meaning can go on.
    """
    try:
        document = read_json(text, max_bytes=max_bytes)
    except JsonRefused as refused:
        return None, list(refused.problems), []
    findings = Findings()
    definition = _read_document(document, findings)
    return None if findings.broken else definition, findings.errors, findings.warnings


def parse_document(document: Any, *, max_bytes: int = MAX_BYTES) -> Parsed:
    """Read a definition that is a Python dict already, under the limits of its JSON text."""
    text, problems = check_json_value(document, max_bytes=max_bytes, max_depth=MAX_DEPTH)
    return (None, problems, []) if problems else parse_definition(text, max_bytes=max_bytes)


def default_slug(name: str, version: str) -> str:
    """Return the slug of a definition that has none, or ``""`` if the name gives none."""
    stem, major = (
        _NOT_IN_SLUG.sub("-", part.lower()).strip("-") for part in (name, version.split(".", 1)[0])
    )
    return f"{stem}-v{major.removeprefix('v')}" if stem and major else ""


# --- names and ranges

STEP_ID: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,127}")
CLASS_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,199}")
MODULE_NAME: Final = re.compile(r"(?=.{1,200}$)[A-Za-z][A-Za-z0-9_]*(?:\.[A-Za-z][A-Za-z0-9_]*)*")
SLUG: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,199}")
_NOT_IN_SLUG: Final = re.compile(r"[^a-z0-9]+")
RATE_LIMIT: Final = re.compile(r"[1-9][0-9]{0,6}/[smh]")

DOCUMENT_KEYS: Final = frozenset(
    "name description version tags slug parameters input_schema steps flow error_handling outputs"
    " policies max_concurrent_runs language metadata".split()
)
STEP_KEYS: Final = frozenset(
    "id type module step_class name description tags inputs config outputs error_handling join"
    " routing foreach cancels concurrency_key queue priority rate_limit pipeline wait".split()
)
FLOW_KEYS: Final = frozenset({"start_at", "transitions", "paths"})
TRANSITION_KEYS: Final = frozenset({"from", "to", "condition", "on", "name"})
POLICY_KEYS: Final = frozenset(
    "retries retry_delay backoff max_delay jitter retry_on give_up_on timeout max_worker_losses"
    " on_failure".split()
)
FOREACH_KEYS: Final = frozenset({"items", "max_parallel", "tolerated_failures", "n"})
JOIN_KEYS: Final = frozenset({"type", "n", "cancel_remaining"})
RULE_KEYS: Final = frozenset({"every_path_to", "must_pass"})
"""Keys of one of the `policies`, which POLICY_KEYS, those of error handling, are not."""

JOIN_WORDS: Final = ("all_taken", "all_success", "any")
ROUTINGS: Final = ("inclusive", "exclusive")
ON_FAILURE_OF_RUN: Final = ("fail_fast", "run_independent")
ON_FAILURE_OF_STEP: Final = ("fail", "continue")

RANGES: Final[Mapping[str, tuple[int, int]]] = MappingProxyType(
    {
        "max_concurrent_runs": (1, 1_000_000),
        "priority": (0, 9),
        "retries": (0, 100),
        "backoff": (1, 1_000_000),
        "jitter": (0, 1),
        "max_worker_losses": (0, 10_000),
    }
)
"""Bounds of numbers, both included; those of durations and counts are the limits above."""


# --- the document


def _read_document(document: Any, findings: Findings) -> Definition | None:
    if not isinstance(document, dict):
        findings.break_off("type_wrong", "", "a definition is a JSON object", "begin with { … }")
        return None
    top = Reader(document, "", findings, DOCUMENT_KEYS)
    name = top.word("name") if top.require("name") else None
    version = top.word("version") or "1.0"
    rules = top.inner("error_handling", POLICY_KEYS | {"run_timeout"})
    defaults = _read_policy(rules) if rules else {}
    steps = _read_steps(top, defaults)
    start_at, transitions, key = _read_flow(top)
    return Definition(
        slug=_read_slug(top, name, version),
        name=name or "",
        description=top.text("description") or "",
        version=version,
        tags=top.words("tags") or (),
        parameters=top.mapping("parameters") or {},
        input_schema=_read_schema(top),
        steps=steps,
        start_at=start_at,
        transitions=transitions,
        outputs=top.mapping("outputs"),
        on_failure=_read_run_rule(rules) or "fail_fast",
        run_timeout=rules.number("run_timeout", 0, MAX_SECONDS, above=True) if rules else None,
        max_concurrent_runs=top.whole("max_concurrent_runs", *RANGES["max_concurrent_runs"]),
        policies=_read_policies(top),
        metadata=top.mapping("metadata") or {},
        language=_read_language(top),
        document=document,
        text=dump_json(document),
        content_hash=hashlib.sha256(dump_json(document, sort_keys=True).encode()).hexdigest(),
        transitions_key=key,
    )


def _read_slug(top: Reader, name: str | None, version: str) -> str:
    if "slug" in top.members:
        wanted = "lower-case letters, digits, - and _, at most 200"
        return top.matching("slug", SLUG, "slug_invalid", wanted) or ""
    if name is None:
        return ""
    slug = default_slug(name, version)
    if not SLUG.fullmatch(slug):
        if SLUG.fullmatch(default_slug(name, "1")):
            message = (
                f"the version {clip(version)} gives no slug: it begins with no letter or digit"
            )
            top.refuse("slug_invalid", "version", message, "add a `slug`")
            return slug
        message = "the name gives no slug: it has no Latin letters or digits, or is too long"
        top.refuse("slug_invalid", "name", message, "add a `slug`")
    return slug


def _read_language(top: Reader) -> int:
    version = top.whole("language", 1, 1_000_000) or LANGUAGE_VERSION
    if version > LANGUAGE_VERSION:
        message = f"language {version} is not known, this release reads {LANGUAGE_VERSION}"
        top.refuse("language_unknown", "language", message)
    return version


def _read_schema(top: Reader) -> dict[str, Any] | bool | None:
    schema = top.members.get("input_schema")
    if "input_schema" in top.members and not isinstance(schema, dict | bool):
        top.refuse_type("input_schema", "a JSON Schema")
        return None
    return schema


def _read_run_rule(rules: Reader | None) -> str | None:
    return rules.one_of("on_failure", ON_FAILURE_OF_RUN) if rules else None


def _read_policies(top: Reader) -> tuple[dict[str, Any], ...]:
    policies: list[dict[str, Any]] = []
    given = top.items("policies") or []
    if len(given) > MAX_POLICIES:
        message = f"{len(given):,} policies are more than the limit of {MAX_POLICIES}"
        top.refuse("limit_exceeded", "policies", message)
        return ()
    for index, value in enumerate(given):
        rule = _enter(value, join_pointer("/policies", index), "a policy", RULE_KEYS, top.findings)
        if rule is None:
            continue
        wanted = [rule.word(key) for key in sorted(RULE_KEYS) if rule.require(key)]
        if len(wanted) == len(RULE_KEYS) and all(wanted):
            policies.append(rule.members)
    return tuple(policies)


def _enter(
    value: Any, pointer: str, what: str, known: frozenset[str], findings: Findings
) -> Reader | None:
    """Begin to read a member of a list that must be an object."""
    if isinstance(value, dict):
        return Reader(value, pointer, findings, known)
    findings.refuse("type_wrong", pointer, f"{what} is an object, not {describe(value)}")
    return None


# --- steps


def _read_steps(top: Reader, defaults: dict[str, Any]) -> tuple[StepDefinition, ...]:
    findings = top.findings
    values = top.items("steps") if top.require("steps") else None
    if not values:
        if values is not None:
            top.refuse("value_invalid", "steps", "a definition has at least one step")
        findings.broken = True
        return ()
    if len(values) > MAX_STEPS:
        message = f"{len(values):,} steps are more than the limit of {MAX_STEPS:,}"
        findings.break_off("limit_exceeded", "/steps", message)
        return ()
    steps: list[StepDefinition] = []
    taken: dict[str, str] = {}
    for position, value in enumerate(values):
        entry = _enter(value, f"/steps/{position}", "a step", STEP_KEYS, findings)
        step_id = _read_id(entry, taken) if entry else None
        if entry is None or step_id is None:
            findings.broken = True
        if entry is not None:
            steps.append(_read_step(entry, step_id or "", position, defaults))
    return tuple(steps)


def _read_id(entry: Reader, taken: dict[str, str]) -> str | None:
    if not entry.require("id"):
        return None
    wanted = "a letter, then up to 127 letters, digits, _ and -"
    step_id = entry.matching("id", STEP_ID, "id_invalid", wanted)
    if step_id is None:
        return None
    if step_id in RESERVED_IDS:
        entry.refuse("id_reserved", "id", f"`{step_id}` is a word of templates", "take another id")
        return None
    if step_id.lower() in taken:
        message = f"there is a step `{taken[step_id.lower()]}` already"
        entry.refuse("id_duplicate", "id", message, "ids differ in more than upper and lower case")
        return None
    taken[step_id.lower()] = step_id
    return step_id


def _read_step(
    entry: Reader, step_id: str, position: int, defaults: dict[str, Any]
) -> StepDefinition:
    chosen = entry.choice("type", StepType)
    step_type = chosen or StepType.TASK
    # Of a type that is misspelt nobody knows whether it needs a class.
    is_known = chosen is not None or "type" not in entry.members
    module, step_class = _read_class(entry, step_type) if is_known else (None, None)
    routing = entry.one_of("routing", ROUTINGS)
    rate = entry.matching("rate_limit", RATE_LIMIT, "value_invalid", "such as 10/s, 100/m or 500/h")
    return StepDefinition(
        id=step_id,
        type=step_type,
        position=position,
        module=module,
        step_class=step_class,
        name=entry.text("name") or step_id,
        description=entry.text("description") or "",
        tags=entry.words("tags") or (),
        inputs=entry.mapping("inputs"),
        config=entry.mapping("config") or {},
        outputs=entry.words("outputs"),
        policy=_merge_policy(entry, step_type, defaults),
        join=_read_join(entry),
        routing=routing or "inclusive",
        foreach=_read_foreach(entry),
        cancels=entry.words("cancels") or (),
        concurrency_key=entry.word("concurrency_key"),
        queue=entry.word("queue"),
        priority=entry.whole("priority", *RANGES["priority"]),
        rate_limit=rate,
        pipeline=_read_pipeline(entry, step_type),
        wait=entry.flag("wait") is not False,
    )


def _read_class(entry: Reader, step_type: StepType) -> tuple[str | None, str | None]:
    """Read where the class of a step is; the built-in ones of the other types need no module."""
    wanted = "letters, digits and _, no part beginning with _"
    module = entry.matching("module", MODULE_NAME, "name_invalid", wanted)
    step_class = entry.matching("step_class", CLASS_NAME, "name_invalid", wanted)
    built_in = BUILT_IN_CLASSES.get(step_type)
    if "step_class" not in entry.members:
        if built_in is None or "module" in entry.members:
            entry.require("step_class", "the name of a class in `module`")
    elif "module" not in entry.members and step_class is not None and step_class != built_in:
        types = {name: kind for kind, name in BUILT_IN_CLASSES.items()}
        hint = f'add "type": "{types[step_class]}"' if step_class in types else ""
        entry.require("module", hint or "the module that the class is in")
        return None, None
    return module, step_class


def _read_pipeline(entry: Reader, step_type: StepType) -> str | None:
    if step_type is StepType.PIPELINE:
        entry.require("pipeline", "the slug of the pipeline to run")
        return entry.matching("pipeline", SLUG, "slug_invalid", "the slug of a pipeline")
    for key in ("pipeline", "wait"):
        if key in entry.members:
            message = f"`{key}` has a meaning only on steps of type pipeline"
            entry.refuse("key_misplaced", key, message)
    return None


def _read_join(entry: Reader) -> Join:
    value = entry.members.get("join", JoinType.ALL_TAKEN.value)
    if isinstance(value, str):
        value = {"type": entry.one_of("join", JOIN_WORDS) or "all_taken"}
        rule = Reader(value, "", entry.findings, JOIN_KEYS)
    elif isinstance(value, dict):
        rule = Reader(value, join_pointer(entry.pointer, "join"), entry.findings, JOIN_KEYS)
        rule.require("type")
    else:
        entry.refuse_type("join", "a string or an object")
        return Join()
    kind = rule.one_of("type", (*JoinType, "any"))
    counted = kind in {JoinType.N_OF_M, "any"}
    for key in ("n", "cancel_remaining"):
        if key in value and kind is not None and (not counted or (kind, key) == ("any", "n")):
            rule.refuse("key_misplaced", key, f"`{key}` has no meaning with type {kind}")
    if not counted:
        return Join(JoinType(kind or JoinType.ALL_TAKEN))
    n = 1
    if kind == JoinType.N_OF_M:
        n = (rule.whole("n", 1, MAX_TRANSITIONS) if rule.require("n") else None) or 1
    return Join(JoinType.N_OF_M, n, bool(rule.flag("cancel_remaining")))


def _read_foreach(entry: Reader) -> Foreach | None:
    rule = entry.inner("foreach", FOREACH_KEYS)
    if rule is None:
        return None
    items = rule.members.get("items") if rule.require("items", "a list or a template") else []
    if not isinstance(items, list | str):
        rule.refuse_type("items", "a list, or a template that gives one")
        items = []
    if len(items) > MAX_ITEMS and isinstance(items, list):
        rule.refuse("limit_exceeded", "items", f"more than the limit of {MAX_ITEMS:,} items")
    return Foreach(
        items=items,
        max_parallel=rule.whole("max_parallel", 1, MAX_ITEMS),
        tolerated_failures=rule.whole("tolerated_failures", 0, MAX_ITEMS) or 0,
        n=rule.whole("n", 1, MAX_ITEMS),
    )


# --- error handling


def _read_policy(rule: Reader) -> dict[str, Any]:
    """Return the keys of an `error_handling` that both levels know and that are given."""
    values = {
        "retries": rule.whole("retries", *RANGES["retries"]),
        "retry_delay": rule.number("retry_delay", 0, MAX_SECONDS),
        "backoff": rule.number("backoff", *RANGES["backoff"]),
        "max_delay": rule.number("max_delay", 0, MAX_SECONDS),
        "jitter": rule.number("jitter", *RANGES["jitter"]),
        "retry_on": rule.words("retry_on"),
        "give_up_on": rule.words("give_up_on"),
        "timeout": rule.number("timeout", 0, MAX_SECONDS, above=True),
        "max_worker_losses": rule.whole("max_worker_losses", *RANGES["max_worker_losses"]),
    }
    return {key: value for key, value in values.items() if value is not None}


def _merge_policy(entry: Reader, step_type: StepType, defaults: dict[str, Any]) -> ErrorPolicy:
    policy = dict(defaults)
    if step_type in UNATTENDED:
        policy.pop("timeout", None)
        policy.pop("retries", None)
    # Known here as well, so that it can be said where it belongs.
    rule = entry.inner("error_handling", POLICY_KEYS | {"run_timeout"})
    if rule is not None:
        if "run_timeout" in rule.members:
            message = "`run_timeout` is about the run"
            rule.refuse("key_misplaced", "run_timeout", message, "write it at the document's level")
        policy |= _read_policy(rule)
        policy["on_failure"] = rule.one_of("on_failure", ON_FAILURE_OF_STEP) or "fail"
    return ErrorPolicy(**policy)


# --- the flow


def _read_flow(top: Reader) -> tuple[str, tuple[Transition, ...], str]:
    flow = top.inner("flow", FLOW_KEYS) if top.require("flow") else None
    if flow is None:
        top.findings.broken = True
        return "", (), "transitions"
    start_at = (
        flow.text("start_at") if flow.require("start_at", "the id of the first step") else None
    )
    key = "paths" if "paths" in flow.members else "transitions"
    if key == "paths":
        _warn_of_paths(flow)
    values = flow.items(key)
    if start_at is None or (values is None and key in flow.members):
        top.findings.broken = True
    if values is not None and len(values) > MAX_TRANSITIONS:
        message = f"{len(values):,} transitions are more than the limit of {MAX_TRANSITIONS:,}"
        top.findings.break_off("limit_exceeded", f"/flow/{key}", message)
        values = []
    transitions = [
        _read_transition(value, index, f"/flow/{key}/{index}", top.findings)
        for index, value in enumerate(values or ())
    ]
    return start_at or "", tuple(found for found in transitions if found), key


def _warn_of_paths(flow: Reader) -> None:
    hint = "rename the key to `transitions`"
    if "transitions" in flow.members:
        flow.refuse("key_misplaced", "paths", "`paths` is the old name of `transitions`", hint)
    warning = Problem("deprecated_paths", "/flow/paths", "`flow.paths` is deprecated", hint)
    flow.findings.warnings.append(warning)


def _read_transition(value: Any, index: int, pointer: str, findings: Findings) -> Transition | None:
    entry = _enter(value, pointer, "a transition", TRANSITION_KEYS, findings)
    if entry is None:
        findings.broken = True
        return None
    source = entry.text("from") if entry.require("from") else None
    target = entry.text("to") if entry.require("to") else None
    on = entry.choice("on", On) or On.SUCCESS
    name = entry.text("name")
    if source is None or target is None:
        findings.broken = True
        return None
    return Transition(index, source, target, on, entry.members.get("condition", "always"), name)
