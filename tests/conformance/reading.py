"""Cases as files: found, read, and refused where they are none.

Decides what a case is; never runs one. Called by the options and the tests of this folder.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

__all__ = ["Case", "NotACase", "last_action", "name_apart", "read_cases", "read_file"]

EXPECTABLE = frozenset(
    "status succeeded failed skipped cancelled waiting pending order overlap no_overlap"
    " executions attempts outputs time refused_answers".split()
)
CONTROLS = frozenset({"cancel_run", "cancel_step"})


class NotACase(ValueError):
    """A file or folder holds no case; the message names it and says why."""


@dataclass(frozen=True, slots=True)
class Case:
    """
    One case: a definition, what happens to its run, and how the run must go.

    Attributes:
        id: the file's id, and the case's own name if it has one.
        is_refused: the definition must be refused when it is loaded.
        workers: how many steps may work at once; None: as many as want.
        pipelines: further definitions by slug.
    """

    id: str
    document: Any
    params: Mapping[str, Any]
    answers: Sequence[Mapping[str, Any]]
    controls: Sequence[Mapping[str, Any]]
    signals: Sequence[Mapping[str, Any]]
    expect: Mapping[str, Any]
    workers: int | None = None
    is_refused: bool = False
    pipelines: Mapping[str, Any] | None = None


def last_action(case: Case) -> float:
    """Return when the last action of a case's script is due, in its seconds."""
    return max(
        (one.get("at", 0) for one in (*case.answers, *case.controls, *case.signals)), default=0
    )


def read_cases(path: Path) -> list[Case]:
    """
    Return the cases of a file, or of all JSON files in a folder and below, by name.

    Raises:
        NotACase: there is nothing, or something that is no case.
    """
    if path.is_dir():
        files = sorted(path.rglob("*.json"))
        if not files:
            raise NotACase(f"the folder {path} holds no case: there is no *.json in it")
        cases = [case for file in files for case in read_file(file)]
        if not cases:
            raise NotACase(f"no file in the folder {path} has a pipeline to be run")
        return cases
    if not path.exists():
        raise NotACase(f"there is no file or folder {path}")
    return read_file(path)


def name_apart(cases: Iterable[Case]) -> list[Case]:
    """Return the cases, those that share an id with an earlier one under a number of their own."""
    seen: Counter[str] = Counter()
    named = []
    for case in cases:
        seen[case.id] += 1
        number = seen[case.id]
        named.append(case if number == 1 else replace(case, id=f"{case.id}#{number}"))
    return named


def read_file(path: Path) -> list[Case]:
    """Return the cases of one file; none if it only describes a pattern that no DAG has."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NotACase(f"{path} is no case: it cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise NotACase(f"{path} is no case: it is a JSON {type(content).__name__}, not an object")
    document = content.get("pipeline", content.get("definition"))
    if document is None:
        if "wcp" in content and "expected_outcome" in content:
            return []
        raise NotACase(f"{path} is no case: it has no `pipeline`; its keys are {[*content]}")
    parts = content.get("cases", [content])
    if not isinstance(parts, list) or not parts:
        raise NotACase(f"{path} is no case: `cases` is no list with something in it")
    return [_read_part(path, content, document, part) for part in parts]


def _read_part(path: Path, content: dict[str, Any], document: Any, part: Any) -> Case:
    def refuse(reason: str) -> NotACase:
        return NotACase(f"{path} is no case: {reason}")

    if not isinstance(part, dict):
        raise refuse("an entry of `cases` is no object")
    name = str(content.get("id", path.stem))
    is_refused = part.get("load", content.get("load")) == "reject"
    expect = part.get("expect", {})
    if not isinstance(expect, dict) or not (expect or is_refused):
        raise refuse("it expects nothing (`expect`, or `load`: reject)")
    if unknown := sorted(expect.keys() - EXPECTABLE):
        raise refuse(f"`expect` has {unknown}, and the judge knows {sorted(EXPECTABLE)}")
    document = part.get("pipeline", document)
    case = Case(
        id=f"{name}-{part['case']}" if "case" in part and part is not content else name,
        document=document,
        params=part.get("params") or {},
        answers=part.get("answers") or (),
        controls=part.get("controls") or (),
        signals=part.get("signals") or (),
        expect=expect,
        workers=part.get("workers"),
        is_refused=is_refused,
        pipelines=part.get("pipelines", content.get("pipelines")),
    )
    for fault in _find_faults(case):
        raise refuse(fault)
    return case


def _find_faults(case: Case) -> Iterator[str]:
    for answer in case.answers:
        if not isinstance(answer, dict) or not {"step", "data"} <= answer.keys():
            yield f"an answer is {answer}, without `step` and `data`"
    for control in case.controls:
        if not isinstance(control, dict) or control.get("do") not in CONTROLS:
            yield f"a control is {control}; known are {sorted(CONTROLS)}"
        elif control["do"] == "cancel_step" and "step" not in control:
            yield f"a control is {control}, without `step`"
    for signal in case.signals:
        if not isinstance(signal, dict) or "name" not in signal:
            yield f"a signal is {signal}, without `name`"
