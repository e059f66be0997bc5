"""Drawings of graphs: what they say, that they can be read, and that nothing breaks them."""

from __future__ import annotations

import re
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from itertools import combinations, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iaflow.pipeline.definition import parse_document
from iaflow.pipeline.drawing import draw_dot, draw_mermaid, draw_svg
from iaflow.pipeline.drawing.layout import Layout, Sizes, place
from iaflow.pipeline.drawing.palette import DARK, GLYPHS, LIGHT
from iaflow.pipeline.drawing.wording import (
    STATUSES,
    abbreviate,
    clean,
    describe_condition,
    shorten,
    text_width,
)
from iaflow.pipeline.graph import Graph, build_graph

SVG = "{http://www.w3.org/2000/svg}"
Link = tuple[str, str] | tuple[str, str, dict[str, Any]]


def make_graph(steps: list[str] | dict[str, dict[str, Any]], links: list[Link]) -> Graph:
    """Compile a graph from step ids (with further keys) and links (with further keys)."""
    given_keys = steps if isinstance(steps, dict) else {step_id: {} for step_id in steps}
    task = {"module": "m", "step_class": "C"}
    document = {
        "name": "Drawn",
        "steps": [
            {"id": step_id, **({} if "type" in keys else task), **keys}
            for step_id, keys in given_keys.items()
        ],
        "flow": {
            "start_at": next(iter(given_keys)),
            "transitions": [
                {"from": link[0], "to": link[1], **(link[2] if len(link) > 2 else {})}
                for link in links
            ],
        },
    }
    definition, errors, _ = parse_document(document)
    assert definition is not None, errors
    graph, errors, _ = build_graph(definition)
    assert graph is not None, errors
    return graph


def parse(svg: str) -> ET.Element:
    return ET.fromstring(svg)  # noqa: S314  what we drew ourselves


def drawn_steps(root: ET.Element) -> dict[str, ET.Element]:
    groups = [g for g in root.iter(f"{SVG}g") if g.get("data-step")]
    return {group.get("data-step", ""): group for group in groups}


def drawn_transitions(root: ET.Element) -> dict[int, ET.Element]:
    groups = [g for g in root.iter(f"{SVG}g") if g.get("data-transition")]
    return {int(group.get("data-transition", "")): group for group in groups}


def texts(element: ET.Element) -> list[str]:
    return [text.text or "" for text in element.iter(f"{SVG}text")]


def told(element: ET.Element) -> str:
    return element.findtext(f"{SVG}title") or ""


def middles(size: int) -> Iterator[str]:
    return (f"s{k}" for k in range(size))


@pytest.fixture
def choice() -> Graph:
    return make_graph(
        {
            "ask": {"name": "Ask a person", "type": "human_input", "config": {"ui_schema": FORM}},
            "go": {},
            "stop": {},
            "mend": {},
            "end": {"name": "The end"},
        },
        [
            ("ask", "go", {"condition": "result.decision == 'Approve'"}),
            ("ask", "stop", {"condition": "otherwise"}),
            ("go", "end"),
            ("go", "mend", {"on": "failure"}),
            ("mend", "end"),
            ("stop", "end"),
        ],
    )


FORM = {"title": "?", "fields": [{"name": "decision", "type": "radio", "options": ["Approve"]}]}


# --- what a drawing says


def test_a_drawing_names_itself_and_describes_what_it_shows(choice: Graph) -> None:
    root = parse(draw_svg(choice, states={"ask": "waiting"}))
    assert root.get("role") == "img"
    title, description = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert title is not None
    assert description is not None
    assert root.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
    assert title.text == "Drawn"
    assert description.text == (
        "A graph of 5 steps and 6 transitions, starting at ask. 1 waiting, 4 pending. "
        "Ask a person (ask), waiting, then go (if result.decision == 'Approve'), stop (otherwise). "
        "go, pending, then end, mend (on failure). "
        "stop, pending, then end. mend, pending, then end. The end (end), pending."
    )


def test_the_caller_may_name_the_drawing(choice: Graph) -> None:
    root = parse(draw_svg(choice, title="Run <7>"))
    assert root.findtext(f"{SVG}title") == "Run <7>"


def test_every_step_shows_name_and_id_and_each_transition_is_there(choice: Graph) -> None:
    root = parse(draw_svg(choice))
    assert {step_id: texts(group) for step_id, group in drawn_steps(root).items()} == {
        "ask": ["Ask a person", "ask"],
        "go": ["go"],
        "stop": ["stop"],
        "mend": ["mend"],
        "end": ["The end", "end"],
    }
    assert sorted(drawn_transitions(root)) == [0, 1, 2, 3, 4, 5]
    assert told(drawn_transitions(root)[3]) == "go → mend, on failure"


@pytest.mark.parametrize("status", sorted(STATUSES))
def test_a_status_is_said_by_class_by_sign_and_by_word(status: str) -> None:
    step = drawn_steps(parse(draw_svg(make_graph(["a"], []), states={"a": status})))["a"]
    assert status in (step.get("class") or "").split()
    assert texts(step) == [status, "a"]
    signs = [path.get("d") for path in step.iter(f"{SVG}path") if path.get("class") == "glyph"]
    assert signs == [GLYPHS[status]]


def test_no_two_statuses_have_the_same_sign() -> None:
    assert set(GLYPHS) == STATUSES
    assert len(set(GLYPHS.values())) == len(GLYPHS)


def test_an_unknown_status_is_shown_as_text_and_nothing_else() -> None:
    svg = draw_svg(make_graph(["a"], []), states={"a": 'odd" onload="x'})
    step = drawn_steps(parse(svg))["a"]
    assert step.get("class") == "step task"
    assert step.get("onload") is None
    assert 'odd" onload="x' in texts(step)


def test_a_decision_is_said_by_class_by_sign_and_by_word(choice: Graph) -> None:
    root = parse(draw_svg(choice, states={}, decisions={0: True, 1: False, 5: False}))
    edges = drawn_transitions(root)
    classes = {index: (edge.get("class") or "").split()[-1] for index, edge in edges.items()}
    assert classes == {
        0: "taken",
        1: "refused",
        2: "undecided",
        3: "undecided",
        4: "undecided",
        5: "refused",
    }
    assert told(edges[0]).endswith(": taken")
    assert told(edges[1]) == "ask → stop, otherwise: refused"
    marks = [path for path in root.iter(f"{SVG}path") if path.get("class") == "mark"]
    assert len(marks) == 3  # two in labels, one cross on the transition without a label


@pytest.mark.parametrize(
    "keys",
    (
        {},
        {"type": "human_input", "config": {"ui_schema": FORM}},
        {"type": "pipeline", "pipeline": "other-v1"},
        {"type": "wait", "config": {"seconds": 5}},
        {"type": "event", "config": {"name": "paid"}},
        {"type": "terminate", "config": {"status": "failed"}},
    ),
)
def test_every_type_has_an_icon_and_an_outline(keys: dict[str, Any]) -> None:
    step = drawn_steps(parse(draw_svg(make_graph({"a": keys}, []))))["a"]
    kinds = [element.get("class") for element in step.iter()]
    assert "icon" in kinds
    assert "box" in kinds


def test_outlines_and_icons_of_all_types_differ() -> None:
    kinds: dict[str, dict[str, Any]] = {
        "a": {},
        "b": {"type": "human_input", "config": {"ui_schema": FORM}},
        "c": {"type": "pipeline", "pipeline": "other-v1"},
        "d": {"type": "wait", "config": {"seconds": 5}},
        "e": {"type": "event", "config": {"name": "paid"}},
        "f": {"type": "terminate", "config": {"status": "failed"}},
    }
    graph = make_graph(kinds, [("a", b) for b in "bcdef"])
    looks = set()
    for group in drawn_steps(parse(draw_svg(graph))).values():
        box = next(e for e in group.iter() if e.get("class") == "box")
        icon = next(e for e in group.iter() if e.get("class") == "icon")
        looks.add((box.get("d"), box.get("rx"), icon.get("d")))
    assert len(looks) == len(kinds)


def test_long_names_are_cut_and_stand_whole_in_the_title() -> None:
    name = "Check whether everything that was promised has been delivered"
    step = drawn_steps(parse(draw_svg(make_graph({"a": {"name": name}}, []))))["a"]
    assert texts(step)[0].endswith("…")
    assert told(step) == f"{name} (a), task"


def test_long_conditions_are_cut_and_stand_whole_in_the_title() -> None:
    condition = "parameters.mode in ['one mode', 'another mode', 'yet another mode'] and result.ok"
    graph = make_graph(["a", "b"], [("a", "b", {"condition": condition})])
    root = parse(draw_svg(graph))
    label = next(g for g in root.iter(f"{SVG}g") if (g.get("class") or "").startswith("label"))
    assert texts(label)[0].endswith("…")
    assert told(label) == f"a → b, if {condition}"


# --- nothing breaks it


def test_texts_are_escaped_and_cleaned() -> None:
    name = "<script>alert('&')</script>\u202e\u0000\u0007 \ud800 x"
    graph = make_graph({"a": {"name": "plain"}}, [])
    step = graph.nodes["a"].step
    object.__setattr__(step, "name", name)
    svg = draw_svg(graph, title='"]]><x>')
    assert "<script" not in svg
    assert texts(drawn_steps(parse(svg))["a"])[0].startswith("<script>alert('&')")
    svg.encode()
    ET.fromstring(svg)  # noqa: S314
    draw_mermaid(graph).encode()
    draw_dot(graph).encode()


def test_a_drawing_needs_nothing_beside_it(choice: Graph) -> None:
    svg = draw_svg(choice, states={"ask": "waiting"}, decisions={0: True})
    without_name_space = svg.replace('xmlns="http://www.w3.org/2000/svg"', "")
    for forbidden in ("http", "//", "href", "url(", "@import", "<script", " style=", "javascript"):
        assert forbidden not in without_name_space


def test_styles_touch_nothing_outside_the_drawing(choice: Graph) -> None:
    style = parse(draw_svg(choice)).findtext(f"{SVG}style") or ""
    plain = style.replace("@media (prefers-color-scheme:dark){", "")
    selectors = re.findall(r"(?:^|[}\n])\s*([^{}@]+)\{", plain)
    assert len(selectors) > 30
    assert all(part.startswith(".iaf") for s in selectors for part in s.split(","))


def test_one_step_alone_is_drawn() -> None:
    root = parse(draw_svg(make_graph(["only"], [])))
    assert list(drawn_steps(root)) == ["only"]
    assert "1 step and 0 transitions" in (root.findtext(f"{SVG}desc") or "")


def test_the_same_graph_gives_the_same_text(choice: Graph) -> None:
    assert draw_svg(choice, states={"ask": "ready"}) == draw_svg(choice, states={"ask": "ready"})


@pytest.mark.parametrize("colours", (LIGHT, DARK), ids=["light", "dark"])
def test_texts_stand_out_from_what_is_behind_them(colours: Mapping[str, str]) -> None:
    pairs = [("ink", "canvas"), ("muted", "plain-fill"), ("ink", "label"), ("muted", "label")]
    pairs += [("route", "label"), ("route", "canvas")]
    for key in sorted({name.removesuffix("-ink") for name in colours if name.endswith("-ink")}):
        fill = f"{key}-fill"
        pairs += [(f"{key}-ink", fill), ("ink", fill), ("muted", fill)]
    low = {pair: contrast(colours[pair[0]], colours[pair[1]]) for pair in pairs}
    assert {pair: ratio for pair, ratio in low.items() if ratio < 4.5} == {}
    lines = [name for name in colours if name.endswith("-line") and name != "plain-line"]
    faint = {name: contrast(colours[name], colours["canvas"]) for name in (*lines, "flow")}
    assert {name: ratio for name, ratio in faint.items() if ratio < 2.4} == {}


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours as WCAG 2 defines it."""
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


# --- where things are


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Draw a graph in which every step is reached, some transitions with labels, some parallel."""
    size = draw(st.integers(1, 14))
    links: dict[tuple[int, int, int], Link] = {}
    for target in range(1, size):
        for source in draw(st.sets(st.integers(0, target - 1), min_size=1, max_size=4)):
            for kind in draw(st.sets(st.integers(0, 2), min_size=1)):
                ends = (f"s{source}", f"s{target}")
                keys = ({}, {"on": "failure"}, {"condition": f"result.n > {target}"})[kind]
                links[source, target, kind] = (*ends, keys)
    return make_graph(list(middles(size)), list(links.values()))


def lay_out(graph: Graph) -> tuple[Layout, dict[int, float], Sizes]:
    labels = {
        edge.index: 150.0
        for edge in graph.edges
        if edge.on != "success" or graph.definition.transitions[edge.index].condition != "always"
    }
    sizes = Sizes()
    return place(graph, labels, sizes), labels, sizes


@given(graphs())
@settings(max_examples=150, deadline=None)
def test_boxes_and_labels_lie_apart_and_inside(graph: Graph) -> None:
    layout, labels, sizes = lay_out(graph)
    areas = [
        (x - sizes.box_width / 2, y - sizes.box_height / 2, sizes.box_width, sizes.box_height)
        for x, y in layout.boxes.values()
    ]
    for index, width in labels.items():
        at = layout.routes[index].label
        assert at is not None
        areas.append((at[0] - width / 2, at[1] - 10, width, 20.0))
    for x, y, width, height in areas:
        assert x >= 0
        assert x + width <= layout.width
        assert y >= 0
        assert y + height <= layout.height
    for (x0, y0, w0, h0), (x1, y1, w1, h1) in combinations(areas, 2):
        assert x0 + w0 <= x1 or x1 + w1 <= x0 or y0 + h0 <= y1 or y1 + h1 <= y0


@given(graphs())
@settings(max_examples=150, deadline=None)
def test_paths_lead_from_box_to_box_and_always_onwards(graph: Graph) -> None:
    layout, _, sizes = lay_out(graph)
    along = 1 if layout.downwards else 0
    half = (sizes.box_width, sizes.box_height)[along] / 2
    for edge in graph.edges:
        points = layout.routes[edge.index].points
        assert len(points) % 2 == 0
        assert points[0][along] == pytest.approx(layout.boxes[edge.source][along] + half)
        assert points[-1][along] == pytest.approx(layout.boxes[edge.target][along] - half)
        progress = [point[along] for point in points]
        assert progress == sorted(progress)
        across = 1 - along
        side = (sizes.box_width, sizes.box_height)[across] / 2
        assert abs(points[0][across] - layout.boxes[edge.source][across]) < side
        assert abs(points[-1][across] - layout.boxes[edge.target][across]) < side


@given(graphs())
@settings(max_examples=100, deadline=None)
def test_straight_parts_pass_beside_boxes(graph: Graph) -> None:
    layout, _, sizes = lay_out(graph)
    for route in layout.routes.values():
        for (x0, y0), (x1, y1) in list(zip(route.points, route.points[1:], strict=False))[1::2]:
            for x, y in layout.boxes.values():
                inside_x = x - sizes.box_width / 2 < (x0 + x1) / 2 < x + sizes.box_width / 2
                inside_y = y - sizes.box_height / 2 < (y0 + y1) / 2 < y + sizes.box_height / 2
                assert not (inside_x and inside_y)


@given(graphs(), st.data())
@settings(max_examples=60, deadline=None)
def test_every_graph_gives_a_document_with_all_its_steps(graph: Graph, data: st.DataObject) -> None:
    states = data.draw(
        st.dictionaries(st.sampled_from(list(graph.nodes)), st.sampled_from(sorted(STATUSES)))
    )
    decisions = data.draw(st.dictionaries(st.integers(0, len(graph.edges)), st.booleans()))
    root = parse(draw_svg(graph, states=states, decisions=decisions))
    assert set(drawn_steps(root)) == set(graph.nodes)
    assert set(drawn_transitions(root)) == {edge.index for edge in graph.edges}
    assert draw_mermaid(graph, states).count("\n") >= len(graph.nodes) + len(graph.edges)
    assert draw_dot(graph, states).count(" -> ") == len(graph.edges)


def test_a_narrow_graph_runs_down_and_a_wide_one_to_the_right() -> None:
    narrow = make_graph(["a", "b", "c"], [("a", "b"), ("b", "c")])
    wide = make_graph(["a", *middles(12)], [("a", step_id) for step_id in middles(12)])
    assert lay_out(narrow)[0].downwards
    assert not lay_out(wide)[0].downwards


def test_a_run_that_goes_on_leaves_everything_where_it_is(choice: Graph) -> None:
    def measure(states: dict[str, str], decisions: dict[int, bool]) -> list[Any]:
        root = parse(draw_svg(choice, states=states, decisions=decisions))
        steps = {step: group.get("transform") for step, group in drawn_steps(root).items()}
        labels = [
            (rect.get("x"), rect.get("y"), rect.get("width"))
            for rect in root.iter(f"{SVG}rect")
            if rect.get("rx") == "10"
        ]
        return [root.get("viewBox"), steps, labels]

    indices = [edge.index for edge in choice.edges]
    begun = measure({}, {})
    assert begun == measure(dict.fromkeys(choice.nodes, "succeeded"), dict.fromkeys(indices, True))
    assert begun == measure(dict.fromkeys(choice.nodes, "failed"), dict.fromkeys(indices, False))


def test_steps_are_links_if_a_page_says_where_to(choice: Graph) -> None:
    svg = draw_svg(choice, states={}, links=lambda step_id: f'/s/{step_id}?"<a>', has_style=False)
    root = parse(svg)
    links = {link.get("data-step"): link for link in root.iter(f"{SVG}a")}
    assert set(links) == set(choice.nodes)
    for step_id, link in links.items():
        assert link.get("href") == f'/s/{step_id}?"<a>'
        assert step_id in (link.get("aria-label") or "")
    assert root.find(f"{SVG}style") is None
    assert root.get("role") == "group"


def test_a_note_stands_in_the_place_of_the_id() -> None:
    graph = make_graph({"a": {"name": "Each"}}, [])
    svg = draw_svg(graph, states={"a": "running"}, notes={"a": "3 of 9 <items>"})
    assert "3 of 9 <items>" in texts(drawn_steps(parse(svg))["a"])


def test_two_thousand_steps_take_seconds() -> None:
    rows, size = 20, 2000
    ids = list(middles(size))
    links: list[Link] = []
    for k in range(1, size):
        links.append((ids[max(0, k - rows)], ids[k]))
        if k % 3 == 0 and k > rows * 4:
            links.append((ids[k - rows * 4], ids[k], {"on": "failure"}))
    graph = make_graph(ids, links)
    begin = time.perf_counter()
    root = parse(draw_svg(graph, states=dict.fromkeys(ids, "succeeded")))
    assert time.perf_counter() - begin < 8
    assert len(drawn_steps(root)) == size


def test_a_chain_that_is_crossed_by_long_transitions_stays_drawable() -> None:
    """600 steps in a row and a transition from each to the last but few: 170,000 bends."""
    ids = list(middles(600))
    links: list[Link] = [(a, b) for a, b in pairwise(ids)]
    links += [(ids[k], ids[-1], {"on": "failure"}) for k in range(590)]
    begin = time.perf_counter()
    root = parse(draw_svg(make_graph(ids, links)))
    assert time.perf_counter() - begin < 20
    assert len(drawn_transitions(root)) == len(links)


# --- the other two languages


def test_mermaid_quotes_what_it_would_read() -> None:
    graph = make_graph(
        {
            "end": {"name": 'A "quoted" [name] #1 <b>'},
            "b": {"type": "wait", "config": {"seconds": 1}},
        },
        [("end", "b", {"condition": "result.n > 1"}), ("end", "b", {"on": "failure"})],
    )
    assert draw_mermaid(graph, {"end": "failed"}).splitlines() == [
        "flowchart TD",
        '    s0["A #34;quoted#34; #91;name#93; #35;1 #60;b#62;<br/>end<br/>failed"]:::failed',
        '    s1{{"b<br/>pending"}}:::pending',
        '    s0 -->|"if result.n #62; 1"| s1',
        '    s0 -.->|"on failure"| s1',
        "    classDef failed fill:#fdeaea,stroke:#cf3434,color:#a01d1d",
        "    classDef pending fill:#ffffff,stroke:#b4bccb,color:#596275",
    ]


def test_dot_quotes_what_it_would_read() -> None:
    graph = make_graph(
        {"a": {"name": 'A "quoted" \\n name'}, "b": {}}, [("a", "b", {"on": "failure"})]
    )
    lines = draw_dot(graph, {"a": "skipped"}).splitlines()
    assert lines[0] == 'digraph "Drawn" {'
    assert '"a" [label="A \\"quoted\\" \\\\n name\\na\\nskipped"' in lines[3]
    assert 'style="rounded,filled,dashed"' in lines[3]
    assert lines[5] == '    "a" -> "b" [label="on failure", style=dashed];'
    assert lines[-1] == "}"


def test_a_foreach_is_told_in_every_language() -> None:
    graph = make_graph({"a": {"foreach": {"items": [1, 2]}}, "b": {}}, [("a", "b")])
    assert '    s0["a<br/>for each item"]' in draw_mermaid(graph)
    assert 'label="a\\nfor each item"' in draw_dot(graph)
    assert "for each item" in draw_svg(graph)


# --- words


@pytest.mark.parametrize(
    ("condition", "words"),
    (
        ("always", ""),
        (None, ""),
        ("otherwise", "otherwise"),
        ("parameter:fast", "fast"),
        ("result.n > 1", "result.n > 1"),
        (
            {"type": "expression", "config": {"source": "a.n", "operator": "lte", "value": 5}},
            "a.n ≤ 5",
        ),
        (
            {
                "type": "expression",
                "config": {"source": "a.n", "operator": "not_in", "value": [1, "x"]},
            },
            'a.n not in [1, "x"]',
        ),
        (
            {
                "type": "expression",
                "config": {"source": "a.n", "operator": "==", "value_source": "parameters.m"},
            },
            "a.n = parameters.m",
        ),
        ({"type": "expression", "config": {"source": "a", "operator": "is_null"}}, "a is null"),
        (
            {
                "type": "any",
                "conditions": [
                    {"type": "all", "conditions": ["a.x == 1", "b.y"]},
                    {"type": "not", "condition": "a.z and b.y"},
                ],
            },
            "(a.x == 1 and b.y) or not (a.z and b.y)",
        ),
        ({"type": "function", "config": {"module": "m", "function": "is_new"}}, "is_new()"),
        (
            {
                "type": "agent",
                "config": {"service": "s", "question": "?", "choices": ["a"], "choice": "a"},
            },
            "the agent says a",
        ),
        ({"type": "unheard of"}, '{"type": "unheard of"}'),
    ),
)
def test_conditions_in_words(condition: Any, words: str) -> None:
    assert describe_condition(condition) == words


def test_abbreviated_words_leave_out_whose_output_it_is() -> None:
    words = "if result.n > score.n and other.n == 'result.n' and parameters.x"
    assert abbreviate(words, "score") == "if n > n and other.n == 'result.n' and x"


@given(st.text(), st.floats(1, 500), st.floats(8, 20))
def test_shortened_text_fits(text: str, width: float, size: float) -> None:
    shortened = shorten(text, width, size)
    assert shortened == text or "…" in shortened
    assert text_width(shortened, size) <= max(width, size) + 0.001


@given(st.text())
def test_cleaned_text_is_one_line_of_xml(text: str) -> None:
    parse(f"<a>{clean(text).translate({38: None, 60: None})}</a>")
    assert "\n" not in clean(text)
