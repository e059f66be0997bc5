"""The command `flower`: Celery's own page of workers and tasks, with iaflow's names in it.

Decides which app it watches, where it listens and what must guard it; never what it shows beyond
a row's words. Called through `main`.
"""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import rich_click as click

from iaflow.cli.opening import read_settings
from iaflow.cli.operating import find_worker_app
from iaflow.errors import SettingsRefused

__all__ = ["flower", "list_flower_options"]

CONFIGURATION: Final = Path(__file__).with_name("flower_page.py")
"""What Flower reads in the place of a `flowerconfig.py`."""

PROVIDER: Final = "iaflow.cli.flower_sign_in.SignInHandler"
"""What Flower shows to whoever is not known."""

DEFAULTS: Final = {
    # Which run it is about stands in the args; names alone are the same for every run.
    "tasks-columns": "name,args,state,received,runtime,worker,uuid",
    # Whoever looks on needs no way to stop workers.
    "read-only": "true",
}


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[-- FLOWER OPTIONS]")
@click.option("--address", default="127.0.0.1", show_default=True, help="Where it listens.")
@click.option("--port", default=5555, show_default=True, type=click.IntRange(0, 65535))
@click.option("--sign-in", "has_sign_in", is_flag=True, help="For users of iaflow who operate.")
def flower(options: tuple[str, ...], address: str, port: int, has_sign_in: bool) -> int:
    """
    Become Flower: a page that shows workers, and each step as a task with its run.

    Only this machine may look unless somebody must sign in: with --sign-in operators and
    administrators do, as in the web (it needs IAFLOW_SECRET_KEY); or set
    FLOWER_BASIC_AUTH=user:password. What stands behind -- goes to Flower:
    iaflow flower -- --max-tasks=1000
    """
    settings = read_settings()
    if settings.broker_url is None:
        raise SettingsRefused(
            "Flower needs the workers' broker: set IAFLOW_BROKER_URL, such as "
            "redis://localhost:6379/0"
        )
    if has_sign_in and settings.secret_key is None:
        raise SettingsRefused(
            "--sign-in needs IAFLOW_SECRET_KEY, the same as that of the web: at least 32 random "
            "bytes"
        )
    listed = list_flower_options(
        options, address=address, port=port, environment=os.environ, has_sign_in=has_sign_in
    )
    app = find_worker_app(Path.cwd())
    # Around Celery's own program, so that no configuration of Flower can leave it away.
    program = "iaflow.cli.flower_program" if has_sign_in else "celery"
    sys.stdout.flush()
    # A list of arguments of our own making; the user's own shell has read the rest.
    os.execv(  # noqa: S606
        sys.executable, [sys.executable, "-m", program, "-A", app, "flower", *listed]
    )


def list_flower_options(
    options: Sequence[str],
    *,
    address: str,
    port: int,
    environment: Mapping[str, str],
    has_sign_in: bool = False,
) -> list[str]:
    """
    Return Flower's arguments: where it listens, then what is not said otherwise, then `options`.

    Args:
        options: what was typed behind ``--``.
        environment: where Flower itself looks for ``FLOWER_…``.
        has_sign_in: whoever looks signs in as in the web.

    Raises:
        SettingsRefused: everybody could look, or there are two ways to sign in.
    """
    given = dict(map(_split, options))
    for name in ("address", "port", "unix-socket"):
        if name in given:
            raise SettingsRefused(f"--{name} stands before the --: iaflow flower --{name} … -- …")
    if has_sign_in:
        _refuse_other_sign_ins(given, environment)
    elif not _is_loopback(address) and not _is_guarded(given, environment):
        raise SettingsRefused(
            f"Flower on {address or 'every address'} would show everybody what runs here: set "
            "FLOWER_BASIC_AUTH=user:password (or FLOWER_AUTH_PROVIDER and FLOWER_AUTH), use "
            "--sign-in, or leave --address away"
        )
    listed = [f"--address={address}", f"--port={port}"]
    listed += [
        f"--{name}={value}"
        for name, value in DEFAULTS.items()
        if name not in given and f"FLOWER_{name.replace('-', '_').upper()}" not in environment
    ]
    if "conf" not in given:
        listed.append(f"--conf={CONFIGURATION}")
    if has_sign_in:
        # Without a pattern Flower guards nothing against foreign pages, and shows no way out.
        return [*listed, *options, f"--auth-provider={PROVIDER}", "--auth=iaflow"]
    return [*listed, *options]


def _refuse_other_sign_ins(given: Mapping[str, str], environment: Mapping[str, str]) -> None:
    for name in ("basic-auth", "auth-provider", "auth"):
        variable = f"FLOWER_{name.replace('-', '_').upper()}"
        if name in given or environment.get(variable):
            raise SettingsRefused(
                f"--sign-in is a sign-in of its own: leave --{name} and {variable} away"
            )


def _split(option: str) -> tuple[str, str]:
    name, _, value = option.lstrip("-").partition("=")
    return name.replace("_", "-"), value


def _is_loopback(address: str) -> bool:
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _is_guarded(given: Mapping[str, str], environment: Mapping[str, str]) -> bool:
    """Tell whether somebody must sign in: with a password, or through a provider of sign-ins."""
    pairs = given.get("basic-auth") or environment.get("FLOWER_BASIC_AUTH") or ""
    if pairs:
        return all(all(pair.partition(":")[::2]) for pair in pairs.split(","))
    provider = given.get("auth-provider") or environment.get("FLOWER_AUTH_PROVIDER")
    allowed = given.get("auth") or environment.get("FLOWER_AUTH")
    return bool(provider and allowed)
