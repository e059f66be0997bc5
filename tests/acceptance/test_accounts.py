"""`iaflow users` and `iaflow tokens`, as somebody types them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from iaflow import telemetry
from iaflow.auth import SessionManager
from iaflow.auth.audit import Caller
from iaflow.cli import root
from tests.acceptance.shell import Shell

PASSWORD = "zwoelf Kamele im Zoo"


class Here:
    """Commands in this process, which is a hundred times quicker than one for each."""

    def run(self, *args: str, code: int = 0, stdin: str = "") -> Result:
        result = CliRunner().invoke(root, args, input=stdin)
        assert result.exit_code == code, result.output
        return result

    def json(self, *args: str, stdin: str = "") -> Any:
        return json.loads(self.run(*args, "--json", stdin=stdin).stdout)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    """A folder of its own; where log lines go stays with pytest."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(telemetry, "configure_logs", lambda level: None)
    return Here()


@pytest.fixture
def sessions(tmp_path: Path) -> Iterator[SessionManager]:
    """What the web opens on the database of the folder."""
    url = f"sqlite:///{tmp_path / '.iaflow' / 'iaflow.db'}"
    with SessionManager(url, secret_key=secrets.token_urlsafe(48)) as sessions:
        yield sessions


def test_the_first_admin_is_made_and_signs_in(tmp_path: Path, sessions: SessionManager) -> None:
    shell = Shell(tmp_path)
    assert "there is no user" in shell.run("users").stderr
    made = shell.run("users", "create", "Ann", "--role", "admin")
    token = made.stdout.strip()
    assert len(token) == 43
    assert "24 h" in made.stderr
    assert "no password yet" in shell.run("users").stdout
    sessions.accounts.use_setup(token, PASSWORD, caller=Caller())
    assert sessions.sign_in("ann", PASSWORD).principal.is_admin
    assert "can sign in" in shell.run("users").stdout
    (event,) = sessions.audit.list(action="user.create")
    assert event.address == "command line"


def test_a_user_is_looked_after(here: Here, sessions: SessionManager) -> None:
    given = ("bob", "--role", "viewer,finance", "--pipelines", "invoice-*", "--password-stdin")
    made = here.json("users", "create", *given, stdin=f"{PASSWORD}\n")
    assert (made["roles"], made["pipelines"]) == (["finance", "viewer"], ["invoice-*"])
    assert "setup_token" not in made
    token = sessions.sign_in("bob", PASSWORD).token
    changed = here.json("users", "set", "BOB", "--role", "operator", "--role", "finance")
    assert (changed["roles"], changed["pipelines"]) == (["finance", "operator"], ["invoice-*"])
    assert sessions.find(token) is None
    assert here.json("users", "disable", "bob")["is_disabled"] is True
    assert "disabled" in here.run("users", "show", "bob").stdout
    assert here.json("users", "enable", "bob")["is_disabled"] is False
    other = "drei Giraffen im Fluss"
    here.run("users", "password", "bob", "--stdin", stdin=other)
    assert sessions.sign_in("bob", other).principal.name == "bob"
    assert len(here.json("users", "setup", "bob")["setup_token"]) == 43
    assert here.json("users", "delete", "bob") == {"name": "bob", "deleted": True}
    assert here.json("users") == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    (
        (("create", "a b"), "name_invalid"),
        (("create", "eve", "--role", "Admin!"), "role_invalid"),
        (("create", "eve", "--pipelines", "a*b"), "pattern_invalid"),
        (("create", "eve", "--password-stdin"), "password_short"),
        (("create", "ann"), "there is a user"),
        (("set", "ann", "--role", "viewer"), "last admin"),
        (("disable", "ann"), "last admin"),
        (("delete", "ann"), "last admin"),
        (("show", "nobody"), "no user nobody"),
        (("set", "ann"), "say what to change"),
        (("password", "ann"), "--stdin"),
    ),
    ids=lambda given: " ".join(given) if isinstance(given, tuple) else "",
)
def test_what_cannot_be_is_said(here: Here, arguments: tuple[str, ...], said: str) -> None:
    here.run("users", "create", "ann", "--role", "admin")
    told = here.run("users", *arguments, code=2, stdin="kurz\n")
    assert said in told.stderr
    assert told.stdout == ""
    assert "kurz" not in told.stderr


def test_a_token_is_made_shown_once_and_ended(here: Here, sessions: SessionManager) -> None:
    here.run("users", "create", "ann", "--role", "admin")
    given = ("--user", "ann", "--name", "nightly import", "--scope", "pipelines:write,runs:read")
    made = here.json("tokens", "create", *given, "--days", "7")
    found = sessions.tokens.find(made["token"])
    assert found is not None
    assert sorted(found.permissions) == ["pipelines:write", "runs:read"] == made["scopes"]
    listed = here.run("tokens").stdout
    assert "nightly import" in listed
    assert made["token"] not in listed
    assert here.json("tokens", "--user", "ann")[0]["last_used_at"] is not None
    assert "nightly import" in here.run("users", "show", "ann").stdout
    here.run("tokens", "revoke", made["token_id"])
    assert sessions.tokens.find(made["token"]) is None
    assert here.json("tokens") == []
    assert "there is no token" in here.run("tokens", "revoke", made["token_id"], code=2).stderr
    wrong = here.run("tokens", "create", "--user", "ann", "--name", "x", "--scope", "y", code=2)
    assert "scope_invalid" in wrong.stderr
