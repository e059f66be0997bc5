"""What the structure of a definition is, what absent keys mean, and what is refused where."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iaflow.pipeline import definition as room
from iaflow.pipeline import reading, strict_json
from iaflow.pipeline.definition import (
    Definition,
    ErrorPolicy,
    Join,
    JoinType,
    On,
    StepType,
    default_slug,
    nearest,
    parse_definition,
    parse_document,
)
from iaflow.pipeline.reading import Speller

NOTEBOOK: dict[str, Any] = {
    "name": "AI Notebook Creation Pipeline",
    "description": "Creates research notebooks with AI-enhanced content.",
    "version": "1.0",
    "parameters": {"topic": "artificial intelligence", "enable_ai_processing": True},
    "steps": [
        {
            "id": "wikipedia_scraper",
            "name": "Wikipedia Content Scraper",
            "step_class": "WikipediaScraperStep",
            "module": "knowledge_processing.wikipedia_scraper_step",
            "inputs": {"topic": "{{ parameters.topic }}"},
            "outputs": ["scraped_content", "article_title"],
        },
        {
            "id": "structured_processor",
            "step_class": "StructuredWikipediaProcessorStep",
            "module": "knowledge_processing.structured_wikipedia_processor_step",
            "inputs": {"title": "{{ wikipedia_scraper.article_title }}"},
            "outputs": ["structured_content"],
        },
    ],
    "flow": {
        "start_at": "wikipedia_scraper",
        "transitions": [{"from": "wikipedia_scraper", "to": "structured_processor"}],
    },
}

TASK = {"id": "a", "module": "m", "step_class": "C"}
MINIMAL: dict[str, Any] = {"name": "x", "steps": [TASK], "flow": {"start_at": "a"}}


def one(**keys: Any) -> dict[str, Any]:
    """Return a document of one step with further keys."""
    return {**MINIMAL, "steps": [{**TASK, **keys}]}


def parsed(document: dict[str, Any]) -> Definition:
    definition, errors, warnings = parse_document(document)
    assert (errors, warnings) == ([], [])
    assert definition is not None
    return definition


def policy(own: dict[str, Any], everywhere: dict[str, Any], **keys: Any) -> ErrorPolicy:
    step = {**TASK, **keys, "error_handling": own}
    return parsed({**MINIMAL, "steps": [step], "error_handling": everywhere}).steps[0].policy


# --- what is read


def test_the_example_of_the_original_project_is_read() -> None:
    found = parsed(NOTEBOOK)
    assert found.slug == "ai-notebook-creation-pipeline-v1"
    assert [step.id for step in found.steps] == ["wikipedia_scraper", "structured_processor"]
    assert found.step("structured_processor").position == 1
    assert found.step("structured_processor").name == "structured_processor"
    assert found.steps[0].outputs == ("scraped_content", "article_title")
    assert found.transitions[0].condition == "always"
    assert found.transitions[0].on is On.SUCCESS
    assert found.parameters["enable_ai_processing"] is True


def test_absent_keys_have_their_defaults() -> None:
    found = parsed(MINIMAL)
    assert (found.version, found.language, found.on_failure) == ("1.0", 1, "fail_fast")
    assert (found.transitions, found.outputs, found.run_timeout) == ((), None, None)
    assert found.transition_pointer(3) == "/flow/transitions/3"
    step = found.steps[0]
    assert (step.type, step.inputs, step.config, step.outputs) == (StepType.TASK, None, {}, None)
    assert (step.policy, step.join, step.routing) == (ErrorPolicy(), Join(), "inclusive")
    assert (step.foreach, step.cancels, step.queue, step.wait) == (None, (), None, True)


def test_empty_inputs_are_not_absent_ones() -> None:
    assert parsed(one(inputs={})).steps[0].inputs == {}


def test_the_text_and_the_hash_keep_every_value() -> None:
    document = {**MINIMAL, "parameters": {"b": 1.0, "a": 10**40, "ß": "é"}}
    found = parsed(document)
    assert json.loads(found.text) == document
    assert found.text.index('"b"') < found.text.index('"a":1')
    assert '{"b":1.0,"a":1' in found.text
    assert "é" in found.text
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert found.content_hash == hashlib.sha256(canonical.encode()).hexdigest()


def test_the_hash_knows_values_and_not_the_order_of_keys() -> None:
    one_way = parse_definition('{"name":"x","flow":{"start_at":"a"},"steps":[{"id":"a"}]}')[0]
    other_way = parse_definition('{"steps":[{"id":"a"}],\n "name":"x","flow":{"start_at":"a"}}')[0]
    assert one_way is not None
    assert other_way is not None
    assert one_way.content_hash == other_way.content_hash
    assert one_way.text != other_way.text
    hashes = {parsed({**MINIMAL, "parameters": {"n": n}}).content_hash for n in (1, 1.0, True)}
    assert len(hashes) == 3


def test_a_document_is_copied() -> None:
    document = copy.deepcopy(NOTEBOOK)
    found = parsed(document)
    document["parameters"]["topic"] = "changed"
    assert found.parameters["topic"] == "artificial intelligence"


@pytest.mark.parametrize(
    ("name", "version", "slug"),
    (
        ("Hello World Pipeline", "1.0", "hello-world-pipeline-v1"),
        ("  Hello,   World! ", "2", "hello-world-v2"),
        ("snake_case", "10.3.1", "snake-case-v10"),
        ("Ünïcode 7", "v3.0", "n-code-7-v3"),
        ("日本", "1.0", ""),
        ("x", "…", ""),
    ),
)
def test_the_default_slug(name: str, version: str, slug: str) -> None:
    assert default_slug(name, version) == slug


@given(st.text(), st.text())
def test_a_default_slug_is_a_legal_one_or_none(name: str, version: str) -> None:
    slug = default_slug(name, version)
    assert slug == "" or set(slug) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_joins() -> None:
    wanted = {
        "all_taken": Join(),
        "all_success": Join(JoinType.ALL_SUCCESS),
        "any": Join(JoinType.N_OF_M, 1),
    }
    for word, join in wanted.items():
        assert parsed(one(join=word)).steps[0].join == join
    counted = {"type": "n_of_m", "n": 2, "cancel_remaining": True}
    assert parsed(one(join=counted)).steps[0].join == Join(JoinType.N_OF_M, 2, True)
    first = {"type": "any", "cancel_remaining": True}
    assert parsed(one(join=first)).steps[0].join == Join(JoinType.N_OF_M, 1, True)


def test_error_handling_is_merged_key_by_key() -> None:
    everywhere = {"retries": 3, "retry_delay": 2, "timeout": 10, "retry_on": ["IOError"]}
    assert policy({"retries": 0, "jitter": 0.5}, everywhere) == ErrorPolicy(
        retries=0, retry_delay=2.0, timeout=10.0, retry_on=("IOError",), jitter=0.5
    )


@pytest.mark.parametrize("kind", ("human_input", "event", "wait", "terminate"))
def test_the_documents_timeout_and_retries_reach_only_what_workers_do(kind: str) -> None:
    everywhere = {"retries": 3, "timeout": 10, "backoff": 2}
    assert policy({}, everywhere, type=kind) == ErrorPolicy(backoff=2.0)
    assert policy({"timeout": 5}, everywhere, type=kind) == ErrorPolicy(backoff=2.0, timeout=5.0)


def test_on_failure_is_not_inherited() -> None:
    document = {**MINIMAL, "error_handling": {"on_failure": "run_independent", "run_timeout": 60}}
    found = parsed(document)
    assert (found.on_failure, found.run_timeout) == ("run_independent", 60.0)
    assert found.steps[0].policy.on_failure == "fail"
    assert policy({"on_failure": "continue"}, {}).on_failure == "continue"


def test_the_old_key_paths_is_accepted_with_a_warning() -> None:
    document = copy.deepcopy(NOTEBOOK)
    document["flow"]["paths"] = document["flow"].pop("transitions")
    found, errors, warnings = parse_document(document)
    assert errors == []
    assert found is not None
    assert found.transitions[0].target == "structured_processor"
    assert found.transition_pointer(0) == "/flow/paths/0"
    assert [(w.code, w.pointer) for w in warnings] == [("deprecated_paths", "/flow/paths")]


@pytest.mark.parametrize(
    ("kind", "step_class"),
    (
        ("human_input", "HumanInputStep"),
        ("pipeline", "PipelineStep"),
        ("wait", "WaitStep"),
        ("event", "EventStep"),
        ("terminate", "TerminateStep"),
    ),
)
def test_built_in_classes_need_no_module(kind: str, step_class: str) -> None:
    more = {"pipeline": "other-v1"} if kind == "pipeline" else {}
    step = {"id": "a", "type": kind, **more}
    assert parsed({**MINIMAL, "steps": [step]}).steps[0].step_class is None
    found = parsed({**MINIMAL, "steps": [{**step, "step_class": step_class}]}).steps[0]
    assert (found.module, found.step_class) == (None, step_class)
    own = parsed({**MINIMAL, "steps": [{**step, "module": "m", "step_class": "Mine"}]}).steps[0]
    assert (own.module, own.step_class) == ("m", "Mine")


# --- what is refused

DOCUMENTS: tuple[tuple[Any, str, str], ...] = (
    ([], "type_wrong", ""),
    (None, "type_wrong", ""),
    ("text", "type_wrong", ""),
    ({}, "key_missing", ""),
    ({**MINIMAL, "name": 1}, "type_wrong", "/name"),
    ({**MINIMAL, "name": " "}, "value_invalid", "/name"),
    ({**MINIMAL, "name": "日本"}, "slug_invalid", "/name"),
    ({**MINIMAL, "name": "x" * 300}, "slug_invalid", "/name"),
    ({**MINIMAL, "slug": "Not A Slug"}, "slug_invalid", "/slug"),
    ({**MINIMAL, "slug": ""}, "slug_invalid", "/slug"),
    ({**MINIMAL, "slug": "x\n"}, "slug_invalid", "/slug"),
    ({**MINIMAL, "version": 1.0}, "type_wrong", "/version"),
    ({**MINIMAL, "version": ""}, "value_invalid", "/version"),
    ({**MINIMAL, "description": None}, "type_wrong", "/description"),
    ({**MINIMAL, "tags": "x"}, "type_wrong", "/tags"),
    ({**MINIMAL, "tags": ["x", 1]}, "type_wrong", "/tags/1"),
    ({**MINIMAL, "parameters": []}, "type_wrong", "/parameters"),
    ({**MINIMAL, "input_schema": "x"}, "type_wrong", "/input_schema"),
    ({**MINIMAL, "outputs": "{{ a }}"}, "type_wrong", "/outputs"),
    ({**MINIMAL, "metadata": 1}, "type_wrong", "/metadata"),
    ({**MINIMAL, "language": 2}, "language_unknown", "/language"),
    ({**MINIMAL, "language": "1"}, "type_wrong", "/language"),
    ({**MINIMAL, "language": True}, "type_wrong", "/language"),
    ({**MINIMAL, "max_concurrent_runs": 0}, "value_invalid", "/max_concurrent_runs"),
    ({**MINIMAL, "policies": {}}, "type_wrong", "/policies"),
    ({**MINIMAL, "policies": ["x"]}, "type_wrong", "/policies/0"),
    ({**MINIMAL, "policies": [{}]}, "key_missing", "/policies/0"),
    (
        {**MINIMAL, "policies": [{"every_path_to": 1, "must_pass": "step:a"}]},
        "type_wrong",
        "/policies/0/every_path_to",
    ),
    ({**MINIMAL, "step": []}, "key_unknown", "/step"),
    ({**MINIMAL, "a/b~c": []}, "key_unknown", "/a~1b~0c"),
    ({**MINIMAL, "__proto__": []}, "key_unknown", "/__proto__"),
    ({**MINIMAL, "steps": []}, "value_invalid", "/steps"),
    ({**MINIMAL, "steps": {}}, "type_wrong", "/steps"),
    ({**MINIMAL, "steps": ["a"]}, "type_wrong", "/steps/0"),
    ({**MINIMAL, "steps": [TASK] * 10_001}, "limit_exceeded", "/steps"),
    ({**MINIMAL, "flow": []}, "type_wrong", "/flow"),
    ({**MINIMAL, "flow": {}}, "key_missing", "/flow"),
    ({**MINIMAL, "flow": {"start_at": 1}}, "type_wrong", "/flow/start_at"),
    ({**MINIMAL, "flow": {"start_at": "a", "start": "a"}}, "key_unknown", "/flow/start"),
    (
        {**MINIMAL, "flow": {"start_at": "a", "transitions": {}}},
        "type_wrong",
        "/flow/transitions",
    ),
    (
        {**MINIMAL, "flow": {"start_at": "a", "transitions": [], "paths": []}},
        "key_misplaced",
        "/flow/paths",
    ),
    (
        {**MINIMAL, "flow": {"start_at": "a", "transitions": [0] * 50_001}},
        "limit_exceeded",
        "/flow/transitions",
    ),
    ({**MINIMAL, "error_handling": []}, "type_wrong", "/error_handling"),
    ({**MINIMAL, "error_handling": {"retry": 1}}, "key_unknown", "/error_handling/retry"),
    (
        {**MINIMAL, "error_handling": {"on_failure": "continue"}},
        "value_invalid",
        "/error_handling/on_failure",
    ),
    (
        {**MINIMAL, "error_handling": {"run_timeout": 0}},
        "value_invalid",
        "/error_handling/run_timeout",
    ),
)

STEPS: tuple[tuple[dict[str, Any], str, str], ...] = (
    ({"id": 1}, "type_wrong", "/id"),
    ({"id": ""}, "id_invalid", "/id"),
    ({"id": "1a"}, "id_invalid", "/id"),
    ({"id": "a b"}, "id_invalid", "/id"),
    ({"id": "a.b"}, "id_invalid", "/id"),
    ({"id": "ä"}, "id_invalid", "/id"),
    ({"id": "a\n"}, "id_invalid", "/id"),
    ({"id": "a" * 129}, "id_invalid", "/id"),
    *(
        ({"id": word}, "id_reserved", "/id")
        for word in "parameters steps errors item index run result".split()
    ),
    ({"type": "taks"}, "value_invalid", "/type"),
    ({"type": None}, "type_wrong", "/type"),
    ({"type": ["task"]}, "type_wrong", "/type"),
    ({"module": "os.path:x"}, "name_invalid", "/module"),
    ({"module": "a..b"}, "name_invalid", "/module"),
    ({"module": "_private"}, "name_invalid", "/module"),
    ({"module": "a._b"}, "name_invalid", "/module"),
    ({"module": ".a"}, "name_invalid", "/module"),
    ({"module": "a\n"}, "name_invalid", "/module"),
    ({"module": "a" * 201}, "name_invalid", "/module"),
    ({"module": "mödul"}, "name_invalid", "/module"),
    ({"step_class": "a.B"}, "name_invalid", "/step_class"),
    ({"step_class": "_B"}, "name_invalid", "/step_class"),
    ({"step_class": "__class__"}, "name_invalid", "/step_class"),
    ({"step_class": "B()"}, "name_invalid", "/step_class"),
    ({"step_class": 1}, "type_wrong", "/step_class"),
    ({"inputs": []}, "type_wrong", "/inputs"),
    ({"inputs": "{{ a }}"}, "type_wrong", "/inputs"),
    ({"config": "x"}, "type_wrong", "/config"),
    ({"outputs": "x"}, "type_wrong", "/outputs"),
    ({"outputs": ["x", ""]}, "type_wrong", "/outputs/1"),
    ({"join": "some"}, "value_invalid", "/join"),
    ({"join": 2}, "type_wrong", "/join"),
    ({"join": {"n": 1}}, "key_missing", "/join"),
    ({"join": {"type": "n_of_m"}}, "key_missing", "/join"),
    ({"join": {"type": "n_of_m", "n": 0}}, "value_invalid", "/join/n"),
    ({"join": {"type": "n_of_m", "n": True}}, "type_wrong", "/join/n"),
    ({"join": {"type": "n_of_m", "n": 1.0}}, "type_wrong", "/join/n"),
    ({"join": {"type": "all_taken", "n": 1}}, "key_misplaced", "/join/n"),
    ({"join": {"type": "any", "n": 1}}, "key_misplaced", "/join/n"),
    (
        {"join": {"type": "all_success", "cancel_remaining": True}},
        "key_misplaced",
        "/join/cancel_remaining",
    ),
    (
        {"join": {"type": "any", "cancel_remaining": "yes"}},
        "type_wrong",
        "/join/cancel_remaining",
    ),
    ({"routing": "parallel"}, "value_invalid", "/routing"),
    ({"foreach": []}, "type_wrong", "/foreach"),
    ({"foreach": {}}, "key_missing", "/foreach"),
    ({"foreach": {"items": 3}}, "type_wrong", "/foreach/items"),
    ({"foreach": {"items": [0] * 100_001}}, "limit_exceeded", "/foreach/items"),
    ({"foreach": {"items": [], "max_parallel": 0}}, "value_invalid", "/foreach/max_parallel"),
    ({"foreach": {"items": [], "parallel": 2}}, "key_unknown", "/foreach/parallel"),
    ({"cancels": "b"}, "type_wrong", "/cancels"),
    ({"concurrency_key": 1}, "type_wrong", "/concurrency_key"),
    ({"concurrency_key": ""}, "value_invalid", "/concurrency_key"),
    ({"queue": ""}, "value_invalid", "/queue"),
    ({"priority": 10}, "value_invalid", "/priority"),
    ({"priority": -1}, "value_invalid", "/priority"),
    ({"priority": 1.5}, "type_wrong", "/priority"),
    ({"rate_limit": "10"}, "value_invalid", "/rate_limit"),
    ({"rate_limit": "0/s"}, "value_invalid", "/rate_limit"),
    ({"rate_limit": "10/day"}, "value_invalid", "/rate_limit"),
    ({"pipeline": "x"}, "key_misplaced", "/pipeline"),
    ({"wait": True}, "key_misplaced", "/wait"),
    ({"type": "pipeline"}, "key_missing", ""),
    ({"type": "pipeline", "pipeline": "../x"}, "slug_invalid", "/pipeline"),
    ({"type": "pipeline", "pipeline": "x", "wait": 1}, "type_wrong", "/wait"),
    ({"retries": 3}, "key_unknown", "/retries"),
    ({"error_handling": {"retries": -1}}, "value_invalid", "/error_handling/retries"),
    ({"error_handling": {"retries": 101}}, "value_invalid", "/error_handling/retries"),
    ({"error_handling": {"retries": "3"}}, "type_wrong", "/error_handling/retries"),
    ({"error_handling": {"retry_delay": -1}}, "value_invalid", "/error_handling/retry_delay"),
    ({"error_handling": {"retry_delay": 10**400}}, "value_invalid", "/error_handling/retry_delay"),
    ({"error_handling": {"backoff": 0.5}}, "value_invalid", "/error_handling/backoff"),
    ({"error_handling": {"jitter": 1.1}}, "value_invalid", "/error_handling/jitter"),
    ({"error_handling": {"timeout": 0}}, "value_invalid", "/error_handling/timeout"),
    ({"error_handling": {"timeout": None}}, "type_wrong", "/error_handling/timeout"),
    ({"error_handling": {"max_delay": True}}, "type_wrong", "/error_handling/max_delay"),
    ({"error_handling": {"retry_on": "IOError"}}, "type_wrong", "/error_handling/retry_on"),
    ({"error_handling": {"give_up_on": [3]}}, "type_wrong", "/error_handling/give_up_on/0"),
    (
        {"error_handling": {"max_worker_losses": -1}},
        "value_invalid",
        "/error_handling/max_worker_losses",
    ),
    ({"error_handling": {"run_timeout": 5}}, "key_misplaced", "/error_handling/run_timeout"),
    (
        {"error_handling": {"on_failure": "fail_fast"}},
        "value_invalid",
        "/error_handling/on_failure",
    ),
)

TRANSITIONS: tuple[tuple[Any, str, str], ...] = (
    ("a->b", "type_wrong", ""),
    ({}, "key_missing", ""),
    ({"from": "a"}, "key_missing", ""),
    ({"from": "a", "to": 1}, "type_wrong", "/to"),
    ({"from": "a", "to": "b", "when": 1}, "key_unknown", "/when"),
    ({"from": "a", "to": "b", "on": "fail"}, "value_invalid", "/on"),
    ({"from": "a", "to": "b", "on": ["failure"]}, "type_wrong", "/on"),
    ({"from": "a", "to": "b", "name": 1}, "type_wrong", "/name"),
)


def check_refusal(document: Any, code: str, pointer: str) -> None:
    _, errors, _ = parse_document(document)
    assert (code, pointer) in [(error.code, error.pointer) for error in errors]
    known = {**room.CODES, **reading.CODES, **strict_json.CODES}
    assert all(error.code in known and error.message for error in errors)
    assert {error.code for error in errors} == {code}


@pytest.mark.parametrize(("document", "code", "pointer"), DOCUMENTS)
def test_documents_that_are_refused(document: Any, code: str, pointer: str) -> None:
    check_refusal(document, code, pointer)


@pytest.mark.parametrize(("change", "code", "pointer"), STEPS)
def test_steps_that_are_refused(change: dict[str, Any], code: str, pointer: str) -> None:
    document = {**MINIMAL, "steps": [TASK, {**TASK, "id": "b", **change}]}
    check_refusal(document, code, f"/steps/1{pointer}")


@pytest.mark.parametrize(("transition", "code", "pointer"), TRANSITIONS)
def test_transitions_that_are_refused(transition: Any, code: str, pointer: str) -> None:
    good = {"from": "a", "to": "b"}
    document = {**MINIMAL, "flow": {"start_at": "a", "transitions": [good, transition]}}
    check_refusal(document, code, f"/flow/transitions/1{pointer}")


@pytest.mark.parametrize(
    ("step", "code"),
    (
        ({"id": "a"}, "key_missing"),
        ({"id": "a", "module": "m"}, "key_missing"),
        ({"id": "a", "step_class": "C"}, "key_missing"),
        ({"id": "a", "step_class": "HumanInputStep"}, "key_missing"),
        ({"id": "a", "type": "human_input", "step_class": "Mine"}, "key_missing"),
        ({"id": "a", "type": "human_input", "step_class": "WaitStep"}, "key_missing"),
        ({"id": "a", "type": "human_input", "module": "m"}, "key_missing"),
    ),
)
def test_where_the_class_is_must_be_said(step: dict[str, Any], code: str) -> None:
    check_refusal({**MINIMAL, "steps": [step]}, code, "/steps/0")


def test_ids_differ_in_more_than_upper_and_lower_case() -> None:
    steps = [TASK, {**TASK, "id": "b"}, {**TASK, "id": "A"}]
    check_refusal({**MINIMAL, "steps": steps}, "id_duplicate", "/steps/2/id")


def test_everything_is_found_at_once_and_the_nearest_spelling_named() -> None:
    document = {
        "nmae": "x",
        "steps": [{"id": "a", "modul": "m", "step_class": "C", "type": "human_imput"}],
        "flow": {"start_at": "a", "transitons": []},
    }
    _, errors, _ = parse_document(document)
    found = {(error.code, error.pointer): error.hint for error in errors}
    assert "`name`" in found["key_unknown", "/nmae"]
    assert "`module`" in found["key_unknown", "/steps/0/modul"]
    assert "`transitions`" in found["key_unknown", "/flow/transitons"]
    assert "`human_input`" in found["value_invalid", "/steps/0/type"]
    assert ("key_missing", "") in found


def test_what_is_wrong_but_not_broken_leaves_a_definition_to_check_further() -> None:
    found, errors, _ = parse_document({**one(priority=99), "extra": 1})
    assert found is not None
    assert found.steps[0].priority is None
    assert len(errors) == 2
    assert parse_document({**MINIMAL, "steps": [{**TASK, "id": "1"}]})[0] is None


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.text(max_size=5)
        | st.sampled_from([TASK, {"from": "a", "to": "a"}, "a", "task", "any"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [*room.DOCUMENT_KEYS, *room.STEP_KEYS, *room.POLICY_KEYS, "start_at", "from"]
                ),
                inner,
                max_size=6,
            )
        ),
        max_leaves=40,
    )
)
def test_no_document_raises(document: Any) -> None:
    _, errors, _ = parse_document(document)
    known = {**room.CODES, **reading.CODES, **strict_json.CODES}
    assert all(error.code in known for error in errors)


def test_the_nearest_word() -> None:
    known = ["transitions", "start_at", "Steps", "s1", "s2"]
    assert nearest("transitons", known) == "transitions"
    assert nearest("steps", known) == "Steps"
    assert nearest("completely", known) is None
    assert nearest("", known) is None
    many = [f"step_number_{index}" for index in range(10_000)]
    assert nearest("step_numbr_4711", many) == "step_number_4711"


def test_a_speller_says_only_as_much_as_a_person_can_use() -> None:
    speller = Speller()
    many = [f"step_number_{index}" for index in range(10_000)]
    hints = [speller.hint(f"step_numbr_{index}", many) for index in range(200)]
    assert hints[0] == "did you mean `step_number_0`?"
    assert hints[-1] == ""
