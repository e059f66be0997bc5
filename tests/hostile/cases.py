"""The corpus of hostile definitions: what stands in its files, and the bytes that each case is.

Decides how a case is written down; never what a definition means. Read by the tests beside it.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).with_name("corpus")
AREAS = ("bytes json ids structure graph references conditions errors forms security").split()
KINDS = {"document", "text", "base64", "repeat"}

Findings = frozenset[tuple[str, str]]
"""Codes and pointers."""


@dataclass(frozen=True, slots=True)
class Case:
    """
    One hostile definition.

    Attributes:
        name: what is wrong with it, in words.
        content: the bytes of its file.
        document: the JSON value, if the case is written as one.
        errors: what must be found, and nothing else.
        hints: what the hint of a finding must hold: the near spelling.
    """

    area: str
    name: str
    content: bytes
    document: Any
    errors: Findings
    hints: tuple[tuple[str, str, str], ...]


def load_cases() -> list[Case]:
    """
    Return every case of the corpus.

    A case is an object with `name`, `errors` (objects with `code`, `pointer` and perhaps `hint`)
    and one of `document` (a JSON value), `text`, `base64` (bytes) or `repeat`: a list whose items
    are texts, or ``[text, n]`` for a text n times over, so that huge inputs stay small files.
    """
    return [
        _read_case(area, entry)
        for area in AREAS
        for entry in json.loads((CORPUS / f"{area}.json").read_text(encoding="utf-8"))
    ]


def _read_case(area: str, entry: dict[str, Any]) -> Case:
    [kind] = KINDS & entry.keys()
    assert entry.keys() == {"name", kind, "errors"}, entry["name"]
    return Case(
        area=area,
        name=entry["name"],
        content=_make_content(kind, entry[kind]),
        document=entry[kind] if kind == "document" else None,
        errors=frozenset((error["code"], error["pointer"]) for error in entry["errors"]),
        hints=tuple(
            (error["code"], error["pointer"], error["hint"])
            for error in entry["errors"]
            if "hint" in error
        ),
    )


def _make_content(kind: str, value: Any) -> bytes:
    match kind:
        case "document":
            return json.dumps(value).encode()
        case "text":
            return str(value).encode()
        case "base64":
            return base64.b64decode(value)
        case _:
            return "".join(
                part if isinstance(part, str) else part[0] * part[1] for part in value
            ).encode()
