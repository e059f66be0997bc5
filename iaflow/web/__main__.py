"""`python -m iaflow.web`: the process that serves pages and API, from its start to its end.

Decides under which settings it starts at all, and what is said of that; never what it replies.
Called by `iaflow web`, or by whatever keeps services alive.
"""

from __future__ import annotations

import argparse
import os
import pwd
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from iaflow.data.accounts import EVERYTHING, Permission, Principal
from iaflow.errors import IaflowError, NotReachable, SettingsRefused
from iaflow.settings import Settings, load_settings
from iaflow.telemetry import configure_logs
from iaflow.web.app import open_app
from iaflow.web.embedded import open_embedded
from iaflow.web.server import is_loopback, require_loopback, serve

if TYPE_CHECKING:
    from fastapi import FastAPI

    from iaflow.pipeline.importer import ImportReport

__all__ = ["find_doubts", "main"]

MAKE_A_KEY: Final = 'python3 -c "import secrets; print(secrets.token_urlsafe(32))"'

LIBRARIES: Final = ("uvicorn", "asyncio")
"""Whose words are ours in this process."""

USAGE, NOT_REACHABLE = 2, 5
"""Exit codes, as those of `iaflow`."""


@dataclass(frozen=True, slots=True)
class Options:
    """What was typed."""

    host: str
    port: int
    is_dev: bool
    is_embedded: bool
    folder: str | None
    certfile: str | None
    keyfile: str | None

    @property
    def has_tls(self) -> bool:
        return self.certfile is not None


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal ends it; return the exit code."""
    options = _read_options(arguments)
    try:
        settings = load_settings()
        configure_logs(settings.log_level, also=LIBRARIES)
        _check(options, settings)
        app = _open(options, settings)
        for doubt in find_doubts(settings, options.host, has_tls=options.has_tls):
            _tell(f"warning: {doubt}")
        serve(
            app,
            host=options.host,
            port=options.port,
            tell=lambda port: _tell(_describe(options, port)),
            ssl_certfile=options.certfile,
            ssl_keyfile=options.keyfile,
        )
    except KeyboardInterrupt:
        # All has ended in good order by now; the server only passes on what ended it.
        return 0
    except IaflowError as error:
        _tell(f"error: {error}")
        return NOT_REACHABLE if isinstance(error, NotReachable) else USAGE
    except OSError as error:
        where = f"{options.host}:{options.port}"
        _tell(f"error: cannot listen on {where}: {error.strerror or error} (--port 0: any)")
        return USAGE
    return 0


def make_developer() -> Principal:
    """Return who everybody is in the development mode: an administrator without an account."""
    return Principal(
        name=_read_user(),
        user_id=None,
        roles=("admin",),
        permissions=frozenset(Permission),
        sight=EVERYTHING,
    )


def find_doubts(settings: Settings, host: str, *, has_tls: bool) -> Iterator[str]:
    """Yield what may be wrong where others than this machine can ask."""
    if is_loopback(host) or has_tls or settings.public_url or settings.trusted_proxies:
        return
    yield (
        f"{host} can be reached by others without encryption, and browsers send the cookie of a "
        "sign-in over https alone: put a proxy with TLS before it (IAFLOW_PUBLIC_URL, "
        "IAFLOW_TRUSTED_PROXIES), or use --ssl-certfile and --ssl-keyfile"
    )


def _check(options: Options, settings: Settings) -> None:
    if (options.certfile is None) != (options.keyfile is None):
        raise SettingsRefused("TLS needs both: --ssl-certfile and --ssl-keyfile")
    for name in (options.certfile, options.keyfile):
        if name is not None and not Path(name).is_file():
            raise SettingsRefused(f"there is no file {name}")
    if options.folder is not None and not options.is_embedded:
        raise SettingsRefused("--import goes with --embedded; elsewhere there is `iaflow import`")
    if options.folder is not None and not Path(options.folder).is_dir():
        raise SettingsRefused(f"there is no folder {options.folder}")
    if options.is_dev:
        require_loopback(options.host)
    elif settings.secret_key is None or not settings.secret_key.get_secret_value():
        raise SettingsRefused(
            "the web signs what it gives to browsers, so it needs IAFLOW_SECRET_KEY, at least 32 "
            f"random bytes. Make one:  {MAKE_A_KEY}  and keep it in the environment or in .env; "
            "or use --dev, on this machine alone, where nobody signs in"
        )


def _open(options: Options, settings: Settings) -> FastAPI:
    user = make_developer() if options.is_dev else None
    if not options.is_embedded:
        return open_app(settings, development_user=user)
    # As for a worker, modules that the settings name may lie in the current folder; at the end
    # of the path they can take the place of nothing that is installed.
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    folder = None if options.folder is None else Path(options.folder)
    return open_embedded(settings, folder=folder, development_user=user, tell=_tell_imported)


def _tell_imported(report: ImportReport) -> None:
    for refused in report.refused:
        first = refused.problems[0]
        _tell(f"warning: {refused.file} is refused: {first.pointer or '/'}: {first.message}")


def _read_options(arguments: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(
        prog="iaflow web", description="Serve the pages and the API of iaflow."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--dev", action="store_true", dest="is_dev")
    parser.add_argument("--embedded", action="store_true", dest="is_embedded")
    parser.add_argument("--import", dest="folder")
    parser.add_argument("--ssl-certfile", dest="certfile")
    parser.add_argument("--ssl-keyfile", dest="keyfile")
    return Options(**vars(parser.parse_args(arguments)))


def _describe(options: Options, port: int) -> str:
    scheme = "https" if options.has_tls else "http"
    host = f"[{options.host}]" if ":" in options.host else options.host
    mode = ", development mode: whoever asks is an administrator" if options.is_dev else ""
    parts = ", pages and steps in this process" if options.is_embedded else ""
    return f"serving {scheme}://{host}:{port}{parts}{mode}; Ctrl-C ends"


def _read_user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name.lower()
    except KeyError:  # a container may run under a number without a name
        return f"uid-{os.getuid()}"


def _tell(text: str) -> None:
    sys.stderr.write(f"iaflow web: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    raise SystemExit(main())
