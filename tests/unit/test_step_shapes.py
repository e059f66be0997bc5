"""What a step's class declares is compared with the definition before a run is made."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from iaflow.pipeline.check import check
from iaflow.pipeline.loader import StepLoader

STEPS = """
from pydantic import BaseModel, ConfigDict, Field

from iaflow.pipeline import Step


class Order(BaseModel):
    number: int
    note: str = ""
    sender: str = Field(default="", alias="from")


class Receipt(BaseModel):
    total: float


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    number: int


class Typed(Step):
    Input = Order
    Output = Receipt


class Loose(Step):
    Input = Open
    Output = Open


class Plain(Step):
    pass
"""


@pytest.fixture
def loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StepLoader:
    monkeypatch.delitem(sys.modules, "shaped_steps", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "shaped_steps.py").write_text(STEPS)
    return StepLoader(folders=[tmp_path])


def document(step_class: str, inputs: Any = None, after: Any = None, **more: Any) -> dict[str, Any]:
    first: dict[str, Any] = {"id": "first", "module": "shaped_steps", "step_class": step_class}
    if inputs is not None:
        first["inputs"] = inputs
    second = {
        "id": "second",
        "module": "shaped_steps",
        "step_class": "Plain",
        "inputs": after or {},
    }
    return {
        "name": "Shapes",
        "steps": [{**first, **more}, second],
        "flow": {"start_at": "first", "transitions": [{"from": "first", "to": "second"}]},
    }


def found(loader: StepLoader, **given: Any) -> list[tuple[str, str]]:
    checked = check(document(**given), shape_of=loader.shape_of)
    return [(problem.code, problem.pointer) for problem in checked.errors]


def test_inputs_are_compared_with_the_model(loader: StepLoader) -> None:
    """A required name that is missing, and a name that the model would silently ignore."""
    assert found(loader, step_class="Typed", inputs={"number": 1, "from": "x"}) == []
    assert found(loader, step_class="Typed", inputs={"note": "x"}) == [
        ("input_missing", "/steps/0/inputs")
    ]
    wrong = check(
        document("Typed", {"number": 1, "nots": "x", "sender": "y"}), shape_of=loader.shape_of
    )
    assert [(p.code, p.pointer) for p in wrong.errors] == [
        ("input_undeclared", "/steps/0/inputs/nots"),
        ("input_undeclared", "/steps/0/inputs/sender"),
    ]
    assert wrong.errors[0].hint == "did you mean `note`?"


def test_outputs_are_compared_with_the_model(loader: StepLoader) -> None:
    """References to what the model does not give, and promises that it cannot keep."""
    given = {"number": 1}
    assert found(loader, step_class="Typed", inputs=given, after={"x": "{{ first.total }}"}) == []
    assert found(loader, step_class="Typed", inputs=given, after={"x": "{{ first.sum }}"}) == [
        ("output_undeclared", "/steps/1/inputs/x")
    ]
    assert found(loader, step_class="Typed", inputs=given, outputs=["total", "tax"]) == [
        ("output_undeclared", "/steps/0/outputs/1")
    ]
    items = {"items": [1], "max_parallel": 1}
    after = {"ok": "{{ first.results.0.total }}", "no": "{{ first.results.0.sum }}"}
    assert found(loader, step_class="Typed", inputs=given, foreach=items, after=after) == [
        ("output_undeclared", "/steps/1/inputs/no")
    ]


def test_what_is_open_or_unknown_is_left_alone(loader: StepLoader) -> None:
    """A model that takes more, a class without models, inputs that come from everywhere."""
    more = {"number": 1, "other": 2}
    assert found(loader, step_class="Loose", inputs=more, after={"x": "{{ first.any }}"}) == []
    assert found(loader, step_class="Plain", inputs=more, after={"x": "{{ first.any }}"}) == []
    assert found(loader, step_class="Typed") == []
    assert found(loader, step_class="Missing", inputs=more) == []


def test_nothing_is_imported_unless_it_is_asked_for(tmp_path: Path) -> None:
    """`validate` and an import of definitions compare nothing with code."""
    (tmp_path / "shaped_canary.py").write_text("raise SystemExit('imported')")
    given = document("Typed", {"note": 1})
    given["steps"][0]["module"] = "shaped_canary"
    assert check(given).errors == ()
