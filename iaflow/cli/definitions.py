"""Commands about definitions: `validate`, `import`, `graph`, `schema`.

Decides how findings and drawings are shown; never judges a document. Called through `main`.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from iaflow.cli.exits import ExitCode
from iaflow.cli.inputs import db_option, json_option
from iaflow.cli.opening import open_app, read_settings
from iaflow.cli.reading_files import Unreadable, read_definition, read_text
from iaflow.cli.terminal import errors, hint, line, results, write_json, write_json_line
from iaflow.concurrency import run_async
from iaflow.errors import DefinitionRefused, NotFound, Problem

if TYPE_CHECKING:
    from iaflow.bootstrap import Application
    from iaflow.pipeline.graph import Graph
    from iaflow.pipeline.importer import ImportReport

__all__ = ["graph", "import_", "schema", "validate"]

FORMATS = ("svg", "mermaid", "dot")
_FORMAT_OF_SUFFIX = {
    ".svg": "svg",
    ".mmd": "mermaid",
    ".mermaid": "mermaid",
    ".dot": "dot",
    ".gv": "dot",
}


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE…", type=click.Path(path_type=Path))
@json_option
def validate(files: tuple[Path, ...], as_json: bool) -> int:
    """
    Check definitions without running anything.

    Every finding is shown, with the place in the document and what to write instead. Files may
    be gzipped (.json.gz). With --json: one object on a line for each file.
    """
    settings = read_settings()
    from iaflow.pipeline.check import check

    codes = {ExitCode.DONE}
    for path in files:
        try:
            text = read_text(path, max_bytes=settings.max_definition_bytes)
        except Unreadable as error:
            codes.add(ExitCode.USAGE)
            _show_findings(path, None, (Problem("file_unreadable", "", str(error)),), (), as_json)
            continue
        checked = check(
            text, queues=settings.queues, source=str(path), max_bytes=settings.max_definition_bytes
        )
        if checked.graph is None:
            codes.add(ExitCode.DEFINITION_REFUSED)
        _show_findings(path, checked.graph, checked.errors, checked.warnings, as_json)
    return max(codes)


def _show_findings(
    path: Path,
    compiled: Graph | None,
    faults: tuple[Problem, ...],
    warnings: tuple[Problem, ...],
    as_json: bool,
) -> None:
    if as_json:
        write_json_line(
            {
                "file": str(path),
                "ok": compiled is not None,
                "errors": [problem.as_json() for problem in faults],
                "warnings": [problem.as_json() for problem in warnings],
            }
        )
        return
    console = results()
    if compiled is not None:
        size = f"{len(compiled.nodes)} steps, {len(compiled.edges)} transitions"
        console.print(
            line(
                ("✓ ok      ", "green"),
                f"  {path}",
                (f"  {compiled.definition.slug}  {size}", "dim"),
            ),
            soft_wrap=True,
        )
    else:
        console.print(line(("✗ refused ", "red"), f"  {path}"), soft_wrap=True)
    for problem in faults:
        _show_problem(problem, "error", "red")
    for problem in warnings:
        _show_problem(problem, "warning", "yellow")


def _show_problem(problem: Problem, kind: str, style: str) -> None:
    console = results()
    where = problem.pointer or "/"
    console.print(
        line(f"    {where}  ", (f"{kind} {problem.code}", style), f": {problem.message}"),
        soft_wrap=True,
    )
    if problem.hint:
        console.print(line(("      → ", "cyan"), problem.hint), soft_wrap=True)


@click.command("import")
@click.argument("path", metavar="DIR|FILE", type=click.Path(path_type=Path))
@db_option
@json_option
def import_(path: Path, db: str | None, as_json: bool) -> int:
    """
    Import definitions, so that `start` finds them by slug.

    Changed text makes a new version; unchanged text writes nothing. A refused definition keeps
    none of the others out.
    """
    if not path.exists():
        raise Unreadable(f"cannot read {path}: there is no such file or folder")
    with open_app(db) as app:
        report = run_async(_import(app, path, is_folder=path.is_dir()))
    if as_json:
        write_json(report.as_json())
    else:
        _show_report(report)
    return ExitCode.DEFINITION_REFUSED if report.refused else ExitCode.DONE


async def _import(app: Application, path: Path, *, is_folder: bool) -> ImportReport:
    from iaflow.pipeline.importer import ImportReport, PipelineImportService, RefusedFile

    service = PipelineImportService(
        app.database,
        path if is_folder else path.parent,
        clock=app.engine.clock,
        queues=app.settings.queues,
        max_bytes=app.settings.max_definition_bytes,
    )
    if is_folder:
        return await service.import_all_pipelines()
    try:
        one = await service.import_file(path)
    except DefinitionRefused as error:
        return ImportReport((), (), (RefusedFile(str(path), error.problems),))
    return ImportReport((one,), (), ()) if one.is_new else ImportReport((), (one,), ())


def _show_report(report: ImportReport) -> None:
    console = results()
    kept = [("✓ imported ", "green", one) for one in report.imported]
    kept += [("· unchanged", "dim", one) for one in report.unchanged]
    for word, style, one in kept:
        console.print(
            line((word, style), f"  {one.slug}", (f"  {one.file}", "dim")), soft_wrap=True
        )
    for refused in report.refused:
        console.print(line(("✗ refused  ", "red"), f"  {refused.file}"), soft_wrap=True)
        for problem in refused.problems:
            _show_problem(problem, "error", "red")
    if not kept and not report.refused:
        errors().print(hint("there is no definition (*.json) in this folder"), soft_wrap=True)
    if report.imported:
        advice = f"run one with:  iaflow start {report.imported[0].slug}"
        errors().print(hint(advice), soft_wrap=True)


@click.command()
@click.argument("what", metavar="FILE|RUN")
@click.option(
    "-o",
    "output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write to x.svg, x.mmd or x.dot.",
)
@click.option(
    "--format", "form", type=click.Choice(FORMATS), help="Else the file's ending says it; svg."
)
@db_option
@json_option
def graph(what: str, output: Path | None, form: str | None, db: str | None, as_json: bool) -> int:
    """
    Draw a definition, or a run with the state of its steps.

    Without -o the drawing goes to stdout.
    """
    form = form or _format_of(output)
    if (drawn := _draw_file(what, form)) is None:
        drawn = _draw_run(what, form, db)
    if output is not None:
        _write(output, drawn)
    if as_json:
        write_json({"format": form, "file": str(output) if output else None, "drawing": drawn})
    elif output is None:
        click.echo(drawn, nl=False)
    else:
        errors().print(line(("✓ ", "green"), f"drawn to {output}"), soft_wrap=True)
    return ExitCode.DONE


def _write(output: Path, content: str) -> None:
    try:
        output.write_text(content, encoding="utf-8")
    except OSError as error:
        raise Unreadable(f"cannot write {output}: {error.strerror or error}") from None


def _format_of(output: Path | None) -> str:
    if output is None:
        return "svg"
    if (form := _FORMAT_OF_SUFFIX.get(output.suffix.lower())) is None:
        raise click.UsageError(
            f"the ending of {output} names no format: write x.svg, x.mmd, x.dot, or say --format"
        )
    return form


def _draw_file(what: str, form: str) -> str | None:
    path = Path(what)
    if not path.is_file():
        return None
    return _draw(read_definition(path, read_settings()), form)


def _draw_run(what: str, form: str, db: str | None) -> str:
    if not _may_be_run_id(what):
        raise NotFound(f"there is no file {what!r}, and it is no run's id")
    with open_app(db) as app:
        run_id = app.client.find(what)
        steps = app.client.steps(run_id, items=False, payloads=False)
        states = {step.step_id: str(step.status) for step in steps}
        decisions = {
            decision.transition: decision.taken
            for decision in app.client.decisions(run_id)
            if not decision.superseded
        }
        return _draw(app.client.graph_of(run_id), form, states, decisions)


def _draw(
    compiled: Graph,
    form: str,
    states: dict[str, str] | None = None,
    decisions: dict[int, bool] | None = None,
) -> str:
    from iaflow.pipeline.drawing import draw_dot, draw_mermaid, draw_svg

    match form:
        case "mermaid":
            return draw_mermaid(compiled, states)
        case "dot":
            return draw_dot(compiled, states)
        case _:
            return draw_svg(compiled, states=states, decisions=decisions)


def _may_be_run_id(text: str) -> bool:
    digits = text.replace("-", "")
    try:
        uuid.UUID(hex=digits.ljust(32, "0"))
    except ValueError:
        return False
    return len(digits) >= 4


@click.command()
@click.option(
    "-o",
    "output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write to a file instead of stdout.",
)
@json_option
def schema(output: Path | None, as_json: bool) -> int:
    """
    Print the JSON Schema of definitions, for editors.

    An editor that knows it completes keys, explains them and underlines mistakes; what a
    document means only `validate` knows. With -o and --json it is printed and written.
    """
    from iaflow.pipeline.editor_schema import definition_schema

    described = definition_schema()
    if output is not None:
        _write(output, json.dumps(described, indent=2, ensure_ascii=False) + "\n")
    if as_json or output is None:
        write_json(described)
    else:
        errors().print(line(("✓ ", "green"), f"schema written to {output}"), soft_wrap=True)
    return ExitCode.DONE
