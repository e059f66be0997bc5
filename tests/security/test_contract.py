"""The API does what its description says, whatever it is sent (T1).

schemathesis reads the description and asks a real server: its examples, the borders of every
parameter, random data of both kinds, and walks from one reply to the next request. It asks for each
role what that role may ask; who may not is `test_authorisation.py`.

IAFLOW_TEST_SCHEMATHESIS_EXAMPLES is the number of random requests for each operation,
IAFLOW_TEST_SCHEMATHESIS_SEED another seed than the printed one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any, Final

import pytest
from schemathesis.cli import schemathesis

from tests.security.feeding import feeding
from tests.security.recipes import RECIPES
from tests.security.tables import POLICIES, PUBLIC, ROLES, SIGNED_IN
from tests.security.world import World
from tests.web.webs import Visitor

EXAMPLES: Final = int(os.environ.get("IAFLOW_TEST_SCHEMATHESIS_EXAMPLES", "3"))
SEED: Final = int(os.environ.get("IAFLOW_TEST_SCHEMATHESIS_SEED", "20300101"))

pytestmark = [
    pytest.mark.timeout(240 + 40 * EXAMPLES),
    # schemathesis does not close it.
    pytest.mark.filterwarnings(
        "ignore:.*report.json:pytest.PytestUnraisableExceptionWarning",
    ),
]

CONFIGURATION: Final = """
# How much is read of a stream.
max-stream-events = 3
# Less than between two signs of life of a stream: one that rests fails, and hangs nothing.
request-timeout = 10

[cache]
enabled = false

[generation]
database = "none"
# Who asks is said by the headers; two kinds of credentials are refused everywhere.
with-security-parameters = false

[checks]
max_response_time = 2.0

[[operations]]
# It has no end, and no second event as long as no question comes or goes.
include-name = "GET /api/v1/inbox/stream"
max-stream-events = 1
"""

PROGRAM_CANNOT: Final = {
    *(route for route, recipe in RECIPES.items() if recipe.needs_session),
    # A program ends its own token alone, and is not told of others.
    "DELETE /api/v1/tokens/{token_id}",
    "GET /api/v1/tokens",
}
"""What is asked by a session, because a token does not do it."""


def operations_of(role: str) -> set[str]:
    """Return what a role may ask, with a token."""
    may = ROLES[role] | {PUBLIC, SIGNED_IN}
    return {route for route, policy in POLICIES.items() if policy in may} - PROGRAM_CANNOT


@pytest.mark.parametrize("role", ("viewer", "operator", "admin-of-all"))
def test_what_a_program_of_a_role_may_ask(
    world: World, role: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = world.program(role)
    ask_all(world, program, operations_of(role), tmp_path, capsys)


def test_what_a_person_alone_may_ask(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A session is put into each request, since some requests end it; schemathesis cannot take it
    # away again. `test_authorisation.py` asks these without one, and with one that is over.
    person = world.person("viewer")
    ask_all(world, person, PROGRAM_CANNOT, tmp_path, capsys, without="ignored_auth")


def test_what_everybody_may_ask(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    public = {route for route, policy in POLICIES.items() if policy == PUBLIC}
    ask_all(world, world.nobody, public, tmp_path, capsys)


def ask_all(
    world: World,
    visitor: Visitor,
    routes: set[str],
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    without: str | None = None,
) -> None:
    """Let schemathesis ask these operations; none may fail, and none go unasked."""
    described = world.app.openapi()
    known = {f"{method.upper()} {path}" for path, at in described["paths"].items() for method in at}
    # Pages for people are not part of the API.
    wanted = sorted(routes & known)
    assert all("/l/" in route for route in routes - known), routes - known
    description = folder / "openapi.json"
    description.write_text(json.dumps(described), encoding="utf-8")
    configuration = folder / "schemathesis.toml"
    configuration.write_text(CONFIGURATION, encoding="utf-8")
    report = folder / "report.json"
    bearer = visitor.headers.get("Authorization")
    arguments = [
        *("--config-file", str(configuration), "run", str(description), "--url", world.url),
        *("--phases", "examples,coverage,fuzzing,stateful", "--checks", "all"),
        *("--max-examples", str(EXAMPLES), "--seed", str(SEED), "--continue-on-failure"),
        *("--report-json-path", str(report), "--no-color"),
        *(word for route in wanted for word in ("--include-name", route)),
        *(("--exclude-checks", without) if without else ()),
        # What a session sends is put in request by request: some of them end it.
        *(("-H", f"Authorization: {bearer}") if bearer else ()),
    ]
    # The report says more than the exit status does.
    with feeding(world, visitor), contextlib.suppress(SystemExit):
        schemathesis.main(args=arguments, standalone_mode=False)
    told = capsys.readouterr().out
    found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    assert found["stop_reason"] == "completed", told
    assert found["operations"]["tested"] == len(wanted), told
    assert (found["failures"], found["errors"]) == ([], []), told
    warnings = {kind: places for kind, places in found["warnings"].items() if places}
    assert not warnings.keys() & {"missing_auth", "missing_test_data"}, told
    with capsys.disabled():
        who = visitor.name or "nobody"
        print(
            f"\nschemathesis, {who}: {len(wanted)} operations, "
            f"{found['test_cases']['generated']} cases in {found['running_time']:.0f} s, "
            f"seed {SEED}, {EXAMPLES} examples; warnings {warnings}"
        )


# --- found by it, and by hand since then


def test_a_place_tells_all_its_methods(world: World) -> None:
    described = world.app.openapi()["paths"]
    anybody = world.program("viewer")
    for path, at in described.items():
        reply = anybody.ask("OPTIONS", re.sub(r"\{[a-z_]+\}", "x", path))
        assert reply.status_code == 405, path
        assert reply.headers["allow"] == ", ".join(sorted(method.upper() for method in at)), path


@pytest.mark.parametrize(
    "instant", ("0.5", "1700000000", "-1", "2030-01-01", "2030-01-01T00:00:00")
)
def test_a_number_is_no_instant(world: World, instant: str) -> None:
    reply = world.person("viewer").get("/api/v1/runs", until=instant)
    assert (reply.status_code, reply.json()["code"]) == (422, "parameters_refused")


def test_what_can_be_left_out_is_not_null_in_the_description(world: World) -> None:
    for path, at in world.app.openapi()["paths"].items():
        for operation in at.values():
            for parameter in operation.get("parameters", ()):
                kinds = [one.get("type") for one in parameter["schema"].get("anyOf", ())]
                assert "null" not in kinds, (path, parameter["name"])


def test_a_stream_is_described_event_by_event(world: World) -> None:
    streams = [path for path in world.app.openapi()["paths"] if path.endswith("/stream")]
    assert len(streams) == 2
    for path in streams:
        reply = world.app.openapi()["paths"][path]["get"]["responses"]["200"]
        [(kind, content)] = reply["content"].items()
        assert kind == "text/event-stream"
        assert "schema" not in content
        assert content["itemSchema"]["properties"]["data"]["contentMediaType"] == "application/json"
