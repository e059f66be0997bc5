"""Who may ask what, written out by hand: what the tests of authorisation compare the web with.

Derived from nothing, so that a policy or a role that becomes another one is noticed.
"""

from __future__ import annotations

from typing import Final

__all__ = ["ALL", "POLICIES", "PUBLIC", "ROLES", "SIGNED_IN"]

PUBLIC: Final = "public"
SIGNED_IN: Final = "signed in"

POLICIES: Final = {
    "GET /healthz": PUBLIC,
    "GET /readyz": PUBLIC,
    "POST /api/v1/session": PUBLIC,
    "GET /api/v1/session": SIGNED_IN,
    "DELETE /api/v1/session": SIGNED_IN,
    "GET /api/v1/sessions": SIGNED_IN,
    "DELETE /api/v1/sessions/{session_id}": SIGNED_IN,
    "PUT /api/v1/password": SIGNED_IN,
    "POST /api/v1/setup": PUBLIC,
    "GET /api/v1/users": "users:manage",
    "POST /api/v1/users": "users:manage",
    "GET /api/v1/users/{name}": "users:manage",
    "PATCH /api/v1/users/{name}": "users:manage",
    "DELETE /api/v1/users/{name}": "users:manage",
    "POST /api/v1/users/{name}/setup": "users:manage",
    "DELETE /api/v1/users/{name}/sessions": "users:manage",
    "GET /api/v1/tokens": SIGNED_IN,
    "POST /api/v1/tokens": SIGNED_IN,
    "DELETE /api/v1/tokens/{token_id}": SIGNED_IN,
    "GET /api/v1/audit": "audit:read",
    "GET /api/v1/pipelines": "pipelines:read",
    "POST /api/v1/pipelines": "pipelines:write",
    "POST /api/v1/pipelines/validate": "pipelines:write",
    "GET /api/v1/pipelines/{slug}": "pipelines:read",
    "GET /api/v1/pipelines/{slug}/versions": "pipelines:read",
    "GET /api/v1/pipelines/{slug}/versions/{number}": "pipelines:read",
    "GET /api/v1/pipelines/{slug}/diff": "pipelines:read",
    "POST /api/v1/pipelines/{slug}/pause": "pipelines:pause",
    "POST /api/v1/pipelines/{slug}/resume": "pipelines:pause",
    "GET /api/v1/pipelines/{slug}/graph.svg": "pipelines:read",
    "POST /api/v1/runs/bulk/cancel": "runs:control",
    "POST /api/v1/runs/bulk/retry": "runs:control",
    "POST /api/v1/runs/{run_id}/cancel": "runs:control",
    "POST /api/v1/runs/{run_id}/steps/{step_id}/cancel": "runs:control",
    "POST /api/v1/runs/{run_id}/retry": "runs:control",
    "POST /api/v1/runs/{run_id}/steps/{step_id}/rerun": "runs:control",
    "POST /api/v1/runs/{run_id}/signals/{name}": "signals:send",
    "POST /api/v1/pipelines/{slug}/runs": "runs:start",
    "GET /api/v1/runs": "runs:read",
    "GET /api/v1/runs/{run_id}": "runs:read",
    "GET /api/v1/runs/{run_id}/children": "runs:read",
    "GET /api/v1/runs/{run_id}/steps": "runs:read",
    "GET /api/v1/runs/{run_id}/steps/{step_id}": "runs:read",
    "GET /api/v1/runs/{run_id}/steps/{step_id}/items": "runs:read",
    "GET /api/v1/runs/{run_id}/steps/{step_id}/why": "runs:read",
    "GET /api/v1/runs/{run_id}/events": "runs:read",
    "GET /api/v1/runs/{run_id}/decisions": "runs:read",
    "GET /api/v1/schedules": "schedules:read",
    "GET /api/v1/schedules/{name}": "schedules:read",
    "PUT /api/v1/schedules/{name}": "schedules:write",
    "DELETE /api/v1/schedules/{name}": "schedules:write",
    "POST /api/v1/schedules/{name}/pause": "schedules:write",
    "POST /api/v1/schedules/{name}/resume": "schedules:write",
    "POST /api/v1/schedules/{name}/fire": "schedules:write",
    "GET /api/v1/schedules/{name}/fires": "schedules:read",
    "GET /api/v1/schedules/{name}/next": "schedules:read",
    "GET /api/v1/runs/{run_id}/stream": "runs:read",
    "GET /api/v1/inbox/stream": "pauses:answer",
    "GET /api/v1/pauses": "pauses:answer",
    "GET /api/v1/pauses/{pause_id}": "pauses:answer",
    "POST /api/v1/pauses/{pause_id}/answer": "pauses:answer",
    "POST /api/v1/pauses/{pause_id}/reassign": "pauses:assign",
    "POST /api/v1/pauses/{pause_id}/links": "links:make",
    "GET /api/v1/pauses/{pause_id}/links": "pauses:assign",
    "DELETE /api/v1/pauses/{pause_id}/links/{link_id}": "pauses:assign",
    "GET /l/{token}": PUBLIC,
    "HEAD /l/{token}": PUBLIC,
    "POST /l/{token}": PUBLIC,
    "GET /api/v1/metrics": "metrics:read",
    "GET /api/v1/openapi.json": SIGNED_IN,
}
"""What each route asks for."""

_VIEWER: Final = {"pipelines:read", "runs:read", "payloads:read", "schedules:read"}
_OPERATOR: Final = {
    *("pipelines:pause", "runs:start", "runs:control", "signals:send", "pauses:assign"),
    *("schedules:write", "metrics:read"),
}
ALL: Final = {
    *_VIEWER,
    *_OPERATOR,
    *("pipelines:write", "pauses:answer", "links:make", "users:manage", "audit:read"),
}
ROLES: Final = {
    "viewer": _VIEWER,
    "operator": _VIEWER | _OPERATOR,
    "author": _VIEWER | {"pipelines:write", "runs:start"},
    "approver": {"pauses:answer"},
    "admin": ALL,
    "admin-of-all": ALL,
    "finance": set[str](),
}
"""What everybody of the world may."""
