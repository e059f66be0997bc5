"""One attempt of one step: build it, run it within its time, say how it ended.

Decides how code becomes an outcome; never writes it (the engine settles) and never raises:
whatever a step does, there is an outcome. Called by executors.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from iaflow.concurrency import run_in_own_thread
from iaflow.data.records import NO_INDEX, Failed, Outcome, Released, Skipped
from iaflow.data.status import StepEnd
from iaflow.database.effects import Effects, Gate, TransactionBlock
from iaflow.errors import Fail, Retry, Skip, exception_code
from iaflow.pipeline.definition import StepType
from iaflow.pipeline.endings import MESSAGE_KEPT
from iaflow.pipeline.engine import Claimed, Engine
from iaflow.pipeline.graph import Graph, Node
from iaflow.pipeline.kinds import conclude_work, fan_out
from iaflow.pipeline.loader import StepLoader, StepNotLoadable
from iaflow.pipeline.neighbours import find_pipeline
from iaflow.pipeline.secrets import fill_in, hide, names_of, shows
from iaflow.pipeline.services import ServiceMissing, ServiceRegistry
from iaflow.pipeline.step import Step, StepContext
from iaflow.telemetry import get_logger, step_context
from iaflow.tracing import attempt_span

__all__ = ["Attempt", "Heartbeat", "Progress"]

_log = get_logger(__name__)

TRACE_KEPT = 16_384


@dataclass(frozen=True, slots=True)
class Progress:
    """What a step said of itself: `fraction` from 0 to 1."""

    fraction: float
    message: str


class Attempt:
    """
    The execution of a claimed step; `run` returns how it ended.

    Args:
        claimed: the claim with its resolved inputs.
        engine: what the claim is from.
        loader: finds the step's class.
        services: what the step is given.
        report: is told the step's progress.
        gate: keeps other steps off a database with one writer, while this one has a transaction.
    """

    def __init__(
        self,
        claimed: Claimed,
        engine: Engine,
        loader: StepLoader,
        services: ServiceRegistry,
        report: Callable[[Progress], None] | None = None,
        gate: Gate | None = None,
    ) -> None:
        self.claimed = claimed
        self._engine = engine
        self._loader = loader
        self._services = services
        self._report = report
        self._gate = gate
        self.effects: Effects | None = None
        self._secrets: dict[str, str] = {}
        self._cancelled = threading.Event()
        self._given_back: str | None = None
        self._threads_at_work = 0
        self._made = time.monotonic()
        self._began: float | None = None
        self._task: asyncio.Task[Outcome] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self) -> Outcome | None:
        """
        Do the work and return its outcome; None if the claim was lost while it ran.

        Whatever the step raises, returns or forgets becomes an outcome with a code.
        """
        claim = self.claimed.claim
        if self.claimed.inputs.fault is not None:
            return self.claimed.inputs.fault
        fanned = fan_out(self.claimed)
        if fanned is not None:
            return fanned
        self._loop = asyncio.get_running_loop()
        self._began = time.monotonic()
        span = attempt_span(
            claim.run_id,
            claim.step_id,
            slug=claim.slug,
            attempt=claim.try_number,
            index=claim.index,
        )
        names = step_context(run_id=claim.run_id, step_id=claim.step_id, attempt=claim.try_number)
        with names, span:
            outcome = await self._wait()
            span.conclude(outcome)
            return outcome

    async def _wait(self) -> Outcome | None:
        self._task = asyncio.ensure_future(self._work_in_time())
        try:
            outcome = await self._task
        except asyncio.CancelledError:
            if self._cancelled.is_set():
                return None
            if self._given_back is not None:
                return Released(self._given_back)
            self._task.cancel()
            raise
        if isinstance(outcome, Failed) and self.effects and self.effects.was_lost:
            return Released("the connection of its transaction was lost", is_loss=True)
        return self._hide(outcome)

    def close(self) -> None:
        """Undo what the step's code did in a transaction and is not to be kept."""
        if self.effects is not None:
            self.effects.close()

    @property
    def overran_at(self) -> float | None:
        """The monotonic instant by which its timeout must have ended it; None: it has none."""
        timeout = self._timeout()
        return None if timeout is None or self._began is None else self._began + timeout

    @property
    def seconds(self) -> float:
        """Seconds since its claim."""
        return time.monotonic() - self._made

    @property
    def has_left_thread(self) -> bool:
        """Tell whether a plain `def work`, which nobody can stop, goes on in its thread."""
        return self._threads_at_work > 0

    def cancel(self) -> None:
        """Stop the work from any thread: its result would count for nothing."""
        self._cancelled.set()
        self._stop()

    def give_back(self, reason: str) -> None:
        """Stop the work from any thread, so that another process does it: no attempt is burned."""
        self._given_back = reason
        self._stop()

    def timed_out(self) -> Failed:
        """Return the outcome of an attempt that has taken longer than its timeout."""
        return Failed(
            "timeout",
            f"the attempt took longer than its timeout of {self._timeout()} s",
            names=("TimeoutError",),
            end=StepEnd.TIMEOUT,
        )

    def _stop(self) -> None:
        loop, task = self._loop, self._task
        if loop is not None and task is not None and not loop.is_closed():
            loop.call_soon_threadsafe(task.cancel)

    def _timeout(self) -> float | None:
        step = self.claimed.node.step
        return step.policy.timeout if step.type is StepType.TASK else None

    async def _work_in_time(self) -> Outcome:
        node = self.claimed.node
        limit = asyncio.timeout(self._timeout())
        try:
            async with limit:
                return await self._work(node)
        except TimeoutError as error:
            if limit.expired():
                return self.timed_out()
            return _failed(error)
        except Skip as skip:
            return Skipped(str(skip) or "the step skipped itself")
        except Fail as fail:
            return Failed(fail.code, _short(str(fail)), retryable=False)
        except Retry as retry:
            return Failed("Retry", _short(str(retry)), names=("Retry",), after=retry.after)
        except (StepNotLoadable, ServiceMissing) as error:
            return Failed(error.code, _short(str(error)), retryable=False)
        except asyncio.CancelledError:
            if self._cancelled.is_set() or _is_being_cancelled():
                raise
            return Failed("CancelledError", "the step's own code was cancelled")
        except SystemExit as leave:
            # Let through it would end the event loop, and every later step wait for ever.
            message = _short(f"the step's own code left with sys.exit({leave.code!r})")
            return Failed("SystemExit", message, names=("SystemExit", "BaseException"))
        except Exception as error:  # noqa: BLE001  whatever a step raises is an outcome
            return _failed(error)

    async def _work(self, node: Node) -> Outcome:
        step_class = self._loader.load(node.step)
        config, data = await self._fill_in_secrets(node)
        step = step_class(config, self._services)
        step.context = self._context()
        data, problem = _validate_input(step, data)
        if problem is not None:
            return problem
        if inspect.iscoroutinefunction(step.work):
            result = await step.work(data)
        else:
            result = await run_in_own_thread(self._work_in_thread, step, data)
            if inspect.isawaitable(result):
                result = await result
        if shows(result, self._secrets.values()):
            message = f"the output of step {node.step.id!r} has a secret in it"
            return Failed("secret_leaked", message, retryable=False)
        model = type(step).Output
        if model is not None and node.step.type is StepType.TASK:
            try:
                result = model.model_validate(result).model_dump(mode="json")
            except ValueError as error:
                return Failed("output_invalid", _short(str(error)), retryable=False)
        outcome = conclude_work(
            self.claimed,
            result,
            now=self._engine.clock.now(),
            find_pipeline=self._find_pipeline,
            keep_version=self._engine.keep_version,
        )
        if isinstance(outcome, Failed):
            return replace(outcome, message=_short(outcome.message))
        return outcome

    def _work_in_thread(self, step: Step, data: Any) -> Any:
        self._threads_at_work += 1
        try:
            return step.work(data)
        finally:
            self._threads_at_work -= 1

    async def _fill_in_secrets(self, node: Node) -> tuple[dict[str, Any], Any]:
        """Return config and inputs with what the secrets service has for the names in them."""
        config, written = node.step.config, node.step.inputs
        data = self.claimed.inputs.data
        names = names_of(config, written)
        if not names:
            return config, data
        service = self._services.get("secrets")
        for name in names:
            secret = service.get(name)
            secret = await secret if inspect.isawaitable(secret) else secret
            if not isinstance(secret, str):
                raise Fail(f"the secrets service has no {name!r}", code="secret_missing")
            self._secrets[name] = secret
        return fill_in(config, config, self._secrets), fill_in(data, written, self._secrets)

    def _find_pipeline(self, slug: str) -> Graph | None:
        return find_pipeline(slug, self._loader.folders, self._engine.pipelines)

    def _context(self) -> StepContext:
        claim = self.claimed.claim
        return StepContext(
            run_id=claim.run_id,
            step_id=claim.step_id,
            attempt=claim.try_number,
            item_index=None if claim.index == NO_INDEX else claim.index,
            report=self._tell,
            log=self._write_log,
            is_cancelled=self._cancelled.is_set,
            transaction=self._open_transaction,
        )

    def _open_transaction(self) -> TransactionBlock:
        if self.effects is None:
            assert self._loop is not None
            self.effects = Effects(self._engine.database, self._loop, self._gate)
        return TransactionBlock(self.effects)

    def _hide(self, outcome: Outcome) -> Outcome:
        """Return an outcome that is fit to be kept: no secret stands in what it says."""
        if not self._secrets or not isinstance(outcome, Failed):
            return outcome
        known = self._secrets.values()
        trace = None if outcome.trace is None else hide(outcome.trace, known)
        return replace(
            outcome,
            code=hide(outcome.code, known),
            message=hide(outcome.message, known),
            trace=trace,
        )

    def _write_log(self, message: str, **fields: Any) -> None:
        known = self._secrets.values()
        shown = {name: hide(str(value), known) for name, value in fields.items() if known}
        _log.info(hide(message, known), **(shown or fields))

    def _tell(self, fraction: float, message: str) -> None:
        if self._report is not None:
            self._report(Progress(fraction, hide(message, self._secrets.values())))


class Heartbeat:
    """
    Keeps the claims of this process alive, from a thread of its own.

    A step that blocks the event loop keeps its lease all the same. A claim that turns out
    lost or cancelled has its attempt stopped. A failing database is no lost claim: the
    next beat tries again, until the lease is over on this machine's monotonic clock.

    Args:
        engine: extends the leases.
        seconds: time between two beats; a third of the lease.
    """

    def __init__(self, engine: Engine, seconds: float) -> None:
        self._engine = engine
        self._seconds = seconds
        self._attempts: dict[str, tuple[Attempt, float]] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, attempt: Attempt) -> None:
        """Keep this attempt's claim alive from now on."""
        trust = time.monotonic() + self._engine.lease.total_seconds()
        with self._lock:
            self._attempts[attempt.claimed.claim.token] = (attempt, trust)
            if self._thread is None and not self._engine.database.is_memory:
                self._thread = threading.Thread(
                    target=self._serve, name="iaflow-heartbeat", daemon=True
                )
                self._thread.start()

    def forget(self, attempt: Attempt) -> None:
        """Leave this attempt's claim alone from now on."""
        with self._lock:
            self._attempts.pop(attempt.claimed.claim.token, None)

    def beat(self) -> None:
        """Extend every watched claim once; stop the attempts whose claim is gone."""
        with self._lock:
            watched = list(self._attempts.items())
        for token, (attempt, trust) in watched:
            sent = time.monotonic()
            try:
                alive = self._engine.extend_lease(attempt.claimed.claim)
            except Exception as error:  # noqa: BLE001  the database may be away, the lease is ours
                _log.warning("heartbeat failed", error=str(error))
                alive = sent < trust
            else:
                trust = sent + self._engine.lease.total_seconds()
            if alive:
                with self._lock:
                    if token in self._attempts:
                        self._attempts[token] = (attempt, trust)
            else:
                self.forget(attempt)
                attempt.cancel()

    def close(self) -> None:
        """Stop the thread; nothing is kept alive any more."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
            self._thread = None

    def _serve(self) -> None:
        while not self._stop.wait(self._seconds):
            self.beat()
        self._engine.database.release_thread()


def _validate_input(step: Step, data: Any) -> tuple[Any, Failed | None]:
    model = type(step).Input
    if model is None:
        return data, None
    try:
        return model.model_validate(data), None
    except ValueError as error:
        return None, Failed("input_invalid", _short(str(error)), retryable=False)


def _failed(error: BaseException) -> Failed:
    names = tuple(base.__name__ for base in type(error).__mro__ if base is not object)
    trace = "".join(traceback.format_exception(error))
    return Failed(
        _clean(exception_code(error))[:200],
        _short(str(error) or type(error).__name__),
        names=names,
        trace=_clean(trace)[-TRACE_KEPT:],
    )


def _short(text: str) -> str:
    clean = _clean(text)
    return clean if len(clean) <= MESSAGE_KEPT else clean[:MESSAGE_KEPT] + " …"


def _clean(text: str) -> str:
    """Return `text` as every database keeps it: no NUL, no lone surrogate."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
