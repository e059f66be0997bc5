"""The rules of the house that a machine can check.

Decides whether the tree is in order: storeys, docstrings, sizes, locks, scripts, fixed names.
Reads files only; the meaning of the code is the business of the other folders.
"""

import ast
import os
import re
import subprocess
import sys
import tomllib
import warnings
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "iaflow").rglob("*.py"))
FIXED_NAMES = (
    "iaflow",
    "workers",
    "pipelines",
    "tests",
    "docker-compose.yml",
    "celeryconfig.py",
    "pyproject.toml",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "docs",
    "benchmarks",
    "lock/runtime.txt",
    "lock/dev.txt",
    "dev",
    ".ci/run",
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PURE_ROOMS = next(
    contract["source_modules"]
    for contract in PROJECT["tool"]["importlinter"]["contracts"]
    if contract["id"] == "pure-rooms"
)
STOREYS = next(
    contract["layers"]
    for contract in PROJECT["tool"]["importlinter"]["contracts"]
    if contract["id"] == "storeys"
)
LOCKS = ("runtime", "dev")
SCRIPTS = ("dev", ".ci/run")
LINES_TO_LOOK_AT = 400
LINES_AT_MOST = 600


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("name", FIXED_NAMES)
def test_the_top_level_has_its_fixed_names(name: str) -> None:
    assert (ROOT / name).exists()


def test_imports_only_point_down() -> None:
    checked = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize(
    ("page", "with_rooms_to_come"),
    (("CONTRIBUTING.md", True), ("docs/pipeline-architecture.md", False)),
)
def test_the_picture_of_the_storeys_is_the_contract(page: str, with_rooms_to_come: bool) -> None:
    picture = re.search(r"^workers  .*?^errors$", (ROOT / page).read_text(), re.M | re.S)
    assert picture is not None
    drawn = [rooms_in(re.split(r"  +", row)[0]) for row in picture[0].splitlines()]
    # A room in brackets is not built yet.
    contract = [
        {
            room.strip("()")
            for room in rooms_in(layer.replace("iaflow.", ""))
            if with_rooms_to_come or not room.startswith("(")
        }
        for layer in STOREYS
    ]
    assert drawn == contract


def rooms_in(layer: str) -> set[str]:
    return {room.strip() for room in layer.split("|")}


@pytest.mark.parametrize("room", PURE_ROOMS)
def test_a_pure_room_is_told_the_time(room: str) -> None:
    path = ROOT / room.replace(".", "/")
    for file in sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]:
        asked = re.findall(r"\.(?:now|utcnow|today)\(", file.read_text())
        assert not asked, f"{name_of(file)} asks for the time; it is an argument to a pure room"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_module_says_what_it_is_for(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring, f"{name_of(path)} needs a docstring: what it decides, never does, who calls"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_file_can_be_read_in_one_sitting(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= LINES_AT_MOST, f"{name_of(path)} has {lines} lines: it holds two rooms"


@pytest.mark.filterwarnings("default:long files:UserWarning")
def test_long_files_are_pointed_at() -> None:
    long = {name_of(path): len(path.read_text().splitlines()) for path in SOURCES}
    listed = [f"{name} ({lines})" for name, lines in long.items() if lines > LINES_TO_LOOK_AT]
    if listed:
        # A prompt to look, no reason to break up what belongs together.
        warnings.warn(f"long files, worth a look: {', '.join(listed)}", stacklevel=1)


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_hashes_and_no_place(lock: str) -> None:
    text = (ROOT / "lock" / f"{lock}.txt").read_text()
    assert "://" not in text, "a lock with hosts installs only where they answer"
    assert not re.search(r"^-", text, re.MULTILINE), "a lock has requirements, no options"
    unhashed = [
        line
        for line in text.replace("\\\n", " ").splitlines()
        if line.strip() and "--hash=sha256:" not in line
    ]
    assert unhashed == []


def test_the_runtime_lock_is_part_of_the_dev_lock() -> None:
    runtime, dev = (read_pins(lock) for lock in LOCKS)
    assert runtime <= dev


def test_the_locks_hold_every_dependency() -> None:
    extras = PROJECT["project"]["optional-dependencies"].values()
    wanted = {"runtime": PROJECT["project"]["dependencies"]}
    wanted["dev"] = [*wanted["runtime"], *PROJECT["dependency-groups"]["dev"], *chain(*extras)]
    for lock, requirements in wanted.items():
        locked = {pin.partition("==")[0] for pin in read_pins(lock)}
        names = {re.split(r"[^\w-]", requirement)[0] for requirement in requirements}
        assert names <= locked, "run ./dev lock"


def read_pins(lock: str) -> set[str]:
    text = (ROOT / "lock" / f"{lock}.txt").read_text()
    return set(re.findall(r"^[\w.-]+==[^\s;\\]+", text, re.MULTILINE))


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_executable_and_posix(script: str) -> None:
    path = ROOT / script
    assert os.access(path, os.X_OK)
    assert path.read_text().startswith("#!/bin/sh\n")
    subprocess.run(["sh", "-n", path], check=True)


def test_the_wheel_ships_only_iaflow() -> None:
    assert PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"] == {"packages": ["iaflow"]}
