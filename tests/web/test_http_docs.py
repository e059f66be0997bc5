"""docs/http-api.md, held to the routes and codes that there are."""

from __future__ import annotations

import re
from pathlib import Path

from iaflow.web.policies import policy_of
from iaflow.web.problems import CODES
from iaflow.web.routes import ROUTERS

PAGE = (Path(__file__).parents[2] / "docs" / "http-api.md").read_text()


def test_every_request_is_told_with_who_may_send_it() -> None:
    told = dict(re.findall(r"^\| `([A-Z]+ /\S+)` \| (.*?) \| .+ \|$", PAGE, re.M))
    known: dict[str, str] = {}
    for router in ROUTERS:
        for route in router.routes:
            policy = policy_of(route)
            assert policy is not None
            if not getattr(route, "include_in_schema", True):
                continue
            who = "anybody" if policy.is_public else "signed in"
            if policy.permission is not None:
                who = f"`{policy.permission.value}`"
            for method in getattr(route, "methods", ()):
                known[f"{method} {getattr(route, 'path', '')}"] = who
    assert told == known


def test_every_code_is_told_with_its_status() -> None:
    told = re.findall(r"^\| `(\w+)` \| (\d{3}) \| (.+) \|$", PAGE, re.M)
    assert {code: (int(status), title) for code, status, title in told} == dict(CODES)
