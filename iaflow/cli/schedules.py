"""Commands for schedules: `schedules` and what stands behind it.

Decides how a schedule is written on a command line and shown; never which instants it has. Called
through `main`.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import rich_click as click

from iaflow.cli.driving import announce, drive_and_finish
from iaflow.cli.exits import ExitCode
from iaflow.cli.inputs import (
    INTERVAL_UNITS,
    db_option,
    input_option,
    json_option,
    read_inputs,
    read_interval,
)
from iaflow.cli.opening import open_app, read_user
from iaflow.cli.terminal import (
    errors,
    format_age,
    format_instant,
    hint,
    line,
    results,
    status_text,
    table,
    write_json,
)
from iaflow.clock import SystemClock
from iaflow.concurrency import run_async
from iaflow.data.status import FireStatus, Misfire, RunStatus

if TYPE_CHECKING:
    from iaflow.bootstrap import Application
    from iaflow.data.schedules import FireRecord, ScheduleRecord

__all__ = ["schedules"]

_LOOKS: Final = {
    FireStatus.STARTED: "✓ started",
    FireStatus.MISSED: "» missed",
    FireStatus.REFUSED: "✗ refused",
}


@click.group(invoke_without_command=True)
@db_option
@json_option
@click.pass_context
def schedules(ctx: click.Context, db: str | None, as_json: bool) -> int:
    """
    Start runs by the clock: list the schedules, or look after one.

    Any worker fires them, or `iaflow schedules serve`; each instant starts one run.
    """
    if ctx.invoked_subcommand is not None:
        return ExitCode.DONE
    with open_app(db) as app:
        found = app.client.schedules.all()
    if as_json:
        write_json([_describe(one) for one in found])
    elif not found:
        errors().print(line("there is no schedule"))
        advice = 'write one:  iaflow schedules set NAME PIPELINE --cron "30 2 * * *"'
        errors().print(hint(advice), soft_wrap=True)
    else:
        now = SystemClock().now()
        rows = [
            [one.name, one.slug, _describe_times(one), _describe_next(one, now)] for one in found
        ]
        for row in table(["schedule", "pipeline", "when", "next"], rows):
            results().print(row, soft_wrap=True)
    return ExitCode.DONE


@schedules.command("set")
@click.argument("name", metavar="NAME")
@click.argument("slug", metavar="PIPELINE")
@click.option(
    "--cron", metavar="FIELDS", help='Five fields, such as "30 2 * * MON-FRI", or @daily.'
)
@click.option("--every", metavar="INTERVAL", help="In the place of --cron: 90s, 15m, 6h, 1d12h.")
@click.option("--zone", default="UTC", show_default=True, help="The IANA zone of --cron.")
@click.option(
    "--misfire",
    type=click.Choice([one.value for one in Misfire]),
    default=Misfire.LATEST.value,
    show_default=True,
    help="Of instants that passed while no worker was there, start the latest, all, or none.",
)
@click.option("--starts-at", metavar="INSTANT", help="No run before it: 2026-03-08T07:00:00Z.")
@click.option("--ends-at", metavar="INSTANT", help="No run after it.")
@click.option("--instant-as", metavar="NAME", help="The input that is given the instant.")
@input_option
@db_option
@json_option
def set_(
    name: str,
    slug: str,
    cron: str | None,
    every: str | None,
    zone: str,
    misfire: str,
    starts_at: str | None,
    ends_at: str | None,
    instant_as: str | None,
    inputs: tuple[str, ...],
    db: str | None,
    as_json: bool,
) -> int:
    """Write a schedule, in the place of any other of that name."""
    with open_app(db) as app:
        kept = app.client.schedules.put(
            name,
            slug,
            read_inputs(inputs),
            cron=cron,
            every=None if every is None else read_interval(every, "--every"),
            zone=zone,
            misfire=misfire,
            starts_at=_read_instant(starts_at, "--starts-at"),
            ends_at=_read_instant(ends_at, "--ends-at"),
            instant_as=instant_as,
            created_by=read_user(),
        )
    return _show_changed(kept, "kept", as_json=as_json)


@schedules.command()
@click.argument("name", metavar="NAME")
@click.option("-n", "limit", type=click.IntRange(1, 200), default=10, help="Of so many instants.")
@db_option
@json_option
def show(name: str, limit: int, db: str | None, as_json: bool) -> int:
    """Show a schedule, and what became of its last instants."""
    with open_app(db) as app:
        one = app.client.schedules.get(name)
        fires = app.client.schedules.fires(name, limit=limit)
    if as_json:
        write_json({**_describe(one), "fires": [_describe_fire(fire) for fire in fires]})
        return ExitCode.DONE
    now = SystemClock().now()
    shown = {
        "pipeline": one.slug,
        "when": _describe_times(one),
        "next": _describe_next(one, now),
        "missed": {"latest": "the latest starts", "all": "all start", "skip": "none starts"}[
            one.misfire
        ],
        "input": ", ".join(f"{key}={value!r}" for key, value in one.parameters.items()) or "none",
    }
    for label, text in shown.items():
        results().print(line((f"{label:<9} ", "dim"), text), soft_wrap=True)
    if not fires:
        errors().print(line("no instant has come yet"))
        return ExitCode.DONE
    rows = [
        [
            format_instant(fire.fire_at) or "",
            _LOOKS[fire.status],
            fire.run_id or fire.error or "",
        ]
        for fire in fires
    ]
    results().print()
    for row in table(["instant", "became", "run, or why not"], rows):
        results().print(row, soft_wrap=True)
    return ExitCode.DONE


@schedules.command("next")
@click.argument("name", metavar="NAME")
@click.option("-n", "count", type=click.IntRange(1, 1000), default=10, help="So many instants.")
@db_option
@json_option
def next_(name: str, count: int, db: str | None, as_json: bool) -> int:
    """List the next instants of a schedule, in UTC and by the clock of its zone."""
    from zoneinfo import ZoneInfo

    with open_app(db) as app:
        one = app.client.schedules.get(name)
        instants = app.client.schedules.next(name, count)
    if as_json:
        write_json([format_instant(instant) for instant in instants])
        return ExitCode.DONE
    place = ZoneInfo(one.zone)
    rows = [
        [format_instant(at) or "", f"{at.astimezone(place):%a %Y-%m-%d %H:%M:%S %z}"]
        for at in instants
    ]
    for row in table(["instant", one.zone], rows):
        results().print(row, soft_wrap=True)
    return ExitCode.DONE


@schedules.command()
@click.argument("name", metavar="NAME")
@db_option
@json_option
def pause(name: str, db: str | None, as_json: bool) -> int:
    """Let a schedule rest: its instants pass, and start nothing later."""
    with open_app(db) as app:
        return _show_changed(app.client.schedules.pause(name), "paused", as_json=as_json)


@schedules.command()
@click.argument("name", metavar="NAME")
@db_option
@json_option
def resume(name: str, db: str | None, as_json: bool) -> int:
    """Let a paused schedule go on with its next instant."""
    with open_app(db) as app:
        return _show_changed(app.client.schedules.resume(name), "goes on", as_json=as_json)


@schedules.command()
@click.argument("name", metavar="NAME")
@db_option
@json_option
def delete(name: str, db: str | None, as_json: bool) -> int:
    """Remove a schedule and its history; the runs that it started stay."""
    with open_app(db) as app:
        app.client.schedules.delete(name)
    if as_json:
        write_json({"name": name, "deleted": True})
    else:
        errors().print(line(("✓ ", "green"), f"deleted {name}"))
    return ExitCode.DONE


@schedules.command()
@click.argument("name", metavar="NAME")
@db_option
@json_option
def fire(name: str, db: str | None, as_json: bool) -> int:
    """
    Start a run now, as an instant of the schedule would; paused or not.

    With a broker the workers execute it. Without one it is driven by this process, as `start` does.
    """
    with open_app(db) as app:
        started = app.client.schedules.fire(name)
        if app.executor is None:
            announce(app, started.run_id, is_new=True, quiet=as_json)
            return drive_and_finish(
                app,
                started.run_id,
                started.tasks,
                folders=_own_folders(app),
                as_json=as_json,
                db=db,
            )
        status = app.client.run(started.run_id).status
    if as_json:
        write_json({"run_id": started.run_id, "status": str(status)})
    else:
        errors().print(line(("✓ ", "green"), f"started {started.run_id}"), soft_wrap=True)
    return ExitCode.DONE


@schedules.command()
@db_option
def serve(db: str | None) -> int:
    """
    Fire schedules and execute their runs in this process, until Ctrl-C.

    For a database without workers: these do it by themselves. Takes up unfinished runs first.
    """
    with open_app(db, here=True) as app:
        try:
            run_async(_serve(app))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
    return ExitCode.DONE


async def _serve(app: Application) -> None:
    from iaflow.bootstrap import open_local_executor
    from iaflow.pipeline.executors.serving import serve_schedules

    # What runs services ends them so, with time enough for steps to be given back.
    serving = asyncio.current_task()
    assert serving is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
    count = len(app.client.schedules.all())
    errors().print(line(("▶ ", "cyan"), f"schedules: {count}; Ctrl-C ends"), soft_wrap=True)
    async with open_local_executor(app, folders=_own_folders(app)) as executor:
        await serve_schedules(executor, tell_start=_tell_start, tell_rest=_tell_rest)


def _own_folders(app: Application) -> Sequence[Path]:
    """Return where steps may come from: a SQLite file is its user's own; see `folders_of`."""
    return [Path.cwd()] if app.database.dialect == "sqlite" else []


def _tell_start(name: str, run_id: str) -> None:
    errors().print(line(("▶ ", "cyan"), f"{name}  run {run_id}"), soft_wrap=True)


def _tell_rest(run_id: str, status: RunStatus) -> None:
    errors().print(line(status_text(status.value), f"  run {run_id}"), soft_wrap=True)


def _show_changed(one: ScheduleRecord, what: str, *, as_json: bool) -> int:
    if as_json:
        write_json(_describe(one))
        return ExitCode.DONE
    next_at = _describe_next(one, SystemClock().now())
    errors().print(line(("✓ ", "green"), f"{one.name} {what}; next: {next_at}"), soft_wrap=True)
    return ExitCode.DONE


def _describe(one: ScheduleRecord) -> Mapping[str, Any]:
    return {
        "name": one.name,
        "slug": one.slug,
        "input": dict(one.parameters),
        "cron": one.cron,
        "zone": one.zone,
        "interval_seconds": one.interval_seconds,
        "misfire": one.misfire.value,
        "instant_as": one.instant_as,
        "is_paused": one.is_paused,
        "starts_at": format_instant(one.starts_at),
        "ends_at": format_instant(one.ends_at),
        "next_at": None if one.is_paused else format_instant(one.next_at),
    }


def _describe_fire(fire: FireRecord) -> Mapping[str, Any]:
    return {
        "fire_at": format_instant(fire.fire_at),
        "status": fire.status.value,
        "run_id": fire.run_id,
        "error": fire.error,
    }


def _describe_times(one: ScheduleRecord) -> str:
    if one.cron is not None:
        return f"{one.cron}  {one.zone}"
    seconds, words = one.interval_seconds or 0, ""
    for unit, size in reversed(INTERVAL_UNITS.items()):
        count, seconds = divmod(seconds, size)
        words += f"{count}{unit}" if count else ""
    return f"every {words}"


def _describe_next(one: ScheduleRecord, now: datetime) -> str:
    if one.is_paused:
        return "‖ paused"
    if one.next_at is None:
        return "never again"
    return f"{format_instant(one.next_at)} ({format_age(one.next_at, now)})"


def _read_instant(text: str | None, option: str) -> datetime | None:
    if text is None:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise click.UsageError(
            f"{option}: {text!r} is no instant such as 2026-03-08T07:00:00Z"
        ) from None
    if instant.tzinfo is None:
        raise click.UsageError(f"{option}: {text!r} has no offset: append Z for UTC")
    return instant.astimezone(UTC)
