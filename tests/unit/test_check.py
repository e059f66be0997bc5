"""What a definition may mean, and what is refused before any run is made."""

from __future__ import annotations

import copy
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

import iaflow.pipeline
from iaflow.errors import DefinitionRefused, InputRefused
from iaflow.pipeline.check import (
    CODES,
    Checked,
    check,
    compile_definition,
    merge_parameters,
)
from iaflow.pipeline.definition import Definition, parse_document
from iaflow.pipeline.forms import ANSWER_CODES
from iaflow.pipeline.input_schema import INPUT_CODES
from tests.unit.timing import within

REVIEW = {
    "title": "Review",
    "fields": [{"name": "decision", "type": "radio", "options": ["Yes", "No"]}],
}


def task(step_id: str, **keys: Any) -> dict[str, Any]:
    return {"id": step_id, "module": "m", "step_class": "C", **keys}


def person(step_id: str, *, config: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    return {
        "id": step_id,
        "type": "human_input",
        "config": {"ui_schema": REVIEW, **(config or {})},
        **keys,
    }


def document(*steps: dict[str, Any], flow: str = "", **keys: Any) -> dict[str, Any]:
    """Return a document; `flow` is ``a>b c>d:failure``, without it the steps are a line."""
    ids = [step["id"] for step in steps]
    edges = flow.split() or [f"{one}>{other}" for one, other in itertools.pairwise(ids)]
    transitions = []
    for edge in edges:
        ends, _, on = edge.partition(":")
        source, target = ends.split(">")
        transitions.append({"from": source, "to": target, **({"on": on} if on else {})})
    return {
        "name": "x",
        "steps": list(steps),
        "flow": {"start_at": ids[0], "transitions": transitions},
        **keys,
    }


def with_condition(given: dict[str, Any], index: int, condition: Any) -> dict[str, Any]:
    given = copy.deepcopy(given)
    given["flow"]["transitions"][index]["condition"] = condition
    return given


def found(checked: Checked) -> list[tuple[str, str]]:
    assert all(p.code in CODES for p in (*checked.errors, *checked.warnings))
    assert (checked.graph is None) == bool(checked.errors)
    return [(error.code, error.pointer) for error in checked.errors]


def hints(given: dict[str, Any]) -> str:
    return " ".join(f"{error.message} {error.hint}" for error in check(given).errors)


LINE = document(task("a"), task("b"), task("c"))
FORK = document(task("a"), task("b"), task("c"), task("d"), flow="a>b a>c b>d c>d")


def expression(source: str, operator: str = "eq", **more: Any) -> dict[str, Any]:
    more = more or {"value": 1}
    return {"type": "expression", "config": {"source": source, "operator": operator, **more}}


# --- what is accepted

HELLO_WORLD: dict[str, Any] = {
    "name": "Hello World Pipeline",
    "version": "1.0",
    "steps": [
        {"id": "step_one", "step_class": "GenerateMessageStep", "module": "steps"},
        {
            "id": "step_two",
            "step_class": "PrintMessageStep",
            "module": "steps",
            "inputs": {"message": "{{ step_one.greeting }}"},
        },
    ],
    "flow": {
        "start_at": "step_one",
        "transitions": [{"from": "step_one", "to": "step_two"}],
    },
}
APPROVAL: dict[str, Any] = {
    "id": "human_approval",
    "type": "human_input",
    "step_class": "HumanInputStep",
    "config": {
        "ui_schema": {
            "title": "Review Content for Approval",
            "fields": [
                {"name": "decision", "type": "radio", "options": ["Approve", "Reject"]},
                {"name": "notes", "type": "textarea", "label": "Reasoning"},
            ],
        }
    },
}

ACCEPTED: tuple[dict[str, Any], ...] = (
    HELLO_WORLD,
    document(task("a"), APPROVAL),
    LINE,
    FORK,
    document(task("a", inputs={"x": "{{ parameters.p }}"}), parameters={"p": 1}),
    document(task("a", inputs={"x": "{{ parameters.p }}"}), input_schema={"properties": {"p": {}}}),
    document(task("a", inputs={"x": "{{ parameters }} {{ run.id }} {{ run.started_at }}"})),
    document(task("a"), task("b", inputs={"x": "{{ a }} {{ a.b.0.c }} {{ errors.a.code }}"})),
    document(task("a", outputs=["o"]), task("b", inputs={"x": "{{ a.o.deep }}", "y": "{{ a }}"})),
    document(task("a", outputs=["o"]), outputs={"r": "{{ a.o }}", "e": "{{ errors.a.message }}"}),
    document(task("a", config={"text": "{{ not a template", "x": "{{ nobody.x }}"})),
    with_condition(LINE, 1, "a.score > result.score and exists(b.x)"),
    with_condition(LINE, 0, "run.id != 'x'"),
    with_condition({**LINE, "parameters": {"go": True}}, 0, "parameter:go"),
    with_condition(LINE, 0, expression("errors.a.code", "eq", value="timeout")),
    document(person("a"), task("b", inputs={"x": "{{ a.decision }}", "y": "{{ a._answered_by }}"})),
    document(person("a"), task("b"), task("c"), flow="a>b a>c:rejected a>c:expired a>c:failure"),
    document(task("a"), task("b"), task("c"), flow="a>b a>c:timeout a>c:skipped a>c:completed"),
    document({"id": "a", "type": "human_input", "step_class": "HumanInputStep"}),
    document(person("a", config={"expires_in": 60, "reject_when": "result.decision == 'No'"})),
    document(
        person("a", config={"reject_when": "a.decision == parameters.no"}), parameters={"no": 1}
    ),
    document(person("a", error_handling={"timeout": 5})),
    document(person("a", module="mine", step_class="Mine", config={"my_own": 1})),
    document(person("a", config={"show": {"x": "{{ parameters.p }}"}}), parameters={"p": 1}),
    document(task("a"), task("b"), task("c", join="all_success"), flow="a>b a>c b>c"),
    document(task("a"), task("b"), task("c", join={"type": "n_of_m", "n": 2}), flow="a>b a>c b>c"),
    document(
        task("a", routing="exclusive"), task("b"), task("c"), task("d"), flow="a>b a>c b>d c>d"
    ),
    document(
        task("a", error_handling={"on_failure": "continue"}), task("b"), flow="a>b a>b:completed"
    ),
    document(task("a"), task("b", cancels=["c"]), task("c", cancels=["b"]), flow="a>b a>c"),
    document(
        task("a"),
        person("gate"),
        task("z", tags=["t"]),
        policies=[{"every_path_to": "tag:t", "must_pass": "type:human_input"}],
    ),
)


@pytest.mark.parametrize("given", ACCEPTED)
def test_what_is_accepted(given: dict[str, Any]) -> None:
    checked = check(given)
    assert checked.errors == ()
    assert checked.warnings == ()
    assert compile_definition(json.dumps(given)).definition.document == given


# --- what is refused

REFUSED: tuple[tuple[dict[str, Any], str, str], ...] = (
    # references in templates
    (
        document(task("a"), task("b", inputs={"x": "{{ aa.x }}"})),
        "step_unknown",
        "/steps/1/inputs/x",
    ),
    (
        document(task("a"), task("b", inputs={"x": [1, "{{ b.x }}"]})),
        "step_not_before",
        "/steps/1/inputs/x/1",
    ),
    (
        document(task("a", inputs={"x": "{{ b.x }}"}), task("b")),
        "step_not_before",
        "/steps/0/inputs/x",
    ),
    (
        document(task("a"), task("b"), task("c", inputs={"x": "{{ b.x }}"}), flow="a>b a>c"),
        "step_not_before",
        "/steps/2/inputs/x",
    ),
    (
        document(task("a"), task("b", inputs={"x": "{{ errors.z.code }}"})),
        "step_unknown",
        "/steps/1/inputs/x",
    ),
    (
        document(task("a", inputs={"x": "{{ errors.a.code }}"})),
        "step_not_before",
        "/steps/0/inputs/x",
    ),
    (
        document(task("a", inputs={"x": "{{ parameters.p }}"})),
        "parameter_unknown",
        "/steps/0/inputs/x",
    ),
    (
        document(task("a", inputs={"x": "{{ parameters.p | default(1) }}"})),
        "parameter_unknown",
        "/steps/0/inputs/x",
    ),
    (
        document(task("a", outputs=["o"]), task("b", inputs={"x": "{{ a.p }}"})),
        "output_undeclared",
        "/steps/1/inputs/x",
    ),
    (
        document(task("a", outputs=[]), task("b", inputs={"x": "{{ a.p }}"})),
        "output_undeclared",
        "/steps/1/inputs/x",
    ),
    (document(task("a", inputs={"x": "{{ item }}"})), "reference_misplaced", "/steps/0/inputs/x"),
    (document(task("a", inputs={"x": "{{ index }}"})), "reference_misplaced", "/steps/0/inputs/x"),
    (document(task("a", inputs={"x": "{{ result.x }}"})), "template_syntax", "/steps/0/inputs/x"),
    (document(task("a", inputs={"x": "{{ a"})), "template_syntax", "/steps/0/inputs/x"),
    (document(task("a"), outputs={"x": "{{ b }}"}), "step_unknown", "/outputs/x"),
    (document(task("a"), outputs={"x": ["{{ item }}"]}), "reference_misplaced", "/outputs/x/0"),
    (
        document(task("a", outputs=["o"]), outputs={"x": "{{ a.p }}"}),
        "output_undeclared",
        "/outputs/x",
    ),
    (
        document(person("a"), task("b", inputs={"x": "{{ a.decison }}"})),
        "output_undeclared",
        "/steps/1/inputs/x",
    ),
    (
        document(task("a"), person("b", config={"show": ["{{ c.x }}"]}), task("c")),
        "step_not_before",
        "/steps/1/config/show/0",
    ),
    (
        document(person("a", config={"show": "{{ parameters.p }}"})),
        "parameter_unknown",
        "/steps/0/config/show",
    ),
    (
        document(task("a"), task("b", inputs={"x/y": "{a.}"}), task("c", inputs={"x": "{z.y}"})),
        "step_unknown",
        "/steps/2/inputs/x",
    ),
    # references in conditions
    (with_condition(LINE, 0, "c.x == 1"), "step_not_before", "/flow/transitions/0/condition"),
    (with_condition(LINE, 0, "b.x == 1"), "step_not_before", "/flow/transitions/0/condition"),
    (with_condition(LINE, 0, "z.x == 1"), "step_unknown", "/flow/transitions/0/condition"),
    (
        with_condition(LINE, 0, "errors.b.code == 'x'"),
        "step_not_before",
        "/flow/transitions/0/condition",
    ),
    (
        with_condition(LINE, 0, "parameters.go"),
        "parameter_unknown",
        "/flow/transitions/0/condition",
    ),
    (with_condition(LINE, 0, "parameter:go"), "parameter_unknown", "/flow/transitions/0/condition"),
    (
        with_condition(LINE, 0, expression("z.x")),
        "step_unknown",
        "/flow/transitions/0/condition/config/source",
    ),
    (
        with_condition(LINE, 0, expression("a.x", value_source="c.x")),
        "step_not_before",
        "/flow/transitions/0/condition/config/value_source",
    ),
    (
        with_condition(
            LINE,
            0,
            {
                "type": "all",
                "conditions": ["result.x", {"type": "not", "condition": expression("z.y")}],
            },
        ),
        "step_unknown",
        "/flow/transitions/0/condition/conditions/1/condition/config/source",
    ),
    (
        with_condition(document(task("a", outputs=["o"]), task("b")), 0, "result.p > 1"),
        "output_undeclared",
        "/flow/transitions/0/condition",
    ),
    (
        with_condition(document(task("a", outputs=["o"]), task("b")), 0, "exists(a.p)"),
        "output_undeclared",
        "/flow/transitions/0/condition",
    ),
    (
        with_condition(document(person("a"), task("b")), 0, "result.decison == 'Yes'"),
        "output_undeclared",
        "/flow/transitions/0/condition",
    ),
    (with_condition(LINE, 0, "result.x >"), "condition_syntax", "/flow/transitions/0/condition"),
    (
        with_condition(LINE, 0, {"type": "al"}),
        "condition_invalid",
        "/flow/transitions/0/condition/type",
    ),
    (
        with_condition(LINE, 0, expression("a.x", "like")),
        "operator_unknown",
        "/flow/transitions/0/condition/config/operator",
    ),
    (
        with_condition(LINE, 0, expression("a.x", "matches", value="(?=x)")),
        "pattern_invalid",
        "/flow/transitions/0/condition/config/value",
    ),
    (with_condition(LINE, 0, None), "condition_invalid", "/flow/transitions/0/condition"),
    # the ends of steps
    (document(person("a"), task("b"), flow="a>b:timeout"), "on_invalid", "/flow/transitions/0/on"),
    (document(task("a"), task("b"), flow="a>b:expired"), "on_invalid", "/flow/transitions/0/on"),
    (document(task("a"), task("b"), flow="a>b:rejected"), "on_invalid", "/flow/transitions/0/on"),
    *(
        (
            document(
                task("a", error_handling={"on_failure": "continue"}),
                task("b"),
                flow=f"a>b a>b:{on}",
            ),
            "on_failure_conflict",
            "/flow/transitions/1",
        )
        for on in ("failure", "timeout")
    ),
    (
        with_condition(
            with_condition(
                document(task("a"), task("b"), task("c"), flow="a>b a>c"), 0, "otherwise"
            ),
            1,
            "otherwise",
        ),
        "otherwise_duplicate",
        "/flow/transitions/1/condition",
    ),
    (
        with_condition(
            document(task("a"), task("b"), flow="a>b:skipped"),
            0,
            {"type": "function", "config": {"module": "m", "function": "f"}},
        ),
        "condition_misplaced",
        "/flow/transitions/0/condition",
    ),
    # joins
    (
        document(task("a"), task("b", join={"type": "n_of_m", "n": 2})),
        "join_impossible",
        "/steps/1/join",
    ),
    (document(task("a", join="any")), "join_impossible", "/steps/0/join"),
    (
        document(task("a"), task("b", join="all_success"), flow="a>b a>b:failure"),
        "join_impossible",
        "/steps/1/join",
    ),
    (
        document(task("a"), task("b", join="all_success"), flow="a>b a>b:skipped"),
        "join_impossible",
        "/steps/1/join",
    ),
    (
        document(
            task("a"),
            task("b"),
            task("c"),
            task("d", join="all_success"),
            flow="a>b a>c:failure b>d c>d",
        ),
        "join_impossible",
        "/steps/3/join",
    ),
    (
        document(
            task("a", routing="exclusive"),
            task("b"),
            task("c"),
            task("d", join="all_success"),
            flow="a>b a>c b>d c>d",
        ),
        "join_impossible",
        "/steps/3/join",
    ),
    (
        with_condition(
            document(
                task("a"),
                task("b"),
                task("c"),
                task("d", join="all_success"),
                flow="a>b a>c b>d c>d",
            ),
            0,
            "otherwise",
        ),
        "join_impossible",
        "/steps/3/join",
    ),
    # cancels
    (document(task("a"), task("b", cancels=["z"])), "step_unknown", "/steps/1/cancels/0"),
    (document(task("a"), task("b", cancels=["b"])), "cancels_invalid", "/steps/1/cancels/0"),
    (
        document(task("a"), task("b"), task("c", cancels=["b", "a"])),
        "cancels_invalid",
        "/steps/2/cancels/1",
    ),
    # people
    (
        document(person("a", config={"expires_in": 5}, error_handling={"timeout": 5})),
        "key_conflict",
        "/steps/0/config/expires_in",
    ),
    (
        document(person("a", config={"expires_in": 0})),
        "value_invalid",
        "/steps/0/config/expires_in",
    ),
    (
        document(person("a", config={"expires_in": "1d"})),
        "type_wrong",
        "/steps/0/config/expires_in",
    ),
    (document(person("a", config={"expire_in": 5})), "key_unknown", "/steps/0/config/expire_in"),
    (
        document(person("a", config={"reject_when": "decision == 'No'"})),
        "reject_when_invalid",
        "/steps/0/config/reject_when",
    ),
    (
        document(person("a", config={"reject_when": "otherwise"})),
        "reject_when_invalid",
        "/steps/0/config/reject_when",
    ),
    (
        document(person("a", config={"reject_when": "result.decison == 'No'"})),
        "output_undeclared",
        "/steps/0/config/reject_when",
    ),
    (
        document(person("a", config={"reject_when": expression("parameters.p")})),
        "parameter_unknown",
        "/steps/0/config/reject_when/config/source",
    ),
    (
        document(person("a", config={"reject_when": 3})),
        "condition_invalid",
        "/steps/0/config/reject_when",
    ),
    (
        document(person("a", config={"ui_schema": {"fields": [{"name": "x", "type": "radoi"}]}})),
        "field_invalid",
        "/steps/0/config/ui_schema/fields/0/type",
    ),
    (document(person("a", config={"ui_schema": []})), "form_invalid", "/steps/0/config/ui_schema"),
    (document(person("a", concurrency_key="k")), "key_misplaced", "/steps/0/concurrency_key"),
    (document(person("a", foreach={"items": [1]})), "key_misplaced", "/steps/0/foreach"),
    (document(person("a", config={"quorum": 0})), "value_invalid", "/steps/0/config/quorum"),
    (
        document(person("a", config={"assignees": {"user": ["x"]}})),
        "key_unknown",
        "/steps/0/config/assignees/user",
    ),
    (document(person("a", config={"assignees": {}})), "value_invalid", "/steps/0/config/assignees"),
    (
        document(person("a", config={"escalate": [{"after": 5}]})),
        "key_missing",
        "/steps/0/config/escalate/0",
    ),
    (document(person("a", config={"escalate": ["x"]})), "type_wrong", "/steps/0/config/escalate/0"),
    (
        document(person("a", config={"reminders": [5, 0]})),
        "value_invalid",
        "/steps/0/config/reminders/1",
    ),
    # other types
    (document({"id": "a", "type": "wait"}), "key_missing", "/steps/0/config"),
    (
        document({"id": "a", "type": "wait", "config": {"seconds": 1, "until": "x"}}),
        "key_conflict",
        "/steps/0/config",
    ),
    (
        document({"id": "a", "type": "wait", "config": {"seconds": "soon"}}),
        "type_wrong",
        "/steps/0/config/seconds",
    ),
    (
        document({"id": "a", "type": "wait", "config": {"seconds": "{{ z.x }}"}}),
        "step_unknown",
        "/steps/0/config/seconds",
    ),
    (document({"id": "a", "type": "event", "config": {}}), "key_missing", "/steps/0/config"),
    (
        document({"id": "a", "type": "terminate", "config": {"status": "done"}}),
        "value_invalid",
        "/steps/0/config/status",
    ),
    (
        document(
            {
                "id": "a",
                "type": "terminate",
                "config": {"status": "failed"},
                "foreach": {"items": []},
            }
        ),
        "key_misplaced",
        "/steps/0/foreach",
    ),
    (
        document({"id": "a", "type": "pipeline", "pipeline": "x-v1"}),
        "pipeline_recursion",
        "/steps/0/pipeline",
    ),
    # foreach and keys
    (
        document(task("a", foreach={"items": "{{ item }}"})),
        "reference_misplaced",
        "/steps/0/foreach/items",
    ),
    (
        document(
            task("a", foreach={"items": []}, outputs=["o"]), task("b", inputs={"x": "{{ a.o }}"})
        ),
        "output_undeclared",
        "/steps/1/inputs/x",
    ),
    (
        document(
            task("a", foreach={"items": []}, outputs=["o"]),
            task("b", inputs={"x": "{{ a.results.0.p }}"}),
        ),
        "output_undeclared",
        "/steps/1/inputs/x",
    ),
    (
        document(task("a", concurrency_key="{{ item.id }}")),
        "reference_misplaced",
        "/steps/0/concurrency_key",
    ),
    (document(task("a", config={"k": [{"$secret": 3}]})), "secret_invalid", "/steps/0/config/k/0"),
    (
        document(task("a", inputs={"k": {"$secret": "s", "x": 1}})),
        "secret_invalid",
        "/steps/0/inputs/k",
    ),
    # the schema of the input
    (
        document(task("a"), input_schema={"type": "objekt"}),
        "input_schema_invalid",
        "/input_schema/type",
    ),
    (
        document(task("a"), input_schema={"properties": {"x": {"pattern": "(?=a)"}}}),
        "input_schema_invalid",
        "/input_schema/properties/x/pattern",
    ),
    (
        document(task("a"), input_schema={"properties": {"x": {"format": "datetime"}}}),
        "input_schema_invalid",
        "/input_schema/properties/x/format",
    ),
    (
        document(task("a"), input_schema={"$ref": "https://example.org/s"}),
        "input_schema_invalid",
        "/input_schema/$ref",
    ),
    (
        document(task("a"), input_schema={"allOf": [{"$ref": "#/$defs/x"}]}),
        "input_schema_invalid",
        "/input_schema/allOf/0/$ref",
    ),
    (document(task("a"), input_schema={"$ref": "#"}), "input_schema_invalid", "/input_schema"),
    (
        document(task("a"), input_schema={"$schema": "https://example.org"}),
        "input_schema_invalid",
        "/input_schema/$schema",
    ),
    # policies
    (
        document(task("a"), policies=[{"every_path_to": "a", "must_pass": "step:a"}]),
        "policy_invalid",
        "/policies/0/every_path_to",
    ),
    (
        document(task("a"), policies=[{"every_path_to": "step:z", "must_pass": "type:event"}]),
        "step_unknown",
        "/policies/0/every_path_to",
    ),
    (
        document(task("a"), policies=[{"every_path_to": "step:a", "must_pass": "type:person"}]),
        "policy_invalid",
        "/policies/0/must_pass",
    ),
    (
        document(task("a"), policies=[{"every_path_to": "step:a", "must_pass": "step:a"}]),
        "policy_violated",
        "/policies/0",
    ),
    (
        document(
            task("a"),
            person("g", error_handling={"on_failure": "continue"}),
            task("z"),
            policies=[{"every_path_to": "step:z", "must_pass": "step:g"}],
        ),
        "policy_violated",
        "/steps/1/error_handling/on_failure",
    ),
)


@pytest.mark.parametrize(("given", "code", "pointer"), REFUSED)
def test_what_is_refused(given: dict[str, Any], code: str, pointer: str) -> None:
    everything = found(check(given))
    assert (code, pointer) in everything
    assert {other for other, _ in everything} <= {code}


def test_all_findings_of_all_rules_come_at_once() -> None:
    given = document(
        task("a", queue="lagre", outputs=["o"]),
        task("b", inputs={"x": "{{ a.p }}", "y": "{{ c }}"}, join={"type": "n_of_m", "n": 3}),
        task("c", cancels=["c"]),
        outputs={"x": "{{ zz }}"},
        input_schema={"type": 1},
        extra=1,
    )
    assert {code for code, _ in found(check(given, queues=["default", "large"]))} == {
        "key_unknown",
        "input_schema_invalid",
        "output_undeclared",
        "step_not_before",
        "step_unknown",
        "join_impossible",
        "cancels_invalid",
        "queue_unknown",
    }


def test_hints_name_the_nearest_spelling() -> None:
    given = document(
        task("scraper", outputs=["title"]),
        task("b", inputs={"x": "{{ scrapper.x }}", "y": "{{ scraper.titel }}"}),
        parameters={"topic": 1},
        outputs={"x": "{{ parameters.topci }}"},
    )
    said = hints(given)
    for word in ("scraper", "title", "topic"):
        assert f"did you mean `{word}`?" in said


def test_queues_are_judged_only_if_they_are_known() -> None:
    given = document(task("a", queue="large"))
    assert found(check(given)) == []
    assert found(check(given, queues={"large"})) == []
    assert found(check(given, queues=[])) == [("queue_unknown", "/steps/0/queue")]


def test_a_refusal_carries_everything() -> None:
    with pytest.raises(DefinitionRefused, match=r"pipelines/x\.json.*") as caught:
        compile_definition('{"name": 1}', source="pipelines/x.json")
    assert {p.code for p in caught.value.problems} == {"type_wrong", "key_missing"}


@pytest.mark.parametrize("text", ("", b"\xff", "[]", "null", "[" * 100_000, b"\xef\xbb\xbf{}", "{"))
def test_text_that_is_no_definition_is_refused_and_raises_nothing(text: str | bytes) -> None:
    assert check(text).graph is None


def test_deprecated_forms_are_warned_of() -> None:
    given = document(task("a"), task("b", inputs={"x": "{a.y}"}))
    given["flow"]["paths"] = given["flow"].pop("transitions")
    checked = check(given)
    assert checked.graph is not None
    assert [(w.code, w.pointer) for w in checked.warnings] == [
        ("deprecated_paths", "/flow/paths"),
        ("deprecated_single_brace", "/steps/1/inputs/x"),
    ]


def test_a_policy_that_protects_nothing_is_warned_of() -> None:
    policy = {"every_path_to": "tag:none", "must_pass": "type:human_input"}
    checked = check(document(task("a"), policies=[policy]))
    assert [(w.code, w.pointer) for w in checked.warnings] == [
        ("policy_empty", "/policies/0/every_path_to")
    ]


def test_the_path_that_slips_past_a_gate_is_named() -> None:
    steps = (task("a"), person("gate"), task("b"), task("pay", tags=["irreversible"]))
    policy = {"every_path_to": "tag:irreversible", "must_pass": "type:human_input"}
    closed = document(*steps, flow="a>gate gate>b b>pay", policies=[policy])
    assert found(check(closed)) == []
    for flow, path in {
        "a>gate gate>pay a>b b>pay": "a -> b -> pay",
        "a>gate gate>b gate>pay:expired b>pay": "a -> gate -> pay",
        "a>gate gate>b:completed b>pay": "a -> gate -> b -> pay",
        "a>gate gate>b:skipped b>pay": "a -> gate -> b -> pay",
    }.items():
        opened = check(document(*steps, flow=flow, policies=[policy]))
        assert found(opened) == [("policy_violated", "/policies/0")]
        assert path in opened.errors[0].message


def test_exclusive_branches_are_followed_to_the_join_where_they_meet() -> None:
    ids = ["a", "b", "c", "d", "e", "j"]
    steps = [task(step_id) for step_id in ids]
    steps[0]["routing"] = "exclusive"
    steps[5]["join"] = "all_success"
    far = document(*steps, flow="a>b a>c b>d c>e d>j e>j")
    assert found(check(far)) == [("join_impossible", "/steps/5/join")]
    # d runs whichever way was taken, so neither way is needed.
    either = document(*steps, flow="a>b a>c b>d c>d d>j d>e e>j")
    assert found(check(either)) == []


# --- the whole language

WHOLE_LANGUAGE: tuple[tuple[dict[str, Any], str, str], ...] = (
    (
        document(task("a", foreach={"items": [1]}, inputs={"x": "{{ item }}"})),
        "foreach",
        "/steps/0/foreach",
    ),
    (
        document({"id": "a", "type": "pipeline", "pipeline": "other"}),
        "type pipeline",
        "/steps/0/type",
    ),
    (document({"id": "a", "type": "wait", "config": {"seconds": 1}}), "type wait", "/steps/0/type"),
    (
        document({"id": "a", "type": "event", "config": {"name": "n"}}),
        "type event",
        "/steps/0/type",
    ),
    (
        document({"id": "a", "type": "terminate", "config": {"status": "failed"}}),
        "type terminate",
        "/steps/0/type",
    ),
    (document(task("a", concurrency_key="k")), "concurrency_key", "/steps/0/concurrency_key"),
    (document(task("a", rate_limit="1/s")), "rate_limit", "/steps/0/rate_limit"),
    (
        with_condition(
            LINE,
            1,
            {
                "type": "not",
                "condition": {"type": "function", "config": {"module": "m", "function": "f"}},
            },
        ),
        "function conditions",
        "/flow/transitions/1/condition",
    ),
    (
        with_condition(
            LINE,
            0,
            {
                "type": "agent",
                "config": {"service": "s", "question": "q", "choices": ["x"], "choice": "x"},
            },
        ),
        "agent conditions",
        "/flow/transitions/0/condition",
    ),
    ({**LINE, "max_concurrent_runs": 1}, "max_concurrent_runs", "/max_concurrent_runs"),
    (document(task("a", config={"x": [{"$secret": "s"}]})), "secrets", "/steps/0/config/x/0"),
    (document(person("a", config={"quorum": 2})), "quorum", "/steps/0/config/quorum"),
    (
        document(person("a", config={"escalate": [{"after": 5, "assignees": {"users": ["x"]}}]})),
        "escalate",
        "/steps/0/config/escalate",
    ),
    (document(person("a", config={"reminders": [5]})), "reminders", "/steps/0/config/reminders"),
    (
        document(person("a", config={"exclude_starter": True})),
        "exclude_starter",
        "/steps/0/config/exclude_starter",
    ),
    (
        document(person("a", config={"assignees": {"roles": ["x"]}})),
        "assignees",
        "/steps/0/config/assignees",
    ),
)


@pytest.mark.parametrize(("given", "feature", "pointer"), WHOLE_LANGUAGE)
def test_the_whole_language_is_run(given: dict[str, Any], feature: str, pointer: str) -> None:
    assert found(check(given)) == [], f"{feature} at {pointer}"


# --- parameters


def defined(**keys: Any) -> Definition:
    definition, errors, _ = parse_document(document(task("a"), **keys))
    assert errors == []
    assert definition is not None
    return definition


def refused(definition: Definition, given: Any) -> list[tuple[str, str]]:
    with pytest.raises(InputRefused) as caught:
        merge_parameters(definition, given)
    known = {**CODES, **INPUT_CODES}
    assert all(p.code in known for p in caught.value.problems)
    return [(problem.code, problem.pointer) for problem in caught.value.problems]


def test_what_is_given_is_laid_over_the_defaults_key_by_key() -> None:
    definition = defined(parameters={"a": {"x": 1}, "b": 1.0})
    merged = merge_parameters(definition, {"a": {"y": 2}, "c": 10**40})
    assert merged == {"a": {"y": 2}, "b": 1.0, "c": 10**40}
    assert type(merged["b"]) is float


def test_merged_parameters_share_nothing_with_the_definition() -> None:
    definition = defined(parameters={"a": [1]})
    merge_parameters(definition, {})["a"].append(2)
    assert definition.parameters == {"a": [1]}


def test_parameters_are_json() -> None:
    definition = defined()
    assert refused(definition, {"x": float("nan")}) == [("json_not_finite", "/x")]
    assert refused(definition, {"x": (1,)}) == [("json_not_a_value", "/x")]
    assert refused(definition, [1]) == [("input_invalid", "")]


def test_parameters_satisfy_the_schema() -> None:
    schema = {
        "type": "object",
        "required": ["email"],
        "additionalProperties": False,
        "properties": {
            "email": {"type": "string", "format": "email"},
            "at": {"format": "date-time"},
            "code": {"pattern": "^(a+)+$"},
            "many": {"type": "array", "items": {"$ref": "#/$defs/positive"}},
        },
        "$defs": {"positive": {"type": "integer", "minimum": 1}},
    }
    definition = defined(input_schema=schema, parameters={"many": [1]})
    good = {"email": "a@b.example", "at": "2026-02-28T10:00:00Z", "code": "aaa", "many": [3, 2.0]}
    assert merge_parameters(definition, good) == good
    assert refused(definition, {}) == [("input_invalid", "")]
    assert refused(definition, {**good, "more": 1}) == [("input_invalid", "")]
    assert refused(definition, {**good, "email": "nobody"}) == [("input_invalid", "/email")]
    assert refused(definition, {**good, "at": "2026-02-29T10:00:00Z"}) == [("input_invalid", "/at")]
    assert refused(definition, {**good, "many": [1, 0, True]}) == [
        ("input_invalid", "/many/1"),
        ("input_invalid", "/many/2"),
    ]
    hostile = {**good, "code": "a" * 50_000 + "b"}
    assert within(1, lambda: refused(definition, hostile)) == [("input_invalid", "/code")]


def test_a_schema_may_be_true_or_false() -> None:
    assert merge_parameters(defined(input_schema=True), {"x": 1}) == {"x": 1}
    assert refused(defined(input_schema=False), {}) == [("input_invalid", "")]


def test_a_schema_without_end_refuses_and_does_not_overflow() -> None:
    schema = {"properties": {"x": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"$ref": "#/$defs/x"}}}
    definition = defined(input_schema=schema)
    assert refused(definition, {"x": 1}) == [("input_invalid", "")]


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    (
        ("date", "2024-02-29", "2023-02-29"),
        ("date-time", "2024-02-29t23:59:60+01:00", "2024-02-29 23:59:59Z"),
        ("time", "10:00:00.5Z", "10:00"),
        ("duration", "P1DT2H", "P"),
        ("email", "a.b+c@d.example", "a@b@c"),
        ("hostname", "a-b.example", "-a.example"),
        ("ipv4", "10.0.0.1", "10.0.0.256"),
        ("ipv6", "::1", "10.0.0.1"),
        ("json-pointer", "/a~1b/0", "a"),
        ("regex", "a+", "("),
        ("uri", "https://example.org/?q#f", "example.org"),
        ("uuid", "018f2d3e-7b1a-7c3d-8e4f-0123456789ab", "018f2d3e"),
    ),
)
def test_formats_are_asserted(name: str, good: str, bad: str) -> None:
    definition = defined(input_schema={"properties": {"x": {"format": name}}})
    assert merge_parameters(definition, {"x": good}) == {"x": good}
    assert merge_parameters(definition, {"x": 5}) == {"x": 5}
    assert refused(definition, {"x": bad}) == [("input_invalid", "/x")]


# --- the closed list of codes


def test_every_code_in_the_source_is_in_the_list() -> None:
    known = {**CODES, **ANSWER_CODES, **INPUT_CODES}
    folder = Path(iaflow.pipeline.__path__[0])
    rooms = (
        "strict_json reading definition graph joins policies step_config input_schema check"
        " paths templating expressions condition_parser conditions fields forms"
    )
    text = "".join((folder / f"{room}.py").read_text(encoding="utf-8") for room in rooms.split())
    used = set(re.findall(r'(?:Problem|[a-z]\.refuse|break_off|_add)\(\s*"([a-z_]+)"', text))
    assert len(used) > 30
    assert used <= set(known)


# --- time and size


def timed(text: str | dict[str, Any], seconds: float) -> Checked:
    return within(seconds, lambda: check(text, max_bytes=16 * 1024 * 1024))


def test_stacked_diamonds_are_not_walked_path_by_path() -> None:
    edges = []
    for index in range(60):
        top, left, right, low = (f"s{3 * index + offset}" for offset in range(4))
        edges += [f"{top}>{left}", f"{top}>{right}", f"{left}>{low}", f"{right}>{low}"]
    steps = [task(f"s{index}") for index in range(181)]
    policy = {"every_path_to": "step:s180", "must_pass": "step:s90"}
    given = document(*steps, flow=" ".join(edges), policies=[policy])
    check(given)
    assert timed(given, 0.1).errors == ()


@pytest.mark.parametrize(
    "text",
    ("{" * 200_000, "{{" * 100_000, "{{ '" * 50_000, "}}" * 100_000, "{{ a.x }}" * 20_000),
    ids=lambda text: text[:9],
)
def test_braces_cost_no_more_than_their_number(text: str) -> None:
    timed(document(task("a"), task("b", inputs={"x": text})), 1)
    timed(with_condition(LINE, 0, text), 1)


def test_one_long_key_does_not_make_every_pointer_long() -> None:
    checked = timed(document(task("a", inputs={"k" * 200_000: ["{{ x"] * 10_000})), 4)
    assert len(checked.errors) == 10_000
    assert all(len(error.pointer) < 500 for error in checked.errors)
