"""Which transitions make a graph, and what is known of it."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iaflow.pipeline.conditions import ALWAYS, Compare, Otherwise
from iaflow.pipeline.definition import On, parse_document
from iaflow.pipeline.graph import Graph, ancestors, build_graph, name_path
from tests.unit.timing import within


def document(edges: list[tuple[str, str]], ids: list[str] | None = None) -> dict[str, Any]:
    known = ids or sorted({end for edge in edges for end in edge})
    return {
        "name": "g",
        "steps": [{"id": step_id, "module": "m", "step_class": "C"} for step_id in known],
        "flow": {
            "start_at": known[0],
            "transitions": [{"from": source, "to": target} for source, target in edges],
        },
    }


def build(given: dict[str, Any]) -> tuple[Graph | None, list[tuple[str, str]], list[str]]:
    definition, errors, _ = parse_document(given)
    assert definition is not None
    assert errors == []
    graph, errors, _ = build_graph(definition)
    return graph, [(e.code, e.pointer) for e in errors], [e.message for e in errors]


def built(given: dict[str, Any]) -> Graph:
    graph, errors, _ = build(given)
    assert errors == []
    assert graph is not None
    return graph


@st.composite
def dags(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Draw edges of a graph in which every node but 0 follows a smaller one."""
    size = draw(st.integers(2, 14))
    edges = {(draw(st.integers(0, node - 1)), node) for node in range(1, size)}
    more = st.tuples(st.integers(0, size - 1), st.integers(0, size - 1))
    edges |= {(a, b) for a, b in draw(st.lists(more, max_size=20)) if a < b}
    return sorted(edges)


def named(edges: list[tuple[int, int]], names: list[str]) -> list[tuple[str, str]]:
    return [(names[source], names[target]) for source, target in edges]


@given(dags(), st.randoms(use_true_random=False))
def test_the_order_of_a_random_graph_is_topological(
    edges: list[tuple[int, int]], random: Any
) -> None:
    size = 1 + max(target for _, target in edges)
    names = [f"s{node}" for node in range(size)]
    shuffled = names[1:]
    random.shuffle(shuffled)
    graph = built(document(named(edges, names), [names[0], *shuffled]))
    place = {step_id: index for index, step_id in enumerate(graph.order)}
    assert sorted(graph.order) == sorted(names)
    assert all(place[source] < place[target] for source, target in named(edges, names))


@given(dags())
def test_ancestors_are_those_that_a_naive_walk_finds(edges: list[tuple[int, int]]) -> None:
    size = 1 + max(target for _, target in edges)
    names = [f"s{node}" for node in range(size)]
    graph = built(document(named(edges, names), names))
    bits = ancestors(graph)

    def walk(node: int) -> set[int]:
        above = {source for source, target in edges if target == node}
        return above.union(*(walk(source) for source in above)) if above else above

    for node, step_id in enumerate(names):
        assert {other for other in range(size) if bits[step_id] >> other & 1} == walk(node)


@given(dags(), st.data())
def test_a_planted_cycle_is_found_and_named_truly(
    edges: list[tuple[int, int]], data: st.DataObject
) -> None:
    size = 1 + max(target for _, target in edges)
    names = [f"s{node}" for node in range(size)]
    source, target = data.draw(st.sampled_from(edges))
    everything = named([*edges, (target, source)], names)
    _, errors, messages = build(document(everything, names))
    message = next(text for text in messages if " -> " in text)
    loop = message.split(": ")[1].split(" -> ")
    assert "cycle" in {code for code, _ in errors}
    assert loop[0] == loop[-1]
    assert len(set(loop)) == len(loop) - 1
    assert all(edge in everything for edge in itertools.pairwise(loop))
    pointer = next(pointer for code, pointer in errors if code == "cycle")
    assert everything[int(pointer.split("/")[-1])] == (loop[-2], loop[-1])


def test_a_cycle_is_named_from_its_first_step_on() -> None:
    edges = [("a", "b"), ("b", "c"), ("c", "d"), ("d", "b")]
    graph, errors, messages = build(document(edges))
    assert graph is None
    assert errors == [("cycle", "/flow/transitions/3")]
    assert "b -> c -> d -> b" in messages[0]


def test_a_step_that_follows_itself_is_a_cycle() -> None:
    _, errors, messages = build(document([("a", "b"), ("b", "b")]))
    assert errors == [("cycle", "/flow/transitions/1")]
    assert "b -> b" in messages[0]


@pytest.mark.parametrize(
    ("edges", "ids", "expected"),
    (
        ([("a", "b")], ["a", "b", "c"], [("step_unreachable", "/steps/2")]),
        ([("a", "x")], ["a", "b"], [("step_unknown", "/flow/transitions/0/to")]),
        (
            [("a", "b"), ("y", "z")],
            ["a", "b"],
            [
                ("step_unknown", "/flow/transitions/1/from"),
                ("step_unknown", "/flow/transitions/1/to"),
            ],
        ),
        ([("a", "b"), ("b", "a")], ["a", "b"], None),
        (
            [("a", "b"), ("a", "b")],
            ["a", "b"],
            [("transition_duplicate", "/flow/transitions/1")],
        ),
    ),
)
def test_what_is_no_graph(
    edges: list[tuple[str, str]], ids: list[str], expected: list[tuple[str, str]] | None
) -> None:
    _, errors, _ = build(document(edges, ids))
    if expected is None:
        assert {code for code, _ in errors} == {"start_has_incoming", "cycle"}
    else:
        assert errors == expected


def test_an_unknown_start_brings_the_nearest_step() -> None:
    given = document([("first", "second")])
    given["flow"]["start_at"] = "frist"
    definition, _, _ = parse_document(given)
    assert definition is not None
    graph, errors, _ = build_graph(definition)
    assert graph is None
    assert [(e.code, e.pointer) for e in errors] == [("step_unknown", "/flow/start_at")]
    assert "first" in errors[0].hint


def test_several_transitions_between_two_steps_are_legal_if_they_differ() -> None:
    given = document([("a", "b")])
    given["flow"]["transitions"] += [
        {"from": "a", "to": "b", "on": "failure"},
        {"from": "a", "to": "b", "condition": "result.x > 1"},
        {"from": "a", "to": "b", "condition": "result.x > 1.0"},
    ]
    graph = built(given)
    assert len(graph.nodes["b"].incoming) == 4
    assert [edge.index for edge in graph.nodes["a"].outgoing] == [0, 1, 2, 3]


def test_the_order_follows_the_document_where_it_may() -> None:
    edges = [("a", "d"), ("a", "b"), ("a", "c"), ("c", "e"), ("b", "e")]
    graph = built(document(edges, ["a", "e", "d", "c", "b"]))
    assert graph.order == ("a", "d", "c", "b", "e")


def test_conditions_and_templates_are_compiled_and_tell_what_they_read() -> None:
    given = document([("a", "b"), ("b", "c"), ("b", "d")])
    given["flow"]["transitions"][1]["condition"] = (
        "result.ok and a.score > 3 and exists(errors.a.code) and b.other"
    )
    given["flow"]["transitions"][2]["condition"] = "otherwise"
    given["steps"][3]["inputs"] = {
        "x": ["{{ b.x }}", {"y": "{{ a.y }} and {{ errors.b.code | default('') }}"}]
    }
    given["outputs"] = {"all": "{{ d }}", "why": "{{ errors.c.message }}"}
    graph = built(given)
    first, second, third = graph.edges
    assert first.condition is ALWAYS
    assert (second.reads, second.reads_errors) == (("a",), ("a",))
    assert isinstance(third.condition, Otherwise)
    assert (graph.nodes["d"].reads, graph.nodes["d"].reads_errors) == (("a", "b"), ("b",))
    assert graph.nodes["c"].inputs is None
    assert (graph.output_reads, graph.output_reads_errors) == (("d",), ("c",))


def test_every_syntax_error_is_found_with_its_pointer() -> None:
    given = document([("a", "b")])
    given["steps"][1]["inputs"] = {"x": ["fine", "{{ a. }}"], "y/z": "{{ a | upper }}"}
    given["flow"]["transitions"][0]["condition"] = "result.x >"
    given["outputs"] = {"o": "{{ b"}
    graph, errors, _ = build(given)
    assert graph is not None
    assert errors == [
        ("condition_syntax", "/flow/transitions/0/condition"),
        ("template_syntax", "/steps/1/inputs/x/1"),
        ("template_syntax", "/steps/1/inputs/y~1z"),
        ("template_syntax", "/outputs/o"),
    ]


def test_a_person_has_a_form_and_a_condition_on_the_answer() -> None:
    given = document([("a", "b")])
    given["steps"][1] = {
        "id": "b",
        "type": "human_input",
        "config": {
            "ui_schema": {"fields": [{"name": "ok", "type": "checkbox"}]},
            "show": {"amount": "{{ a.amount }}"},
            "reject_when": "result.ok == false",
        },
    }
    node = built(given).nodes["b"]
    assert node.form is not None
    assert [field.name for field in node.form.fields] == ["ok"]
    assert isinstance(node.reject_when, Compare)
    assert node.reads == ("a",)
    assert node.step.inputs is None


def test_on_is_kept() -> None:
    given = document([("a", "b")])
    given["flow"]["transitions"][0]["on"] = "completed"
    assert built(given).edges[0].on is On.COMPLETED


def test_a_very_long_path_is_abridged() -> None:
    name = name_path([f"s{index}" for index in range(10_000)])
    assert name.startswith("s0 -> s1 -> ")
    assert name.endswith(" -> s9999")
    assert "9,960 more" in name


def diamonds(count: int) -> dict[str, Any]:
    edges = []
    for index in range(count):
        top, left, right, low = (f"s{3 * index + offset}" for offset in range(4))
        edges += [(top, left), (top, right), (left, low), (right, low)]
    return document(edges, [f"s{index}" for index in range(3 * count + 1)])


def test_stacked_diamonds_cost_no_more_than_their_steps() -> None:
    definition, _, _ = parse_document(diamonds(60))
    assert definition is not None
    graph, errors, _ = within(0.1, lambda: build_graph(definition))
    assert errors == []
    assert graph is not None
    assert within(0.1, lambda: ancestors(graph))["s180"].bit_count() == 180


def test_a_cycle_of_thousands_of_steps_needs_no_recursion() -> None:
    ids = [f"s{index}" for index in range(10_000)]
    given = document([*itertools.pairwise(ids), (ids[-1], ids[1])], ids)
    definition, _, _ = parse_document(json.loads(json.dumps(given)), max_bytes=4_000_000)
    assert definition is not None
    _, errors, _ = build_graph(definition)
    assert "cycle" in {error.code for error in errors}
