"""What all pages have in common: who sees them, how refusals look, files, and what is escaped."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from urllib.parse import quote, unquote

import httpx2
import pytest
from fastapi import FastAPI
from hatchling.builders.wheel import WheelBuilder
from lxml import html

from iaflow.data.accounts import ROLES, Permission, permissions_of
from iaflow.pipeline.drawing.palette import DARK, LIGHT
from iaflow.web.pages import ROUTERS
from iaflow.web.pages.frame import PageRoute, find_next
from iaflow.web.policies import policy_of
from iaflow.web.ui.assets import load_assets
from iaflow.web.ui.environment import build_environment
from tests.servers.worker import ROOT
from tests.web.pages.payloads import PAYLOADS
from tests.web.pages.reading import page_of, require_safe, text_of, texts_of
from tests.web.webs import USERS, Visitor, Web

PUBLIC, SIGNED_IN = "public", "signed in"

POLICIES = {
    "/": SIGNED_IN,
    "/account": SIGNED_IN,
    "/inbox": "pauses:answer",
    "/inbox/{pause_id}": SIGNED_IN,
    "/pipelines": "pipelines:read",
    "/pipelines/{slug}": "pipelines:read",
    "/runs": "runs:read",
    "/runs/{run_id}": "runs:read",
    "/runs/{run_id}/steps/{step_id}": "runs:read",
    "/schedules": "schedules:read",
    "/schedules/{name}": "schedules:read",
    "/setup": PUBLIC,
    "/sign-in": PUBLIC,
    "/static/{digest}/{name}": PUBLIC,
    "/users": "users:manage",
    "/users/{name}": "users:manage",
    "/workers": "metrics:read",
}
"""Who may see each page, written here by hand, so that another policy is noticed."""

ROUTES = {str(getattr(route, "path", "")): route for router in ROUTERS for route in router.routes}
PLAIN = sorted(path for path in ROUTES if "{" not in path)
NAMED = sorted(path for path in ROUTES if "{" in path and "static" not in path)


def test_every_page_has_the_policy_that_is_written_here() -> None:
    for path, route in ROUTES.items():
        assert isinstance(route, PageRoute), path
        assert route.methods == {"GET", "HEAD"}, f"{path}: pages change nothing"
        policy = policy_of(route)
        assert policy is not None
        word = PUBLIC if policy.is_public else SIGNED_IN
        assert POLICIES[path] == (str(policy.permission) if policy.permission else word), path


@pytest.mark.parametrize("path", PLAIN)
def test_a_page_is_for_those_who_may(web: Web, path: str) -> None:
    policy = POLICIES[path]
    for name, (roles, _) in USERS.items():
        may = policy in (PUBLIC, SIGNED_IN) or Permission(policy) in permissions_of(roles)
        reply = web.user(name).get(path)
        if path == "/sign-in":
            assert (reply.status_code, reply.headers["location"]) == (303, "/")
        elif may:
            page = page_of(reply)
            assert page.xpath("//html/@lang") == ["en"]
            assert len(page.xpath("//h1")) == 1
            assert len(page.xpath("//main[@id='main']")) == 1
        else:
            page = page_of(reply, 403)
            assert policy in text_of(page)
            assert web.audited("permission.refused")[0].target == path
        head = web.user(name).ask("HEAD", path)
        assert (head.status_code, head.content) == (reply.status_code, b"")


@pytest.mark.parametrize("path", PLAIN + NAMED)
def test_who_has_not_signed_in_is_sent_to_do_so(web: Web, path: str) -> None:
    asked = re.sub(r"\{.*?\}", "some-thing", path)
    reply = web.nobody.get(asked, x="1 & 2")
    if POLICIES[path] == PUBLIC:
        page_of(reply)
        return
    assert reply.status_code == 303
    place, _, query = reply.headers["location"].partition("?")
    assert place == "/sign-in"
    if path != "/":
        assert unquote(query.removeprefix("next=")) == f"{asked}?x=1+%26+2".replace("+", "%20") or (
            unquote(query.removeprefix("next=")).startswith(f"{asked}?x=1")
        )
    stale = Visitor(web, "", {"Cookie": f"{web.sessions.cookie_name}={'A' * 43}"})
    assert stale.get(asked).status_code == 303


@pytest.mark.parametrize("path", NAMED)
def test_what_is_not_there_is_a_page_too(web: Web, path: str) -> None:
    """And the same for whoever may ask: what is out of sight, and what never was."""
    for text in ("no-such-thing", "01a232a8-0777-735c-911f-633cf26b7d3b", "x" * 500, "%00"):
        asked = re.sub(r"\{.*?\}", text, path)
        page = page_of(web.user("adele").get(asked), 404)
        assert "There is nothing here" in text_of(page)


def test_the_route_decides_whether_a_refusal_is_a_page(web: Web) -> None:
    as_browser = {"Accept": "text/html,application/xhtml+xml"}
    as_program = {"Accept": "application/json"}
    paula = web.user("paula")
    for headers in (as_browser, as_program):
        for path, status in (("/api/v1/runs", 403), ("/api/v1/users/nobody-there", 403)):
            reply = paula.ask("GET", path, headers=headers)
            assert reply.headers["content-type"] == "application/problem+json"
            assert reply.status_code == status
        page_of(paula.ask("GET", "/runs", headers=headers), 403)
        reply = web.nobody.ask("GET", "/api/v1/runs", headers=headers)
        assert (reply.status_code, reply.json()["code"]) == (401, "not_signed_in")


def test_pages_take_no_change(web: Web) -> None:
    for path in PLAIN:
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            reply = web.user("adele").ask(method, path)
            assert reply.status_code == 405, (method, path)


@pytest.mark.parametrize(
    "given",
    (
        "//evil.example",
        "/\\evil.example",
        "/\t/evil.example",
        "/ /evil.example",
        "\\\\evil.example",
        "https://evil.example/",
        "javascript:alert(1)",
        "data:text/html,x",
        "evil.example",
        "/x\r\nSet-Cookie: a=b",
        "/\u0000",
        "",
        "/" + "x" * 3000,
    ),
)
def test_a_sign_in_leads_to_no_other_host(web: Web, given: str) -> None:
    assert find_next(given) == "/"
    if "\x00" not in given:
        page = page_of(web.nobody.get("/sign-in", next=given))
        assert page.xpath("//form/@data-then-exactly") == ["/"]
        assert web.user("adele").get("/sign-in", next=given).headers["location"] == "/"


def test_a_sign_in_leads_back(web: Web) -> None:
    page = page_of(web.nobody.get("/sign-in", next="/runs?status=failed"))
    assert page.xpath("//form/@data-then-exactly") == ["/runs?status=failed"]
    for other in ("//a", "/a//b", "/runs?next=//evil"):
        assert find_next(other) == ("/" if other == "//a" else other)


def test_a_page_has_its_session_s_token_and_nothing_is_kept(web: Web) -> None:
    otto = web.user("otto")
    assert otto.signed_in is not None
    page = page_of(otto.get("/"))
    assert page.xpath("//meta[@name='csrf-token']/@content") == [otto.signed_in.csrf_token]
    assert page_of(web.nobody.get("/sign-in")).xpath("//meta[@name='csrf-token']/@content") == [""]
    # A program sees pages too, and needs no such token.
    page = page_of(web.token("otto", "runs:read").get("/runs"))
    assert page.xpath("//meta[@name='csrf-token']/@content") == [""]


def test_the_navigation_has_what_one_may(web: Web) -> None:
    for name, (roles, _) in USERS.items():
        links = page_of(web.user(name).get("/")).xpath("//nav[@id='nav']//li/a/@href")
        for path in ("/inbox", "/runs", "/pipelines", "/schedules", "/workers", "/users"):
            may = Permission(POLICIES[path]) in permissions_of(roles)
            assert (path in links) == may, (name, path)


# --- files


def test_files_are_kept_for_ever_under_the_name_of_their_content(web: Web) -> None:
    assets = load_assets()
    assert {"app.css", "app.js", "palette.css", "scheme.js", "icon.svg"} <= set(assets.files)
    for name, asset in assets.files.items():
        reply = web.nobody.get(f"/static/{assets.digest}/{name}")
        assert (reply.status_code, reply.content) == (200, asset.body)
        assert reply.headers["content-type"] == asset.media_type
        assert reply.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert reply.headers["x-content-type-options"] == "nosniff"
        tag = {"If-None-Match": reply.headers["etag"]}
        again = web.nobody.ask("GET", f"/static/{assets.digest}/{name}", headers=tag)
        assert (again.status_code, again.content) == (304, b"")
        old = web.nobody.get(f"/static/0123456789abcdef/{name}")
        assert (old.content, old.headers["cache-control"]) == (asset.body, "no-cache")


@pytest.mark.parametrize(
    "name",
    (
        "nothing.js",
        "../app.css",
        "..%2fenvironment.py",
        "%2e%2e%2fenvironment.py",
        "..%5cenvironment.py",
        "%2fetc%2fpasswd",
        "app.css%00",
        "app.js/",
        "APP.CSS",
        "environment.py",
        "../../../etc/passwd",
    ),
)
def test_no_path_of_a_request_reaches_the_disk(web: Web, name: str) -> None:
    url = httpx2.URL(f"{web.url}/static/{load_assets().digest}/{name}")
    reply = web.http.request("GET", url)
    assert reply.status_code in (401, 404), reply.status_code
    assert b"import" not in reply.content
    assert b"root:" not in reply.content


def test_what_a_page_fetches_is_there(web: Web) -> None:
    for path in PLAIN:
        page = html.document_fromstring(web.user("adele").get(path).text or "<p>sent on</p>")
        for address in page.xpath("//script/@src | //link[@rel]/@href"):
            assert web.nobody.get(address).status_code == 200, address


def test_modules_name_only_files_that_there_are() -> None:
    files = load_assets().files
    for name, asset in files.items():
        text = asset.body.decode()
        if name.endswith(".js"):
            for other in re.findall(r'from "\./([^"]+)"', text):
                assert other in files, (name, other)
            for word in ("innerHTML = ", "insertAdjacentHTML", "document.write", "eval(", "//cdn"):
                assert word not in text, (name, word)
        # Nothing is fetched from anywhere else.
        assert not re.search(r"(?:url\(|@import|src=)['\"]?(?:https?:)?//", text), name


def test_the_palette_is_that_of_drawings() -> None:
    text = load_assets().files["palette.css"].body.decode()
    for name, colour in LIGHT.items():
        assert f"--iaf-{name}:light-dark({colour},{DARK[name]})" in text


def contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_what_is_written_can_be_read_in_both_schemes() -> None:
    text = load_assets().files["app.css"].body.decode()
    found = dict(re.findall(r"--([a-z-]+): light-dark\((#\w{6}, #\w{6})\)", text))
    schemes = {name: tuple(pair.split(", ")) for name, pair in found.items()}
    pairs = [
        (ink, ground)
        for ink in ("ink", "muted", "accent", "danger", "good")
        for ground in ("page", "card", "raised", "sunken")
    ]
    pairs += [("danger", "danger-soft"), ("good", "good-soft"), ("accent", "accent-soft")]
    for scheme in (0, 1):
        for ink, ground in pairs:
            seen = contrast(schemes[ink][scheme], schemes[ground][scheme])
            assert seen >= 4.5, (ink, ground, scheme, round(seen, 2))
        for fill in ("accent-fill", "danger-fill"):
            assert contrast("#ffffff", schemes[fill][scheme]) >= 4.5, (fill, scheme)
        for line in ("line-strong",):
            assert contrast(schemes[line][scheme], schemes["raised"][scheme]) >= 3, (line, scheme)


# --- mounted, and escaped


def test_a_host_may_mount_the_pages_below_a_path(tmp_path: object) -> None:
    web = Web(f"sqlite:///{tmp_path}/runs.db")
    host = FastAPI()
    host.mount("/flows", web.app)
    web.served = host
    with web:
        reply = web.nobody.get("/flows/runs", status="failed")
        assert reply.headers["location"] == "/flows/sign-in?next=/flows/runs%3Fstatus%3Dfailed"
        assert web.nobody.get("/flows/").headers["location"] == "/flows/sign-in"
        page = page_of(web.nobody.get("/flows/sign-in"))
        assert page.xpath("//form/@data-then-exactly") == ["/flows/"]
        adele = web.user("adele")
        for path in PLAIN:
            reply = adele.get(f"/flows{path}")
            if reply.status_code == 303:
                assert reply.headers["location"] == "/flows/"
                continue
            page = html.document_fromstring(reply.text)
            assert page.xpath("//meta[@name='root']/@content") == ["/flows"]
            for address in page.xpath("//@href | //@src | //@action"):
                # Flower is a server of its own.
                is_elsewhere = address == "http://flower.example:5555/"
                assert is_elsewhere or address.startswith(("/flows/", "#")), (path, address)
            for address in page.xpath("//script/@src"):
                assert web.nobody.get(address).status_code == 200


def test_texts_come_out_as_texts() -> None:
    """In every macro: as JSON, as a key, as a label, a value, a problem, a status."""
    template = build_environment().from_string(
        '{% from "macros.html" import badge, json_tree, empty, confirm with context %}'
        '<!DOCTYPE html><title>x</title><main><p id="plain">{{ text }}</p>'
        '<p title="{{ text }}" id="attribute"></p>'
        '<div id="tree">{{ json_tree({text: [text, {"k": text}]}) }}</div>'
        "{{ badge(text) }}{{ empty(text, text) }}{{ confirm('d', text, text, text) }}</main>"
    )
    for text in PAYLOADS:
        page = html.document_fromstring(template.render(text=text))
        require_safe(page)
        assert page.xpath("//p[@id='plain']")[0].text_content() == text.replace("\x0c", " ") or (
            page.xpath("//p[@id='plain']")[0].text_content() == text
        )
        assert text in page.xpath("//p[@id='attribute']/@title")[0]
        assert sum(text in one for one in texts_of(page)) >= 8, text


def test_texts_of_an_address_come_out_as_texts(web: Web) -> None:
    adele = web.user("adele")
    for text in PAYLOADS:
        clean = text.replace("\x0c", "")[:200]
        page = page_of(adele.get("/runs", pipeline=clean, started_by=clean))
        assert page.xpath("//input[@name='started_by']/@value") == [clean.strip()]
        page_of(adele.get("/runs", status=clean), 422)
        page_of(adele.get("/runs", since=clean), 422)
        page_of(adele.get("/runs", cursor=clean), 422)
        page_of(web.nobody.get("/sign-in", next=f"/{clean}"))
        page_of(web.nobody.get("/sign-in", next=clean))
        page_of(adele.get(f"/users/{quote(clean, safe='')}"), 404)


def test_roles_on_the_page_are_those_that_there_are(web: Web) -> None:
    words = text_of(page_of(web.user("adele").get("/users")), "//dialog[@id='new-user']")
    for role in ROLES:
        assert role in words


def test_templates_and_files_are_in_the_wheel(tmp_path: Path) -> None:
    builder = WheelBuilder(str(ROOT))
    [wheel] = builder.build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    folder = ROOT / "iaflow" / "web" / "ui"
    there = {str(path.relative_to(ROOT)) for path in folder.glob("*/*.*")}
    assert len(there) > 10
    assert {one for one in there if ".pyc" not in one} <= held
