"""The command `web`: the process that serves pages and API.

Decides which program that is and what it is told; never serves, and imports nothing of the web,
which is a face of its own. Called through `main`.
"""

from __future__ import annotations

import os
import sys

import rich_click as click

__all__ = ["web"]


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where it listens.")
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="0: any that is free.",
)
@click.option("--dev", "is_dev", is_flag=True, help="Nobody signs in; on this machine alone.")
@click.option(
    "--embedded",
    "is_embedded",
    is_flag=True,
    help="Execute steps and fire schedules in this process too: no broker, no workers.",
)
@click.option(
    "--import", "folder", metavar="DIR", help="With --embedded: import its definitions first."
)
@click.option("--ssl-certfile", metavar="FILE", help="The server's certificate, for TLS.")
@click.option("--ssl-keyfile", metavar="FILE", help="Its key.")
@click.option("--db", metavar="URL", help="Database (else IAFLOW_DATABASE_URL).")
def web(
    host: str,
    port: int,
    is_dev: bool,
    is_embedded: bool,
    folder: str | None,
    ssl_certfile: str | None,
    ssl_keyfile: str | None,
    db: str | None,
) -> int:
    """
    Serve pages and API, until Ctrl-C or SIGTERM.

    People sign in (see iaflow users), programs bring tokens; both need IAFLOW_SECRET_KEY. With
    --dev whoever asks is an administrator.
    """
    arguments = ["--host", host, "--port", str(port)]
    if is_dev:
        arguments.append("--dev")
    if is_embedded:
        arguments.append("--embedded")
    for name, value in (
        ("--import", folder),
        ("--ssl-certfile", ssl_certfile),
        ("--ssl-keyfile", ssl_keyfile),
    ):
        if value is not None:
            arguments += [name, value]
    if db is not None:
        # Not as an argument: everybody on the machine can read these.
        os.environ["IAFLOW_DATABASE_URL"] = db
    sys.stdout.flush()
    # A list of arguments of our own making; the user's own shell has read the rest.
    os.execv(sys.executable, [sys.executable, "-m", "iaflow.web", *arguments])  # noqa: S606
