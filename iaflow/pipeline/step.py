"""What a step class is: the base of every piece of work, and what it can reach.

Decides the interface between a step's code and iaflow; never runs it. Subclassed by users,
executed by attempts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final

from iaflow.pipeline.services import ServiceMissing, ServiceRegistry

if TYPE_CHECKING:
    # A definition is checked, and a step's module imported, without a database's driver.
    from iaflow.database.effects import TransactionBlock

__all__ = [
    "EventStep",
    "HumanInputStep",
    "PipelineStep",
    "Step",
    "StepContext",
    "TerminateStep",
    "WaitStep",
]

_NO_DEFAULT: Final = object()


class StepContext:
    """
    Where an attempt stands: what `self.context` is inside `work`.

    Attributes:
        run_id, step_id: what is executed.
        attempt: the number of this try, from 1; lost workers do not count.
        item_index: the item of a foreach, else None.
        idempotency_key: the same for every attempt of this step (`run_id:step_id[:index]`):
            give it to other systems, so that a repeated call has one effect.
    """

    __slots__ = (
        "_is_cancelled",
        "_log",
        "_report",
        "_transaction",
        "attempt",
        "idempotency_key",
        "item_index",
        "run_id",
        "step_id",
    )

    def __init__(
        self,
        *,
        run_id: str,
        step_id: str,
        attempt: int,
        item_index: int | None,
        report: Callable[[float, str], None],
        log: Callable[..., None],
        is_cancelled: Callable[[], bool],
        transaction: Callable[[], TransactionBlock] | None = None,
    ) -> None:
        self.run_id = run_id
        self.step_id = step_id
        self.attempt = attempt
        self.item_index = item_index
        suffix = "" if item_index is None else f":{item_index}"
        self.idempotency_key = f"{run_id}:{step_id}{suffix}"
        self._report = report
        self._log = log
        self._is_cancelled = is_cancelled
        self._transaction = transaction

    @property
    def cancelled(self) -> bool:
        """True once the run or step was cancelled or the claim lost: stop, nothing will count."""
        return self._is_cancelled()

    def progress(self, fraction: float, message: str = "") -> None:
        """Say how far the work is, from 0 to 1, and at what."""
        self._report(min(1.0, max(0.0, float(fraction))), message)

    def transaction(self) -> TransactionBlock:
        """
        Return a transaction on iaflow's database that commits together with this step.

        Use it as ``async with self.context.transaction() as tx``, or in a plain `def work` with
        ``with``; `tx` has `execute`, `fetch_all` and `fetch_one`. What is done in it happens
        exactly once, however often the step is executed: it is committed in the same commit as
        the step's completion, and undone if the attempt fails, is lost or is cancelled. Several
        blocks of one attempt are one transaction. On SQLite nobody else writes meanwhile.
        """
        if self._transaction is None:
            raise RuntimeError(
                "this step is executed outside of a run, so there is no completion to commit with: "
                "run or rehearse a pipeline that has it"
            )
        return self._transaction()

    def log(self, message: str, **fields: Any) -> None:
        """Write a log line that carries the run and the step."""
        self._log(message, **fields)


class Step:
    """
    The base class of all steps: implement `work`.

    An `async def work` runs on the worker's event loop, a plain `def work` in a thread of
    its own. It must return a JSON object.

    Attributes:
        config: the definition's static `config` of this step.
        context: where this attempt stands; set before `work` is called.
        Input, Output: optional pydantic models; `data` then arrives as an `Input`, and the
            output is validated by `Output`.
    """

    Input: ClassVar[type[Any] | None] = None
    Output: ClassVar[type[Any] | None] = None

    context: StepContext

    def __init__(
        self, config: Mapping[str, Any] | None = None, services: ServiceRegistry | None = None
    ) -> None:
        self.config: dict[str, Any] = dict(config or {})
        self._services = services if services is not None else ServiceRegistry()

    async def work(self, data: Any) -> Any:
        """
        Do the step's work.

        Args:
            data: the resolved `inputs`; without `inputs`, the run's parameters overlaid
                with the outputs of the steps before.

        Returns:
            A JSON object: the step's output.

        Raises:
            Retry, Fail, Skip: from `iaflow.errors`, to say how the attempt ended.
        """
        raise NotImplementedError(f"{type(self).__name__} has no work()")

    def get_service(self, name: str, default: Any = _NO_DEFAULT) -> Any:
        """Return a service by name, or `default` if one is given and nobody registered it."""
        try:
            return self._services.get(name)
        except ServiceMissing:
            if default is _NO_DEFAULT:
                raise
            return default

    def get_db(self) -> Any:
        """Return the database service: see `iaflow.database.DatabaseManager`."""
        return self.get_service("db")

    def get_http(self) -> Any:
        """Return the HTTP client: by default an `httpx2.AsyncClient`."""
        return self.get_service("http")


class HumanInputStep(Step):
    """
    A step that waits for a person (LANGUAGE section 8); its form stands in the definition.

    A subclass may override `work`: what it returns is laid over what the person is shown.
    """

    async def work(self, data: Any) -> Any:
        """Return what the person is shown beside the definition's `show`: nothing more."""
        return {}


class _UnworkedStep(Step):
    """A step whose type does all there is to do."""

    async def work(self, data: Any) -> Any:
        """Return nothing to add."""
        return {}


class PipelineStep(_UnworkedStep):
    """
    A step that runs another pipeline (LANGUAGE section 2).

    A subclass may override `work`: what it returns is laid over the child run's input.
    """


class WaitStep(_UnworkedStep):
    """A step that waits for a time; `work` of a subclass runs before, and returns nothing."""


class EventStep(_UnworkedStep):
    """A step that waits for a signal; `work` of a subclass runs before, and returns nothing."""


class TerminateStep(_UnworkedStep):
    """
    A step that ends the run.

    A subclass may override `work`: what it returns is laid over the inputs that become the
    run's outputs, should the document have none of its own.
    """
