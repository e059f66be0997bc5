"""Hostile definitions: each is refused with exactly its codes and pointers, in no time.

Proven through the function and through the real commands, which import and write nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from iaflow.pipeline.check import CODES, Checked, check
from tests.hostile.cases import AREAS, CORPUS, Case, Findings, load_cases
from tests.unit.timing import within

ROOT = Path(__file__).resolve().parents[2]
IAFLOW = [sys.executable, "-P", "-m", "iaflow.cli"]
CASES = load_cases()
CANARY = """
    from pathlib import Path

    Path(__file__).with_name("canary_was_imported").touch()
"""
CANARIES = ("canary", "router", "judge")

NOT_IN_A_FILE = {"json_not_a_value", "json_key_not_text"}
NEEDS_CLASSES = {"input_missing", "input_undeclared"}  # see tests/unit/test_step_shapes.py
NEEDS_SETTINGS = {"queue_unknown"}
WARNINGS = {"deprecated_paths", "deprecated_single_brace", "policy_empty"}


def name_of(case: Case) -> str:
    return f"{case.area}: {case.name}"


def found(checked: Checked) -> Findings:
    return frozenset((error.code, error.pointer) for error in checked.errors)


# --- the corpus itself


def test_the_corpus_is_large_and_every_file_small() -> None:
    counted = Counter(case.area for case in CASES)
    assert {path.stem for path in CORPUS.iterdir()} == set(AREAS)
    assert all(counted[area] >= 25 for area in AREAS)
    assert counted.total() >= 320
    assert max(path.stat().st_size for path in CORPUS.iterdir()) < 200_000


def test_every_name_and_every_content_stands_once() -> None:
    for often in (Counter(map(name_of, CASES)), Counter(case.content for case in CASES)):
        assert [one for one, times in often.items() if times > 1] == []


def test_every_code_is_provoked() -> None:
    provoked = {code for case in CASES for code, _ in case.errors}
    assert provoked == set(CODES) - NOT_IN_A_FILE - NEEDS_SETTINGS - NEEDS_CLASSES - WARNINGS


# --- the check


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_a_hostile_definition_is_refused(case: Case) -> None:
    checked = within(2, lambda: check(case.content))
    assert found(checked) == case.errors
    assert checked.graph is None
    for problem in (*checked.errors, *checked.warnings):
        assert problem.code in CODES
        assert 0 < len(problem.message) < 600
        assert len(problem.hint) < 600
    for code, pointer, hint in case.hints:
        said = [one.hint for one in checked.errors if (one.code, one.pointer) == (code, pointer)]
        assert any(hint in one for one in said), said
    if isinstance(case.document, dict):
        assert check(case.document) == checked


# --- the commands


def write_corpus(folder: Path) -> list[str]:
    """Write every case to a file of its own, and beside them modules that tell on imports."""
    folder.mkdir()
    for name in CANARIES:
        (folder / f"{name}.py").write_text(CANARY.replace("\n    ", "\n"))
    names = [f"{number:04}.json" for number in range(len(CASES))]
    for name, case in zip(names, CASES, strict=True):
        (folder / name).write_bytes(case.content)
    return names


def look_at(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
    }


def run_iaflow(folder: Path, *arguments: str) -> str:
    """Run the command in a folder whose modules it could import; it must refuse, in words."""
    settings = {key: value for key, value in os.environ.items() if not key.startswith("IAFLOW_")}
    ran = subprocess.run(
        [*IAFLOW, *arguments],
        cwd=folder,
        env={**settings, "PYTHONPATH": f"{ROOT}:{folder}", "HOME": str(folder.parent)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 3, ran.stderr
    assert "Traceback" not in ran.stderr
    return ran.stdout


def findings_of(problems: list[dict[str, Any]]) -> Findings:
    return frozenset((problem["code"], problem["pointer"]) for problem in problems)


def test_a_canary_tells_of_its_import(tmp_path: Path) -> None:
    """Else the silence of the others would prove nothing."""
    write_corpus(tmp_path / "definitions")
    subprocess.run(
        [sys.executable, "-c", "import canary"], cwd=tmp_path / "definitions", check=True
    )
    assert (tmp_path / "definitions" / "canary_was_imported").exists()


def test_validate_refuses_all_of_them_in_one_process(tmp_path: Path) -> None:
    folder = tmp_path / "definitions"
    names = write_corpus(folder)
    before = look_at(tmp_path)
    printed = run_iaflow(folder, "validate", "--json", *names)
    assert look_at(tmp_path) == before
    lines = [json.loads(line) for line in printed.splitlines()]
    assert [line["file"] for line in lines] == names
    for line, case in zip(lines, CASES, strict=True):
        assert not line["ok"], name_of(case)
        assert findings_of(line["errors"]) == case.errors, name_of(case)


def test_import_brings_none_of_them_into_a_database(tmp_path: Path) -> None:
    folder = tmp_path / "definitions"
    names = write_corpus(folder)
    before = look_at(folder)
    database = f"sqlite:///{tmp_path / 'fresh.db'}"
    report = json.loads(run_iaflow(folder, "import", ".", "--db", database, "--json"))
    assert look_at(folder) == before
    assert report["imported"] == report["unchanged"] == []
    refused = {Path(one["file"]).name: findings_of(one["problems"]) for one in report["refused"]}
    assert refused == {name: case.errors for name, case in zip(names, CASES, strict=True)}
