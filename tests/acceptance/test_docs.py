"""README and docs, held to what they say.

Decides whether every example works as it stands and every table is what the code says; starts
servers only for the stories that ask for them. Run by pytest.
"""

import ast
import dataclasses
import importlib
import inspect
import json
import re
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import pytest
import rich_click as click

from iaflow import errors, failpoints
from iaflow.auth import throttle
from iaflow.cli import root
from iaflow.cli.exits import ExitCode
from iaflow.data.accounts import ROLES, Permission
from iaflow.data.status import RUN_CHANGES, STEP_CHANGES
from iaflow.database.tables import build_tables
from iaflow.pipeline import definition, forms, importer, step_config
from iaflow.pipeline.check import CODES, check
from iaflow.pipeline.definition import JoinType, On, StepType
from iaflow.pipeline.fields import FieldType
from iaflow.pipeline.forms import ANSWER_CODES
from iaflow.pipeline.judging import ConditionContext
from iaflow.pipeline.operators import ALIASES, OPERATORS
from iaflow.settings import Settings
from tests import distribution
from tests.acceptance.stories import PAGES, ROOT, Fence, Story, follow, read_fences, read_stories
from tests.servers import ServerRoom

README = ROOT / "README.md"
DOCS = ROOT / "docs"
LANGUAGE = DOCS / "language-reference.md"
API = DOCS / "api-reference.md"
PEOPLE = DOCS / "human-in-the-loop.md"
DATABASE = DOCS / "database-interfaces.md"
AUTHENTICATION = DOCS / "authentication.md"
ARCHITECTURE = DOCS / "pipeline-architecture.md"
PROMISED_PAGES = (
    "pipeline-examples developer-guide testing-guide pipeline-architecture database-interfaces"
    " api-reference human-in-the-loop language-reference operations authentication"
).split()

STORIES = [story for page in PAGES for story in read_stories(page)]
FENCES = [fence for page in PAGES for fence in read_fences(page)]
JSON_FENCES = [fence for fence in FENCES if fence.language == "json"]
PYTHON_FENCES = [fence for fence in FENCES if fence.language == "python"]
# Definitions that stand there to be refused.
REFUSED = {"promised.json": "output_undeclared", "policy.json": "policy_violated"}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def place_of(fence: Fence) -> str:
    return fence.place


# --- examples


@pytest.mark.timeout(300)
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.id)
def test_a_story_goes_as_it_is_told(
    story: Story, tmp_path: Path, request: pytest.FixtureRequest, server_room: ServerRoom
) -> None:
    environment = {}
    if "postgres" in story.needs:
        environment["IAFLOW_DATABASE_URL"] = request.getfixturevalue("empty_postgres_url")
    if "redis" in story.needs:
        environment["IAFLOW_BROKER_URL"] = request.getfixturevalue("redis_url")
    guardian = server_room.guardian
    follow(story, tmp_path, environment, guardian.watch, guardian.forget)


def test_stories_have_names_of_their_own() -> None:
    ids = [story.id for story in STORIES]
    assert len(set(ids)) == len(ids)
    assert {need for story in STORIES for need in story.needs} <= {"postgres", "redis"}


def test_a_title_is_in_a_story() -> None:
    followed = {fence for story in STORIES for fence in story.fences}
    left = [fence.place for fence in FENCES if fence.title and fence not in followed]
    assert left == []


@pytest.mark.parametrize("fence", JSON_FENCES, ids=place_of)
def test_json_is_json_and_a_definition_is_checked(fence: Fence) -> None:
    value = json.loads(fence.text)
    if not (isinstance(value, dict) and {"steps", "flow"} <= value.keys()):
        return
    codes = {problem.code for problem in check(fence.text, source=fence.place).errors}
    wanted = REFUSED.get(fence.title or "")
    assert codes == ({wanted} if wanted else set())


@pytest.mark.parametrize("fence", PYTHON_FENCES, ids=place_of)
def test_python_is_python_and_its_imports_are_there(fence: Fence) -> None:
    tree = ast.parse(fence.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("iaflow"):
            module = importlib.import_module(str(node.module))
            missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
            assert missing == [], f"{node.module} has no {missing}"


# --- words


@pytest.mark.parametrize("name", PROMISED_PAGES)
def test_every_promised_page_is_there_and_linked_from_the_readme(name: str) -> None:
    assert (DOCS / f"{name}.md").is_file()
    assert f"](docs/{name}.md)" in README.read_text()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    text = without_fences(page)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), f"{target} leads nowhere"
        if anchor:
            assert anchor in slugs_of(place), f"{target}: there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_that_is_named_exists(page: Path) -> None:
    for words in find_commands(page):
        # What stands behind -- is for Celery.
        words = words[: words.index("--")] if "--" in words else words
        command: click.Command = root
        for word in words:
            if not isinstance(command, click.Group):
                break
            assert word in command.commands, f"there is no `iaflow {' '.join(words)}`"
            command = command.commands[word]
        options = set(chain.from_iterable(option.opts for option in command.params))
        named = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert named <= options | {"--help", "-h"}, f"`iaflow {' '.join(words)}`"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_setting_that_is_named_exists(page: Path) -> None:
    of_tests = {
        "IAFLOW_TEST_POSTGRES_URL",
        "IAFLOW_TEST_REDIS_URL",
        "IAFLOW_TEST_SCHEMATHESIS_EXAMPLES",
        "IAFLOW_TEST_SCHEMATHESIS_SEED",
        distribution.VARIABLE,
        failpoints.VARIABLE,
    }
    known = {*settings_of_the_product(), *of_tests}
    assert set(re.findall(r"IAFLOW_[A-Z_]*[A-Z]", page.read_text())) <= known


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name != "CONTRIBUTING.md"], ids=name_of
)
def test_the_words_are_those_of_the_house(page: Path) -> None:
    text = without_fences(page)
    assert re.findall(r"\b(?:workflows?|jobs?|tickets?)\b", text, re.IGNORECASE) == []
    assert re.findall(r"/(?:work|home|root|Users)/\S*", page.read_text()) == []


# --- tables


def test_the_settings() -> None:
    fields = settings_of_the_product()
    rows = {row[0]: row[1] for row in table_of(API, "Settings")}
    assert rows.keys() == fields.keys()
    for name, shown in rows.items():
        assert shown == spell_default(fields[name]), name
    readme = re.findall(r"`(IAFLOW_[A-Z_]+)` \(`?([^`)]*)`?\)", README.read_text())
    assert dict(readme) == {name: spell_default(value) for name, value in fields.items()}


def test_the_commands() -> None:
    rows = [row[0].split()[1] for row in table_of(API, "Command line") if row[0][:6] == "iaflow"]
    assert sorted(rows) == sorted(root.commands)
    readme = chain.from_iterable(
        re.findall(r"[a-z]+", row[0].removeprefix("iaflow"))
        for row in table_of(README, "The command line")
    )
    assert sorted(readme) == sorted(root.commands)


def test_the_exit_codes() -> None:
    rows = [int(row[0]) for row in table_of(API, "Command line") if row[0].isdigit()]
    assert rows == [int(code) for code in ExitCode]
    sentence = next(line for line in README.read_text().splitlines() if "Exit codes:" in line)
    assert [int(code) for code in re.findall(r"\b(\d+) ", sentence)] == [int(c) for c in ExitCode]


def test_the_errors() -> None:
    named = {word for row in table_of(API, "Errors") for word in names_in(row[0])}
    assert named == set(errors.__all__)


def test_the_roles_and_scopes() -> None:
    assert [row[0] for row in table_of(AUTHENTICATION, "Users")] == list(ROLES)
    assert [row[0] for row in table_of(AUTHENTICATION, "Tokens")] == list(Permission)


def test_the_delays_of_guessing() -> None:
    free = [int(row[1]) for row in table_of(AUTHENTICATION, "Guessing")]
    assert free == [throttle.PAIR_FREE, throttle.NAME_FREE, throttle.ADDRESS_MOST]


def test_the_operators_and_their_aliases() -> None:
    rows = [row for row in table_of(LANGUAGE, "Conditions") if row[0] in OPERATORS]
    assert [row[0] for row in rows] == list(OPERATORS)
    aliases = {alias: row[0] for row in rows for alias in row[1].split()}
    assert aliases == dict(ALIASES)


@pytest.mark.parametrize(
    ("heading", "keys"),
    (
        ("The document", definition.DOCUMENT_KEYS),
        ("Steps", definition.STEP_KEYS),
        ("Foreach", definition.FOREACH_KEYS),
        ("Flow", definition.FLOW_KEYS | definition.TRANSITION_KEYS | set(On)),
        ("Error handling", definition.POLICY_KEYS | {"run_timeout"}),
        ("People", step_config.CONFIG_KEYS[StepType.HUMAN_INPUT]),
    ),
)
def test_the_keys_of_a_definition(heading: str, keys: Iterable[str]) -> None:
    rows = table_of(LANGUAGE, heading)
    assert {word for row in rows for word in row[0].split(", ")} == set(keys)


def test_the_types_of_steps() -> None:
    rows = {row[0]: row[2] for row in table_of(LANGUAGE, "Types of steps")}
    assert list(rows) == [step_type.value for step_type in StepType]
    text = section_of(LANGUAGE, "Types of steps")
    assert set(re.findall(r"`(\w+Step)`", text)) == set(definition.BUILT_IN_CLASSES.values())
    for step_type, keys in step_config.CONFIG_KEYS.items():
        if step_type is not StepType.HUMAN_INPUT:
            named = set(re.findall(r"\w+", rows[step_type]))
            assert named - {"none", "or"} == keys, step_type
    shown = " ".join(row[1] for row in table_of(LANGUAGE, "People"))
    assert all(f"{key} and" in shown or f"and {key}" in shown for key in step_config.ASSIGNEE_KEYS)


def test_what_a_condition_in_python_is_given() -> None:
    rows = table_of(LANGUAGE, "Conditions that need code")
    named = {word for row in rows for word in row[0].split(", ")}
    assert named == {field.name for field in dataclasses.fields(ConditionContext)}


def test_the_joins() -> None:
    shown = " ".join(row[0] for row in table_of(LANGUAGE, "Joins"))
    assert set(re.findall(r'"(all_\w+|n_of_m|any)"', shown)) == {*JoinType, "any"}


def test_the_codes_at_load() -> None:
    rows = [row[0] for row in table_of(LANGUAGE, "Codes at load")]
    assert rows == [*CODES, *importer.CODES]
    text = section_of(LANGUAGE, "Codes at load")
    assert all(f"`{code}`" in text for code in ANSWER_CODES)


def test_the_codes_at_run_time() -> None:
    rows = [row[0] for row in table_of(LANGUAGE, "Codes at run time")]
    assert len(set(rows)) == len(rows)
    assert set(rows) == set(find_run_codes())


def test_the_fields_of_a_form() -> None:
    keys, types = split_tables(PEOPLE, "Fields")
    assert {word for row in keys for word in row[0].split(", ")} == set(forms.FIELD_KEYS)
    assert {word for row in types for word in row[0].split(", ")} == set(FieldType)


def test_the_tables_of_the_database() -> None:
    rows = [row[0] for row in table_of(DATABASE, "Tables")]
    assert set(rows) == {table.name for table in build_tables(None).metadata.sorted_tables}


def test_the_diagrams_are_the_tables_of_legal_changes() -> None:
    drawn = [
        set(re.findall(r"^ +(\[\*\]|\w+) --> (\w+)", fence.text, re.MULTILINE))
        for fence in read_fences(ARCHITECTURE)
        if fence.language == "mermaid"
    ]
    assert drawn == [
        {
            (before.value if before else "[*]", after.value)
            for before, allowed in changes.items()
            for after in allowed
        }
        for changes in (STEP_CHANGES, RUN_CHANGES)
    ]


def test_every_decision_is_listed() -> None:
    folder = DOCS / "decisions"
    records = sorted(path.name for path in folder.glob("0*.md"))
    assert re.findall(r"\((\d{4}-[\w-]+\.md)\)", (folder / "README.md").read_text()) == records
    for name in records:
        headings = re.findall(r"^## (.+)$", (folder / name).read_text(), re.MULTILINE)
        assert headings == ["Context", "Decision", "What it gains", "What it costs"], name


# --- reading pages


# Where a code stands among the arguments of what carries one.
_CODE_ARGUMENTS = {"Failed": 0, "_faulty": 0, "_failed": 0, "StepNotLoadable": 0, "RunCancelled": 2}
_CODE_KEYWORDS = {"Fail", "end_run"}


def find_run_codes() -> set[str]:
    """Return the codes that the source gives to the ends of steps and runs."""
    codes = {str(inspect.signature(errors.Fail).parameters["code"].default)}
    for path in (ROOT / "iaflow" / "pipeline").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            codes |= {code for value in values_of_codes(node) if (code := read_text(value))}
    return codes


def values_of_codes(node: ast.AST) -> list[ast.expr]:
    """Return what stands in a node where a code is expected."""
    match node:
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            place = _CODE_ARGUMENTS.get(name)
            found = node.args[place : place + 1] if place is not None else []
            named = [word.value for word in node.keywords if word.arg == "code"]
            return found + (named if name in _CODE_KEYWORDS else [])
        case ast.Dict():
            pairs = zip(node.keys, node.values, strict=True)
            return [value for key, value in pairs if read_text(key) in {"code", "error"}]
        case ast.ClassDef():
            lines = (line for line in node.body if isinstance(line, ast.Assign))
            return [line.value for line in lines if ast.unparse(line.targets[0]) == "code"]
        case _:
            return []


def read_text(node: ast.expr | None) -> str | None:
    """Return the text that is written out there, if one is."""
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return str(ast.literal_eval(node)) if is_text and node is not None else None


def without_fences(page: Path) -> str:
    text = page.read_text()
    for fence in read_fences(page):
        text = text.replace(f"\n{fence.text}```", "\n```", 1)
    return text


def section_of(page: Path, heading: str) -> str:
    """Return what stands below a heading, down to the next one of its level or above."""
    found = re.search(rf"^(#+) {re.escape(heading)}$", page.read_text(), re.MULTILINE)
    assert found, f"{name_of(page)} has no heading {heading!r}"
    rest = page.read_text()[found.end() :]
    end = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.MULTILINE)
    text = rest[: end.start()] if end else rest
    # Deeper headings have tables of their own.
    deeper = re.search(rf"^#{{{len(found[1]) + 1},}} ", text, re.MULTILINE)
    return text[: deeper.start()] if deeper else text


def split_tables(page: Path, heading: str) -> list[list[list[str]]]:
    """Return the tables below a heading: rows of cells, without headings and code marks."""
    tables: list[list[list[str]]] = []
    for block in re.findall(r"(?:^\|.*\n?)+", section_of(page, heading), re.MULTILINE):
        rows = [
            [cell.replace("\\|", "|").replace("`", "").strip() for cell in split_row(line)]
            for line in block.splitlines()
        ]
        tables.append(rows[2:])
    return tables


def split_row(line: str) -> list[str]:
    return re.split(r"(?<!\\)\|", line.strip())[1:-1]


def table_of(page: Path, heading: str) -> list[list[str]]:
    return [row for rows in split_tables(page, heading) for row in rows]


def names_in(cell: str) -> list[str]:
    return re.findall(r"\w+", cell)


def slugs_of(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", without_fences(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def find_commands(page: Path) -> list[list[str]]:
    """Return the words behind `iaflow` wherever a command is written."""
    lines = [
        line.partition("#")[0]
        for fence in read_fences(page)
        if fence.language == "sh"
        for line in fence.text.splitlines()
    ]
    spans = re.findall(r"`(iaflow [^`]+)`", without_fences(page))
    commands = []
    for text in (*lines, *spans):
        for part in re.split(r"[|;&()$]+", text.replace("\\|", "/")):
            words = part.split()
            if words[:1] == ["iaflow"] and re.fullmatch(r"[a-z]+", words[1] if words[1:] else ""):
                commands.append(words[1:])
    return commands


def settings_of_the_product() -> dict[str, object]:
    names = {
        name: "IAFLOW_SCHEMA" if name == "schema_name" else f"IAFLOW_{name.upper()}"
        for name in Settings.model_fields
    }
    return {names[name]: field.default for name, field in Settings.model_fields.items()}


def spell_default(value: object) -> str:
    match value:
        case None | ():
            return "none"
        case bool():
            return str(value).lower()
        case tuple():
            return ",".join(map(str, value))
        case float():
            return f"{value:g}"
        case _:
            return str(value)
