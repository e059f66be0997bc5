"""The step bodies of the cases, loaded from outside, and the log that they write.

Decides which time the bodies live in; never what they do. Called by the tests of this folder.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from iaflow.pipeline import Step
from tests.conformance.judge import Execution
from tests.servers.worker import ROOT

__all__ = ["BODIES", "CASES", "SCALED_KEYS", "load_bodies", "read_log", "scale_times", "stub_steps"]

CASES = ROOT.parent / "shared" / "cases"
BODIES = CASES / "tools" / "fixture_steps.py"
MODULE = "fixture_steps"

SCALED_KEYS = frozenset({"retry_delay", "max_delay", "timeout", "run_timeout", "expires_in"})


def load_bodies(*, scale: float | None = None) -> ModuleType:
    """
    Load the bodies for this process.

    Args:
        scale: real seconds for each second of a case; None: the bodies live in virtual time.
    """
    assert BODIES.is_file(), (
        f"there are no step bodies at {BODIES}: they belong beside the checkout"
    )
    spec = importlib.util.spec_from_file_location(MODULE, BODIES)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if scale is None:
        module.time = SimpleNamespace(time=lambda: asyncio.get_running_loop().time())  # type: ignore[attr-defined]
    body = module.body
    module.body = lambda kind, step, data: body(kind, step, _ItemData(data))  # type: ignore[attr-defined]
    module.SCALE = 1.0 if scale is None else scale  # type: ignore[attr-defined]
    return module


def stub_steps(document: Any, bodies: ModuleType) -> dict[str, type[Step]]:
    """Return the class of every step whose class is one of the bodies, by step id."""
    classes: Mapping[str, type[Step]] = bodies.classes(Step)
    return {
        step["id"]: classes[step["step_class"]]
        for step in document.get("steps", ())
        if step.get("module") == MODULE and step.get("step_class") in classes
    }


def read_log(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the entries of the bodies' log, by run."""
    log = folder / "log.jsonl"
    entries: dict[str, list[dict[str, Any]]] = {}
    if log.exists():
        for line in log.read_text().splitlines():
            entry = json.loads(line)
            entries.setdefault(entry["run"], []).append(entry)
    return entries


def pair_log(
    entries: list[dict[str, Any]], spans: Mapping[str, tuple[float | None, float | None]]
) -> Iterator[Execution]:
    """
    Yield the executions of one run.

    One that was cut off has no end of its own: it ended with its step, as the engine tells.
    """
    last = max((entry["t"] for entry in entries), default=0.0)
    ends = {_key(entry): entry["t"] for entry in entries if entry["ev"] != "start"}
    for entry in entries:
        if entry["ev"] == "start":
            span_end = spans.get(entry["step"], (None, None))[1]
            end = ends.get(_key(entry), last if span_end is None else span_end)
            yield Execution(entry["step"], entry["index"], entry["t"], max(entry["t"], end))


def scale_times(value: Any, scale: float) -> Any:
    """Return a definition with every duration in it scaled, as the sleeps of its bodies are."""
    if isinstance(value, list):
        return [scale_times(member, scale) for member in value]
    if not isinstance(value, dict):
        return value
    scaled = {key: scale_times(member, scale) for key, member in value.items()}
    for key in SCALED_KEYS & scaled.keys():
        scaled[key] = _scale(scaled[key], scale)
    if value.get("type") == "wait" and isinstance(value.get("config"), dict):
        config = scaled["config"]
        if "seconds" in config:
            config["seconds"] = _scale(config["seconds"], scale)
    return scaled


class _ItemData(dict[str, Any]):
    """
    The data of a step, in which `sleep` and `fail` are also found one level down.

    The bodies look for them in the item of a foreach, which `inputs` may have put under a key.
    """

    def get(self, key: str, default: Any = None) -> Any:
        if key in self or key not in ("sleep", "fail"):
            return super().get(key, default)
        held = (value for value in self.values() if isinstance(value, dict) and key in value)
        return next(held, {}).get(key, default)


def _scale(value: Any, scale: float) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value * scale if is_number else value


def _key(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    return entry["step"], entry["index"], entry["attempt"]
