"""Valid definitions that use much of the language, and ways to spoil them.

Decides what a mutation is and where a pointer leads; never judges. Used by the tests beside it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any, Final

from hypothesis import strategies as st

from iaflow.pipeline.strict_json import join_pointer

REVIEW: Final = {
    "title": "Review",
    "description": "Is it good?",
    "fields": [
        {"name": "decision", "type": "radio", "options": ["Approve", {"value": "Reject"}]},
        {"name": "notes", "type": "textarea", "required": False, "max_length": 200},
        {"name": "amount", "type": "number", "minimum": 0, "maximum": 9.5, "default": 1},
        {"name": "due", "type": "date", "minimum": "2026-01-01", "help": "first day"},
        {"name": "code", "type": "text", "pattern": "[A-Z]{3}", "placeholder": "ABC"},
        {"name": "tags", "type": "multiselect", "options": ["new", "old"], "default": ["new"]},
    ],
}
VALID: Final[tuple[dict[str, Any], ...]] = (
    {
        "name": "Notebook",
        "version": "1.0",
        "parameters": {"topic": "bees", "mode": "auto"},
        "input_schema": {
            "type": "object",
            "properties": {"topic": {"type": "string", "pattern": "^[a-z]+$"}},
            "allOf": [{"$ref": "#/$defs/rest"}],
            "$defs": {"rest": {"required": ["mode"]}},
        },
        "steps": [
            {
                "id": "scrape",
                "module": "canary",
                "step_class": "Canary",
                "inputs": {"topic": "{{ parameters.topic }}", "depth": 3},
                "outputs": ["title", "score"],
                "routing": "exclusive",
                "error_handling": {"retries": 3, "backoff": 2, "retry_on": ["TimeoutError"]},
            },
            {
                "id": "review",
                "type": "human_input",
                "config": {
                    "ui_schema": REVIEW,
                    "expires_in": 3600,
                    "show": {"title": "{{ scrape.title }}", "by": ["{{ run.id }}"]},
                    "reject_when": "result.decision == 'Reject'",
                },
            },
            {
                "id": "publish",
                "module": "canary.steps",
                "step_class": "Publish",
                "tags": ["irreversible"],
                "inputs": {"text": "{{ review.notes | default('none') }}, {{ scrape.title }}"},
            },
            {"id": "mourn", "module": "canary", "step_class": "Mourn", "queue": "iaflow"},
        ],
        "flow": {
            "start_at": "scrape",
            "transitions": [
                {"from": "scrape", "to": "review", "condition": "result.score > 0.8"},
                {"from": "scrape", "to": "mourn", "condition": "otherwise", "name": "weak"},
                {"from": "scrape", "to": "mourn", "on": "failure"},
                {
                    "from": "review",
                    "to": "publish",
                    "condition": {
                        "type": "all",
                        "conditions": [
                            "parameter:mode",
                            {"type": "not", "condition": "empty(result.decision)"},
                            {
                                "type": "expression",
                                "config": {
                                    "source": "scrape.title",
                                    "operator": "matches",
                                    "value": "^B",
                                },
                            },
                        ],
                    },
                },
            ],
        },
        "error_handling": {"on_failure": "run_independent", "run_timeout": 86_400},
        "policies": [{"every_path_to": "tag:irreversible", "must_pass": "type:human_input"}],
        "outputs": {"title": "{{ scrape.title }}", "why": "{{ errors.scrape.code }}"},
        "metadata": {"owner": {"name": "nobody"}},
    },
    {
        "name": "Joins",
        "slug": "joins-v1",
        "steps": [
            {"id": "begin", "module": "canary", "step_class": "Canary"},
            {"id": "left", "module": "canary", "step_class": "Canary", "cancels": ["right"]},
            {"id": "right", "module": "canary", "step_class": "Canary"},
            {
                "id": "either",
                "module": "canary",
                "step_class": "Canary",
                "join": {"type": "n_of_m", "n": 1, "cancel_remaining": True},
            },
            {
                "id": "both",
                "module": "canary",
                "step_class": "Canary",
                "join": "all_success",
                "priority": 3,
                "error_handling": {"timeout": 5, "on_failure": "continue"},
            },
        ],
        "flow": {
            "start_at": "begin",
            "transitions": [
                {"from": "begin", "to": "left"},
                {"from": "begin", "to": "right", "condition": "always"},
                {"from": "left", "to": "either", "on": "completed"},
                {"from": "right", "to": "either"},
                {"from": "left", "to": "both"},
                {"from": "right", "to": "both", "condition": "begin.ready and right.size < 9"},
            ],
        },
    },
    {
        "name": "Later",
        "parameters": {"users": [1, 2]},
        "max_concurrent_runs": 2,
        "steps": [
            {
                "id": "each",
                "module": "canary",
                "step_class": "Canary",
                "foreach": {"items": "{{ parameters.users }}", "max_parallel": 4},
                "inputs": {"user": "{{ item }}", "place": "{{ index }}"},
                "concurrency_key": "user-{{ item }}",
                "rate_limit": "10/s",
            },
            {"id": "pause", "type": "wait", "config": {"seconds": 60}},
            {"id": "paid", "type": "event", "config": {"name": "paid", "expires_in": 60}},
            {"id": "child", "type": "pipeline", "pipeline": "joins-v1", "inputs": {"x": 1}},
            {"id": "stop", "type": "terminate", "config": {"status": "failed", "message": "no"}},
        ],
        "flow": {
            "start_at": "each",
            "transitions": [
                {"from": "each", "to": "pause"},
                {"from": "pause", "to": "paid"},
                {"from": "paid", "to": "child"},
                {"from": "paid", "to": "stop", "on": "expired"},
            ],
        },
    },
)

WORDS: Final = (
    *("", " ", "first", "scrape", "review", "title", "always", "otherwise", "task", "wait"),
    *("human_input", "failure", "any", "canary", "__class__", "a.b", "../x", "{{ scrape.title }}"),
    *("{{ nobody.x }}", "{{", "}}", "{scrape.title}", "result.score", "not", "parameter:mode"),
    *("(", "[a-", "2026-02-30", "1e999", "\u202e", "\u0131", "\U0001f600", "x" * 300, "tag:x"),
)
SCALARS: Final = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        10,
        101,
        1.0,
        0.5,
        -0.0,
        1e300,
        10**300,
        10**400,
        "a",
        "b",
        2**63,
    ),
    *WORDS,
)
VALUES: Final[st.SearchStrategy[Any]] = st.recursive(
    st.sampled_from(SCALARS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*WORDS, "type", "config", "source"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@st.composite
def spoilt_documents(draw: st.DrawFn) -> Any:
    """Draw a valid document with one to four things changed anywhere in it."""
    document: Any = copy.deepcopy(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(1, 4))):
        places = list(find_places(document))
        holder, key = places[draw(st.integers(0, len(places) - 1))]
        _spoil(draw, document, holder, key)
    return document


def _spoil(draw: st.DrawFn, document: Any, holder: Any, key: Any) -> None:
    match draw(st.sampled_from(["replace", "delete", "rename", "move", "repeat", "wrap"])):
        case "replace":
            holder[key] = draw(VALUES)
        case "delete":
            del holder[key]
        case "rename" if isinstance(holder, dict):
            holder[draw(st.sampled_from([key.upper(), key + "s", *WORDS]))] = holder.pop(key)
        case "move":
            places = list(find_places(document))
            other, its = places[draw(st.integers(0, len(places) - 1))]
            holder[key] = copy.deepcopy(other[its])
        case "repeat" if isinstance(holder, list):
            holder.insert(draw(st.integers(0, len(holder))), copy.deepcopy(holder[key]))
        case _:
            holder[key] = draw(st.sampled_from([[holder[key]], {"type": holder[key]}]))


def find_places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every place in a document, as what holds it and its key or index."""
    members = value.items() if isinstance(value, dict) else enumerate(value)
    for key, member in members:
        yield value, key
        if isinstance(member, dict | list):
            yield from find_places(member)


def pointers_of(value: Any) -> set[str]:
    """Return the pointer of every place in a document, and of the whole."""
    pointers = {""}
    todo = [("", value)]
    while todo:
        above, holder = todo.pop()
        if isinstance(holder, dict | list):
            members = holder.items() if isinstance(holder, dict) else enumerate(holder)
            for key, member in members:
                pointer = join_pointer(above, key)
                pointers.add(pointer)
                todo.append((pointer, member))
    return pointers


def leads_somewhere(pointer: str, document: Any) -> bool:
    """Tell whether a pointer names a place, or a key that is missing in an object."""
    known = pointers_of(document)
    if pointer in known:
        return True
    above, _, _ = pointer.rpartition("/")
    return above in known and isinstance(look_up(above, document), dict)


def look_up(pointer: str, document: Any) -> Any:
    """Return the value at a pointer."""
    value = document
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


def dump(document: Any) -> str:
    """Return the text of a document, letters beyond ASCII as they are."""
    return json.dumps(document, ensure_ascii=False)
