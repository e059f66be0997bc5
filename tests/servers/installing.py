"""Servers that no wheel brings: found on this machine, or installed from Debian's archive.

Decides whether a program can be had; never starts a service of the system and never installs
anything before a test asks for it. Called by `ServerRoom`.
"""

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.servers.processes import ServerError

__all__ = ["NotInstalled", "describe_lack", "find_or_install", "find_program"]

POLICY = Path("/usr/sbin/policy-rc.d")
INSTALL_SECONDS = 300

# What was tried in vain: not every test should wait for it again.
failed: dict[str, str] = {}


class NotInstalled(ServerError):
    """A program is neither here nor to be had; the message says why."""


def find_program(candidates: Sequence[str]) -> Path | None:
    """Return the first of some paths, or names on PATH, that can be executed."""
    for candidate in candidates:
        found = shutil.which(candidate)
        if found:
            return Path(found)
    return None


def describe_lack(package: str) -> str | None:
    """Return why a package cannot be installed here, None if it can be tried."""
    if os.geteuid() != 0:
        return f"{package} is not installed, and only root may install it"
    if shutil.which("apt-get") is None:
        return f"{package} is not installed, and there is no apt-get"
    return None


def find_or_install(package: str, candidates: Sequence[str]) -> Path:
    """Return a program, its package installed with apt-get if need be; raises NotInstalled."""
    # One at a time: another process may have unpacked it, and not be done.
    with Path(tempfile.gettempdir(), f".iaflow-installing-{os.geteuid()}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if find_program(candidates) is None:
            install(package)
        found = find_program(candidates)
    if found is None:
        raise NotInstalled(f"{package} is installed, but its program is not found")
    return found


def install(package: str) -> None:
    """Install a package with apt-get, its service not started; raises NotInstalled."""
    lack = describe_lack(package) or failed.get(package)
    if lack:
        raise NotInstalled(lack)
    with no_services():
        if run_apt("install", "--no-install-recommends", package):
            return
        run_apt("update")
        if not run_apt("install", "--no-install-recommends", package):
            failed[package] = f"{package} is not installed, and apt-get could not install it"
            raise NotInstalled(failed[package])


@contextmanager
def no_services() -> Iterator[None]:
    """Forbid what is installed meanwhile to start, as Debian's invoke-rc.d asks."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink(missing_ok=True)


def run_apt(*words: str) -> bool:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            ["apt-get", "-y", "-q", "-o", "DPkg::Lock::Timeout=120", *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
