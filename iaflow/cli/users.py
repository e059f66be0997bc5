"""Commands for accounts: `users` and what stands behind it.

Decides how an account is written on a command line and shown; never what it may. Works on the
database, so whoever may write that may make the first admin. Called through `main`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import rich_click as click

from iaflow.cli.exits import ExitCode
from iaflow.cli.inputs import db_option, json_option
from iaflow.cli.opening import open_app, read_user
from iaflow.cli.terminal import (
    errors,
    format_age,
    format_instant,
    hint,
    is_interactive,
    line,
    results,
    table,
    write_json,
)
from iaflow.clock import SystemClock

if TYPE_CHECKING:
    from iaflow.auth.accounts import Accounts
    from iaflow.auth.audit import Caller
    from iaflow.auth.tokens import ApiTokens
    from iaflow.data.accounts import UserRecord

__all__ = ["Desk", "open_desk", "split_words", "users"]

F = TypeVar("F", bound=Callable[..., Any])

PAGE = 200


@dataclass(frozen=True, slots=True)
class Desk:
    """What commands for accounts work on, and in whose name."""

    accounts: Accounts
    tokens: ApiTokens
    caller: Caller


@contextmanager
def open_desk(db: str | None) -> Iterator[Desk]:
    """
    Give the accounts of a database. No secret key is needed: nothing is signed here.

    Raises:
        SettingsRefused, SchemaOutdated, NotReachable: it cannot be worked on.
    """
    from iaflow.auth.accounts import Accounts
    from iaflow.auth.audit import Audit, Caller
    from iaflow.auth.passwords import Passwords
    from iaflow.auth.tokens import ApiTokens

    with open_app(db) as app:
        database, clock = app.database, app.engine.clock
        audit = Audit(database, clock)
        yield Desk(
            Accounts(database, clock, Passwords(), audit),
            ApiTokens(database, clock, audit),
            Caller(read_user(), "command line"),
        )


def split_words(given: Iterable[str]) -> tuple[str, ...]:
    """Return the words of an option that may be repeated, or hold several with commas."""
    return tuple(word.strip() for text in given for word in text.split(",") if word.strip())


def _role_option(help: str) -> Callable[[F], F]:
    return click.option("--role", "roles", multiple=True, metavar="ROLE", help=help)


def _pipelines_option(help: str) -> Callable[[F], F]:
    return click.option("--pipelines", "pipelines", multiple=True, metavar="PATTERN", help=help)


@click.group(invoke_without_command=True)
@db_option
@json_option
@click.pass_context
def users(ctx: click.Context, db: str | None, as_json: bool) -> int:
    """Look after who may sign in: list the users, or look after one."""
    if ctx.invoked_subcommand is not None:
        return ExitCode.DONE
    with open_desk(db) as desk:
        found = list(_all(desk.accounts))
    if as_json:
        write_json([_describe(user) for user in found])
    elif not found:
        errors().print(line("there is no user"))
        advice = "make the first:  iaflow users create NAME --role admin"
        errors().print(hint(advice), soft_wrap=True)
    else:
        rows = [
            [user.name, ", ".join(user.roles), ", ".join(user.pipelines), _describe_state(user)]
            for user in found
        ]
        for row in table(["user", "roles", "pipelines", "state"], rows):
            results().print(row, soft_wrap=True)
    return ExitCode.DONE


@users.command()
@click.argument("name", metavar="NAME")
@_role_option(
    "viewer, operator, author, approver, admin, or a word of your own for the assignees of "
    "questions. May be repeated; else viewer."
)
@_pipelines_option("Which the user sees: a slug, invoice-*, or *. May be repeated; else *.")
@click.option(
    "--password-stdin", is_flag=True, help="Read the password from stdin; else a setup token."
)
@db_option
@json_option
def create(
    name: str,
    roles: tuple[str, ...],
    pipelines: tuple[str, ...],
    password_stdin: bool,
    db: str | None,
    as_json: bool,
) -> int:
    """
    Make a user, and print a token with which the password is set once, within a day.

    The token is shown this once. With --password-stdin the password is set here.
    """
    password = _read_stdin() if password_stdin else None
    with open_desk(db) as desk:
        user = desk.accounts.create(
            name,
            roles=split_words(roles) or ("viewer",),
            pipelines=split_words(pipelines) or ("*",),
            password=password,
            caller=desk.caller,
        )
        token = None
        if password is None:
            token = desk.accounts.make_setup(user.user_id, caller=desk.caller)
    if as_json:
        write_json(_describe(user) | ({} if token is None else {"setup_token": token}))
        return ExitCode.DONE
    errors().print(line(("✓ ", "green"), f"made {user.name}: {', '.join(user.roles)}"))
    if token is not None:
        _print_setup(user.name, token)
    return ExitCode.DONE


@users.command()
@click.argument("name", metavar="NAME")
@db_option
@json_option
def show(name: str, db: str | None, as_json: bool) -> int:
    """Show a user and the user's tokens."""
    with open_desk(db) as desk:
        user = desk.accounts.get_by_name(name)
        tokens = desk.tokens.list(user_id=user.user_id, limit=PAGE)
    if as_json:
        listed = [{"token_id": one.token_id, "name": one.name} for one in tokens]
        write_json({**_describe(user), "tokens": listed})
        return ExitCode.DONE
    now = SystemClock().now()
    changed = user.password_changed_at
    shown = {
        "user": user.name,
        "roles": ", ".join(user.roles) or "none",
        "pipelines": ", ".join(user.pipelines) or "none",
        "state": _describe_state(user),
        "password": "none yet" if changed is None else f"set {format_age(changed, now)}",
        "made": format_age(user.created_at, now),
        "tokens": ", ".join(one.name for one in tokens) or "none",
    }
    for label, text in shown.items():
        results().print(line((f"{label:<10}", "dim"), text), soft_wrap=True)
    return ExitCode.DONE


@users.command("set")
@click.argument("name", metavar="NAME")
@_role_option("In the place of all that there are. May be repeated.")
@_pipelines_option("In the place of all that there are. May be repeated.")
@db_option
@json_option
def set_(
    name: str, roles: tuple[str, ...], pipelines: tuple[str, ...], db: str | None, as_json: bool
) -> int:
    """Give a user other roles or pipelines; other roles sign the user out."""
    if not roles and not pipelines:
        raise click.UsageError("say what to change: --role, --pipelines")
    return _change(
        name,
        db,
        as_json,
        roles=split_words(roles) if roles else None,
        pipelines=split_words(pipelines) if pipelines else None,
    )


@users.command()
@click.argument("name", metavar="NAME")
@db_option
@json_option
def disable(name: str, db: str | None, as_json: bool) -> int:
    """Let a user sign in no more; sessions end, tokens stop to count, at once."""
    return _change(name, db, as_json, is_disabled=True)


@users.command()
@click.argument("name", metavar="NAME")
@db_option
@json_option
def enable(name: str, db: str | None, as_json: bool) -> int:
    """Let a user who was disabled sign in again."""
    return _change(name, db, as_json, is_disabled=False)


@users.command()
@click.argument("name", metavar="NAME")
@db_option
@json_option
def delete(name: str, db: str | None, as_json: bool) -> int:
    """Remove a user with sessions and tokens; what the user did stays signed."""
    with open_desk(db) as desk:
        user = desk.accounts.get_by_name(name)
        desk.accounts.delete(user.user_id, caller=desk.caller)
    if as_json:
        write_json({"name": user.name, "deleted": True})
    else:
        errors().print(line(("✓ ", "green"), f"deleted {user.name}"))
    return ExitCode.DONE


@users.command()
@click.argument("name", metavar="NAME")
@click.option("--stdin", "from_stdin", is_flag=True, help="Read it from stdin; else it is asked.")
@db_option
@json_option
def password(name: str, from_stdin: bool, db: str | None, as_json: bool) -> int:
    """Give a user another password; sessions end."""
    if not from_stdin and not is_interactive():
        raise click.UsageError("nobody can be asked here: write the password to --stdin")
    with open_desk(db) as desk:
        user = desk.accounts.get_by_name(name)
        given = (
            _read_stdin()
            if from_stdin
            else click.prompt("password", hide_input=True, confirmation_prompt=True, err=True)
        )
        desk.accounts.set_password(user.user_id, given, caller=desk.caller)
    return _show_changed(user.name, "has another password", {"has_password": True}, as_json)


@users.command()
@click.argument("name", metavar="NAME")
@db_option
@json_option
def setup(name: str, db: str | None, as_json: bool) -> int:
    """Print a token with which a user sets a password once, within a day; shown this once."""
    with open_desk(db) as desk:
        user = desk.accounts.get_by_name(name)
        token = desk.accounts.make_setup(user.user_id, caller=desk.caller)
    if as_json:
        write_json({"name": user.name, "setup_token": token})
    else:
        _print_setup(user.name, token)
    return ExitCode.DONE


def _all(accounts: Accounts) -> Iterator[UserRecord]:
    after: str | None = None
    while page := accounts.list(after=after, limit=PAGE):
        yield from page
        after = page[-1].name


def _change(name: str, db: str | None, as_json: bool, **wanted: Any) -> int:
    with open_desk(db) as desk:
        user = desk.accounts.get_by_name(name)
        changed = desk.accounts.set(user.user_id, caller=desk.caller, **wanted)
    if as_json:
        write_json(_describe(changed))
        return ExitCode.DONE
    what = f"{', '.join(changed.roles)}; sees {', '.join(changed.pipelines)}"
    if changed.is_disabled:
        what = "disabled"
    return _show_changed(changed.name, what, {}, as_json)


def _show_changed(name: str, what: str, told: Mapping[str, Any], as_json: bool) -> int:
    if as_json:
        write_json({"name": name, **told})
    else:
        errors().print(line(("✓ ", "green"), f"{name}: {what}"), soft_wrap=True)
    return ExitCode.DONE


def _print_setup(name: str, token: str) -> None:
    results().print(line(token), soft_wrap=True)
    advice = f"with this token {name} sets a password once, within 24 h; it is shown this once"
    errors().print(hint(advice), soft_wrap=True)


def _read_stdin() -> str:
    """Return the first line of stdin, without its end."""
    return sys.stdin.readline().rstrip("\r\n")


def _describe(user: UserRecord) -> dict[str, Any]:
    return {
        "user_id": user.user_id,
        "name": user.name,
        "roles": list(user.roles),
        "pipelines": list(user.pipelines),
        "is_disabled": user.is_disabled,
        "has_password": user.has_password,
        "created_at": format_instant(user.created_at),
    }


def _describe_state(user: UserRecord) -> str:
    if user.is_disabled:
        return "■ disabled"
    return "✓ can sign in" if user.has_password else "· no password yet"
