"""The documents as programs: fences are files and commands, stories are what a reader does.

Decides how README and docs are read and followed; never what they say. Used by the tests of this
folder.

- A fence with a ``title="path"`` is a file. Outside a story it belongs to every story of its page.
- ``<!-- story: name -->`` … ``<!-- /story -->`` is one story: its files are written into one empty
  folder and its ``sh`` fences run there in order. ``<!-- story: name; needs: postgres redis -->``
  asks for servers, which the story then finds in its environment.
- ``sh exit=4`` ends with that code; ``sh background`` goes on until the story ends.
- A ``text`` fence right after a ``sh`` fence is its stdout; ``…`` stands for anything on its line.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "PAGES",
    "ROOT",
    "Fence",
    "Story",
    "clean_environment",
    "find_story",
    "follow",
    "read_fences",
    "read_stories",
    "run",
]

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "pipelines" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
)
COMMAND_SECONDS = 60
LOG = "background.log"
KEPT_VARIABLES = ("PATH", "TMPDIR", "LD_LIBRARY_PATH", "SYSTEMROOT")

_FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"^<!-- (?P<end>/?)story(?:: (?P<words>[^\n]*?))? -->$", re.MULTILINE)
_TITLE = re.compile(r'title="([^"]+)"')


@dataclass(frozen=True, slots=True)
class Fence:
    """One fenced block: its language, the words behind it, its file name if it has one."""

    page: Path
    line: int
    language: str
    words: tuple[str, ...]
    title: str | None
    text: str

    @property
    def place(self) -> str:
        """Where it stands, for messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def exit_code(self) -> int:
        """The code that the commands of a `sh` fence end with."""
        return next((int(word[5:]) for word in self.words if word.startswith("exit=")), 0)


@dataclass(frozen=True, slots=True)
class Story:
    """What a reader does from an empty folder on: files and commands, in their order."""

    page: Path
    name: str
    needs: frozenset[str]
    fences: tuple[Fence, ...]

    @property
    def id(self) -> str:
        """The page and the name, for test ids."""
        return f"{self.page.stem}-{self.name}"

    @property
    def files(self) -> dict[str, str]:
        """Its files by path."""
        return {fence.title: fence.text for fence in self.fences if fence.title}


def read_fences(page: Path) -> list[Fence]:
    """Return all fenced blocks of a page in their order."""
    return [fence for _, fence in _place_fences(page)]


def read_stories(page: Path) -> list[Story]:
    """Return the stories of a page, each with the files that the page gives to all of them."""
    text = page.read_text(encoding="utf-8")
    placed = _place_fences(page)
    spans = list(_read_spans(text, page))
    shared = [
        fence
        for at, fence in placed
        if fence.title and not any(begin < at < end for begin, end, _ in spans)
    ]
    return [
        Story(
            page,
            *_read_words(words),
            (*shared, *(fence for at, fence in placed if begin < at < end)),
        )
        for begin, end, words in spans
    ]


def find_story(page: Path, name: str) -> Story:
    """Return one story by its name."""
    return next(story for story in read_stories(page) if story.name == name)


def follow(
    story: Story,
    folder: Path,
    environment: Mapping[str, str],
    watch: Callable[[int], None] = lambda _: None,
    forget: Callable[[int], None] = lambda _: None,
) -> None:
    """
    Write the files of a story and run its commands, as a reader would.

    Args:
        folder: an empty one.
        environment: variables beside those of `clean_environment`.
        watch, forget: are told the pid of a command in the background, when it begins and when
            it has ended.

    Raises:
        AssertionError: a command ended otherwise, or printed something else, than the page says.
    """
    for path, text in story.files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
    env = clean_environment(folder) | dict(environment)
    running: list[subprocess.Popen[bytes]] = []
    try:
        _run_commands(story, folder, env, running, watch)
    finally:
        for process in running:
            # A shell starts programs of its own; all of them are in its group.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            forget(process.pid)


def run(
    command: str, folder: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run shell lines in `folder`, the first that fails ends them."""
    return subprocess.run(
        ["/bin/sh", "-eu", "-c", command],
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=COMMAND_SECONDS,
        check=False,
    )


def clean_environment(home: Path) -> dict[str, str]:
    """Return the environment of a user who has iaflow installed and nothing set."""
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    programs = str(Path(sys.executable).parent)
    return kept | {
        "PATH": os.pathsep.join([programs, kept.get("PATH", os.defpath)]),
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "PYTHONWARNINGS": "error",
    }


def _run_commands(
    story: Story,
    folder: Path,
    env: Mapping[str, str],
    running: list[subprocess.Popen[bytes]],
    watch: Callable[[int], None],
) -> None:
    following = [*story.fences[1:], None]
    for fence, after in zip(story.fences, following, strict=True):
        if fence.language != "sh":
            continue
        if "background" in fence.words:
            process = _start(fence, folder, env)
            running.append(process)
            watch(process.pid)
            continue
        done = run(fence.text, folder, env)
        told = f"{fence.place}:\n{fence.text}\nstdout:\n{done.stdout}\nstderr:\n{done.stderr}"
        assert done.returncode == fence.exit_code, f"ended with {done.returncode}: {told}"
        if after is not None and after.language == "text" and not after.title:
            assert _fits(done.stdout, after.text), f"{after.place} promises other words than {told}"


def _start(fence: Fence, folder: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    # Celery warns of root, which containers of tests are.
    calm = {name: value for name, value in env.items() if name != "PYTHONWARNINGS"}
    with (folder / LOG).open("ab") as log:
        return subprocess.Popen(
            ["/bin/sh", "-eu", "-c", fence.text],
            cwd=folder,
            env=calm,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _fits(printed: str, promised: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in promised.split("…"))
    return re.fullmatch(pattern, printed) is not None


def _place_fences(page: Path) -> list[tuple[int, Fence]]:
    text = page.read_text(encoding="utf-8")
    placed = []
    for found in _FENCE.finditer(text):
        info = found["info"].strip()
        title = _TITLE.search(info)
        language, *words = _TITLE.sub("", info).split() or [""]
        line = text.count("\n", 0, found.start()) + 1
        fence = Fence(page, line, language, tuple(words), title and title[1], found["text"])
        placed.append((found.start(), fence))
    return placed


def _read_spans(text: str, page: Path) -> Iterator[tuple[int, int, str]]:
    marks = list(_MARK.finditer(text))
    where = page.relative_to(ROOT)
    assert len(marks) % 2 == 0, f"{where}: a story is not closed"
    for begin, end in zip(marks[::2], marks[1::2], strict=True):
        assert not begin["end"], f"{where}: a story ends that did not begin"
        assert end["end"], f"{where}: a story begins inside another"
        yield begin.end(), end.start(), begin["words"]


def _read_words(words: str) -> tuple[str, frozenset[str]]:
    name, _, needs = words.partition("; needs: ")
    return name.strip(), frozenset(needs.split())
