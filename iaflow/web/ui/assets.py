"""The files that pages fetch: styles, scripts and pictures, read once and named by their content.

Decides which files there are; a name that a request gives is looked up among them, and no path of
a request reaches the disk. Used by the route of static files and by the templates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from iaflow.pipeline.drawing.palette import DARK, LIGHT, build_style

__all__ = ["Asset", "Assets", "build_palette", "load_assets"]

_TYPES: Final[Mapping[str, str]] = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file: what it holds, and what a browser takes it for."""

    body: bytes
    media_type: str


@dataclass(frozen=True, slots=True)
class Assets:
    """
    All files of the pages.

    Attributes:
        digest: of all of them together: modules name each other relative to where they are.
    """

    files: Mapping[str, Asset]
    digest: str


@cache
def load_assets() -> Assets:
    """Return the files; the first call reads them."""
    folder = files("iaflow.web.ui") / "static"
    found = {"palette.css": Asset(build_palette().encode(), _TYPES[".css"])}
    for one in sorted(folder.iterdir(), key=lambda path: path.name):
        ending = one.name[one.name.rfind(".") :]
        if ending in _TYPES:
            found[one.name] = Asset(one.read_bytes(), _TYPES[ending])
    digest = hashlib.sha256()
    for name, asset in sorted(found.items()):
        digest.update(name.encode() + b"\0" + asset.body + b"\0")
    return Assets(found, digest.hexdigest()[:16])


def build_palette() -> str:
    """
    Return the style sheet of statuses and of drawings, in the colours that files drawn have.

    Drawings that carry their own style take these colours too, so that the switch of a page's
    scheme is theirs.
    """
    colours = ";".join(
        f"--iaf-{name}:light-dark({colour},{DARK[name]})" for name, colour in LIGHT.items()
    )
    return f"{build_style()}\n:root,.iaf{{{colours}}}\n:root .iaf{{color-scheme:inherit}}\n"
