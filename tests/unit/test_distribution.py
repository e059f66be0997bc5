"""How a run of tests is shared out: how many processes, what stays together, who is alone."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path

import pytest

from tests.distribution import VARIABLE, choose_processes, part_of, taking_turns
from tests.servers import wait_until
from tests.servers.worker import ROOT


@pytest.mark.parametrize(
    ("arguments", "processes"),
    (
        ((), 0),
        (("tests",), 2),
        ((".",), 2),
        (("tests/unit",), 0),
        (("tests/unit", "tests/unit/test_retry.py::test_x"), 0),
        (("tests/unit/test_retry.py", "tests/limits"), 2),
        (("docs",), 0),
    ),
)
def test_more_than_one_folder_is_shared_by_two(
    arguments: tuple[str, ...], processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert choose_processes(arguments, ROOT) == processes


@pytest.mark.parametrize(("said", "processes"), (("1", 0), ("0", 0), ("", 2), ("3", 3)))
def test_the_environment_may_say_another_number(
    said: str, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, said)
    assert choose_processes(["tests"], ROOT) == processes


def test_what_shares_its_making_stays_together() -> None:
    cases = "tests/conformance/test_conformance.py::test_a_case_goes_as_expected"
    assert part_of(f"{cases}[celery-wcp01]") == part_of(f"{cases}[celery-ends-no]")
    assert part_of(f"{cases}[celery-wcp01]") != part_of(f"{cases}[rabbitmq-wcp01]")
    assert part_of("tests/unit/test_retry.py::test_a") == part_of(
        "tests/unit/test_retry.py::test_b"
    )
    storms = "tests/chaos/test_storms.py"
    assert part_of(f"{storms}::test_a") != part_of(f"{storms}::test_b")


def test_who_wants_to_be_alone_is_not_overtaken(tmp_path: Path) -> None:
    """One is at it; a second one waits to be alone; a third one, come later, waits for both."""
    order: list[str] = []
    comes = threading.Event()

    def enter(name: str, *, alone: bool) -> None:
        comes.set()
        with taking_turns(tmp_path, alone=alone):
            order.append(name)

    def is_awaited() -> bool:
        """Whether somebody has the turn, and waits."""
        with (tmp_path / "turn.lock").open("w") as turn:
            try:
                fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    with taking_turns(tmp_path, alone=False), taking_turns(tmp_path, alone=False):
        second = threading.Thread(target=enter, args=("alone",), kwargs={"alone": True})
        second.start()
        wait_until(is_awaited, 10, "the second one to wait")
        comes.clear()
        third = threading.Thread(target=enter, args=("beside",), kwargs={"alone": False})
        third.start()
        assert comes.wait(10)
        assert order == []
    for thread in (second, third):
        thread.join(10)
    assert order == ["alone", "beside"]
