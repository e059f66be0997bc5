"""What an editor is told of the language: all of its keys, and nothing that it would not refuse.

Decides by the check: a fault in a document must be one for both, and what the schema refuses the
check must refuse. Run by pytest.
"""

from __future__ import annotations

import contextlib
import copy
import gzip
import itertools
import json
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iaflow.pipeline.check import check
from iaflow.pipeline.definition import JoinType, On, StepType
from iaflow.pipeline.editor_schema import definition_schema
from iaflow.pipeline.fields import FieldType
from iaflow.pipeline.operators import ALIASES, OPERATORS
from tests.acceptance.stories import PAGES, ROOT, read_fences

CASES = ROOT.parent / "shared" / "cases"
SCHEMA = definition_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

PARTS = {
    "steps": VALIDATOR.evolve(schema={**SCHEMA["$defs"]["step"], "$defs": SCHEMA["$defs"]}),
    "transitions": VALIDATOR.evolve(
        schema={**SCHEMA["$defs"]["transition"], "$defs": SCHEMA["$defs"]}
    ),
}
SMALL = {
    "steps": [{"id": "a", "module": "m", "step_class": "C"}],
    "flow": {"start_at": "a"},
}
GONE = object()

Place = tuple[str | int, ...]


def schema_accepts(document: Any) -> bool:
    return VALIDATOR.is_valid(document)


def check_accepts(document: Any) -> bool:
    """Tell whether the language has this document."""
    return not check(document).errors


# --- a document with every key


def comparison(source: str, operator: str, *value: Any) -> dict[str, Any]:
    config = {"source": source, "operator": operator} | ({"value": value[0]} if value else {})
    return {"type": "expression", "config": config}


FIELDS: list[dict[str, Any]] = [
    {
        "name": "title",
        "label": "Title",
        "type": "text",
        "required": True,
        "default": "a",
        "min_length": 1,
        "max_length": 80,
        "pattern": "[a-z]+",
        "help": "h",
        "placeholder": "p",
    },
    {"name": "text", "type": "textarea", "default": None, "max_length": 65_536},
    {"name": "amount", "type": "number", "minimum": 0.5, "maximum": 9, "default": 1.5},
    {"name": "count", "type": "integer", "minimum": 0, "default": 1},
    {"name": "yes", "type": "boolean", "default": True},
    {"name": "ticked", "type": "checkbox", "default": False},
    {"name": "decision", "type": "radio", "options": ["Approve", "Reject"], "default": "Reject"},
    {"name": "size", "type": "select", "options": [{"value": 1, "label": "one"}, {"value": True}]},
    {"name": "tags", "type": "multiselect", "options": ["a", "b"], "default": ["a"]},
    {"name": "day", "type": "date", "minimum": "2026-01-31", "maximum": "2026-12-31"},
    {"name": "at", "type": "datetime", "minimum": "2026-01-31T09:30:00Z"},
    {"name": "mail", "type": "email"},
    {"name": "link", "type": "url"},
    {"name": "any", "type": "json", "default": {"a": [1]}},
]
EVERYWHERE: dict[str, Any] = {
    "retries": 2,
    "retry_delay": 1.5,
    "backoff": 2,
    "max_delay": 60,
    "jitter": 0.5,
    "retry_on": ["TimeoutError"],
    "give_up_on": ["Fail"],
    "timeout": 30,
    "max_worker_losses": 1,
}
TASK = {"module": "shop.steps", "step_class": "Work"}
FUNCTION = {
    "type": "function",
    "config": {"module": "shop.rules", "function": "judge", "arguments": {"a": 1}},
}
AGENT = {
    "type": "agent",
    "config": {"service": "s", "question": "q?", "choices": ["a", "b"], "choice": "a"},
}
PERSON: dict[str, Any] = {
    "ui_schema": {"title": "May it?", "description": "d", "fields": FIELDS},
    "show": {"mode": "{{ parameters.mode }}"},
    "reject_when": {"type": "any", "conditions": ["result.decision == 'Reject'", "always"]},
    "expires_in": 60,
    "assignees": {"users": ["ada"], "roles": ["lead"]},
    "quorum": 2,
    "exclude_starter": True,
    "escalate": [{"after": 30, "assignees": {"roles": ["boss"]}}],
    "reminders": [10, 20.5],
}
STEPS: list[dict[str, Any]] = [
    {
        "id": "start",
        "type": "task",
        **TASK,
        "name": "Start",
        "description": "Begins.",
        "tags": ["first"],
        "inputs": {"mode": "{{ parameters.mode }}"},
        "config": {"depth": 3},
        "outputs": ["score", "list"],
        "error_handling": {**EVERYWHERE, "on_failure": "fail"},
        "join": "all_success",
        "routing": "inclusive",
        "concurrency_key": "{{ parameters.mode }}",
        "queue": "slow",
        "priority": 9,
        "rate_limit": "10/s",
    },
    {"id": "ask", "type": "human_input", "step_class": "HumanInputStep", "config": PERSON},
    {"id": "own", "type": "human_input", **TASK, "config": {"mine": 1, "quorum": 1}},
    {
        "id": "child",
        "type": "pipeline",
        "pipeline": "other-v1",
        "wait": False,
        "config": {},
        "inputs": {"x": "{{ item }}"},
        "foreach": {
            "items": "{{ start.list }}",
            "max_parallel": 2,
            "tolerated_failures": 1,
            "n": 3,
        },
    },
    {
        "id": "sleep",
        "type": "wait",
        "config": {"seconds": 5},
        "error_handling": {"on_failure": "continue"},
    },
    {"id": "until", "type": "wait", "config": {"until": "{{ parameters.mode }}"}},
    {"id": "signal", "type": "event", "config": {"name": "paid", "expires_in": 60}},
    {"id": "each", **TASK, "foreach": {"items": [1, 2]}},
    {
        "id": "meet",
        **TASK,
        "join": {"type": "n_of_m", "n": 2, "cancel_remaining": True},
        "cancels": ["each"],
    },
    {"id": "stop", "type": "terminate", "config": {"status": "failed", "message": "m"}},
]
CONDITIONS: dict[str, Any] = {
    "ask": {
        "type": "all",
        "conditions": [
            comparison("result.score", ">=", 0.8),
            comparison("start.list", "exists"),
            comparison("parameters.mode", "in", ["a", "b"]),
            comparison("parameters.mode", "starts_with", "a"),
            comparison("parameters.mode", "matches", "^a"),
            comparison("result.score", "between", [0, 1]),
            comparison("result.score", "is_null", False),
            {
                "type": "expression",
                "config": {
                    "source": "result.score",
                    "operator": "lt",
                    "value_source": "parameters.limit",
                },
            },
            {"type": "not", "condition": "parameter:mode"},
            {"type": "any", "conditions": [FUNCTION, "always"]},
        ],
    },
    "own": "otherwise",
    "child": "result.score > 0.8 and parameters.mode == 'auto'",
    "sleep": "parameter:mode",
    "until": FUNCTION,
    "signal": AGENT,
    "each": "always",
}
RICH: dict[str, Any] = {
    "name": "Rich",
    "description": "Every key.",
    "version": "2.1",
    "slug": "rich-v2",
    "tags": ["a"],
    "parameters": {"mode": "auto", "limit": 1},
    # A schema that is an object would take most of the check's time.
    "input_schema": True,
    "steps": STEPS,
    "flow": {
        "start_at": "start",
        "transitions": [
            *(
                {"from": "start", "to": to, "condition": condition, "on": "success", "name": "n"}
                for to, condition in CONDITIONS.items()
            ),
            {"from": "start", "to": "each", "on": "skipped"},
            {"from": "ask", "to": "meet"},
            {"from": "own", "to": "meet"},
            {"from": "ask", "to": "stop", "on": "rejected"},
            {"from": "ask", "to": "stop", "on": "expired"},
            {"from": "own", "to": "stop", "on": "failure"},
            {"from": "each", "to": "stop", "on": "timeout"},
            {"from": "child", "to": "stop", "on": "completed"},
        ],
    },
    "error_handling": {**EVERYWHERE, "on_failure": "run_independent", "run_timeout": 3600},
    "outputs": {"score": "{{ start.score }}"},
    "policies": [{"every_path_to": "step:meet", "must_pass": "tag:first"}],
    "max_concurrent_runs": 3,
    "language": 1,
    "metadata": {"owner": "shop"},
}
# Below these keys stands what is the user's own.
FREE = frozenset("parameters input_schema inputs metadata show arguments default".split())


def walk(value: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Yield every value of a document that the language gives a meaning, with its place."""
    yield place, value
    if place in (("outputs",), ("steps", 0, "config")) or FREE.intersection(place[-1:]):
        return
    if isinstance(value, dict | list):
        for key, member in value.items() if isinstance(value, dict) else enumerate(value):
            yield from walk(member, (*place, key))


def change(place: Place, value: Any, *, within: Any = None) -> Any:
    """Return the rich document with another value in one place; `GONE` takes the key away."""
    if not place:
        return value
    key: Any = place[0]
    changed = copy.copy(RICH if within is None else within)
    if len(place) > 1:
        value = change(place[1:], value, within=changed[key])
    if value is GONE:
        del changed[key]
    else:
        changed[key] = value
    return changed


def write(place: Place) -> str:
    return "".join(f"/{key}" for key in place)


PLACES = dict(walk(RICH))
ALL_KEYS = sorted({key for place in PLACES for key in place if isinstance(key, str)})


# --- the schema itself


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$id"] == "urn:iaflow:definition:1"
    assert "://" not in json.dumps({**SCHEMA, "$schema": ""})


def test_nobody_shares_it() -> None:
    todo: list[Any] = [definition_schema()]
    while todo:
        part = todo.pop()
        todo += [*part.values()] if isinstance(part, dict) else part
        part.clear()
        todo = [one for one in todo if isinstance(one, dict | list)]
    assert definition_schema() == SCHEMA


def sections(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every schema with keys in it that is not a rule about keys told of elsewhere."""
    if isinstance(value, dict):
        if "properties" in value:
            yield value
        for key, member in value.items():
            if key not in ("allOf", "anyOf", "if", "then", "else", "dependentSchemas"):
                yield from sections(member)
        for member in value.get("anyOf", ()):
            yield from (found for found in sections(member) if "title" in found)


def test_every_key_is_described() -> None:
    found = list(sections(SCHEMA))
    assert len(found) > 20
    silent = [
        (section["title"], key)
        for section in found
        for key, schema in section["properties"].items()
        if schema is True or len(schema.get("description", "")) < 12
    ]
    assert silent == []


def test_every_word_has_a_meaning() -> None:
    described = json.dumps(SCHEMA, ensure_ascii=False)
    enums = [set(json.loads(one)) for one in re.findall(r'"enum": (\[[^]]*\])', described)]
    for known in (set(StepType), set(On), set(FieldType), {*OPERATORS, *ALIASES}):
        assert known in enums
    for words in (StepType, On, JoinType, FieldType, OPERATORS):
        assert [word for word in words if not re.search(rf"\\n{word}: \S", described)] == []


def test_patterns_are_read_alike_by_python_and_ecmascript() -> None:
    patterns = re.findall(r'"pattern": ("(?:[^"\\]|\\.)*")', json.dumps(SCHEMA))
    assert len(patterns) > 20
    for pattern in map(json.loads, patterns):
        assert not re.search(r"\\[AZzQ]|\(\?[P<#(]|[*+?}]\+|\\[pPX]", pattern), pattern


def keys_of_reference(page: str) -> set[str]:
    """Return the words in the first column of the tables of keys of a page."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    tables = re.findall(r"^\| key \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    cells = chain.from_iterable(re.findall(r"^\|([^|]*)\|", one, re.MULTILINE) for one in tables)
    return {word for cell in cells for word in re.findall(r"`(\w+)`", cell)}


def test_the_schema_names_every_key_of_the_reference() -> None:
    named = set(chain.from_iterable(section["properties"] for section in sections(SCHEMA)))
    wanted = keys_of_reference("language-reference.md") | keys_of_reference("human-in-the-loop.md")
    assert {"retries", "ui_schema", "placeholder", "start_at", "rate_limit"} <= wanted
    assert wanted <= named


# --- what is accepted


def read_examples() -> dict[str, Any]:
    """Return the definitions of the examples, the docs and the cases beside the checkout."""
    files = [*(ROOT / "pipelines").glob("*.json"), *CASES.rglob("*.json"), *CASES.rglob("*.gz")]
    values = {str(path): read_file(path) for path in sorted(files)}
    values |= {
        fence.place: json.loads(fence.text)
        for page in PAGES
        for fence in read_fences(page)
        if fence.language == "json"
    }
    examples = {}
    for place, value in values.items():
        document = value.get("pipeline", value) if isinstance(value, dict) else None
        if isinstance(document, dict) and {"steps", "flow"} <= document.keys():
            examples[place] = document
    return examples


def read_file(path: Path) -> Any:
    packed = path.read_bytes()
    return json.loads(gzip.decompress(packed) if path.suffix == ".gz" else packed)


def test_what_the_check_accepts_is_accepted() -> None:
    examples = read_examples()
    # That the traces are accepted is seen where they run.
    accepted = {
        place: one for place, one in examples.items() if "wfcommons" in place or check_accepts(one)
    }
    assert len(accepted) > (60 if CASES.is_dir() else 20)
    for place, document in accepted.items():
        error = jsonschema.exceptions.best_match(VALIDATOR.iter_errors(document))
        assert error is None, f"{place}{error.json_path}: {error.message}"


def test_a_document_with_every_key_is_accepted() -> None:
    assert check_accepts(RICH)
    assert schema_accepts(RICH)
    used = {str(place[-1]) for place, value in PLACES.items() if place}
    named = set(chain.from_iterable(section["properties"] for section in sections(SCHEMA)))
    assert named - used == {"paths"}


# --- what is refused


def both_refuse(place: Place, value: Any) -> bool:
    """Tell whether the rich document with a fault in one place is refused by both."""
    document = change(place, value)
    return not schema_accepts_at(place, document) and not check_accepts(document)


def schema_accepts_at(place: Place, document: Any) -> bool:
    """Judge a changed document without most of what was not changed, to be quick."""
    if place and place[0] not in SMALL:
        return schema_accepts({**document, **SMALL})
    inner = document
    for key, index in itertools.pairwise(place):
        inner = inner[key]
        if key in PARTS:
            return PARTS[str(key)].is_valid(inner[index])
    return schema_accepts(document)


def one_of_each() -> list[Place]:
    """Return places of the rich document, one for each way of keys from its top."""
    shapes: dict[Place, Place] = {}
    for place in PLACES:
        # Steps differ by their config, conditions by their type; lists elsewhere are all alike.
        kept = {"steps", "transitions", "conditions"} if {"config", "condition"} & {*place} else {}
        pairs = itertools.pairwise(("", *place))
        shape = (key if isinstance(key, str) or before in kept else -1 for before, key in pairs)
        shapes.setdefault(tuple(shape), place)
    return [place for place in shapes.values() if place]


# Null is a value like any other for those who may write what they like.
FREE_TO_BE_NULL = frozenset({"show", "default", "value", "mine"})


def test_null_stands_nowhere() -> None:
    wrong = [
        write(place)
        for place in one_of_each()
        if place[-1] not in FREE_TO_BE_NULL and place[-2:-1] not in (("items",), ("value",))
        if not both_refuse(place, None)
    ]
    assert wrong == []


def test_a_key_that_nobody_knows_is_refused() -> None:
    closed = [
        place
        for place in one_of_each()
        if isinstance(PLACES[place], dict)
        if not FREE.intersection(place[-1:])
        if place not in (("outputs",), ("steps", 0, "config"), ("steps", 2, "config"))
    ]
    assert len(closed) > 40
    assert [write(place) for place in ((), *closed) if not both_refuse((*place, "no"), 1)] == []


def test_a_required_key_is_missed() -> None:
    missed = {
        str(place[-1])
        for place in one_of_each()
        if isinstance(place[-1], str) and both_refuse(place, GONE)
    }
    assert missed == set(
        "name steps flow id start_at from to every_path_to must_pass type config conditions"
        " condition source operator module function service question choices choice step_class"
        " items n pipeline seconds until status value options after assignees roles"
        " value_source".split()
    )


NUMBERS = {
    ("max_concurrent_runs",): (1, 1_000_000),
    ("steps", 0, "priority"): (0, 9),
    ("error_handling", "retries"): (0, 100),
    ("error_handling", "retry_delay"): (0, 10**9),
    ("error_handling", "backoff"): (1, 10**6),
    ("error_handling", "max_delay"): (0, 10**9),
    ("error_handling", "jitter"): (0, 1),
    ("error_handling", "max_worker_losses"): (0, 10_000),
    ("steps", 3, "foreach", "max_parallel"): (1, 100_000),
    ("steps", 3, "foreach", "tolerated_failures"): (0, 100_000),
    ("steps", 3, "foreach", "n"): (1, 100_000),
    ("steps", 1, "config", "quorum"): (1, 1_000),
    ("steps", 4, "config", "seconds"): (0, 10**9),
    ("steps", 1, "config", "ui_schema", "fields", 1, "min_length"): (0, 65_536),
    ("steps", 1, "config", "ui_schema", "fields", 1, "max_length"): (0, 65_536),
}
DURATIONS = (
    ("error_handling", "timeout"),
    ("error_handling", "run_timeout"),
    ("steps", 0, "error_handling", "timeout"),
    ("steps", 1, "config", "expires_in"),
    ("steps", 1, "config", "escalate", 0, "after"),
    ("steps", 1, "config", "reminders", 0),
    ("steps", 6, "config", "expires_in"),
)


@pytest.mark.parametrize(("place", "bounds"), NUMBERS.items(), ids=str)
def test_a_number_has_the_same_bounds_for_both(place: Place, bounds: tuple[int, int]) -> None:
    for bound in bounds:
        document = change(place, bound)
        assert schema_accepts_at(place, document)
        assert check_accepts(document)
    for beyond in (bounds[0] - 1, bounds[1] + 1, True, "1"):
        assert both_refuse(place, beyond), beyond


@pytest.mark.parametrize("place", DURATIONS, ids=write)
def test_a_duration_is_more_than_nothing(place: Place) -> None:
    for beyond in (0, -1, 10**9 + 1, True, "1"):
        assert both_refuse(place, beyond), beyond
    for within in (0.001, 10**9):
        document = change(place, within)
        assert schema_accepts_at(place, document)
        assert check_accepts(document)


FIELD = ("steps", 1, "config", "ui_schema", "fields")
EDGE = ("flow", "transitions", 0)
FAULTS: list[tuple[Place, Any]] = [
    # Words that are none of those that are known.
    (("steps", 0, "type"), "taks"),
    (("steps", 0, "routing"), "all"),
    (("steps", 0, "join"), "n_of_m"),
    (("steps", 8, "join", "type"), "some"),
    (("steps", 0, "error_handling", "on_failure"), "fail_fast"),
    (("error_handling", "on_failure"), "continue"),
    (("steps", 9, "config", "status"), "cancelled"),
    ((*EDGE, "on"), "succes"),
    ((*EDGE, "condition", "type"), "and"),
    ((*EDGE, "condition", "conditions", 0, "config", "operator"), "=>"),
    ((*FIELD, 0, "type"), "string"),
    (("language",), 2),
    # Names that are not written as names are.
    (("steps", 0, "id"), "1st"),
    (("steps", 0, "id"), "result"),
    (("steps", 0, "id"), "a" * 129),
    (("steps", 0, "module"), "shop._private"),
    (("steps", 0, "module"), "m" * 201),
    (("steps", 0, "step_class"), "shop.Work"),
    (("steps", 0, "rate_limit"), "10 per second"),
    (("steps", 3, "pipeline"), "Other v1"),
    (("slug",), "Rich"),
    (("name",), "  "),
    (("version",), ""),
    (("tags",), [""]),
    (("steps", 0, "queue"), " "),
    (("steps", 0, "concurrency_key"), ""),
    (("flow", "start_at"), "a b"),
    (("policies", 0, "every_path_to"), "name:x"),
    (("policies", 0, "must_pass"), "type:person"),
    ((*FIELD, 0, "name"), "_title"),
    # Keys that have no meaning there.
    (("steps", 0, "pipeline"), "other-v1"),
    (("steps", 1, "wait"), True),
    (("steps", 1, "foreach"), {"items": []}),
    (("steps", 4, "foreach"), {"items": []}),
    (("steps", 1, "concurrency_key"), "k"),
    (("steps", 0, "error_handling", "run_timeout"), 5),
    (("steps", 8, "join"), {"type": "any", "n": 1}),
    (("steps", 8, "join"), {"type": "all_success", "cancel_remaining": True}),
    (("flow", "paths"), []),
    ((*EDGE, "condition", "config"), {}),
    ((*EDGE, "condition", "conditions", 8, "conditions"), []),
    ((*FIELD, 0, "options"), ["a"]),
    ((*FIELD, 0, "minimum"), 1),
    ((*FIELD, 2, "pattern"), "a"),
    ((*FIELD, 4, "max_length"), 5),
    # What the type of a step asks of its class and its config.
    (("steps", 1, "step_class"), "Own"),
    (("steps", 4, "step_class"), "HumanInputStep"),
    (("steps", 5, "module"), "shop.steps"),
    (("steps", 3, "config"), {"mine": 1}),
    (("steps", 4, "config"), {"seconds": 1, "until": "x"}),
    (("steps", 4, "config"), {"seconds": "soon"}),
    (("steps", 4, "config"), {"seconds": ["{{ parameters.mode }}"]}),
    (("steps", 2, "config"), {"quorum": 0}),
    (("steps", 1, "error_handling"), {"timeout": 5}),
    (("steps", 6, "error_handling"), {"timeout": 5}),
    (("steps", 1, "config", "assignees"), {}),
    (("steps", 1, "config", "assignees"), {"users": [], "roles": []}),
    (("steps", 1, "config", "reject_when"), "otherwise"),
    (("steps", 1, "config", "reject_when"), FUNCTION),
    (("steps", 1, "config", "reject_when"), {"type": "not", "condition": AGENT}),
    # Conditions and their operands.
    ((*EDGE, "condition"), ""),
    ((*EDGE, "condition"), "parameter:"),
    ((*EDGE, "condition"), ["always"]),
    ((*EDGE, "condition"), {"type": "all", "conditions": []}),
    ((*EDGE, "condition"), {"type": "not", "condition": "otherwise"}),
    ((*EDGE, "condition"), comparison("result.a", "eq")),
    ((*EDGE, "condition"), comparison("result.a", "in", 3)),
    ((*EDGE, "condition"), comparison("result.a", "ends_with", 3)),
    ((*EDGE, "condition"), comparison("result.a", "matches", "a" * 257)),
    ((*EDGE, "condition"), comparison("result.a", "between", [1])),
    ((*EDGE, "condition"), comparison("result.a", "exists", 1)),
    ((*EDGE, "condition"), comparison(" ", "exists")),
    ((*EDGE, "condition", "conditions", 7, "config", "value"), 3),
    ((*EDGE, "condition", "conditions", 7, "config", "operator"), "matches"),
    ((*EDGE, "condition", "conditions", 7, "config", "operator"), "is_null"),
    (("flow", "transitions", 5, "condition", "config", "choices"), ["a", "a"]),
    (("flow", "transitions", 5, "condition", "config", "choices"), []),
    # Fields.
    ((*FIELD, 6, "options"), []),
    ((*FIELD, 6, "options"), ["Reject", "Reject"]),
    ((*FIELD, 6, "options"), ["Reject", {"label": "x"}]),
    ((*FIELD, 6, "options"), ["Reject", 3]),
    ((*FIELD, 9, "minimum"), "31.1.2026"),
    ((*FIELD, 10, "minimum"), "2026-01-31"),
    ((*FIELD, 2, "minimum"), "1"),
    ((*FIELD, 2, "default"), "1"),
    ((*FIELD, 4, "default"), "yes"),
    ((*FIELD, 8, "default"), "a"),
    ((*FIELD, 0, "pattern"), "a" * 257),
    # Too few of them.
    (("steps",), []),
]


@pytest.mark.parametrize(("place", "value"), FAULTS, ids=str)
def test_a_fault_is_one_for_both(place: Place, value: Any) -> None:
    assert both_refuse(place, value)


ODD = [None, True, False, 0, -1, 1, 1.0, 1.5, 10**10, "", " ", "x", "{{ x }}", "any", "otherwise"]
ODD += [[], {}, [None], [""], ["x"], {"x": 1}]
# Every value that the rich document has somewhere may come to stand anywhere.
VALUES = st.sampled_from([GONE, *ODD, *(value for place, value in PLACES.items() if place)])
KEYS = st.none() | st.sampled_from(ALL_KEYS)
CHANGES = st.tuples(st.sampled_from([place for place in PLACES if place]), KEYS, VALUES)


@settings(max_examples=60)
@given(changes=st.lists(CHANGES, min_size=1, max_size=2))
def test_the_schema_is_never_stricter_than_the_language(
    changes: list[tuple[Place, str | None, Any]],
) -> None:
    document = RICH
    for place, key, value in changes:
        where = place if key is None else (*place[:-1], key)
        # An earlier change may have taken away what this one would change.
        with contextlib.suppress(LookupError, TypeError):
            document = change(where, value, within=document)
    if not schema_accepts(document):
        assert not check_accepts(document)
