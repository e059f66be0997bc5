"""What one definition has that another has not: by meaning, in a stable order, both ways."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from iaflow.pipeline.comparing import DifferenceKind, Subject, compare_definitions

BASE: dict[str, Any] = {
    "name": "Order",
    "parameters": {"number": 1, "deep": {"a/b": 1}},
    "steps": [
        {"id": "book", "module": "shop", "step_class": "Book", "config": {"tries": 1}},
        {"id": "send", "module": "shop", "step_class": "Send"},
    ],
    "flow": {
        "start_at": "book",
        "transitions": [
            {"from": "book", "to": "send"},
            {"from": "book", "to": "sorry", "on": "failure", "name": "no luck"},
        ],
    },
}


def changed(**paths: Any) -> dict[str, Any]:
    return copy.deepcopy({**BASE, **paths})


def tell(older: Any, newer: Any) -> list[tuple[str, str, str, str]]:
    return [
        (str(one.kind), str(one.subject), one.name, one.pointer)
        for one in compare_definitions(older, newer)
    ]


def test_order_and_spelled_out_defaults_say_nothing() -> None:
    other = changed()
    other["steps"].reverse()
    other["flow"]["transitions"].reverse()
    other["flow"]["transitions"][1] |= {"on": "success", "condition": "always"}
    other["flow"]["paths"] = other["flow"].pop("transitions")
    assert compare_definitions(BASE, dict(reversed(other.items()))) == []


def test_steps_are_matched_by_id() -> None:
    other = changed()
    other["steps"] = [
        {"id": "pack", "module": "shop", "step_class": "Pack"},
        {"id": "book", "module": "shop", "step_class": "Book", "config": {"tries": 2, "x~/y": 0}},
    ]
    assert tell(BASE, other) == [
        ("changed", "step", "book", "/steps/1/config/tries"),
        ("added", "step", "book", "/steps/1/config/x~0~1y"),
        ("removed", "step", "send", "/steps/1"),
        ("added", "step", "pack", "/steps/0"),
    ]
    first, second, third, fourth = compare_definitions(BASE, other)
    assert (first.before, first.after) == (1, 2)
    assert second.as_json() == {
        "kind": "added",
        "subject": "step",
        "name": "book",
        "pointer": "/steps/1/config/x~0~1y",
        "after": 0,
    }
    assert third.before == BASE["steps"][1]
    assert "after" not in third.as_json()
    assert fourth.after == other["steps"][0]


def test_transitions_are_matched_by_what_they_watch() -> None:
    other = changed()
    other["flow"]["transitions"] = [
        {"from": "book", "to": "send", "condition": "book.ok"},
        {"from": "book", "to": "sorry", "on": "failure", "name": "bad luck"},
    ]
    assert tell(BASE, other) == [
        ("removed", "transition", "book -> send", "/flow/transitions/0"),
        ("changed", "transition", "book -> sorry", "/flow/transitions/1/name"),
        ("added", "transition", "book -> send", "/flow/transitions/0"),
    ]


def test_the_pipelines_own_keys_are_compared_by_pointer() -> None:
    other = changed(parameters={"number": True, "deep": {}}, description="new")
    other["flow"]["start_at"] = "send"
    assert tell(BASE, other) == [
        ("changed", "pipeline", "", "/parameters/number"),
        ("removed", "pipeline", "", "/parameters/deep/a~1b"),
        ("changed", "pipeline", "", "/flow/start_at"),
        ("added", "pipeline", "", "/parameters/deep"),
        ("added", "pipeline", "", "/description"),
    ]


def test_numbers_and_truths_are_not_mixed_up() -> None:
    """To Python true is 1, and 1.0 too; a step may tell them apart."""
    for one, other in ((1, True), (0, False), (1, 1.0), ([1], [True])):
        older, newer = (changed(parameters={"n": value}) for value in (one, other))
        [found] = compare_definitions(older, newer)
        assert found.kind is DifferenceKind.CHANGED
        assert compare_definitions(older, older) == []


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.text("ab/~", max_size=2)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.text("ab/~", max_size=2), inner, max_size=3)
    ),
    max_leaves=6,
)
documents = st.builds(
    lambda ids, configs, edges, parameters: {
        "name": "any",
        "parameters": parameters,
        "steps": [{"id": one, "config": config} for one, config in zip(ids, configs, strict=False)],
        "flow": {"start_at": "a", "transitions": edges},
    },
    st.permutations("abcd"),
    st.lists(values, max_size=4),
    st.lists(
        st.fixed_dictionaries(
            {"from": st.sampled_from("abcd"), "to": st.sampled_from("abcd")},
            optional={"on": st.sampled_from(("success", "failure")), "name": st.text("ab")},
        ),
        max_size=5,
    ),
    st.dictionaries(st.text("ab", max_size=2), values, max_size=3),
)


@given(documents, documents)
def test_what_differs_one_way_differs_the_other_way(older: Any, newer: Any) -> None:
    there, back = compare_definitions(older, newer), compare_definitions(newer, older)
    turned = {"added": "removed", "removed": "added", "changed": "changed"}
    # Of several transitions alike the first is matched with the first: how many differ is the same.
    assert sorted((turned[one.kind], one.subject, one.name) for one in there) == sorted(
        (str(one.kind), one.subject, one.name) for one in back
    )
    assert compare_definitions(older, older) == []
    for one in there:
        assert one.subject in Subject
        json.dumps(one.as_json())


@given(documents, documents)
def test_every_pointer_leads_to_its_value(older: Any, newer: Any) -> None:
    for one in compare_definitions(older, newer):
        document = older if one.kind is DifferenceKind.REMOVED else newer
        value = one.before if one.kind is DifferenceKind.REMOVED else one.after
        found = document
        for part in one.pointer.split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            found = found[int(key)] if isinstance(found, list) else found[key]
        assert found == value
