"""The command line inside Celery's: `celery -A workers.app iaflow runs`.

Decides nothing: hands on what was typed. Found by Celery through the entry point
`celery.commands`, and loaded at each of its commands, so nothing else is imported here.
"""

from __future__ import annotations

import click

__all__ = ["iaflow"]


@click.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="COMMAND …")
def iaflow(arguments: tuple[str, ...]) -> None:
    """Durable pipelines: runs, steps, questions (the same as the program iaflow)."""
    from iaflow.cli import main

    main(list(arguments))
