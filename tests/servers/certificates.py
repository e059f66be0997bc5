"""Throw-away certificates for tests of encrypted lines, made with the `openssl` program.

Decides who signs whom; never leaves anything outside the folder that it is given. Called by
`ServerRoom`.
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.servers.processes import ServerError

__all__ = ["Certificates", "make_certificates"]


@dataclass(frozen=True, slots=True)
class Certificates:
    """
    Files in PEM: an authority, what it signed for the servers of this run, and a stranger.

    `other_authority` signed nothing. The servers' certificate is good for `localhost` alone,
    neither for its address nor for another name.
    """

    authority: Path
    certificate: Path
    key: Path
    other_authority: Path


def make_certificates(folder: Path) -> Certificates:
    """Make them in `folder`; every user may read them, the key too, for it protects nothing."""
    made = Certificates(
        folder / "authority.pem",
        folder / "server.pem",
        folder / "server.key",
        folder / "other.pem",
    )
    authority_key = folder / "authority.key"
    for certificate, key, name in (
        (made.authority, authority_key, "iaflow tests"),
        (made.other_authority, folder / "other.key", "somebody else"),
    ):
        run(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-subj", f"/CN={name}", "-days", "2", "-keyout", str(key), "-out", str(certificate)),
            *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
        )
    request = folder / "server.csr"
    run(
        *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-subj", "/CN=localhost", "-keyout", str(made.key), "-out", str(request)),
    )
    names = folder / "names"
    names.write_text("subjectAltName=DNS:localhost\n")
    run(
        *("x509", "-req", "-in", str(request), "-CA", str(made.authority), "-days", "2"),
        *("-CAkey", str(authority_key), "-CAcreateserial", "-extfile", str(names)),
        *("-out", str(made.certificate)),
    )
    for path in folder.iterdir():
        path.chmod(0o644)
    return made


def run(*words: str) -> None:
    try:
        done = subprocess.run(
            ["openssl", *words], capture_output=True, text=True, timeout=60, check=False
        )
    except OSError as error:
        raise ServerError(f"certificates for the tests need the program openssl: {error}") from None
    if done.returncode:
        raise ServerError(f"openssl {words[0]} failed: {done.stderr.strip()[-300:]}")
