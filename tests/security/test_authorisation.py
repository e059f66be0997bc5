"""Every route, asked by everybody, for what is in sight, out of sight and nowhere (T2).

What each gets is derived from two tables that are written out by hand (`tables.py`), so that a policy or a
role that becomes another one is noticed. Whoever is refused has changed nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import httpx2
import pytest
from starlette.routing import BaseRoute

from iaflow.data.accounts import Permission
from iaflow.web.pages.frame import PageRoute
from iaflow.web.policies import policy_of
from tests.security.recipes import RECIPES, Asked, Recipe, ask
from tests.security.tables import ALL, POLICIES, PUBLIC, ROLES, SIGNED_IN
from tests.security.world import OUTSIDERS, PEOPLE, Where, World
from tests.web.webs import Visitor

pytestmark = pytest.mark.timeout(240)


@dataclass(frozen=True)
class Expected:
    """What a request gets; `is_quiet`: and nothing is another than before."""

    status: int
    code: str | None
    is_quiet: bool


CODES: Final = {401: "not_signed_in", 403: "not_allowed", 404: "not_found"}


def expect(route: str, recipe: Recipe, who: str, where: Where) -> Expected:
    """Return what somebody gets of a thing, by the tables above."""
    policy = POLICIES[route]
    if policy != PUBLIC and who in OUTSIDERS:
        return _refused(401)
    if policy not in (PUBLIC, SIGNED_IN) and policy not in ROLES[who]:
        return _refused(403)
    if recipe.is_managed:
        has_all = "users:manage" in ROLES[who]
    else:
        has_all = who == "admin-of-all" and not recipe.is_blind
    status: int | None = recipe.done
    if where == "foreign" and not has_all:
        return _refused(recipe.foreign)
    if where == "absent":
        status = recipe.absent
        if has_all and recipe.absent_in_sight is not None:
            status = recipe.absent_in_sight
        if status != recipe.done or status == 200:
            return _refused(status)
    assert status is not None
    return Expected(status, None, is_quiet=False)


def _refused(status: int | None) -> Expected:
    assert status is not None
    return Expected(status, CODES.get(status), is_quiet=True)


def routes_of(world: World) -> Iterator[tuple[str, BaseRoute]]:
    """
    Yield everything that is served, by method and path, but for the pages.

    These change nothing, and answer with pages in the place of problems: `tests/web/pages` walks
    all of them for everybody.
    """
    for route in world.app.routes:
        if isinstance(route, PageRoute):
            continue
        for method in sorted(getattr(route, "methods", None) or {"?"}):
            yield f"{method} {getattr(route, 'path', '?')}", route


# --- the tables


def test_every_route_has_the_policy_that_is_written_here(world: World) -> None:
    served = {}
    for name, route in routes_of(world):
        policy = policy_of(route)
        assert policy is not None, f"{name} names no policy"
        assert not (policy.is_public and policy.permission), name
        word = PUBLIC if policy.is_public else SIGNED_IN
        served[name] = str(policy.permission) if policy.permission else word
    assert served == POLICIES


def test_every_route_has_a_recipe(world: World) -> None:
    assert {name for name, _ in routes_of(world)} == set(RECIPES)


def test_everybody_may_what_is_written_here(world: World) -> None:
    told = {who: world.person(who).read("/api/v1/session")["permissions"] for who in PEOPLE}
    assert {who: set(words) for who, words in told.items()} == ROLES
    assert {one.value for one in Permission} == ALL


# --- the matrix


def test_everybody_gets_what_the_tables_say(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = walk(world)
    with capsys.disabled():
        print(f"\nauthorisation on SQLite: {counts.total()} requests, {dict(counts)}")


def test_everybody_gets_the_same_on_postgres(
    postgres_world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = walk(postgres_world)
    with capsys.disabled():
        print(f"\nauthorisation on Postgres: {counts.total()} requests, {dict(counts)}")


def walk(world: World) -> Counter[int]:
    """Ask every route for everybody and everything; return how often there was which status."""
    counts: Counter[int] = Counter()
    faults: list[str] = []
    for route, recipe in RECIPES.items():
        _ask_quietly(world, route, recipe, counts, faults)
        _ask_for_good(world, route, recipe, counts, faults)
    assert not faults, "\n".join(faults)
    return counts


def _ask_quietly(
    world: World, route: str, recipe: Recipe, counts: Counter[int], faults: list[str]
) -> None:
    """Ask all that must change nothing."""
    shared = {where: recipe.make(world, where, world.nobody) for where in recipe.wheres}
    asked: list[tuple[str, Where, Visitor, Asked, Expected]] = []
    for who in (*OUTSIDERS, *PEOPLE):
        visitor = world.person(who)
        for where in recipe.wheres:
            expected = expect(route, recipe, who, where)
            if expected.is_quiet:
                one = recipe.make(world, where, visitor) if recipe.is_personal else shared[where]
                asked.append((who, where, visitor, one, expected))
    before = world.dump()
    replies: dict[tuple[str, Where], Any] = {}
    for who, where, visitor, one, expected in asked:
        reply = ask(world, route, one, visitor, is_stream=recipe.is_stream)
        counts[reply.status_code] += 1
        place = f"{route}, {who}, {where}"
        _judge(place, reply, expected, faults)
        replies[who, where] = _strip(reply, one)
        if where == "absent" and (who, "foreign") in replies:
            foreign = replies[who, "foreign"]
            if foreign != replies[who, where]:
                faults.append(f"{place}: {replies[who, where]} is not {foreign}")
    after = world.dump()
    changed = [name for name in before if before[name] != after[name]]
    if changed:
        faults.append(f"{route}: who was refused has changed {changed}")


def _ask_for_good(
    world: World, route: str, recipe: Recipe, counts: Counter[int], faults: list[str]
) -> None:
    """Ask all that is done, each for things of its own."""
    for who in (*OUTSIDERS, *PEOPLE):
        visitor = world.person(who)
        for where in recipe.wheres:
            expected = expect(route, recipe, who, where)
            if expected.is_quiet:
                continue
            with world.fresh(not route.startswith(("GET", "HEAD"))):
                one = recipe.make(world, where, visitor)
            reply = ask(world, route, one, visitor, is_stream=recipe.is_stream)
            counts[reply.status_code] += 1
            _judge(f"{route}, {who}, {where}", reply, expected, faults)


def _judge(place: str, reply: httpx2.Response, expected: Expected, faults: list[str]) -> None:
    if reply.status_code != expected.status:
        text = "" if not reply.is_closed else _text(reply)
        faults.append(f"{place}: {reply.status_code}, not {expected.status}: {text}")
    elif expected.code is not None and reply.request.method != "HEAD":
        told = reply.json()
        if told["code"] != expected.code or told.get("problems") != []:
            faults.append(f"{place}: {told}")


def _text(reply: httpx2.Response) -> str:
    try:
        return reply.text[:300]
    except httpx2.ResponseNotRead:
        return "(a stream)"


def _strip(reply: httpx2.Response, asked: Asked) -> tuple[int, str, dict[str, str]]:
    """Return what of a reply must be the same for what is out of sight and what is nowhere."""
    text = _text(reply)
    for word in (*asked.path.values(), *asked.ids):
        # Not the number of a version, which is not told of either.
        text = text.replace(word, "<id>") if len(word) > 2 else text
    headers = {name.lower(): value for name, value in reply.headers.items()}
    text = text.replace(headers.pop("x-request-id"), "<request>")
    headers.pop("date", None)
    return reply.status_code, text, headers


# --- credentials


def test_two_kinds_of_credentials_are_refused_everywhere(world: World) -> None:
    cookie = world.person("admin-of-all").headers
    bearer = world.program("admin-of-all").headers["Authorization"]
    both = [*cookie.items(), ("Authorization", bearer)]
    cookies = [*cookie.items(), ("Cookie", cookie["Cookie"])]
    bearers = [("Authorization", bearer), ("Authorization", bearer)]
    asked = {route: recipe.make(world, "own", world.nobody) for route, recipe in RECIPES.items()}
    before = world.dump()
    for route, one in asked.items():
        method, _, path = route.partition(" ")
        for headers in (both, cookies, bearers):
            reply = world.http.request(
                method,
                path.format(**one.path),
                params=dict(one.query),
                json=one.body,
                headers=headers,
            )
            assert reply.status_code == 400, (route, headers)
            if method != "HEAD":
                assert reply.json()["code"] == "credentials_refused", route
    assert world.dump() == before


def test_a_token_may_what_its_scopes_say(world: World) -> None:
    """Each permission that a route asks for is enough, and nothing else is."""
    asked = 0
    for route, recipe in RECIPES.items():
        policy = POLICIES[route]
        if policy in (PUBLIC, SIGNED_IN):
            continue
        admin = world.twin("admin")
        others = world.program(admin, *(ALL - {policy}))
        one = recipe.make(world, "own", others)
        reply = ask(world, route, one, others)
        assert reply.status_code == 403, (route, reply.text)
        assert (reply.json()["code"], policy in reply.json()["detail"]) == ("not_allowed", True)
        only = world.program(admin, policy)
        with world.fresh():
            one = recipe.make(world, "own", only)
        reply = ask(world, route, one, only, is_stream=recipe.is_stream)
        assert reply.status_code == recipe.done, (route, _text(reply))
        asked += 2
    assert asked > 80


def test_a_scope_gives_nothing_that_its_user_has_not(world: World) -> None:
    program = world.program("viewer", *ALL)
    for route, recipe in RECIPES.items():
        policy = POLICIES[route]
        if policy not in (PUBLIC, SIGNED_IN) and policy not in ROLES["viewer"]:
            reply = ask(world, route, recipe.make(world, "own", program), program)
            assert (reply.status_code, reply.json()["code"]) == (403, "not_allowed"), route


def test_a_token_does_not_what_needs_a_session(world: World) -> None:
    program = world.program("admin-of-all")
    for route, recipe in RECIPES.items():
        if POLICIES[route] != SIGNED_IN:
            continue
        with world.fresh():
            one = recipe.make(world, "own", program)
        before = world.dump()
        reply = ask(world, route, one, program)
        if recipe.needs_session:
            assert (reply.status_code, reply.json()["code"]) == (403, "not_allowed"), route
            assert world.dump() == before, route
        else:
            assert reply.status_code == recipe.done, (route, reply.text)


def test_a_change_by_a_cookie_needs_the_page_s_own_word(world: World) -> None:
    """Without the X-CSRF-Token, with another session's, and from a page of another host."""
    admin = world.person("admin-of-all")
    missing = {name: value for name, value in admin.headers.items() if name != "X-CSRF-Token"}
    others = {**admin.headers, "X-CSRF-Token": world.person("viewer").headers["X-CSRF-Token"]}
    elsewhere = {**admin.headers, "Origin": "https://elsewhere.example"}
    asked = {
        route: recipe.make(world, "own", world.nobody)
        for route, recipe in RECIPES.items()
        if not route.startswith(("GET", "HEAD"))
    }
    before = world.dump()
    for route, one in asked.items():
        for headers, code in (
            (missing, "csrf_refused"),
            (others, "csrf_refused"),
            (elsewhere, "origin_refused"),
        ):
            if POLICIES[route] == PUBLIC and code == "csrf_refused":
                # It is nobody's request then, and nobody may ask.
                continue
            reply = ask(world, route, one, Visitor(world, "", headers))
            assert (reply.status_code, reply.json()["code"]) == (403, code), route
    assert world.dump() == before


# --- names that are taken out of sight


def test_a_schedule_out_of_sight_is_not_overwritten(world: World) -> None:
    """Its name is taken; what is told is no more than that nothing of it is there."""
    with world.fresh():
        name = world.schedule("foreign")
    before = world.dump()
    body = {"slug": "mine-v1", "cron": "0 5 * * *"}
    reply = world.person("operator").ask("PUT", f"/api/v1/schedules/{name}", json=body)
    assert reply.status_code == 404
    shown = world.person("operator").get(f"/api/v1/schedules/{name}")
    # Which names are near is told of those in sight.
    assert shown.json()["detail"].partition(";")[0] == reply.json()["detail"]
    assert world.dump() == before
