"""What breaks lines and steers terminals (T18), in every text that is logged, audited or printed.

Decides that each line of a log is one JSON object, that readable lines and the command line are
without steering characters, and that no line shows the values of variables.
"""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx2
import pytest
import sqlalchemy as sa

from iaflow.auth import SessionManager
from iaflow.auth.audit import Caller
from iaflow.cli import main
from iaflow.settings import Settings
from iaflow.telemetry import LONGEST, configure_logs, get_logger
from tests.security.wire import HastyServer, Wire, write_request
from tests.servers import ServerRoom

KEY: Final = "tq8-9Vw_Zr4nXe2LkM7sBy5DgHj1Pc6u"
PASSWORD: Final = "plum-cradle-oxide-74"
V1: Final = "/api/v1"

FORGED: Final = '{"event": "forged", "level": "info"}'
TEXTS: Final = (
    f"a\r\n{FORGED}\r\n",
    f"a\n{FORGED}",
    f"a\r{FORGED}",
    f"a\u2028{FORGED}\u2029",
    f"a\x85{FORGED}\x0b\x0c\x1c\x1d\x1e",
    'a", "event": "forged", "b": "',
    "a\\",
    'a\\"',
    "a\\u000a",
    "a'}}]",
    "\x1b[2J\x1b[31mred",
    "\x1b]0;title\x07",
    "\x1b]8;;https://evil.example\x1b\\link\x1b]8;;\x1b\\",
    "\x1bP0;1|17/ab\x1b\\",
    "\x9b31m\x9d0;title\x9c",
    "\x07\x08\x7f\x00",
    "\u202egnp.exe\u202c\u2066\u2069",
    "\ud800",
    "%s %d %(a)s {0} {a!r}",
    "[bold red]markup[/] [link=https://evil.example]x[/link]",
    "a" * 100_000,
    "\x1b" * 20_000,
    "日本語 ü 😀",
    "",
    " ",
    "\ufeff\u200b\u200d",
    "<script>alert(1)</script>",
    "$(reboot) `reboot` ; reboot",
    "a\tb",
    "None",
)
STEERING: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


@contextmanager
def logging_to(monkeypatch: pytest.MonkeyPatch, *, json_lines: bool) -> Iterator[io.StringIO]:
    """Collect the lines of a process whose stderr is this."""
    kept = {
        name: (one.handlers[:], one.level, one.propagate)
        for name in ("iaflow", "library")
        if (one := logging.getLogger(name))
    }
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    configure_logs("DEBUG", json_lines=json_lines, also=("library",))
    try:
        yield stream
    finally:
        for name, (handlers, level, propagate) in kept.items():
            one = logging.getLogger(name)
            one.handlers[:], one.propagate = handlers, propagate
            one.setLevel(level)


def write_lines(text: str) -> int:
    """Log a text everywhere where one may stand; return how many lines that is."""
    log, library = get_logger("iaflow.hostile"), logging.getLogger("library.part")
    word = "a-value-of-a-variable"
    log.info(text)
    log.info("known", value=text, deep={"list": [text, {text: text}]}, number=1)
    log.warning("bytes", value=text.encode(errors="surrogatepass"), other=ValueError(text))
    library.warning("a library says %s", text)
    library.warning(text)
    for complain in (log.exception, library.exception):
        try:
            assert word
            raise RuntimeError(text)  # noqa: TRY301  the frame with `word` is what it is about
        except RuntimeError:
            complain("it broke")
    return 7


def test_each_line_is_one_json_object(monkeypatch: pytest.MonkeyPatch) -> None:
    with logging_to(monkeypatch, json_lines=True) as stream:
        count = sum(write_lines(text) for text in TEXTS)
    lines = stream.getvalue().splitlines()
    objects = [json.loads(line) for line in lines]
    print(f"{len(lines)} lines of {len(TEXTS)} texts")
    assert len(objects) == count
    assert all(isinstance(one, dict) and one["level"] for one in objects)
    assert STEERING.search(stream.getvalue()) is None
    assert not [one for one in objects if one["event"] == "forged"]
    assert max(map(len, lines)) < 12 * LONGEST
    # What a text was stays to be read.
    assert any("日本語" in one["event"] for one in objects)
    assert "a-value-of-a-variable" not in stream.getvalue()


def test_readable_lines_steer_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    with logging_to(monkeypatch, json_lines=False) as stream:
        count = sum(write_lines(text) for text in TEXTS)
    said = stream.getvalue()
    begins = [line for line in said.split("\n") if re.match(r"\d{4}-\d\d-\d\dT.*Z \[\w+ *\]", line)]
    print(f"{len(begins)} lines of {len(TEXTS)} texts")
    assert len(begins) == count
    assert STEERING.search(said) is None
    # A traceback shows where it was, and not what was known there.
    assert "Traceback" in said
    assert "a-value-of-a-variable" not in said


# --- over HTTP


@pytest.mark.slow
def test_lines_of_a_server_that_is_told_all_that(
    server_room: ServerRoom,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    with SessionManager(url, secret_key=KEY, settings=Settings()) as sessions:
        sessions.accounts.create("adele", roles=("admin",), password=PASSWORD, caller=Caller("t"))
        me = sessions.sign_in("adele", PASSWORD).principal
        scopes = [one.value for one in me.permissions]
        _, token = sessions.tokens.create(me, "hostile", scopes, 1, caller=Caller("adele"))
    settings = {
        "IAFLOW_DATABASE_URL": url,
        "IAFLOW_SECRET_KEY": KEY,
        "IAFLOW_LOG_LEVEL": "DEBUG",
        "IAFLOW_TRUSTED_PROXIES": "127.0.0.1",
    }
    with HastyServer(server_room.guardian, tmp_path, settings) as server:
        with httpx2.Client(
            base_url=server.url, headers={"Authorization": f"Bearer {token}"}, timeout=20
        ) as http:
            statuses = [status for text in TEXTS for status in tell_everything(http, text)]
            statuses += break_statements(http, url)
            audited = read_audit(http)
        for text in TEXTS:
            with Wire(server.port) as wire:
                raw = text.encode(errors="replace")[:4000]
                wire.say(b"GET /healthz HTTP/1.1\r\nHost: a\r\nUser-Agent: " + raw + b"\r\n\r\n")
                wire.hear(replies=1)
                wire.socket.close()
        with Wire(server.port) as wire:
            wire.say(write_request("GET", "/\x1b[2J"))
            wire.hear(replies=1)
    lines = server.log.read_text().split("\n")
    own = [line for line in lines if line and not line.startswith("iaflow web: ")]
    objects = [json.loads(line) for line in own]
    print(f"{len(statuses)} requests, {len(own)} lines, {len(audited)} events of the audit")
    assert len(objects) > 10
    assert all(isinstance(one, dict) and one["event"] != "forged" for one in objects)
    assert STEERING.search("\n".join(own)) is None
    assert 500 in statuses
    assert len(audited) > 100
    for event in audited:
        texts = [one for one in flatten(event) if isinstance(one, str)]
        assert not [one for one in texts if STEERING.search(one) or "\n" in one], event
        assert all(len(one) <= 501 for one in texts)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    judge_commands(capsys)


def tell_everything(http: httpx2.Client, text: str) -> Iterator[int]:
    """Put a text into every place of requests whose texts are kept or logged."""
    word = text[:300]
    named = quote(word.encode(errors="replace"), safe="")
    in_header = re.sub(r"[^!-~]", "?", word)
    anonymous = {"Authorization": ""}

    def ask(method: str, path: str, body: Any = None, **headers: str) -> int:
        content = None if body is None else json.dumps(body)
        more = {"Content-Type": "application/json", **headers}
        status = http.request(method, path, content=content, headers=more).status_code
        assert status != 500, (method, path, body)
        return status

    sign_in = {"name": word, "password": word}
    yield ask("POST", f"{V1}/session", sign_in, **anonymous)
    own = {"name": "adele", "password": word}
    header = {"User-Agent": in_header, "X-Forwarded-For": in_header, **anonymous}
    yield ask("POST", f"{V1}/session", own, **header)
    yield ask("POST", f"{V1}/users", {"name": word, "roles": [word], "pipelines": [word]})
    yield ask("POST", f"{V1}/users", {"name": f"n{abs(hash(word))}", "roles": ["viewer"]})
    yield ask("PATCH", f"{V1}/users/{named}", {"roles": ["viewer"]})
    yield ask("POST", f"{V1}/tokens", {"name": word, "scopes": ["runs:read"], "days": 1})
    yield ask("POST", f"{V1}/runs/{named}/cancel", {"reason": word})
    yield ask("POST", f"{V1}/runs/{named}/signals/{named}", {"payload": word})
    yield ask("POST", f"{V1}/pipelines/{named}/runs", {"input": {word: word}})
    yield ask("PUT", f"{V1}/schedules/{named}", {"slug": word, "cron": word})
    yield ask("POST", f"{V1}/pauses/{named}/reassign", {"users": [word]})
    yield ask("POST", f"{V1}/pauses/{named}/links", {"person": word})
    steps = [{"id": "a", "module": "m", "step_class": "C", "config": {"x": word}}]
    definition = {"name": "Hostile", "description": word, "steps": steps}
    yield ask("POST", f"{V1}/pipelines", {"definition": {**definition, "flow": {"start_at": "a"}}})
    start = {"input": {word: word}}
    yield ask("POST", f"{V1}/pipelines/hostile-v1/runs", start, **{"Idempotency-Key": in_header})
    bulk = {"filter": {"slug": "hostile-v1"}, "reason": word, "limit": 1}
    yield ask("POST", f"{V1}/runs/bulk/cancel", bulk)
    for name in ("actor", "action", "target"):
        yield ask("GET", f"{V1}/audit?{name}={named}")
    yield ask("GET", f"/{named}")
    yield ask("GET", f"/l/{named}")
    # Without permission, which is audited with the place.
    yield ask("GET", f"{V1}/runs/{named}", **{"X-Request-Id": in_header, **anonymous})


def break_statements(http: httpx2.Client, url: str) -> Iterator[int]:
    """Let statements with such texts fail: the log has an error that quotes them."""
    engine = sa.create_engine(url)
    for old, new in (("name", "was_name"), ("was_name", "name")):
        with engine.begin() as connection:
            connection.execute(sa.text(f"ALTER TABLE schedules RENAME COLUMN {old} TO {new}"))
        if old == "name":
            for text in TEXTS[:10]:
                named = quote(text.encode(errors="replace"), safe="")
                yield http.get(f"{V1}/schedules/{named}").status_code
            yield http.get(f"{V1}/schedules").status_code
    engine.dispose()


def read_audit(http: httpx2.Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    params: dict[str, Any] = {"limit": 200}
    while True:
        page = http.get(f"{V1}/audit", params=params).json()
        found += page["items"]
        if page["next"] is None:
            return found
        params["cursor"] = page["next"]


def flatten(value: Any) -> Iterator[Any]:
    match value:
        case dict():
            for key, one in value.items():
                yield key
                yield from flatten(one)
        case list():
            for one in value:
                yield from flatten(one)
        case _:
            yield value


def judge_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """What commands print of all that, on what could be a terminal."""
    evil = "x\x1b[2J\r\n\u202e"
    for words, code in (
        (["users"], 0),
        (["users", "--json"], 0),
        (["users", "show", "adele"], 0),
        (["tokens"], 0),
        (["runs"], 0),
        (["pipelines"], 0),
        (["users", "show", evil], 2),
        (["users", "create", evil], 2),
        (["users", "set", "adele", "--role", evil], 2),
        (["tokens", "create", "adele", evil], 2),
    ):
        with pytest.raises(SystemExit) as ended:
            main(words)
        out, err = capsys.readouterr()
        said = out + err
        assert ended.value.code == code, (words, ended.value.code, said)
        assert said.strip()
        assert STEERING.search(said) is None, (words, STEERING.findall(said))
