"""What a template gives, where it is refused, and that it sees nothing but the scope."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iaflow.pipeline.templating import (
    CODES,
    MAX_TEXT_BYTES,
    MISSING,
    Path,
    ReferenceMissing,
    Scope,
    TemplateSyntaxError,
    TextTooLong,
    compile_template,
    parse_path,
    render,
    resolve,
    try_resolve,
)
from tests.unit.timing import within

SCOPE = Scope(
    parameters={"topic": "birds", "limit": 3, "nested": {"any key": "yes"}, "none": None},
    outputs={
        "fetch": {"text": "hello", "score": 1.0, "ok": True, "list": [{"x": 1}, "b"], "0": "zero"},
        "braces": {"text": "{{ parameters.topic }}"},
    },
    errors={"broken": {"code": "timeout", "message": "too slow", "attempts": 2}},
    run={"id": "r1", "started_at": "2026-01-01T00:00:00Z"},
    item={"name": "first"},
    index=0,
)

TEXTS = st.text(max_size=30).filter(lambda text: "{{" not in text)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def rendered(value: Any, scope: Scope = SCOPE, **options: bool) -> Any:
    template, problems = compile_template(value, **options)
    assert problems == []
    return render(template, scope)


@pytest.mark.parametrize(
    ("template", "value"),
    (
        ("{{ fetch.text }}", "hello"),
        ("{{fetch.text}}", "hello"),
        ("{{ fetch.score }}", 1.0),
        ("{{ fetch.list }}", [{"x": 1}, "b"]),
        ("{{ fetch.list.0.x }}", 1),
        ("{{ fetch.0 }}", "zero"),
        ("{{ parameters.nested['any key'] }}", "yes"),
        ("{{ parameters.none }}", None),
        ("{{ parameters.none | default('x') }}", None),
        ("{{ errors.broken.code }}", "timeout"),
        ("{{ errors.broken }}", {"code": "timeout", "message": "too slow", "attempts": 2}),
        ("{{ errors.fetch.code }}", None),
        ("{{ run.id }}", "r1"),
        ("{{ item.name }}", "first"),
        ("{{ index }}", 0),
        ("{{ skipped }}", None),
        ("{{ skipped.deep.down }}", None),
        ("{{ skipped.deep | default(7) }}", 7),
        ("{{ fetch.gone | default('it\\'s') }}", "it's"),
        ('{{ fetch.gone|default("a\\nb") }}', "a\nb"),
        ("{{ fetch.gone | default(-1.5e3) }}", -1500.0),
        ("{{ fetch.gone | default(null) }}", None),
        ("{{ fetch.gone | default( [ ] ) }}", []),
        ("{{ fetch.gone | default({}) }}", {}),
        ("{{ fetch.gone | default('}}') }}!", "}}!"),
        ("{{ '{{' }}", "{{"),
        ("{{ '{{' }} fetch.text {{ '}}' }}", "{{ fetch.text }}"),
        ("}} {", "}} {"),
        ("{fetch.text}", "{fetch.text}"),
        ("a {{ fetch.text }} b {{ fetch.score }}", "a hello b 1.0"),
        (" {{ fetch.ok }}", " true"),
        ("{{ fetch.list }}!", '[{"x":1},"b"]!'),
        ("{{ skipped }}.", "null."),
        ("{{ braces.text }}", "{{ parameters.topic }}"),
        ("<{{ braces.text }}>", "<{{ parameters.topic }}>"),
        ({"{{ fetch.text }}": ["{{ fetch.text }}", 1]}, {"{{ fetch.text }}": ["hello", 1]}),
    ),
)
def test_a_template_gives(template: Any, value: Any) -> None:
    """Each form, and the value it stands for, with its type."""
    result = rendered(template)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("text", "column"),
    (
        ("{{", 3),
        ("{{ }}", 4),
        ("x {{ fetch.text", 16),
        ("{{ fetch..text }}", 10),
        ("{{ fetch. }}", 10),
        ("{{ fetch.text }", 15),
        ("{{ 1 }}", 4),
        ("{{ .fetch }}", 4),
        ("{{ fetch text }}", 10),
        ("{{ fetch.list[0] }}", 15),
        ("{{ fetch['x }}", 10),
        ("{{ fetch['x' }}", 13),
        ("{{ fetch.text | upper }}", 17),
        ("{{ fetch.text | default }}", 25),
        ("{{ fetch.text | default(x) }}", 25),
        ("{{ fetch.text | default([1]) }}", 26),
        ("{{ fetch.text | default('x' }}", 29),
        ("{{ fetch.text | default('x') | default('y') }}", 30),
        ('{{ fetch.text | default("\\ud800") }}', 25),
        ("{{ fetch.text | default(1e999) }}", 25),
        ("{{ 'fetch.text' }}", 4),
        ("{{ fetch.text() }}", 14),
        ("{{ fetch.__class__.x }}", 0),
        ("{{ result.x }}", 4),
        ("{{ index.x }}", 4),
        ("{{ run }}", 4),
        ("{{ run.name }}", 4),
        ("{{ errors }}", 4),
        ("{{ errors.fetch.cod }}", 4),
        ("{{ steps.fetch.text }}", 4),
        ("{{{ fetch.text }}}", 3),
        ("{{ {{ fetch.text }} }}", 4),
        ("{{ fetch" + ".a" * 17 + " }}", 4),
        ("{{ fétch }}", 5),
    ),
)
def test_what_is_no_template_is_refused_at_its_column(text: str, column: int) -> None:
    """A syntax error is a problem that names the column, never a text that stays as it is."""
    _, problems = compile_template({"a": text})
    if column == 0:  # dunder names are ordinary keys: nothing but items is ever looked up
        assert problems == []
        return
    assert problems[0].code == "template_syntax"
    assert problems[0].pointer == "/a"
    assert problems[0].message.startswith(f"column {column}: ")


def test_hints_name_what_was_meant() -> None:
    """The nearest right spelling stands in the hint."""
    (problem,) = compile_template("{{ errors.fetch.mesage }}")[1]
    assert "errors.fetch.message" in problem.hint


@pytest.mark.parametrize(
    "path",
    (
        "fetch.gone",
        "fetch.text.upper",
        "fetch.text.0",
        "fetch.list.2",
        "fetch.list.x",
        "fetch.list.9999999999",
        "fetch.__class__",
        "fetch.list.__len__",
        "parameters.keys",
        "parameters.gone",
        "item.gone",
        "run.started_at",
    ),
)
def test_a_missing_path_is_an_error(path: str) -> None:
    """Nothing but items of objects and lists is there, and what is not there is an error."""
    scope = Scope(SCOPE.parameters, SCOPE.outputs, item={"name": "first"})
    with pytest.raises(ReferenceMissing) as caught:
        rendered(f"{{{{ {path} }}}}", scope)
    assert caught.value.code == "reference_missing"
    assert caught.value.path == path
    assert try_resolve(parse_path(path), scope) is MISSING


def test_item_index_and_result_are_missing_where_they_are_not_known() -> None:
    """A scope without a foreach or a source has none of them; an unsuccessful source gives null."""
    for text in ("item", "item.x", "index", "result", "result.x"):
        with pytest.raises(ReferenceMissing):
            resolve(parse_path(text), Scope())
    assert resolve(parse_path("result.x"), Scope(result=None)) is None
    assert resolve(parse_path("result.x"), Scope(result={"x": 1})) == 1


def test_problems_and_paths_have_pointers() -> None:
    """Both are found at any depth, all of them, with keys escaped as RFC 6901 says."""
    template, problems = compile_template(
        {"a/b~c": ["{{ x.y | default(1) }}", "{{ ? }} {{ ! }} {{ ok }}"], "d": "{{ z }}"}
    )
    assert [problem.pointer for problem in problems] == ["/a~1b~0c/1", "/a~1b~0c/1"]
    assert [(pointer, path.text, has) for pointer, path, has in template.paths] == [
        ("/a~1b~0c/0", "x.y", True),
        ("/a~1b~0c/1", "ok", False),
        ("/d", "z", False),
    ]
    assert {problem.code for problem in problems} <= CODES.keys()


def test_the_single_brace_form_is_deprecated() -> None:
    """It stands for a whole string only, only where it is asked for, and with a warning."""
    template, problems = compile_template(
        ["{fetch.text}", "a {fetch.text}", "{fetch}", "{'a.b'}", "{a.b!r}"], single_brace=True
    )
    assert problems == []
    assert [(warning.code, warning.pointer) for warning in template.warnings] == [
        ("deprecated_single_brace", "/0")
    ]
    assert render(template, SCOPE) == ["hello", "a {fetch.text}", "{fetch}", "{'a.b'}", "{a.b!r}"]


def test_step_ids_of_paths() -> None:
    """A path says which step it reads."""
    assert parse_path("fetch.text").step_id == "fetch"
    assert parse_path("errors.fetch.code").step_id == "fetch"
    assert parse_path("parameters.fetch").step_id is None
    assert parse_path("a['b'].0") == Path("a", ("b", "0"), "however it was written")
    with pytest.raises(TemplateSyntaxError, match="column 4"):
        parse_path("a.b c")


def test_a_text_does_not_grow_without_bound() -> None:
    """A short template that names a long value often is stopped before the memory is full."""
    scope = Scope(outputs={"a": {"x": "y" * 200_000, "u": "é" * 150_000}})
    assert len(rendered("{{ a.x }}!", scope)) == 200_001
    for text in ("{{ a.x }}" * 20_000, "{{ a.u }}!"):
        with pytest.raises(TextTooLong) as caught:
            rendered(text, scope)
        assert caught.value.code == "text_too_long"
    assert MAX_TEXT_BYTES == 262_144


@pytest.mark.parametrize(
    "text",
    (
        "{" * 200_000,
        "{{ " * 66_000,
        "{{}}" * 50_000,
        "}" * 200_000,
        "{{ a }}" * 28_000,
        "{{ '" * 50_000,
        "{{ a['\\'}}" * 20_000,
        "{{ a | default(" * 13_000,
        "{{ a" + " " * 200_000 + "}}",
        "{{ a" + ".b" * 100_000 + "}}",
    ),
    ids=lambda text: text[:12],
)
def test_hostile_braces_take_linear_time(text: str) -> None:
    """Two hundred thousand braces are read in well under a second, with few problems."""
    _, problems = within(1.0, lambda: compile_template(text))
    assert len(problems) <= 8


def test_values_that_nest_without_end_are_a_problem() -> None:
    """No recursion error reaches the caller."""
    value: Any = "x"
    for _ in range(5_000):
        value = [value]
    assert compile_template(value)[1][0].code == "template_syntax"


def test_lists_and_objects_of_the_definition_are_made_anew() -> None:
    """A step that changes its data cannot change the definition."""
    document = {"list": [1], "object": {}, "default": "{{ gone.x | default([]) }}"}
    template, _ = compile_template(document)
    first = render(template, SCOPE)
    for value in first.values():
        value.clear()
    assert render(template, SCOPE) == {"list": [1], "object": {}, "default": []}


@settings(max_examples=60)
@given(VALUES)
def test_a_value_without_braces_stands_for_itself(value: Any) -> None:
    """Rendering what holds no template gives it back, with its types."""
    result = rendered(value)
    assert json.dumps(result) == json.dumps(value)


@settings(max_examples=80)
@given(VALUES, st.lists(st.text("ab01_-", min_size=1, max_size=4), max_size=4))
def test_a_path_never_leaves_the_scope(output: Any, keys: list[str]) -> None:
    """Whatever is found is the very object that stands in the scope's tree."""
    scope = Scope(outputs={"step": output})
    found = try_resolve(Path("step", tuple(keys), "step"), scope)
    assert found is MISSING or any(found is value for value in all_values(output))


@settings(max_examples=80)
@given(
    st.lists(
        st.sampled_from(["{{ s.a }}", "{{s.b.0}}", "{{ t.x }}", "{ ", "}", "}}", " ", "é", "s.a"]),
        max_size=8,
    )
)
def test_rendering_agrees_with_a_slow_reference(parts: list[str]) -> None:
    """Texts are what plain replacement, done once from left to right, gives."""
    scope = Scope(outputs={"s": {"a": "{{ s.b }}", "b": [1.0, None]}})
    words = {"{{ s.a }}": "{{ s.b }}", "{{s.b.0}}": "1.0", "{{ t.x }}": "null"}
    values = {"{{ s.a }}": "{{ s.b }}", "{{s.b.0}}": 1.0, "{{ t.x }}": None}
    text = "".join(parts)
    template, problems = compile_template(text)
    assert problems == []
    expected: Any = "".join(words.get(part, part) for part in parts)
    if len(parts) == 1:
        expected = values.get(parts[0], expected)
    assert render(template, scope) == expected


@settings(max_examples=100)
@given(st.text("{}.|'\"[]()ab0 default\\", max_size=40))
def test_no_text_breaks_the_compiler(text: str) -> None:
    """Any text compiles or has a problem, and what compiles renders or lacks a reference."""
    template, problems = compile_template(text, single_brace=True)
    if problems:
        assert all(problem.code == "template_syntax" for problem in problems)
        return
    with suppress(ReferenceMissing):
        render(template, Scope(outputs={"a": {"b": {}}}))


def all_values(tree: Any) -> list[Any]:
    """Return the tree and every value in it."""
    children = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return [tree, *(value for child in children for value in all_values(child))]
