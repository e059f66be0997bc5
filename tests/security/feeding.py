"""What schemathesis is fed with: real things in the place of names that it invents.

A request is about things that exist, made for it if it may destroy them; what schemathesis itself
has seen in replies stays as it is, so that its walks from reply to request are its own.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import schemathesis
from schemathesis import Case, HookContext, Response
from schemathesis.core.failures import Failure, ResponseTimeExceeded
from schemathesis.core.parameters import ParameterLocation
from schemathesis.hooks import unregister

from iaflow.web.cursors import write_cursor
from tests.security.recipes import RECIPES
from tests.security.world import OWN, PEOPLE, World
from tests.web.webs import Visitor

__all__ = ["feeding"]

_IDS: Final = re.compile(
    r'"(?:run_id|pause_id|link_id|token_id|session_id|slug|name)":\s*"([^"]+)"'
)


FREE: Final = {
    *("input", "inputs", "answer", "action", "payload", "definition"),
    *("slug", "cron", "zone", "starts_at", "ends_at", "instant_as"),
    *("name", "token", "password", "old", "new", "person"),
}
"""What the description of the API leaves free, and other rules do not."""

V1: Final = "/api/v1"
CURSORS: Final = {
    f"GET {V1}/users": ("users", "ann"),
    f"GET {V1}/tokens": ("tokens", "0" * 32),
    f"GET {V1}/audit": ("audit", ""),
    f"GET {V1}/pipelines": ("pipelines", "mine"),
    f"GET {V1}/pipelines/{{slug}}/versions": ("versions", "2"),
    f"GET {V1}/runs": ("runs", ""),
    f"GET {V1}/runs/{{run_id}}/children": ("runs", ""),
    f"GET {V1}/runs/{{run_id}}/steps": ("steps", "1"),
    f"GET {V1}/runs/{{run_id}}/steps/{{step_id}}/items": ("items", "0"),
    f"GET {V1}/runs/{{run_id}}/events": ("events", "1"),
    f"GET {V1}/runs/{{run_id}}/decisions": ("decisions", "1"),
    f"GET {V1}/schedules": ("schedules", "a"),
    f"GET {V1}/schedules/{{name}}/fires": ("fires", "2030-01-01T00:00:00+00:00"),
    f"GET {V1}/pauses": ("pauses", ""),
}
"""What the cursors of each list hold: its kind and a position; empty: an id."""


class Feeder:
    """Puts real things into requests, for one who asks."""

    def __init__(self, world: World, visitor: Visitor) -> None:
        self._world = world
        self._visitor = visitor
        self._seen: set[str] = set()
        self._slow: Counter[str] = Counter()

    def before_call(self, case: Case[Any]) -> None:
        """Give a request an address of its own, and things to be about."""
        case.headers["X-Forwarded-For"] = self._world.address()
        route = f"{case.method} {case.operation.path}"
        if route not in RECIPES:
            return
        with self._world.fresh(not route.startswith("GET")):
            made = RECIPES[route].make(self._world, "own", self._visitor)
        if "Cookie" in self._visitor.headers:
            # A session that may end, where it does, in the place of one that stays.
            case.headers.update((made.by or self._visitor).headers)
        path = case.path_parameters
        # The stream of a run that has not ended would have no end either.
        is_known = not route.endswith("/stream") and all(map(self._is_seen, path.values()))
        if not is_known and not self._is_negative(case, ParameterLocation.PATH):
            path.update(made.path)
        if not self._is_negative(case, ParameterLocation.QUERY):
            self._fill_query(route, case)
        if isinstance(case.body, dict) and not self._is_negative(case, ParameterLocation.BODY):
            self._fill_body(case.body, made.body or {})

    def after_call(self, response: Response) -> None:
        """Remember what there is."""
        if response.status_code < 300:
            self._seen.update(_IDS.findall(response.text))

    def is_counted(self, failure: Failure, case: Case[Any]) -> bool:
        """Tell whether a failure is one: a reply that is slow once may be so for the machine."""
        if not isinstance(failure, ResponseTimeExceeded):
            return True
        self._slow[case.operation.label] += 1
        return self._slow[case.operation.label] > 1

    def _fill_query(self, route: str, case: Case[Any]) -> None:
        if "cursor" in case.query:
            kind, position = CURSORS[route]
            case.query["cursor"] = write_cursor(kind, position or self._world.absent_id())
        if "user" in case.query:
            case.query["user"] = self._visitor.name

    def _fill_body(self, body: dict[str, Any], made: dict[str, Any]) -> None:
        for name in FREE & set(body):
            if name in made and body[name] is not None:
                body[name] = made[name]
            elif name not in made:
                del body[name]

    def _is_seen(self, value: Any) -> bool:
        # The people who ask must stay who they are, and what runs are made of goes on.
        return value in self._seen and value not in PEOPLE and value != OWN

    @staticmethod
    def _is_negative(case: Case[Any], where: ParameterLocation) -> bool:
        component = case.meta.components.get(where) if case.meta is not None else None
        return component is not None and component.mode.is_negative


@contextlib.contextmanager
def feeding(world: World, visitor: Visitor) -> Iterator[Feeder]:
    """Feed all that schemathesis asks meanwhile."""
    feeder = Feeder(world, visitor)

    @schemathesis.hook
    def before_call(context: HookContext, case: Case[Any], kwargs: dict[str, Any]) -> None:
        feeder.before_call(case)

    @schemathesis.hook
    def after_call(context: HookContext, case: Case[Any], response: Response) -> None:
        feeder.after_call(response)

    @schemathesis.hook
    def filter_failure(
        context: HookContext, failure: Failure, case: Case[Any], response: Response
    ) -> bool:
        return feeder.is_counted(failure, case)

    try:
        yield feeder
    finally:
        for one in (before_call, after_call, filter_failure):
            unregister(one)
