"""Pipelines over HTTP: imported, judged, compared, drawn, at rest; and who sees them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from iaflow.pipeline.check import compile_definition
from iaflow.pipeline.drawing import draw_svg
from tests.web.people import People, approval

WRONG = {**approval("wrong-v1"), "flow": {"start_at": "aks", "transitions": []}}


def send(asker: Any, definition: Any, path: str = "") -> Any:
    return asker.post(f"/api/v1/pipelines{path}", {"definition": definition})


def test_an_import_makes_a_version_once(people: People) -> None:
    author, slug = people.person("author"), people.name("greet")
    first = send(author, approval(slug))
    assert first.status_code == 201
    told = first.json()
    assert (told["is_new"], told["pipeline"]["number"], told["warnings"]) == (True, 1, [])
    again = send(author, approval(slug))
    assert (again.status_code, again.json()["is_new"]) == (200, False)
    assert again.json()["pipeline"] == told["pipeline"]
    changed = send(author, approval(slug, quorum=2))
    assert (changed.status_code, changed.json()["pipeline"]["number"]) == (201, 2)
    versions = author.read(f"/api/v1/pipelines/{slug}/versions")["items"]
    assert [one["number"] for one in versions] == [2, 1]
    first_one = author.read(f"/api/v1/pipelines/{slug}/versions/1")
    assert first_one["content_hash"] == told["pipeline"]["content_hash"]
    assert first_one["definition"] == approval(slug)
    admin = people.person("admin")
    audited = admin.read("/api/v1/audit", target=slug)["items"]
    assert [one["detail"]["number"] for one in audited] == [2, 1]


def test_numbers_stay_as_they_are_written(people: People) -> None:
    """1.0 is not 1, and what is big stays whole: the text decides which version it is."""
    author, slug = people.person("author"), people.name("numbers")
    text = json.dumps({**approval(slug), "parameters": {"amount": "@"}})
    for written, kept in (("1", "1"), ("1.0", "1.0"), ("9007199254740993", "9007199254740993")):
        body = '{"definition": ' + text.replace('"@"', written) + "}"
        headers = {"Content-Type": "application/json"}
        replied = author("POST", "/api/v1/pipelines", content=body, headers=headers)
        assert replied.status_code == 201, replied.text
        same = compile_definition(text.replace('"@"', written)).definition.content_hash
        assert replied.json()["pipeline"]["content_hash"] == same
        shown = author.get(f"/api/v1/pipelines/{slug}").text
        assert f'"amount":{kept}' in shown.replace(" ", "")


def test_a_definition_that_is_refused_tells_every_finding(people: People) -> None:
    author = people.person("author")
    replied = send(author, WRONG)
    assert (replied.status_code, replied.json()["code"]) == (422, "definition_refused")
    [problem] = [one for one in replied.json()["problems"] if one["code"] == "step_unknown"]
    assert problem["pointer"] == "/flow/start_at"
    assert "ask" in problem["hint"]
    judged = send(author, WRONG, "/validate")
    assert judged.status_code == 200
    assert judged.json()["ok"] is False
    assert judged.json()["errors"] == replied.json()["problems"]
    assert author.get("/api/v1/pipelines/wrong-v1").status_code == 404


def test_a_judgement_writes_nothing(people: People) -> None:
    author, slug = people.person("author"), people.name("judged")
    assert send(author, approval(slug), "/validate").json() == {
        "ok": True,
        "errors": [],
        "warnings": [],
    }
    assert author.get(f"/api/v1/pipelines/{slug}").status_code == 404


def test_steps_of_a_class_need_not_be_here(people: People) -> None:
    """The web imports no step's code: whether it is there is known by the workers."""
    step = {"id": "ask", "module": "nowhere.to_be_found", "step_class": "Nothing"}
    definition = {**approval(people.name("code")), "steps": [step]}
    assert send(people.person("author"), definition).status_code == 201


@pytest.mark.parametrize(
    ("body", "status", "code"),
    (
        ('{"definition": {"a": 1, "a": 2}}', 422, "body_refused"),
        ('{"definition": {"a": NaN}}', 422, "body_refused"),
        ('{"definition": {"a": "\\ud800"}}', 422, "body_refused"),
        ('{"definition": ' + "[" * 70 + "]" * 70 + "}", 422, "body_refused"),
        ('{"definition": []}', 422, "body_refused"),
        ('{"definition": {}, "slug": "x"}', 422, "body_refused"),
        ("{}", 422, "body_refused"),
        ("", 422, "body_refused"),
        ('{"definition": {"name": "' + "x" * 1_200_000 + '"}}', 413, "body_too_large"),
    ),
)
def test_a_body_that_is_no_definition(people: People, body: str, status: int, code: str) -> None:
    author = people.person("author")
    for path in ("/api/v1/pipelines", "/api/v1/pipelines/validate"):
        headers = {"Content-Type": "application/json"}
        replied = author("POST", path, content=body, headers=headers)
        assert (replied.status_code, replied.json()["code"]) == (status, code)


def test_an_author_writes_in_sight_alone(people: People) -> None:
    author = people.person("author", pipelines=("mine-*",))
    slug = people.keep(approval(people.name("theirs")))
    for name in (slug, people.name("new")):
        replied = send(author, approval(name, quorum=3))
        assert (replied.status_code, replied.json()["code"]) == (403, "not_allowed")
    assert people.web.client.pipeline(slug).number == 1
    assert send(author, approval(people.name("mine"))).status_code == 201


@pytest.mark.parametrize("role", ("viewer", "operator", "approver"))
def test_only_authors_write(people: People, role: str) -> None:
    someone = people.person(role)
    for path in ("", "/validate"):
        assert send(someone, approval(people.name("x")), path).status_code == 403


def test_what_is_out_of_sight_is_not_there(people: People) -> None:
    slug = people.keep(approval(people.name("seen")))
    admin = people.person("admin", pipelines=("other-*",))
    for method, path in (
        ("GET", ""),
        ("GET", "/versions"),
        ("GET", "/versions/1"),
        ("GET", "/diff?from=1&to=1"),
        ("GET", "/graph.svg"),
        ("POST", "/pause"),
        ("POST", "/resume"),
    ):
        foreign = admin(method, f"/api/v1/pipelines/{slug}{path}")
        absent = admin(method, f"/api/v1/pipelines/no-such-thing{path}")
        assert foreign.status_code == absent.status_code == 404, path
        told = [one.json()["detail"] for one in (foreign, absent)]
        assert told[0].replace(slug, "") == told[1].replace("no-such-thing", "")
        for odd in ("%00", "a%2f..", "x" * 500, "%f0%9f%92%a9"):
            assert admin(method, f"/api/v1/pipelines/{odd}{path}").status_code == 404, odd
    assert slug not in admin.get("/api/v1/pipelines").text
    assert people.web.client.pipeline(slug).is_paused is False


def test_pipelines_are_listed_page_by_page(people: People) -> None:
    prefix = people.name("listed")
    slugs = [people.keep(approval(f"{prefix}-{at}")) for at in range(5)]
    viewer = people.person("viewer", pipelines=(f"{prefix}-*",))
    pages = list(viewer.pages("/api/v1/pipelines", limit=2))
    assert [one["slug"] for page in pages for one in page] == slugs
    assert "definition" not in pages[0][0]
    for at in range(3):
        people.keep(approval(slugs[0], quorum=at + 2))
    pages = list(viewer.pages(f"/api/v1/pipelines/{slugs[0]}/versions", limit=3))
    assert [[one["number"] for one in page] for page in pages] == [[4, 3, 2], [1]]
    replied = viewer.get(f"/api/v1/pipelines/{slugs[0]}/versions", params={"cursor": "x"})
    assert (replied.status_code, replied.json()["code"]) == (422, "cursor_invalid")
    foreign = viewer.read("/api/v1/pipelines", limit=2)["next"]
    replied = viewer.get(f"/api/v1/pipelines/{slugs[0]}/versions", params={"cursor": foreign})
    assert replied.json()["code"] == "cursor_invalid"


def test_versions_are_compared_by_meaning(people: People) -> None:
    slug = people.keep(approval(people.name("compared"), quorum=3))
    people.keep(approval(slug, quorum=2))
    viewer = people.person("viewer")
    told = viewer.read(f"/api/v1/pipelines/{slug}/diff", **{"from": 1, "to": 2})
    assert (told["from_number"], told["to_number"]) == (1, 2)
    [one] = told["differences"]
    assert (one["kind"], one["subject"], one["name"]) == ("changed", "step", "ask")
    assert (
        viewer.read(f"/api/v1/pipelines/{slug}/diff", **{"from": 2, "to": 2})["differences"] == []
    )
    for query in ("", "?from=1", "?from=0&to=1", "?from=x&to=1", "?from=1&to=99999999999999"):
        assert viewer.get(f"/api/v1/pipelines/{slug}/diff{query}").status_code == 422
    for odd in ("0", "-1", "99", "x", "1.0", "9" * 40, "%00"):
        assert viewer.get(f"/api/v1/pipelines/{slug}/versions/{odd}").status_code == 404, odd


def test_a_pipeline_at_rest_is_started_by_nobody(people: People) -> None:
    slug = people.keep(approval(people.name("resting")))
    operator = people.person("operator")
    for _ in range(2):
        replied = operator.post(f"/api/v1/pipelines/{slug}/pause")
        assert (replied.status_code, replied.json()["is_paused"]) == (200, True)
    started = operator.post(f"/api/v1/pipelines/{slug}/runs", {"input": {}})
    assert (started.status_code, started.json()["code"]) == (409, "conflict")
    assert operator.post(f"/api/v1/pipelines/{slug}/resume").json()["is_paused"] is False
    assert operator.post(f"/api/v1/pipelines/{slug}/runs", {"input": {}}).status_code == 201
    for role in ("viewer", "author", "approver"):
        assert people.person(role).post(f"/api/v1/pipelines/{slug}/pause").status_code == 403


def test_a_drawing_is_a_file_that_can_do_nothing(people: People) -> None:
    slug = people.keep(approval(people.name("drawn")))
    replied = people.person("viewer").get(f"/api/v1/pipelines/{slug}/graph.svg")
    assert replied.status_code == 200
    assert replied.headers["content-type"] == "image/svg+xml"
    assert replied.headers["content-disposition"] == f'attachment; filename="{slug}.svg"'
    policy = replied.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "sandbox" in policy
    assert replied.headers["x-content-type-options"] == "nosniff"
    document = people.web.client.pipeline(slug).document
    assert replied.text == draw_svg(compile_definition(document))
