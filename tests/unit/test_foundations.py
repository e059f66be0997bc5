"""The ground floor: settings, clocks, the event-loop thread, statuses."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from iaflow.clock import ReferenceClock
from iaflow.concurrency import LoopThread
from iaflow.data.status import (
    END_OF_RUN,
    END_OF_STEP,
    LIVE_STEP,
    RUN_CHANGES,
    STEP_CHANGES,
    RunStatus,
    StepStatus,
)
from iaflow.errors import SettingsRefused
from iaflow.settings import hide_password, load_settings


def test_settings_are_read_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IAFLOW_STEP_MODULES", "steps, pipelines.* ,")
    monkeypatch.setenv("IAFLOW_LEASE_SECONDS", "7.5")
    monkeypatch.setenv("DATABASE_URL", "postgresql://a/b")
    settings = load_settings()
    assert settings.step_modules == ("steps", "pipelines.*")
    assert settings.lease_seconds == 7.5
    assert settings.database_url == "postgresql://a/b"
    monkeypatch.setenv("IAFLOW_DATABASE_URL", "sqlite:///x.db")
    assert load_settings().database_url == "sqlite:///x.db"


def test_a_setting_that_cannot_work_is_named_and_its_value_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IAFLOW_LEASE_SECONDS", "s3cret-value")
    with pytest.raises(SettingsRefused) as refused:
        load_settings()
    assert "IAFLOW_LEASE_SECONDS" in str(refused.value)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    (
        ("postgresql://u:p%40ss@h:5/d", "postgresql://u:***@h:5/d"),
        ("redis://:secret@h/0", "redis://:***@h/0"),
        ("sqlite:///a.db", "sqlite:///a.db"),
    ),
)
def test_passwords_in_urls_are_hidden(url: str, shown: str) -> None:
    assert hide_password(url) == shown


def test_the_reference_clock_asks_rarely_and_carries_on_between() -> None:
    asked = 0
    instant = datetime(2030, 1, 1, tzinfo=UTC)

    def read() -> datetime:
        nonlocal asked
        asked += 1
        return instant

    clock = ReferenceClock(read, trust_seconds=60)
    first, second = clock.now(), clock.now()
    assert asked == 1
    assert instant <= first <= second < instant + timedelta(seconds=30)


def test_the_loop_thread_runs_coroutines_from_many_threads_on_one_loop() -> None:
    loop = LoopThread()

    async def whose() -> int:
        await asyncio.sleep(0)
        return threading.get_ident()

    seen: list[int] = []
    threads = [threading.Thread(target=lambda: seen.append(loop.run(whose()))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8
    assert set(seen) != {threading.get_ident()}
    assert len(set(seen)) == 1
    loop.close()


def test_the_loop_thread_hands_exceptions_to_the_caller() -> None:
    loop = LoopThread()

    async def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        loop.run(fail())
    loop.close()
    loop.close()


def test_statuses_fall_into_live_ended_and_pending() -> None:
    assert LIVE_STEP | END_OF_STEP | {StepStatus.PENDING} == set(StepStatus)
    assert not LIVE_STEP & END_OF_STEP
    assert set(STEP_CHANGES) == {None, *StepStatus}
    assert set(RUN_CHANGES) == {None, *RunStatus}


def test_only_a_failed_run_can_be_left() -> None:
    assert {status for status in END_OF_RUN if RUN_CHANGES[status]} == {RunStatus.FAILED}
