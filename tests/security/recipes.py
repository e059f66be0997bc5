"""How each route is asked: one recipe for "METHOD /path", with real things in the request.

A recipe says what goes into the path, query and body, for a thing in sight (`own`), out of sight
(`foreign`) or nowhere (`absent`), and what the reply is then. A route without one fails the tests
that walk through all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2

from iaflow.web.link_page import PREFIX
from tests.security.world import PEOPLE, STEPS, Where, World, make_pipeline
from tests.web.webs import PASSWORD, Visitor

__all__ = ["RECIPES", "Asked", "Recipe", "ask"]


@dataclass(frozen=True)
class Asked:
    """
    What is put into a request.

    Attributes:
        path: values of the path's parameters; they are ids that a reply may repeat.
        ids: more of these.
        by: who asks in the place of whoever asks else: a twin, whose session may end.
        form: the body is a form.
    """

    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None
    form: Mapping[str, str] | None = None
    ids: tuple[str, ...] = ()
    by: Visitor | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


Make = Callable[[World, Where, Visitor], Asked]


@dataclass(frozen=True)
class Recipe:
    """
    How a route is asked, and what whoever may ask gets.

    Attributes:
        done: the status of what succeeds.
        foreign, absent: of what is out of sight and nowhere; None: there is no such thing here.
        absent_in_sight: of what is nowhere, for whoever sees everything; None: as `absent`.
        is_blind: what is foreign is so to whoever sees every pipeline, too.
        is_managed: whoever manages users has what is foreign.
        is_personal: it is about who asks, so each gets a request of their own.
        needs_session: a token, whatever its scopes, gets 403.
        is_stream: it has no end.
    """

    make: Make
    done: int = 200
    foreign: int | None = None
    absent: int | None = None
    absent_in_sight: int | None = None
    is_blind: bool = False
    is_managed: bool = False
    is_personal: bool = False
    needs_session: bool = False
    is_stream: bool = False

    @property
    def wheres(self) -> list[Where]:
        found: list[Where] = ["own"]
        found += ["foreign"] if self.foreign is not None else []
        found += ["absent"] if self.absent is not None else []
        return found


def ask(
    world: World, route: str, asked: Asked, visitor: Visitor, *, is_stream: bool = False
) -> httpx2.Response:
    """Ask a route, from an address of its own; of a stream the head alone is read."""
    method, _, path = route.partition(" ")
    headers = {
        "X-Forwarded-For": world.address(),
        **(asked.by or visitor).headers,
        **asked.headers,
    }
    more: dict[str, Any] = {"params": dict(asked.query), "headers": headers}
    if asked.body is not None:
        more["json"] = asked.body
    if asked.form is not None:
        more["data"] = dict(asked.form)
    with world.http.stream(method, path.format(**asked.path), **more) as reply:
        if not (is_stream and reply.status_code == 200):
            reply.read()
    return reply


RECIPES: Final[dict[str, Recipe]] = {}


def _recipe(*routes: str, **rules: Any) -> Callable[[Make], Make]:
    def keep(make: Make) -> Make:
        for route in routes:
            RECIPES[route] = Recipe(make, **rules)
        return make

    return keep


HIDDEN: Final = {"foreign": 404, "absent": 404}
"""What is out of sight is what is nowhere."""
LISTED: Final = {"foreign": 200, "absent": 200}
"""A list has neither."""
NAMED: Final = {"absent": 404}
"""There is nothing out of sight: accounts are whose who manages them."""

V1 = "/api/v1"


# --- without anything to ask about


@_recipe(
    "GET /healthz",
    "GET /readyz",
    f"GET {V1}/session",
    f"GET {V1}/users",
    f"GET {V1}/audit",
    f"GET {V1}/pipelines",
    f"GET {V1}/metrics",
    f"GET {V1}/openapi.json",
)
def _nothing(world: World, where: Where, who: Visitor) -> Asked:
    return Asked()


@_recipe(f"GET {V1}/inbox/stream", is_stream=True)
def _stream(world: World, where: Where, who: Visitor) -> Asked:
    return Asked()


# --- oneself


def _twin(world: World, who: Visitor) -> Visitor | None:
    """Return who is asked for somebody whose session may end; outsiders stay who they are."""
    return world.clone(who.name) if who.name in PEOPLE and who.headers.get("Cookie") else None


@_recipe(f"GET {V1}/sessions", is_personal=True, needs_session=True)
def _oneself(world: World, where: Where, who: Visitor) -> Asked:
    return Asked()


@_recipe(f"POST {V1}/session", done=201, is_personal=True)
def _sign_in(world: World, where: Where, who: Visitor) -> Asked:
    return Asked(body={"name": world.account("own"), "password": PASSWORD}, by=_twin(world, who))


@_recipe(f"DELETE {V1}/session", done=204, is_personal=True, needs_session=True)
def _sign_out(world: World, where: Where, who: Visitor) -> Asked:
    return Asked(by=_twin(world, who))


@_recipe(
    f"DELETE {V1}/sessions/{{session_id}}",
    done=204,
    is_personal=True,
    is_blind=True,
    needs_session=True,
    **HIDDEN,
)
def _end_session(world: World, where: Where, who: Visitor) -> Asked:
    twin = _twin(world, who)
    match where:
        case "own":
            session_id = world.session_of(twin or world.person("viewer"))
        case "foreign":
            session_id = world.session_of(world.person("approver"))
        case _:
            session_id = world.absent_id()
    return Asked(path={"session_id": session_id}, by=twin)


@_recipe(f"PUT {V1}/password", is_personal=True, needs_session=True)
def _password(world: World, where: Where, who: Visitor) -> Asked:
    body = {"old": PASSWORD, "new": "plum-cradle-oxide-75"}
    return Asked(body=body, by=_twin(world, who))


@_recipe(f"POST {V1}/setup", **NAMED)
def _setup(world: World, where: Where, who: Visitor) -> Asked:
    token = world.setup(where)
    return Asked(body={"token": token, "password": PASSWORD}, ids=(token,))


# --- accounts and tokens


@_recipe(f"POST {V1}/users", done=201)
def _create_user(world: World, where: Where, who: Visitor) -> Asked:
    return Asked(body={"name": f"new-{world.number()}", "roles": ["viewer"]})


@_recipe(f"GET {V1}/users/{{name}}", **NAMED)
@_recipe(f"DELETE {V1}/users/{{name}}", done=204, **NAMED)
@_recipe(f"POST {V1}/users/{{name}}/setup", done=201, **NAMED)
@_recipe(f"DELETE {V1}/users/{{name}}/sessions", done=204, **NAMED)
def _user(world: World, where: Where, who: Visitor) -> Asked:
    return Asked(path={"name": world.account(where)})


@_recipe(f"PATCH {V1}/users/{{name}}", **NAMED)
def _change_user(world: World, where: Where, who: Visitor) -> Asked:
    return Asked(path={"name": world.account(where)}, body={"roles": ["operator"]})


# Of others nobody lists tokens but who manages users, there or not.
@_recipe(
    f"GET {V1}/tokens",
    foreign=403,
    absent=403,
    absent_in_sight=404,
    is_managed=True,
    is_personal=True,
)
def _tokens(world: World, where: Where, who: Visitor) -> Asked:
    user = {"own": who.name, "foreign": "stranger", "absent": "n0-body!"}[where]
    return Asked(query={"user": user} if user in PEOPLE or where != "own" else {}, ids=(user,))


@_recipe(f"POST {V1}/tokens", done=201, is_personal=True, needs_session=True)
def _create_token(world: World, where: Where, who: Visitor) -> Asked:
    return Asked(body={"name": "another", "scopes": ["runs:read"], "days": 3})


@_recipe(f"DELETE {V1}/tokens/{{token_id}}", done=204, is_managed=True, is_personal=True, **HIDDEN)
def _revoke_token(world: World, where: Where, who: Visitor) -> Asked:
    name = who.name if who.name in PEOPLE else "viewer"
    match where:
        case "own":
            token_id = world.token_of(name)
        case "foreign":
            token_id = world.token_of("stranger")
        case _:
            token_id = world.absent_id().replace("-", "")
    return Asked(path={"token_id": token_id})


# --- pipelines


# What is out of sight cannot be written, whether it is there or not.
@_recipe(f"POST {V1}/pipelines", done=201, foreign=403, absent=403, absent_in_sight=201)
def _import(world: World, where: Where, who: Visitor) -> Asked:
    slug = world.slug(where)
    return Asked(body={"definition": {**make_pipeline(slug), "version": "3.0.0"}}, ids=(slug,))


@_recipe(f"POST {V1}/pipelines/validate")
def _validate(world: World, where: Where, who: Visitor) -> Asked:
    return Asked(body={"definition": make_pipeline("mine-v1")})


@_recipe(f"GET {V1}/pipelines/{{slug}}", **HIDDEN)
@_recipe(f"GET {V1}/pipelines/{{slug}}/versions", **HIDDEN)
@_recipe(f"GET {V1}/pipelines/{{slug}}/graph.svg", **HIDDEN)
@_recipe(f"POST {V1}/pipelines/{{slug}}/pause", **HIDDEN)
@_recipe(f"POST {V1}/pipelines/{{slug}}/resume", **HIDDEN)
def _pipeline(world: World, where: Where, who: Visitor) -> Asked:
    return Asked(path={"slug": world.slug(where)})


@_recipe(f"GET {V1}/pipelines/{{slug}}/versions/{{number}}", **HIDDEN)
def _version(world: World, where: Where, who: Visitor) -> Asked:
    return Asked(path={"slug": world.slug(where), "number": "1"})


@_recipe(f"GET {V1}/pipelines/{{slug}}/diff", **HIDDEN)
def _diff(world: World, where: Where, who: Visitor) -> Asked:
    return Asked(path={"slug": world.slug(where)}, query={"from": 1, "to": 2})


@_recipe(f"POST {V1}/pipelines/{{slug}}/runs", done=201, **HIDDEN)
def _start(world: World, where: Where, who: Visitor) -> Asked:
    return Asked(path={"slug": world.slug(where)}, body={"input": {"kind": "done"}})


# --- runs


@_recipe(f"GET {V1}/runs", **LISTED)
def _runs(world: World, where: Where, who: Visitor) -> Asked:
    world.run(where)
    return Asked(query={"slug": world.slug(where)})


@_recipe(f"GET {V1}/runs/{{run_id}}", **HIDDEN)
@_recipe(f"GET {V1}/runs/{{run_id}}/children", **HIDDEN)
@_recipe(f"GET {V1}/runs/{{run_id}}/steps", **HIDDEN)
@_recipe(f"GET {V1}/runs/{{run_id}}/events", **HIDDEN)
@_recipe(f"GET {V1}/runs/{{run_id}}/decisions", **HIDDEN)
def _run(world: World, where: Where, who: Visitor) -> Asked:
    return Asked(path={"run_id": world.run(where)})


@_recipe(f"GET {V1}/runs/{{run_id}}/stream", is_stream=True, **HIDDEN)
def _stream_run(world: World, where: Where, who: Visitor) -> Asked:
    return Asked(path={"run_id": world.run(where)})


@_recipe(f"GET {V1}/runs/{{run_id}}/steps/{{step_id}}", **HIDDEN)
@_recipe(f"GET {V1}/runs/{{run_id}}/steps/{{step_id}}/why", **HIDDEN)
def _step(world: World, where: Where, who: Visitor) -> Asked:
    return Asked(path={"run_id": world.run(where), "step_id": STEPS["ended"]})


@_recipe(f"GET {V1}/runs/{{run_id}}/steps/{{step_id}}/items", **HIDDEN)
def _items(world: World, where: Where, who: Visitor) -> Asked:
    return Asked(path={"run_id": world.run(where, "items"), "step_id": STEPS["items"]})


@_recipe(f"POST {V1}/runs/bulk/cancel", **LISTED)
@_recipe(f"POST {V1}/runs/bulk/retry", **LISTED)
def _bulk(world: World, where: Where, who: Visitor) -> Asked:
    slug = world.slug(where)
    if where != "absent":
        world.client.start(slug, {}, started_by="bulk")
    return Asked(body={"filter": {"slug": slug, "started_by": "bulk"}})


@_recipe(f"POST {V1}/runs/{{run_id}}/cancel", **HIDDEN)
def _cancel(world: World, where: Where, who: Visitor) -> Asked:
    return Asked(path={"run_id": world.run(where, "running")}, body={"reason": "enough"})


@_recipe(f"POST {V1}/runs/{{run_id}}/steps/{{step_id}}/cancel", **HIDDEN)
def _cancel_step(world: World, where: Where, who: Visitor) -> Asked:
    return Asked(path={"run_id": world.run(where, "running"), "step_id": "first"}, body={})


@_recipe(f"POST {V1}/runs/{{run_id}}/retry", **HIDDEN)
def _retry(world: World, where: Where, who: Visitor) -> Asked:
    return Asked(path={"run_id": world.run(where, "failed")})


@_recipe(f"POST {V1}/runs/{{run_id}}/steps/{{step_id}}/rerun", done=201, **HIDDEN)
def _rerun(world: World, where: Where, who: Visitor) -> Asked:
    return Asked(path={"run_id": world.run(where), "step_id": STEPS["ended"]}, body={})


@_recipe(f"POST {V1}/runs/{{run_id}}/signals/{{name}}", **HIDDEN)
def _signal(world: World, where: Where, who: Visitor) -> Asked:
    path = {"run_id": world.run(where, "event"), "name": "payment"}
    return Asked(path=path, body={"payload": {"paid": True}})


# --- schedules


@_recipe(f"GET {V1}/schedules")
def _schedules(world: World, where: Where, who: Visitor) -> Asked:
    world.schedule("own")
    return Asked()


@_recipe(f"GET {V1}/schedules/{{name}}", **HIDDEN)
@_recipe(f"GET {V1}/schedules/{{name}}/fires", **HIDDEN)
@_recipe(f"GET {V1}/schedules/{{name}}/next", **HIDDEN)
@_recipe(f"DELETE {V1}/schedules/{{name}}", done=204, **HIDDEN)
@_recipe(f"POST {V1}/schedules/{{name}}/pause", **HIDDEN)
@_recipe(f"POST {V1}/schedules/{{name}}/resume", **HIDDEN)
@_recipe(f"POST {V1}/schedules/{{name}}/fire", done=201, **HIDDEN)
def _schedule(world: World, where: Where, who: Visitor) -> Asked:
    return Asked(path={"name": world.schedule(where)})


@_recipe(f"PUT {V1}/schedules/{{name}}", **HIDDEN)
def _put_schedule(world: World, where: Where, who: Visitor) -> Asked:
    slug = world.slug(where)
    path = {"name": f"another-{world.number()}"}
    return Asked(path=path, body={"slug": slug, "cron": "0 5 * * *"}, ids=(slug,))


# --- questions and links


@_recipe(f"GET {V1}/pauses", **LISTED)
def _pauses(world: World, where: Where, who: Visitor) -> Asked:
    return Asked(query={"run_id": world.run(where, "waiting")})


@_recipe(f"GET {V1}/pauses/{{pause_id}}", **HIDDEN)
@_recipe(f"GET {V1}/pauses/{{pause_id}}/links", **HIDDEN)
def _pause(world: World, where: Where, who: Visitor) -> Asked:
    return Asked(path={"pause_id": world.pause(where)})


@_recipe(f"POST {V1}/pauses/{{pause_id}}/answer", **HIDDEN)
def _answer(world: World, where: Where, who: Visitor) -> Asked:
    return Asked(path={"pause_id": world.pause(where)}, body={"answer": {"decision": "yes"}})


@_recipe(f"POST {V1}/pauses/{{pause_id}}/reassign", **HIDDEN)
def _reassign(world: World, where: Where, who: Visitor) -> Asked:
    return Asked(path={"pause_id": world.pause(where)}, body={"roles": ["finance"]})


@_recipe(f"POST {V1}/pauses/{{pause_id}}/links", done=201, **HIDDEN)
def _make_link(world: World, where: Where, who: Visitor) -> Asked:
    return Asked(
        path={"pause_id": world.pause(where)},
        body={"person": "maria@example.org", "action": {"decision": "yes"}},
    )


@_recipe(f"DELETE {V1}/pauses/{{pause_id}}/links/{{link_id}}", done=204, **HIDDEN)
def _revoke_link(world: World, where: Where, who: Visitor) -> Asked:
    pause_id = world.pause(where)
    link_id = world.absent_id() if where == "absent" else world.link(pause_id)[0]
    return Asked(path={"pause_id": pause_id, "link_id": link_id})


@_recipe("GET /l/{token}", "HEAD /l/{token}", **NAMED)
def _show_link(world: World, where: Where, who: Visitor) -> Asked:
    token = "A" * 43 if where == "absent" else world.link(world.pause("own"))[1]
    return Asked(path={"token": token})


@_recipe("POST /l/{token}", **NAMED)
def _decide(world: World, where: Where, who: Visitor) -> Asked:
    if where == "absent":
        return Asked(path={"token": "A" * 43}, form={"form_token": "", "decision": "yes"})
    with world.fresh():
        _, token = world.link(world.pause("own"))
    form = {"form_token": world.sessions.links.form_token(token), PREFIX + "decision": "0"}
    return Asked(path={"token": token}, form=form)
