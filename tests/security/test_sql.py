"""SQL in every text that a request may hold (T12): it stays a text, on both databases.

Decides by behaviour (no fault, no row out of sight, nothing done) and on Postgres by what the
server itself logs: each payload stands inside of a literal, and no statement has a comment.
"""

from __future__ import annotations

import copy
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice, product
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx2
import sqlalchemy as sa

from iaflow.database import migrator
from iaflow.web.cursors import write_cursor
from tests.security.feeding import CURSORS
from tests.security.recipes import RECIPES, Asked
from tests.security.world import World
from tests.servers import ServerRoom
from tests.web.webs import Visitor

EACH: Final = 8
"""So many payloads for each place, others for the next: all of them many times."""
SLEEP: Final = 5

QUOTES: Final = ("'", '"', "''", "\\'", "')", "$$", "\u02bc", "\uff07", "%27", "")
ENDS: Final = (
    " OR 1=1 -- MARK",
    " OR 'MARK'='MARK",
    "; DROP TABLE hostile_canary; -- MARK",
    " UNION SELECT name, password_hash, 'MARK' FROM users --",
    f"; SELECT pg_sleep({SLEEP}) -- MARK",
    f" AND (SELECT 1 FROM pg_sleep({SLEEP})) IS NULL /* MARK */",
)
FORMATS: Final = (
    "%s MARK",
    "%(MARK)s",
    "%%MARK",
    ":MARK",
    "{0} MARK",
    "$1 MARK",
    "?MARK",
    "MARK\\",
)
SHAPES: Final = (*(q + end for q, end in product(QUOTES, ENDS)), *FORMATS)

MARK: Final = re.compile(r"zq\d{5}x")

EXCEPT: Final = {"GET /api/v1/tokens"}
"""Of others' tokens the name is refused, not looked for."""


@dataclass
class Attack:
    """Asks with a payload in one place after the other, and looks at what comes back."""

    world: World
    who: Visitor
    hidden: tuple[str, ...]
    counted: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    slowest: float = 0.0
    _at: int = 0
    used: Counter[str] = field(default_factory=Counter)

    def payloads(self) -> Iterator[str]:
        """Yield the next payloads, each with a mark of its own."""
        for _ in range(EACH):
            shape = SHAPES[self._at % len(SHAPES)]
            self._at += 1
            self.used[shape] += 1
            yield shape.replace("MARK", f"zq{self._at:05}x")

    def send(
        self, route: str, place: str, asked: Asked, *, headers: dict[str, str] | None = None
    ) -> httpx2.Response:
        method, _, path = route.partition(" ")
        parts = {name: quote(value, safe="") for name, value in asked.path.items()}
        more: dict[str, Any] = {} if asked.body is None else {"json": asked.body}
        if asked.form is not None:
            more = {"data": dict(asked.form)}
        begun = time.monotonic()
        with self.world.http.stream(
            method,
            path.format(**parts),
            params=dict(asked.query),
            headers={
                "X-Forwarded-For": self.world.address(),
                **(asked.by or self.who).headers,
                **(headers or {}),
            },
            **more,
        ) as reply:
            if reply.headers.get("content-type", "").startswith("text/event-stream"):
                text = ""
            else:
                text = reply.read().decode()
        self.slowest = max(self.slowest, time.monotonic() - begun)
        self.counted[place] += 1
        self.statuses[reply.status_code] += 1
        told = (route, place, asked.path, asked.query, asked.body, headers, text[:500])
        assert reply.status_code < 500, told
        if route != "GET /api/v1/audit":
            shown = [one for one in self.hidden if one in text]
            assert not shown, (shown, *told)
        assert "$argon2" not in text, told
        return reply

    def attack(self, route: str, described: dict[str, Any]) -> None:
        recipe = RECIPES[route]
        is_reading = route.startswith(("GET", "HEAD"))

        def make() -> Asked:
            with self.world.fresh(not is_reading):
                return recipe.make(self.world, "own", self.who)

        asked = make()
        for name in asked.path:
            for payload in self.payloads():
                changed = replace(asked, path={**asked.path, name: payload})
                reply = self.send(route, "path", changed)
                assert reply.status_code in (403, 404, 405, 409, 410, 415, 422), (route, payload)
        for name in text_parameters(described):
            for payload in self.payloads():
                changed = replace(asked, query={**asked.query, name: payload})
                reply = self.send(route, "query", changed)
                if reply.status_code == 200 and name != "cursor" and is_reading:
                    assert reply.json()["items"] == [], (route, name, payload)
        if route in CURSORS:
            kind, position = CURSORS[route]
            for payload in self.payloads():
                cursor = write_cursor(kind, position + payload)
                self.send(route, "cursor", replace(asked, query={**asked.query, "cursor": cursor}))
        for way in leaves(asked.body):
            for payload in self.payloads():
                # Made anew: some bodies would be done, and could not be done again.
                self.send(route, "body", self._with_body(make(), way, payload))
        for name in asked.form or ():
            for payload in self.payloads():
                form = {**(asked.form or {}), name: payload}
                self.send(route, "form", replace(asked, form=form))
        for name in ("Idempotency-Key", "User-Agent", "X-Forwarded-For", "Last-Event-ID", "Host"):
            if is_reading and name == "Idempotency-Key":
                continue
            for payload in islice(self.payloads(), 2):
                if payload.isascii():
                    self.send(route, "header", make(), headers={name: payload.strip()})

    @staticmethod
    def _with_body(asked: Asked, way: tuple[Any, ...], payload: str) -> Asked:
        body = copy.deepcopy(asked.body)
        inner = body
        for key in way[:-1]:
            inner = inner[key]
        if way[-1] == KEY:
            inner[payload] = payload
        else:
            inner[way[-1]] = payload
        return replace(asked, body=body)


KEY: Final = object()
"""In the place of a key: one more member, whose name is a payload."""


def leaves(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where the texts of a body are, and where one more key may stand."""
    if isinstance(value, dict):
        # Of a definition some places are enough: it is judged elsewhere.
        members = list(value.items())[:6] if "definition" in way else list(value.items())
        for key, one in members:
            yield from leaves(one, (*way, key))
        yield (*way, KEY)
    elif isinstance(value, list):
        for at, one in enumerate(value[:2]):
            yield from leaves(one, (*way, at))
    elif isinstance(value, str) and len(way) <= 4:
        yield way


def text_parameters(described: dict[str, Any]) -> list[str]:
    """Return the names of an operation's query parameters, as its description has them."""
    return [one["name"] for one in described.get("parameters", ()) if one["in"] == "query"]


OWN: Final = (
    "CREATE TABLE hostile_canary (a INTEGER)",
    "INSERT INTO hostile_canary VALUES (7)",
    "SELECT a FROM hostile_canary",
)
"""A table that payloads would remove, and how it is looked at."""


def attack_all(world: World) -> Attack:
    """Attack every place of every route."""
    hidden = (
        world.slug("foreign"),
        *(world.run("foreign", kind) for kind in ("ended", "waiting", "failed")),
        world.pause("foreign"),
        world.schedule("foreign"),
    )
    attack = Attack(world, world.person("admin"), hidden)
    described = world.app.openapi()["paths"]
    with world.database.engine.begin() as connection:
        for statement in OWN[:2]:
            connection.execute(sa.text(statement))
    before = [world.client.run(run_id) for run_id in hidden[1:4]]
    for route in RECIPES:
        method, _, path = route.partition(" ")
        attack.attack(route, described.get(path, {}).get(method.lower(), {}))
    with world.database.engine.connect() as connection:
        assert connection.execute(sa.text(OWN[2])).scalars().all() == [7]
    assert [world.client.run(run_id) for run_id in hidden[1:4]] == before
    print(
        f"{sum(attack.counted.values())} requests: {dict(attack.counted)}, "
        f"{len(attack.used)} payloads, each at least {min(attack.used.values())} times, "
        f"by status {dict(sorted(attack.statuses.items()))}, slowest {attack.slowest:.2f} s"
    )
    assert len(SHAPES) == len(attack.used) >= 60
    assert min(attack.used.values()) >= 20
    # No payload has slept for us.
    assert attack.slowest < SLEEP
    return attack


def test_sql_stays_a_text_on_sqlite(world: World) -> None:
    attack_all(world)


# --- what Postgres itself says

ENTRY: Final = re.compile(r"^\d{4}-\d\d-\d\d [\d:.]+ \w+ \[\d+\] (\w+):  ", re.MULTILINE)

TOKENS: Final = re.compile(
    r"""
      (?P<literal> [eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' )
    | (?P<dollar>  \$(?P<tag>\w*)\$.*?\$(?P=tag)\$ )
    | (?P<name>    "(?:[^"]|"")*" )
    | (?P<comment> --[^\n]* | /\*.*?\*/ )
    | (?P<rest>    ['"$] | . )
    """,
    re.VERBOSE | re.DOTALL,
)


STRANGE: Final = re.compile(
    r"/\*|\bDROP\b|\bUNION\b(?! ALL)|pg_sleep|hostile_canary|\b1=1\b|''\s*=\s*''", re.IGNORECASE
)
"""What the payloads want to say and the product never does, where literals are cut out."""


@dataclass
class Judged:
    """What stands where in the statements of a log."""

    statements: int = 0
    inside: int = 0
    outside: list[str] = field(default_factory=list)


def judge_log(text: str) -> Judged:
    """Return where the marks of payloads stand in what Postgres has logged."""
    judged = Judged()
    begins = list(ENTRY.finditer(text))
    for at, found in enumerate(begins):
        end = begins[at + 1].start() if at + 1 < len(begins) else len(text)
        said = text[found.end() : end].replace("\n\t", "\n")
        if found[1] == "LOG" and (match := re.match(r"(?:statement|execute [^:]*): ", said)):
            judged.statements += 1
            judge_statement(said[match.end() :], judged)
    return judged


def judge_statement(statement: str, judged: Judged) -> None:
    code = []
    for token in TOKENS.finditer(statement):
        kind = token.lastgroup
        if kind == "tag" or token["dollar"]:
            kind = "dollar"
        if token["literal"]:
            judged.inside += len(MARK.findall(token[0]))
            code.append("''")
        elif token["rest"]:
            code.append(token[0])
        else:
            # A name, a comment or a text between dollars: this product writes names alone.
            code.append(token[0] if token["name"] else "/*?*/")
    bare = "".join(code)
    if MARK.search(bare) or "'" in bare.replace("''", "") or STRANGE.search(bare):
        judged.outside.append(statement)


def test_the_judge_sees_what_has_broken_out() -> None:
    good = "SELECT 1 WHERE a = 'it''s zq00001x -- /* ; $$' AND b = E'\\\\''zq00002x'"
    bad = (
        "SELECT 1 WHERE a = '' OR 1=1 -- zq00003x'",
        "SELECT 'a'; DROP TABLE x; -- ",
        'SELECT "zq00004x"',
        "SELECT $$zq00005x$$",
        "SELECT 'a\\' OR zq00006x --'",
        "SELECT 'a' /* b */",
        "SELECT 'a' WHERE b = '' OR 'zq00008x'='zq00008x'",
        "SELECT 1; drop table x",
        "SELECT 'open zq00007x",
    )
    judged = Judged()
    judge_statement(good, judged)
    assert (judged.outside, judged.inside) == ([], 2)
    for one in bad:
        judge_statement(one, judged)
    assert judged.outside == list(bad)


def test_sql_stays_a_text_on_postgres(server_room: ServerRoom) -> None:
    server = server_room.open_postgres(durable=False)
    try:
        url = server.create_database()
        migrator.upgrade(url)
        with World(url) as world:
            with world.database.engine.connect() as connection:
                name = connection.execute(sa.text("SELECT current_database()")).scalar_one()
            server.execute(f"ALTER DATABASE \"{name}\" SET log_statement = 'all'")
            world.database.engine.dispose()
            world.database.release_thread()
            log: Path = server._log
            offset = log.stat().st_size
            attack_all(world)
        text = log.read_bytes()[offset:].decode()
    finally:
        server.close()
    judged = judge_log(text)
    print(f"{judged.statements} statements, {judged.inside} marks inside literals")
    outside = [one for one in judged.outside if one.strip() not in OWN]
    assert outside == [], outside[:3]
    assert len(judged.outside) == len(OWN)
    assert judged.statements > 5_000
    assert judged.inside > 300
    errors = Counter(re.findall(r"ERROR:  (.{60})", text))
    print(dict(errors))
    assert not [one for one in errors if "syntax" in one or "does not exist" in one]
