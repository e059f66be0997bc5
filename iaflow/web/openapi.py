"""The description of the API: OpenAPI with who may ask, and every way it may go wrong.

Decides what is added to what the framework derives from routes and models; never what a route
does. Served at `/api/v1/openapi.json`, and kept by the app.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from iaflow.web.policies import Policy, policy_of
from iaflow.web.problems import CODES, MEDIA_TYPE

__all__ = ["describe_app"]

_REFERENCE: Final = {"$ref": "#/components/schemas/Problem"}

PROBLEM: Final[Mapping[str, Any]] = {
    "type": "object",
    "title": "Problem",
    "description": "What went wrong (RFC 9457). `problems` has an entry for each place of a "
    "refused document, input, answer or parameter.",
    "required": ["type", "title", "status", "detail", "code", "request_id", "problems"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string", "enum": sorted(CODES)},
        "request_id": {"type": "string"},
        "problems": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["code", "pointer", "message", "hint"],
                "properties": {
                    name: {"type": "string"} for name in ("code", "pointer", "message", "hint")
                },
            },
        },
    },
    "examples": [
        {
            "type": "/problems/not_found",
            "title": "There is nothing of that name",
            "status": 404,
            "detail": "there is no run 0199…",
            "code": "not_found",
            "request_id": "8d7f2c1e",
            "problems": [],
        }
    ],
}

SCHEMES: Final[Mapping[str, Any]] = {
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": "__Host-iaflow",
        "description": "What signing in gives a browser; changes also need X-CSRF-Token.",
    },
    "token": {"type": "http", "scheme": "bearer", "description": "An API token: iaf_…"},
}


def describe_app(app: FastAPI) -> dict[str, Any]:
    """Return the description of the app's API as an object; made once."""
    if app.openapi_schema is None:
        routes = [route for route in app.routes if isinstance(route, APIRoute)]
        for route in routes:
            # Of a response class of our own the framework cannot tell it.
            route.status_code = route.status_code or 200
        described = get_openapi(
            title=app.title, version=app.version, routes=routes, description=_ABOUT
        )
        components = described.setdefault("components", {})
        schemas = components.setdefault("schemas", {})
        schemas["Problem"] = dict(PROBLEM)
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        cookie = app.state.parts.sessions.cookie_name
        session = {**SCHEMES["session"], "name": cookie}
        components["securitySchemes"] = {**SCHEMES, "session": session}
        for route in routes:
            for method in route.methods or ():
                operation = described["paths"].get(route.path, {}).get(method.lower())
                if operation is not None:
                    _complete(operation, route, policy_of(route) or Policy())
        app.openapi_schema = described
    return app.openapi_schema


def _complete(operation: dict[str, Any], route: APIRoute, policy: Policy) -> None:
    for parameter in operation.get("parameters", ()):
        _forget_null(parameter["schema"])
    replies = operation.setdefault("responses", {})
    replies.pop("422", None)
    for content in replies.get("200", {}).get("content", {}).values():
        if "itemSchema" in content:
            # The framework's, of the whole as text; a stream is described event by event.
            content.pop("schema", None)
    named = {status for status in route.responses if isinstance(status, int) and status >= 400}
    for status in sorted(_statuses(operation, route, policy) | named):
        titles = sorted({title for code, title in CODES.values() if code == status})
        replies[str(status)] = {
            "description": "; ".join(titles),
            "content": {MEDIA_TYPE: {"schema": _REFERENCE}},
        }
    if not policy.is_public:
        operation["security"] = [{"session": []}, {"token": []}]
        if policy.permission is not None:
            told = f"Needs the permission `{policy.permission.value}`."
            operation["description"] = f"{operation.get('description', '')}\n\n{told}".strip()


def _forget_null(schema: dict[str, Any]) -> None:
    """Let what is left out be left out: there is no null in a query or a header."""
    kinds = [one for one in schema.get("anyOf", ()) if one != {"type": "null"}]
    if len(kinds) == 1:
        del schema["anyOf"]
        schema.update(kinds[0])


def _statuses(operation: Mapping[str, Any], route: APIRoute, policy: Policy) -> set[int]:
    found = {400, 429, 500, 503}
    has_parameters = bool(operation.get("parameters"))
    if not policy.is_public:
        found |= {401, 403}
    if "{" in route.path:
        found |= {404}
    if has_parameters or route.body_field is not None:
        found |= {422}
    if route.body_field is not None:
        found |= {408, 413, 415}
    if route.methods and route.methods - {"GET"}:
        found |= {403, 409}
    return found


_ABOUT: Final = (
    "Runs, questions and definitions of iaflow. Errors are `application/problem+json`. What the "
    "caller may not see does not exist for it: 404. Lists are read in pages: `next` of one is "
    "the `cursor` of the following."
)
