"""A worker with a seeded bug: nobody sends a lost message again (RELIABILITY 3.4)."""

from typing import Any

from iaflow.pipeline import maintenance


def forget(*_: Any) -> list[Any]:
    return []


maintenance._republish = forget

from workers.app import app  # noqa: E402, F401  what Celery looks for
