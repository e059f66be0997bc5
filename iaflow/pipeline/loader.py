"""From names to code and from hashes to graphs: step classes and compiled definitions.

Decides which classes may run (only from modules that the operator allowed, checked before
anything is imported); never takes code from a definition. Called by executors and the
engine.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from iaflow.errors import IaflowError, NotFound
from iaflow.pipeline.check import compile_definition
from iaflow.pipeline.conditions import FunctionCondition, code_conditions
from iaflow.pipeline.definition import BUILT_IN_CLASSES, StepDefinition, StepType
from iaflow.pipeline.graph import Graph, Node
from iaflow.pipeline.shapes import StepShape
from iaflow.pipeline.step import (
    EventStep,
    HumanInputStep,
    PipelineStep,
    Step,
    TerminateStep,
    WaitStep,
)

__all__ = ["Library", "StepLoader", "StepNotLoadable"]

GRAPHS_KEPT = 256

_TYPE_CLASS: dict[StepType, type[Step]] = {
    StepType.HUMAN_INPUT: HumanInputStep,
    StepType.PIPELINE: PipelineStep,
    StepType.WAIT: WaitStep,
    StepType.EVENT: EventStep,
    StepType.TERMINATE: TerminateStep,
}
_BUILT_IN = {name: _TYPE_CLASS[kind] for kind, name in BUILT_IN_CLASSES.items()}


class StepNotLoadable(IaflowError):
    """A step's class may not run here, or is not there."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


class Library:
    """
    Compiled definitions by content hash, kept in memory: a version never changes.

    Args:
        read: returns the JSON text of a version, or None.
    """

    def __init__(self, read: Callable[[str], str | None]) -> None:
        self._read = read
        self._graphs: OrderedDict[str, Graph] = OrderedDict()
        self._lock = threading.Lock()

    def graph(self, content_hash: str) -> Graph:
        """
        Return the compiled definition of that hash.

        Raises:
            NotFound: no version of that hash is kept.
        """
        graph = self._graphs.get(content_hash)
        if graph is None:
            text = self._read(content_hash)
            if text is None:
                raise NotFound(f"there is no definition with the content hash {content_hash}")
            # A kept version was accepted once: limits that were tightened since then must
            # not stop its runs.
            graph = compile_definition(text, max_bytes=16 * 1024 * 1024)
            self.keep(graph)
        return graph

    def keep(self, graph: Graph) -> None:
        """Keep a compiled definition in memory."""
        with self._lock:
            self._graphs[graph.definition.content_hash] = graph
            while len(self._graphs) > GRAPHS_KEPT:
                self._graphs.popitem(last=False)


class StepLoader:
    """
    Step classes by (module, class), from allowed modules only.

    Args:
        modules: what the operator allowed: exact names, or ``package.*``.
        folders: folders whose own modules are allowed too (a local file's, the script's).
    """

    def __init__(self, modules: Iterable[str] = (), folders: Sequence[Path] = ()) -> None:
        self._modules = tuple(modules)
        self._folders = tuple(dict.fromkeys(folder.resolve() for folder in folders))
        self._classes: dict[tuple[str | None, str | None, StepType], type[Step]] = {}
        self._lock = threading.RLock()

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders whose own modules, and definitions, are allowed."""
        return self._folders

    def load(self, step: StepDefinition) -> type[Step]:
        """
        Return the class of a step.

        Raises:
            StepNotLoadable: `module_not_allowed`, `module_missing`, `module_broken`,
                `module_conflict` or `class_unknown`, each saying what to do.
        """
        key = (step.module, step.step_class, step.type)
        found = self._classes.get(key)
        if found is None:
            with self._lock:
                found = self._find(step)
                self._classes[key] = found
        return found

    def find_obstacle(self, node: Node) -> str | None:
        """
        Return why this process cannot execute a step, or judge what comes after it; None: it can.

        Another process may: during a deployment, or with other modules installed.
        """
        try:
            self.load(node.step)
            for edge in node.outgoing:
                for part in code_conditions(edge.condition):
                    if isinstance(part, FunctionCondition):
                        self.load_function(part.module, part.function)
        except StepNotLoadable as error:
            return f"{error.code}: {error}"
        return None

    def shape_of(self, step: StepDefinition) -> StepShape | None:
        """Return what a step's class says of its inputs and outputs; None if it cannot be loaded."""
        try:
            found = self.load(step)
        except StepNotLoadable:
            return None  # said when the step is executed, by whoever may load it
        return StepShape(
            inputs=_known_names(found.Input),
            required=tuple(name for name, field in _fields(found.Input) if field.is_required()),
            outputs=_known_names(found.Output),
        )

    def load_function(self, module: str, name: str) -> Callable[..., object]:
        """
        Return a public function of an allowed module: a condition that is judged by code.

        Raises:
            StepNotLoadable: as `load` does; `function_unknown` if there is none of that name.
        """
        with self._lock:
            found = getattr(self._import(module), name, None)
        if name.startswith("_") or not inspect.isfunction(found):
            raise StepNotLoadable(
                "function_unknown", f"module {module!r} has no public function named {name!r}"
            )
        return found

    def can_load(self, module: str) -> bool:
        """Tell, without importing anything, whether a step's module is allowed and there."""
        folder = self._folder_of(module)
        return folder is not None or (self._is_listed(module) and _is_there(module))

    def _find(self, step: StepDefinition) -> type[Step]:
        if step.module is None:
            return _BUILT_IN.get(step.step_class or "") or _TYPE_CLASS[step.type]
        name = step.step_class or ""
        found = getattr(self._import(step.module), name, None)
        if name.startswith("_") or not isinstance(found, type) or not issubclass(found, Step):
            raise StepNotLoadable(
                "class_unknown",
                f"module {step.module!r} has no public subclass of iaflow.pipeline.Step named "
                f"{name!r}",
            )
        return found

    def _import(self, module: str) -> ModuleType:
        folder = self._folder_of(module)
        if folder is None and not self._is_listed(module):
            allowed = [*self._modules, *(f"modules in {folder}" for folder in self._folders)]
            raise StepNotLoadable(
                "module_not_allowed",
                f"steps may not come from module {module!r}; allowed are: "
                f"{', '.join(allowed) or 'none'}; name it in IAFLOW_STEP_MODULES",
            )
        try:
            return _import_from(folder, module) if folder else importlib.import_module(module)
        except StepNotLoadable:
            raise
        except ModuleNotFoundError as error:
            if error.name and (module == error.name or module.startswith(error.name + ".")):
                raise StepNotLoadable(
                    "module_missing", f"module {module!r} is allowed but is not there"
                ) from error
            raise _broken(module, error) from error
        except Exception as error:  # a step's module may raise anything while it is imported
            raise _broken(module, error) from error

    def _is_listed(self, module: str) -> bool:
        for allowed in self._modules:
            if allowed.endswith(".*"):
                package = allowed[:-2]
                if module == package or module.startswith(package + "."):
                    return True
            elif module == allowed:
                return True
        return False

    def _folder_of(self, module: str) -> Path | None:
        """Return the allowed folder that holds the file of `module`, looked up as files alone."""
        parts = module.split(".")
        for folder in self._folders:
            place = folder.joinpath(*parts)
            if place.with_suffix(".py").is_file() or (place / "__init__.py").is_file():
                return folder
        return None


def _fields(model: Any) -> list[tuple[str, FieldInfo]]:
    """Return the fields of a model by the names that data has for them."""
    if not _is_model(model):
        return []
    return [
        (field.validation_alias or name, field)
        for name, field in model.model_fields.items()
        # What may have several names is left to the model.
        if field.validation_alias is None or isinstance(field.validation_alias, str)
    ]


def _known_names(model: Any) -> tuple[str, ...] | None:
    """Return the names that a model knows; None if it takes others as well."""
    names = tuple(name for name, _ in _fields(model))
    if not _is_model(model) or len(names) < len(model.model_fields):
        return None
    takes_more = {"extra": "allow", "populate_by_name": True, "validate_by_name": True}
    config = model.model_config
    return None if any(config.get(key) == value for key, value in takes_more.items()) else names


def _is_model(model: Any) -> bool:
    return isinstance(model, type) and issubclass(model, BaseModel)


def _import_from(folder: Path, module: str) -> ModuleType:
    """Import a module of a local folder under its own name, and only from there."""
    top = module.partition(".")[0]
    loaded = sys.modules.get(top)
    if loaded is not None and not _lies_in(loaded, folder):
        raise StepNotLoadable(
            "module_conflict",
            f"module {top!r} of {folder} cannot be imported: another module of that name is "
            f"loaded already ({getattr(loaded, '__file__', 'built in')}); rename one of them",
        )
    path = str(folder)
    known = path in sys.path
    if not known:
        sys.path.insert(0, path)
    try:
        importlib.invalidate_caches()
        return importlib.import_module(module)
    finally:
        if not known:
            # Last from now on: steps may import their neighbours late, but a file of that
            # folder never hides a module of the application.
            sys.path.remove(path)
            sys.path.append(path)


def _lies_in(module: ModuleType, folder: Path) -> bool:
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", [])]
    return any(folder in Path(place).resolve().parents for place in places if place)


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _broken(module: str, error: BaseException) -> StepNotLoadable:
    return StepNotLoadable(
        "module_broken",
        f"module {module!r} cannot be imported: {type(error).__name__}: {error}",
    )
