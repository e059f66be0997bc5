"""Commands for the keys of programs: `tokens` and what stands behind it.

Decides how a token is asked for and shown; never what it may. Called through `main`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import rich_click as click

from iaflow.cli.exits import ExitCode
from iaflow.cli.inputs import db_option, json_option
from iaflow.cli.terminal import (
    errors,
    format_age,
    format_instant,
    hint,
    line,
    results,
    table,
    write_json,
)
from iaflow.cli.users import PAGE, open_desk, split_words
from iaflow.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iaflow.auth.tokens import ApiTokens
    from iaflow.data.accounts import TokenRecord

__all__ = ["tokens"]


@click.group(invoke_without_command=True)
@click.option("--user", "user", metavar="NAME", help="Only those of this user.")
@db_option
@json_option
@click.pass_context
def tokens(ctx: click.Context, user: str | None, db: str | None, as_json: bool) -> int:
    """Look after what programs sign in with: list the tokens, make one, or end one."""
    if ctx.invoked_subcommand is not None:
        return ExitCode.DONE
    with open_desk(db) as desk:
        user_id = None if user is None else desk.accounts.get_by_name(user).user_id
        found = list(_all(desk.tokens, user_id))
        ids = {one.user_id for one in found}
        names = {one: desk.accounts.get(one).name for one in ids}
    if as_json:
        write_json([_describe(one, names[one.user_id]) for one in found])
    elif not found:
        errors().print(line("there is no token"))
        advice = "make one:  iaflow tokens create --user NAME --name PURPOSE --scope runs:read"
        errors().print(hint(advice), soft_wrap=True)
    else:
        now = SystemClock().now()
        rows = [
            [
                one.token_id,
                names[one.user_id],
                one.name,
                " ".join(one.scopes),
                format_age(one.expires_at, now),
                "never" if one.last_used_at is None else format_age(one.last_used_at, now),
            ]
            for one in found
        ]
        for row in table(["token", "user", "name", "scopes", "ends", "last used"], rows):
            results().print(row, soft_wrap=True)
    return ExitCode.DONE


@tokens.command()
@click.option("--user", "user", metavar="NAME", required=True, help="In whose name it asks.")
@click.option("--name", "name", metavar="TEXT", required=True, help="What it is for.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    metavar="PERMISSION",
    help="What it may, such as runs:read; never more than its user. May be repeated.",
)
@click.option(
    "--days", type=click.IntRange(1, 365), default=90, show_default=True, help="Until it ends."
)
@db_option
@json_option
def create(
    user: str, name: str, scopes: tuple[str, ...], days: int, db: str | None, as_json: bool
) -> int:
    """Make a token, and print it: it is shown this once."""
    from iaflow.auth.accounts import principal_of

    with open_desk(db) as desk:
        whose = desk.accounts.get_by_name(user)
        made, text = desk.tokens.create(
            principal_of(whose), name, split_words(scopes), days, caller=desk.caller
        )
    if as_json:
        write_json({**_describe(made, whose.name), "token": text})
        return ExitCode.DONE
    results().print(line(text), soft_wrap=True)
    ends = f"{made.name} asks as {whose.name} until {format_instant(made.expires_at)}"
    errors().print(hint(f"{ends}; it is shown this once"), soft_wrap=True)
    return ExitCode.DONE


@tokens.command()
@click.argument("token_id", metavar="TOKEN")
@db_option
@json_option
def revoke(token_id: str, db: str | None, as_json: bool) -> int:
    """End a token at once; TOKEN is its id, no secret."""
    with open_desk(db) as desk:
        desk.tokens.revoke(token_id, caller=desk.caller)
    if as_json:
        write_json({"token_id": token_id, "revoked": True})
    else:
        errors().print(line(("✓ ", "green"), f"revoked {token_id}"))
    return ExitCode.DONE


def _all(found: ApiTokens, user_id: str | None) -> Iterator[TokenRecord]:
    before: str | None = None
    while page := found.list(user_id=user_id, before=before, limit=PAGE):
        yield from page
        before = page[-1].token_id


def _describe(one: TokenRecord, user: str) -> dict[str, Any]:
    return {
        "token_id": one.token_id,
        "user": user,
        "name": one.name,
        "scopes": list(one.scopes),
        "created_at": format_instant(one.created_at),
        "expires_at": format_instant(one.expires_at),
        "last_used_at": format_instant(one.last_used_at),
    }
