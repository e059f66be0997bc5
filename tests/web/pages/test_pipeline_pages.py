"""Pipelines as pages: listed, drawn, compared, and the form that starts one."""

from __future__ import annotations

from typing import Any

from tests.web.pages.payloads import PAYLOADS
from tests.web.pages.reading import page_of, text_of, texts_of
from tests.web.people import People, approval


def with_input(slug: str, schema: Any, **parameters: Any) -> dict[str, Any]:
    return {**approval(slug), "parameters": {"amount": 1.0, **parameters}, "input_schema": schema}


def control(page: Any, name: str) -> Any:
    [found] = page.xpath(f'//form[@id="start-form"]//*[@data-field="{name}"]')
    return found


# --- who sees what


def test_pipelines_are_for_those_who_may_read_them(people: People) -> None:
    slug = people.keep(approval(people.name("seen")))
    for path in ("/pipelines", f"/pipelines/{slug}"):
        for role in ("viewer", "operator", "author", "admin"):
            assert slug in text_of(page_of(people.person(role).get(path, params={"q": slug})))
        page_of(people.person("approver").get(path), 403)
        assert people.nobody().get(path).status_code == 303


def test_what_is_out_of_sight_is_as_if_it_were_not(people: People) -> None:
    slug = people.keep(approval(people.name("hidden")))
    far = people.person("operator", pipelines=("foreign-*",))
    unseen, absent = (far.get(f"/pipelines/{one}") for one in (slug, "no-such-pipeline"))
    assert text_of(page_of(unseen, 404), "//h1") == text_of(page_of(absent, 404), "//h1")
    assert slug not in text_of(page_of(far.get("/pipelines")))
    page_of(people.person("viewer").get(f"/pipelines/{slug}?version=99"), 404)


def test_deeds_are_offered_to_those_who_may(people: People) -> None:
    slug = people.keep(approval(people.name("deeds")))
    offered = {}
    for role in ("viewer", "operator", "author", "admin"):
        page = page_of(people.person(role).get(f"/pipelines/{slug}"))
        listed = page_of(people.person(role).get("/pipelines"))
        offered[role] = (
            bool(page.xpath('//form[@id="start-form"]')),
            bool(page.xpath(f'//button[@data-path="/api/v1/pipelines/{slug}/pause"]')),
            bool(listed.xpath('//form[@id="import-form"]')),
        )
    assert offered == {
        "viewer": (False, False, False),
        "operator": (True, True, False),
        "author": (True, False, True),
        "admin": (True, True, True),
    }


# --- the list


def test_the_list_is_searched_and_goes_on_page_by_page(people: People) -> None:
    word = people.name("needle")
    slugs = sorted(people.keep(approval(f"{word}-{at:03d}")) for at in range(55))
    viewer = people.person("viewer")
    first = page_of(viewer.get("/pipelines", params={"q": word.upper()}))
    links = (
        '//tbody//a[starts-with(@href, "/pipelines/") and not(contains(@class, "button"))]/@href'
    )
    shown = first.xpath(links)
    [more] = first.xpath('//a[@rel="next"]/@href')
    shown += page_of(viewer.get(more)).xpath(links)
    assert [one.rpartition("/")[2] for one in shown] == slugs
    assert "Nothing is called that" in text_of(page_of(viewer.get("/pipelines?q=no+such+words")))


def test_an_empty_list_says_how_it_is_filled(people: People) -> None:
    page = page_of(people.person("author", pipelines=("nothing-at-all",)).get("/pipelines"))
    assert "No pipelines yet" in text_of(page)
    assert "iaflow import" in text_of(page)


def test_the_last_run_is_told(people: People) -> None:
    pause = people.ask()
    page = page_of(people.person("viewer").get("/pipelines", params={"q": pause.slug}))
    assert page.xpath(f'//a[@href="/runs/{pause.run_id}"]//*[@data-status="waiting"]')


# --- one pipeline


def test_a_pipeline_is_drawn_and_told(people: People) -> None:
    pause = people.ask()
    page = page_of(people.person("viewer").get(f"/pipelines/{pause.slug}"))
    assert page.xpath('//svg//*[@data-step="ask"]')
    assert '"start_at": "ask"' in text_of(page, "//pre")
    assert page.xpath(f'//a[@href="/runs/{pause.run_id}"]')


def test_a_paused_one_cannot_be_started(people: People) -> None:
    slug = people.keep(approval(people.name("paused")))
    operator = people.person("operator")
    assert operator.post(f"/api/v1/pipelines/{slug}/pause").status_code == 200
    page = page_of(operator.get(f"/pipelines/{slug}"))
    assert "nothing starts it" in text_of(page, '//section[@id="start"]')
    assert not page.xpath('//form[@id="start-form"]')
    assert page.xpath(f'//button[@data-path="/api/v1/pipelines/{slug}/resume"]')


def test_versions_are_compared_in_words_and_values(people: People) -> None:
    slug = people.name("versions")
    people.keep(approval(slug))
    people.keep({**approval(slug, quorum=2), "parameters": {"amount": 2.5}, "version": "2"})
    viewer = people.person("viewer")
    page = page_of(viewer.get(f"/pipelines/{slug}?from=1&to=2"))
    told = text_of(page, '//*[@id="diff"]')
    assert "changed Pipeline: parameters.amount before 1.0after 2.5" in told
    assert "added Step ask: config.quorum after 2" in told
    back = text_of(page_of(viewer.get(f"/pipelines/{slug}?from=2&to=1")), '//*[@id="diff"]')
    assert "removed Step ask: config.quorum before 2" in back
    same = text_of(page_of(viewer.get(f"/pipelines/{slug}?from=1&to=1")), '//*[@id="diff"]')
    assert "They mean the same" in same
    older = page_of(people.person("admin").get(f"/pipelines/{slug}?version=1"))
    assert "older version" in text_of(older)
    assert not older.xpath('//form[@id="start-form"]')


# --- the start form


def test_parameters_without_a_schema_are_asked_by_their_defaults(people: People) -> None:
    definition = approval(people.name("bare"), show={})
    definition["parameters"] = {
        "number": 1.0,
        "whole": 3,
        "text": "a",
        "lines": "a\nb",
        "flag": True,
        "list": [1.0],
        "nothing": None,
    }
    page = page_of(people.person("admin").get(f"/pipelines/{people.keep(definition)}"))
    kinds = {name: control(page, name).get("data-kind") for name in definition["parameters"]}
    assert kinds == {
        "number": "number",
        "whole": "number",
        "text": "text",
        "lines": "textarea",
        "flag": "checkbox",
        "list": "json",
        "nothing": "json",
    }
    assert control(page, "number").get("value") == "1.0"
    assert control(page, "flag").get("checked") is not None
    assert page.xpath('//*[@id="input-more"]')


def test_a_schema_makes_the_form(people: People) -> None:
    schema = {
        "type": "object",
        "required": ["who", "kind"],
        "additionalProperties": False,
        "$defs": {"day": {"type": "string", "format": "date", "title": "The day"}},
        "properties": {
            "who": {"type": "string", "minLength": 2, "maxLength": 30, "pattern": "^[a-z]+$",
                    "description": "Small letters", "examples": ["ann"]},
            "kind": {"enum": ["a", "b", 3, True]},
            "many": {"enum": ["1", "2", "3", "4", "5"]},
            "count": {"type": "integer", "exclusiveMinimum": 0, "maximum": 9},
            "mail": {"type": ["string", "null"], "format": "email"},
            "day": {"$ref": "#/$defs/day"},
            "tags": {"type": "array", "uniqueItems": True, "items": {"enum": ["x", "y"]}},
            "address": {"type": "object", "properties": {"street": {"type": "string"}}},
            "amount": {"type": "number"},
            "yes": {"type": "boolean"},
        },
    }  # fmt: skip
    slug = people.keep(with_input(people.name("typed"), schema))
    page = page_of(people.person("operator").get(f"/pipelines/{slug}"))
    kinds = {one.get("data-field"): one.get("data-kind") for one in page.xpath("//*[@data-kind]")}
    assert kinds == {
        "who": "text", "kind": "radio", "many": "select", "count": "integer", "mail": "email",
        "day": "date", "tags": "multiselect", "address": "json", "amount": "number",
        "yes": "boolean",
    }  # fmt: skip
    who = control(page, "who")
    assert [who.get(name) for name in ("minlength", "maxlength", "pattern", "placeholder")] == [
        *("2", "30", "[a-z]+", "ann"),
    ]
    assert who.get("required") is not None
    assert "Small letters" in text_of(page, '//form[@id="start-form"]')
    assert [control(page, "count").get(name) for name in ("min", "max")] == ["1", "9"]
    assert control(page, "kind").xpath(".//input/@value") == ['"a"', '"b"', "3", "true"]
    assert "The day" in text_of(page, '//form[@id="start-form"]')
    assert not page.xpath('//*[@id="input-more"]')  # nothing else is taken


# --- texts of others


def test_texts_of_others_are_texts(people: People) -> None:
    admin = people.person("admin")
    for payload in PAYLOADS:
        slug = people.name("payload")
        definition = approval(slug)
        definition["steps"][0] |= {"name": payload, "description": payload}
        schema = {
            "properties": {
                "p": {"type": "string", "title": payload, "description": payload},
                "e": {"enum": [payload, "b"]},
                payload: {"type": "string", "examples": [payload]},
            }
        }
        definition |= {"name": payload, "description": payload, "version": "1"}
        definition |= {"parameters": {"amount": payload}, "input_schema": schema}
        people.keep(definition)
        people.keep(
            {**definition, "parameters": {"amount": [payload]}, "description": f"{payload}2"}
        )
        page = page_of(admin.get(f"/pipelines/{slug}?from=1&to=2"))
        wanted = payload.replace("\r\n", "\n").strip()
        found = sum(1 for text in texts_of(page) if wanted in text)
        assert found >= 8, (payload, found)
        listed = page_of(admin.get("/pipelines", params={"q": slug}))
        assert sum(1 for text in texts_of(listed) if wanted in text) >= 2, payload
        searched = page_of(admin.get("/pipelines", params={"q": payload}))
        assert searched.xpath('//input[@id="q"]/@value') == [payload]
