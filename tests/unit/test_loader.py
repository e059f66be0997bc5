"""Which classes may run: only from allowed modules, checked before anything is imported."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from iaflow.pipeline.definition import StepDefinition, parse_document
from iaflow.pipeline.loader import StepLoader, StepNotLoadable
from iaflow.pipeline.step import HumanInputStep, Step

BODY = "from iaflow.pipeline import Step\nclass Good(Step):\n    pass\nclass _Hidden(Step):\n    pass\nplain = 1\n"


@pytest.fixture(autouse=True)
def _forget_imports() -> Iterator[None]:
    modules, path = set(sys.modules), list(sys.path)
    yield
    for name in set(sys.modules) - modules:
        del sys.modules[name]
    sys.path[:] = path


def make_step(module: str | None, name: str | None, **more: Any) -> StepDefinition:
    step = {"id": "a", "type": "task", "module": module, "step_class": name, **more}
    document = {"name": "x", "steps": [{k: v for k, v in step.items() if v is not None}]}
    definition, problems, _ = parse_document({**document, "flow": {"start_at": "a"}})
    assert definition is not None, problems
    return definition.steps[0]


def refuse(loader: StepLoader, module: str, name: str) -> str:
    with pytest.raises(StepNotLoadable) as refused:
        loader.load(make_step(module, name))
    return refused.value.code


def test_a_module_of_an_allowed_folder_is_loaded(tmp_path: Path) -> None:
    """A local file's own folder is allowed, as the quickstart needs."""
    (tmp_path / "iaf_local.py").write_text(BODY)
    found = StepLoader(folders=[tmp_path]).load(make_step("iaf_local", "Good"))
    assert issubclass(found, Step)


def test_a_package_of_an_allowed_folder_is_loaded(tmp_path: Path) -> None:
    """Dotted names are looked up as files below the folder."""
    (tmp_path / "iaf_pack").mkdir()
    (tmp_path / "iaf_pack" / "__init__.py").write_text("")
    (tmp_path / "iaf_pack" / "inner.py").write_text(BODY)
    assert StepLoader(folders=[tmp_path]).load(make_step("iaf_pack.inner", "Good"))


def test_listed_names_are_exact_and_stars_mean_a_package(tmp_path: Path) -> None:
    """`package.*` allows the package and what is below it, never a longer name."""
    loader = StepLoader(["exact", "package.*"])
    assert loader._is_listed("exact")
    assert loader._is_listed("package")
    assert loader._is_listed("package.inner.most")
    for other in ("exact.inner", "exactly", "packages", "packagex.inner", "os"):
        assert not loader._is_listed(other)


@pytest.mark.parametrize(
    ("module", "name"),
    (
        ("os", "system"),
        ("builtins", "eval"),
        ("subprocess", "Popen"),
        ("iaflow.cli", "main"),
        ("iaf_never_there", "Good"),
    ),
)
def test_what_is_not_allowed_is_refused_before_any_import(module: str, name: str) -> None:
    """A definition is data: it cannot make a module be imported."""
    before = set(sys.modules)
    assert refuse(StepLoader(["iaf_else"]), module, name) == "module_not_allowed"
    assert set(sys.modules) == before


@pytest.mark.parametrize("name", ("_Hidden", "plain", "Step2", "__class__"))
def test_only_public_subclasses_of_step_may_run(tmp_path: Path, name: str) -> None:
    """Whatever else a module holds is no step."""
    (tmp_path / "iaf_local2.py").write_text(BODY)
    loader = StepLoader(folders=[tmp_path])
    step = make_step("iaf_local2", "Good")
    from dataclasses import replace

    with pytest.raises(StepNotLoadable) as refused:
        loader.load(replace(step, step_class=name))
    assert refused.value.code == "class_unknown"


def test_a_module_that_breaks_says_how(tmp_path: Path) -> None:
    """What a module raises while it is imported is an outcome with a code."""
    (tmp_path / "iaf_broken.py").write_text("raise RuntimeError('no')\n")
    (tmp_path / "iaf_needs.py").write_text("import iaf_not_installed\n")
    loader = StepLoader(folders=[tmp_path])
    assert refuse(loader, "iaf_broken", "Good") == "module_broken"
    assert refuse(loader, "iaf_needs", "Good") == "module_broken"
    assert refuse(StepLoader(["iaf_gone"]), "iaf_gone", "Good") == "module_missing"


def test_a_local_module_never_hides_one_that_is_loaded(tmp_path: Path) -> None:
    """A folder's `json.py` is not taken for the standard library's, nor the reverse."""
    (tmp_path / "json.py").write_text(BODY)
    assert refuse(StepLoader(folders=[tmp_path]), "json", "Good") == "module_conflict"


def test_the_built_in_person_step_needs_no_module() -> None:
    """`HumanInputStep` may stand without a module."""
    config = {"ui_schema": {"title": "t", "fields": [{"name": "a", "type": "text"}]}}
    step = make_step(None, "HumanInputStep", type="human_input", config=config)
    assert StepLoader().load(step) is HumanInputStep
