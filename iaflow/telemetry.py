"""Event names, the run and step that a log line belongs to, structured logs.

Decides how a line looks and where it goes (stderr); never what is worth a line. Called by
the impure rooms; faces configure it once.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, cast

import structlog

__all__ = ["configure_logs", "get_logger", "step_context"]


LONGEST: Final = 8 * 1024
"""Characters of one field of a line."""


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """
    Return the logger of a room; its lines carry the current run and step.

    It stands on the standard library's logger of that name, so that a host application
    that embeds iaflow decides where lines go, and nothing global is configured.
    """
    logger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.processors.format_exc_info,
            structlog.stdlib.render_to_log_kwargs,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    return cast("structlog.stdlib.BoundLogger", logger)


@contextmanager
def step_context(**known: Any) -> Iterator[None]:
    """Bind run, step and attempt to every line that is logged inside the block."""
    with structlog.contextvars.bound_contextvars(**known):
        yield


def configure_logs(
    level: str = "WARNING", *, json_lines: bool | None = None, also: Iterable[str] = ()
) -> None:
    """
    Send iaflow's log lines to stderr: one JSON object each, or readable ones on a terminal.

    Args:
        level: the least urgent level that is written, such as ``INFO``.
        json_lines: True or False forces the form; None looks whether stderr is a terminal.
        also: loggers of libraries whose lines are to look the same.
    """
    as_json = not sys.stderr.isatty() if json_lines is None else json_lines
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.stdlib.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                # As text, here: what a renderer makes of it may show the values of variables.
                structlog.processors.format_exc_info,
                _tame,
                renderer,
            ],
        )
    )
    for name in ("iaflow", *also):
        root = logging.getLogger(name)
        root.handlers[:] = [handler]
        root.setLevel(level)
        root.propagate = False


def _tame(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Cut what is endless; escape what would begin another line or steer a terminal."""
    for key, value in event.items():
        # The end of a traceback tells most.
        if key in ("exception", "stack") and isinstance(value, str):
            event[key] = "\n".join(map(_escape, value[-LONGEST:].split("\n")))
        elif isinstance(value, str):
            event[key] = _cut(value)
        elif not isinstance(value, bool | int | float | None):
            text = repr(value)
            event[key] = value if len(text) <= LONGEST and text.isprintable() else _cut(text)
    return event


def _cut(text: str) -> str:
    return _escape(text if len(text) <= LONGEST else text[:LONGEST] + "…")


def _escape(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
