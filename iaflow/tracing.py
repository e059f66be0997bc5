"""Spans of attempts for OpenTelemetry, where a deployment wants them.

Decides what a span says and to which trace it belongs; never stores anything, and costs next to
nothing while it is off. Begun by whoever executes steps, called around each attempt.
"""

from __future__ import annotations

import os
import uuid
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from iaflow.errors import SettingsRefused

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer, TracerProvider

__all__ = [
    "AttemptSpan",
    "attempt_span",
    "begin_tracing",
    "check_tracing",
    "end_tracing",
    "read_trace_id",
]

SPAN: Final = "iaflow.step"
EXPORTERS: Final = "opentelemetry_traces_exporter"
"""The group of entry points under which packages offer exporters, by OpenTelemetry's own rule."""

_LOW: Final = (1 << 64) - 1


class AttemptSpan(Protocol):
    """What `attempt_span` gives: a context manager that is told how the attempt ended."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...

    def conclude(self, outcome: object) -> None:
        """Say how the attempt ended: its outcome, or None if its claim was lost."""
        ...


def check_tracing() -> None:
    """
    Look whether tracing could begin, and begin nothing; for the process that forks.

    Raises:
        SettingsRefused: OpenTelemetry or the exporter is not installed.
    """
    try:
        from opentelemetry import trace  # noqa: F401  it is looked for
        from opentelemetry.sdk import trace as sdk  # noqa: F401  as well
    except ImportError:
        raise SettingsRefused(
            "IAFLOW_TRACING needs OpenTelemetry: install iaflow-pipelines[tracing]"
        ) from None
    _find_exporter()


def begin_tracing(provider: TracerProvider | None = None) -> None:
    """
    Make spans from now on, in this process; to be called after a fork, not before.

    A second call changes nothing, unless it brings a provider.

    Args:
        provider: where they go. By default the application's own, if it has set one, else one
            with the exporter that ``OTEL_TRACES_EXPORTER`` names (``otlp`` without it).

    Raises:
        SettingsRefused: OpenTelemetry or the exporter is not installed.
    """
    global _tracer  # noqa: PLW0603  a process has one, as OpenTelemetry itself does
    if _tracer is not None and provider is None:
        return
    check_tracing()
    from opentelemetry import trace
    from opentelemetry.sdk import trace as sdk

    if provider is None:
        provider = trace.get_tracer_provider()
        if isinstance(provider, trace.ProxyTracerProvider):
            provider = sdk.TracerProvider()
            _export(provider)
            trace.set_tracer_provider(provider)
    _tracer = provider.get_tracer("iaflow")


def end_tracing() -> None:
    """Send what is not sent yet, and make no more spans."""
    global _tracer  # noqa: PLW0603  see begin_tracing
    if _tracer is None:
        return
    _tracer = None
    from opentelemetry import trace

    flush = getattr(trace.get_tracer_provider(), "force_flush", None)
    if flush is not None:
        flush(5_000)


def attempt_span(
    run_id: str, step_id: str, *, slug: str, attempt: int, index: int | None = None
) -> AttemptSpan:
    """
    Return a span around one attempt, current while the step works; nothing while tracing is off.

    All attempts of a run share one trace: its id is the run's own, so that nobody has to keep or
    to pass on a context.

    Args:
        attempt: the number of this try, from 1.
        index: the place of the item in its list; None if the step is no item.
    """
    if _tracer is None:
        return _NO_SPAN
    attributes: dict[str, str | int] = {
        "iaflow.run_id": run_id,
        "iaflow.step_id": step_id,
        "iaflow.slug": slug,
        "iaflow.attempt": attempt,
    }
    if index is not None and index >= 0:
        attributes["iaflow.item_index"] = index
    return _Span(_tracer, run_id, attributes)


def read_trace_id(run_id: str) -> str:
    """Return the id of a run's trace as tracing tools write it: 32 hexadecimal digits."""
    return uuid.UUID(run_id).hex


class _Span:
    def __init__(self, tracer: Tracer, run_id: str, attributes: dict[str, str | int]) -> None:
        from opentelemetry import trace

        number = uuid.UUID(run_id).int
        # Nobody makes the span above: it only stands for the run, in every process the same.
        above = trace.SpanContext(
            trace_id=number,
            span_id=(number ^ (number >> 64)) & _LOW or 1,
            is_remote=True,
            trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED),
        )
        self._span = tracer.start_span(
            SPAN,
            context=trace.set_span_in_context(trace.NonRecordingSpan(above)),
            kind=trace.SpanKind.CONSUMER,
            attributes=attributes,
        )
        self._current = trace.use_span(self._span, end_on_exit=True)

    def __enter__(self) -> Self:
        self._current.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        self._current.__exit__(kind, error, trace)

    def conclude(self, outcome: object) -> None:
        from opentelemetry import trace

        word = "lost" if outcome is None else type(outcome).__name__.lower()
        self._span.set_attribute("iaflow.outcome", word)
        if word == "failed":
            # The code alone: messages may hold what nobody outside should read.
            code = str(getattr(outcome, "code", ""))
            self._span.set_attribute("iaflow.error_code", code)
            self._span.set_status(trace.StatusCode.ERROR, code)


class _NoSpan:
    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        return None

    def conclude(self, outcome: object) -> None:
        return None


_NO_SPAN: Final = _NoSpan()
_tracer: Tracer | None = None


def _export(provider: Any) -> None:
    """Give a provider the exporter that the environment names, as OpenTelemetry's tools do."""
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    found = _find_exporter()
    if found is not None:
        provider.add_span_processor(BatchSpanProcessor(found.load()()))


def _find_exporter() -> Any:
    """Return the entry point of the exporter that the environment names; None for `none`."""
    from importlib.metadata import entry_points

    name = os.environ.get("OTEL_TRACES_EXPORTER", "otlp")
    if name == "none":
        return None
    found = next(iter(entry_points(group=EXPORTERS, name=name)), None)
    if found is None:
        raise SettingsRefused(
            f"IAFLOW_TRACING finds no exporter {name!r}: install one, such as "
            "opentelemetry-exporter-otlp, or see OTEL_TRACES_EXPORTER (console, none)"
        )
    return found
