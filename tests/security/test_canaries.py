"""What must be in no row, no log line and no text of an error: every secret that is given out."""

from __future__ import annotations

import base64
import hashlib
import logging
from urllib.parse import quote

import pytest

from iaflow.auth.accounts import principal_of
from iaflow.auth.audit import Caller
from iaflow.errors import IaflowError
from tests.security.deployments import ANN, OPERATOR, PASSWORDS, Deployment

NEW = "Kanarie fliegt nie allein heim"
TYPED = "falschgetippt-mein-Passwort"


def spellings(secret: str) -> set[str]:
    """Return a secret as it is, in Base64, hex and an URL, and pieces of it at every offset."""
    raw = secret.encode()
    whole = {secret, base64.b64encode(raw).decode(), raw.hex(), quote(secret)}
    return whole | {secret[at : at + 16] for at in range(len(secret) - 15)}


def test_no_secret_is_in_any_row_log_or_error(
    deployment: Deployment, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    sessions, told = deployment.sessions, []

    def refuse(act: object, *args: object, **given: object) -> None:
        with pytest.raises(IaflowError) as refused:
            act(*args, **given)  # type: ignore[operator]
        told.append(repr(refused.value))

    signed_in = deployment.sign_in(user_agent="x", request_id="r")
    sessions.find(signed_in.token)
    changed = sessions.change_password(
        signed_in.principal, signed_in.token, PASSWORDS[ANN], NEW, user_agent="y"
    )
    _, api_token = sessions.tokens.create(
        principal_of(deployment.ann), "ci", ["runs:read"], 1, caller=OPERATOR
    )
    assert sessions.tokens.find(api_token)
    setup = deployment.accounts.make_setup(deployment.bob.user_id, caller=OPERATOR)
    refuse(deployment.accounts.use_setup, setup, "short", caller=Caller())
    deployment.accounts.use_setup(setup, f"{NEW} zwei", caller=Caller())
    _, link = sessions.links.create(deployment.ask_people(), "eve", {"a": 1}, caller=OPERATOR)
    form = sessions.links.form_token(link)
    sessions.links.use(link, caller=Caller())
    # A password in the place of a name, and a wrong one.
    for _ in range(7):
        refuse(sessions.sign_in, TYPED, TYPED, address="192.0.2.77", user_agent="z")
    refuse(sessions.sign_in, ANN, f"{NEW}!")
    refuse(deployment.accounts.create, f"{NEW} ?", caller=OPERATOR)
    refuse(deployment.accounts.create, "eve", password="kurz-geheim", caller=OPERATOR)
    sessions.sign_out(changed.session.session_id, caller=Caller(ANN))

    dumped = deployment.dump()
    # What is looked through has rows of every kind.
    for word in ("sign_in.refused", "link.use", "token.create", "$argon2id$", "192.0.2.77"):
        assert word in dumped
    everything = "\n".join([dumped, caplog.text, *told])
    secrets = {
        "session": signed_in.token,
        "session after": changed.token,
        "csrf": changed.csrf_token,
        "api token": api_token.split("_", 2)[2],
        "setup": setup,
        "link": link,
        "form": form,
        "password": PASSWORDS[ANN],
        "new password": NEW,
        "typed as a name": TYPED,
        "short password": "kurz-geheim",
        "key": deployment.key,
        # Nor what anybody could find out by trying.
        "hash of what was typed": hashlib.sha256(TYPED.encode()).hexdigest(),
    }
    found = {
        name for name, secret in secrets.items() if any(s in everything for s in spellings(secret))
    }
    assert found == set()


def test_an_event_is_cut_and_steers_no_terminal(deployment: Deployment) -> None:
    caller = Caller("ann\x1b[31m\r\n\x00", "x" * 600, "r\u2028\ud800")
    deployment.sessions.audit.record(
        "run.cancel",
        "a\nb" * 500,
        caller=caller,
        detail={"why": "y" * 900, "list": ["\x00z"], "deep": {"k\n": "v\x07"}, "n": 1},
    )
    (event,) = deployment.audited(action="run.cancel")
    texts = [event.actor or "", event.target, event.address, event.request_id]
    assert all(len(text) <= 500 and text.replace("\ufffd", "").isprintable() for text in texts)
    assert (len(event.detail["why"]), event.detail["n"]) == (500, 1)
    assert event.detail["deep"] == {"k": "v\ufffd"}


def test_events_are_listed_by_pages_and_filters(deployment: Deployment) -> None:
    audit = deployment.sessions.audit
    for at in range(5):
        audit.record("run.start", f"slug{at % 2}", caller=Caller(f"user{at}"))
    listed = audit.list(action="run.start")
    assert [event.actor for event in listed] == [f"user{at}" for at in (4, 3, 2, 1, 0)]
    first = audit.list(action="run.start", limit=2)
    rest = audit.list(action="run.start", before=first[-1].event_id)
    assert [*first, *rest] == list(listed)
    assert [event.actor for event in audit.list(target="slug1")] == ["user3", "user1"]
    assert [event.target for event in audit.list(actor="user4", target="slug0")] == ["slug0"]
    assert list(audit.list(before="x")) == []
