"""Commands about imported pipelines: `pipelines` and what stands below it.

Decides how pipelines, their versions and differences are shown; never what a difference is.
Called through `main`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import rich_click as click

from iaflow.cli.exits import ExitCode
from iaflow.cli.inputs import db_option, json_option
from iaflow.cli.opening import open_app
from iaflow.cli.terminal import errors, format_instant, hint, line, results, table, write_json

if TYPE_CHECKING:
    from iaflow.data.records import PipelineRecord
    from iaflow.pipeline.comparing import Difference

__all__ = ["pipelines"]

MOST_SHOWN = 60
"""Characters of a value in a table; --json has all of it."""


@click.group(invoke_without_command=True)
@db_option
@json_option
@click.pass_context
def pipelines(ctx: click.Context, db: str | None, as_json: bool) -> int:
    """List imported pipelines, or look after one."""
    if ctx.invoked_subcommand is not None:
        return ExitCode.DONE
    with open_app(db) as app:
        known = app.client.pipelines()
    if as_json:
        write_json([_describe(one) for one in known])
    elif not known:
        errors().print(hint("no pipeline is imported yet:  iaflow import DIR"))
    else:
        rows = [
            [one.slug, one.version, str(one.number), one.name, "paused" if one.is_paused else ""]
            for one in known
        ]
        for row in table(["slug", "version", "import", "name", ""], rows):
            results().print(row, soft_wrap=True)
    return ExitCode.DONE


@pipelines.command()
@click.argument("slug", metavar="SLUG")
@db_option
@json_option
def pause(slug: str, db: str | None, as_json: bool) -> int:
    """
    Let a pipeline rest: nothing starts it any more.

    What has begun goes on to its end, with its child runs, retries and reruns. A schedule's
    instants are refused meanwhile. Importing the pipeline keeps the pause.
    """
    with open_app(db) as app:
        return _show_changed(app.client.pause_pipeline(slug), "paused", as_json=as_json)


@pipelines.command()
@click.argument("slug", metavar="SLUG")
@db_option
@json_option
def resume(slug: str, db: str | None, as_json: bool) -> int:
    """Let a paused pipeline be started again."""
    with open_app(db) as app:
        return _show_changed(app.client.resume_pipeline(slug), "goes on", as_json=as_json)


@pipelines.command()
@click.argument("slug", metavar="SLUG")
@db_option
@json_option
def versions(slug: str, db: str | None, as_json: bool) -> int:
    """List the versions of a pipeline, the newest first."""
    with open_app(db) as app:
        found = app.client.versions(slug, limit=1000)
    if as_json:
        write_json(
            [
                {
                    "number": one.number,
                    "version": one.version,
                    "name": one.name,
                    "content_hash": one.content_hash,
                    "created_at": format_instant(one.created_at),
                }
                for one in found
            ]
        )
        return ExitCode.DONE
    rows = [
        [str(one.number), one.version, one.name, format_instant(one.created_at) or ""]
        for one in found
    ]
    for row in table(["import", "version", "name", "since"], rows):
        results().print(row, soft_wrap=True)
    return ExitCode.DONE


@pipelines.command()
@click.argument("slug", metavar="SLUG")
@click.argument("from_number", metavar="A", type=int)
@click.argument("to_number", metavar="B", type=int)
@db_option
@json_option
def diff(slug: str, from_number: int, to_number: int, db: str | None, as_json: bool) -> int:
    """
    Show what version B of a pipeline has that version A has not, by meaning.

    Steps are matched by their id, transitions by where they lead and when. A and B are numbers
    from `iaflow pipelines versions`.
    """
    with open_app(db) as app:
        found = app.client.compare_versions(slug, from_number, to_number)
    if as_json:
        write_json([one.as_json() for one in found])
    elif not found:
        errors().print(line("they mean the same"))
    else:
        for row in table(["", "of", "where", "before", "after"], [_show(one) for one in found]):
            results().print(row, soft_wrap=True)
    return ExitCode.DONE


def _show(one: Difference) -> list[str]:
    of = f"{one.subject} {one.name}" if one.name else str(one.subject)
    described = one.as_json()
    values = [_clip(described[key]) if key in described else "" for key in ("before", "after")]
    return [str(one.kind), of, one.pointer, *values]


def _clip(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 1]}…"


def _describe(one: PipelineRecord) -> dict[str, Any]:
    return {
        "slug": one.slug,
        "name": one.name,
        "description": one.description,
        "version": one.version,
        "number": one.number,
        "content_hash": one.content_hash,
        "is_paused": one.is_paused,
        "updated_at": one.updated_at.isoformat(),
    }


def _show_changed(one: PipelineRecord, what: str, *, as_json: bool) -> int:
    if as_json:
        write_json(_describe(one))
    else:
        errors().print(line(("✓ ", "green"), f"{one.slug} {what}"))
    return ExitCode.DONE
