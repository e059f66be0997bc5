"""The promises that the product started from: its quickstart, and its two ways of running.

Decides whether a reader of README gets, character for character, what stands there; starts
programs as a user would. Run by pytest.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from pipelines.demo import serve_pages
from tests.acceptance.stories import PAGES, ROOT, clean_environment, find_story

README = PAGES[0]
EXPECTED = """\
Running the pipeline...
Hello, Developer!

Pipeline finished with result:
{'status': 'Message printed successfully'}
"""
# As the first documentation of the product had them: with the lost indentation, and ia_modules
# where iaflow is now.
FILES = {
    "pipelines/hello_world.json": """
        { "name": "Hello World Pipeline", "version": "1.0", "steps": [ { "id": "step_one",
        "step_class": "GenerateMessageStep", "module": "steps" }, { "id": "step_two", "step_class":
        "PrintMessageStep", "module": "steps", "inputs": { "message": "{{ step_one.greeting }}" } }
        ], "flow": { "start_at": "step_one", "transitions": [ { "from": "step_one", "to":
        "step_two" } ] } }
    """,
    "steps.py": """
        # steps.py from iaflow.pipeline import Step class GenerateMessageStep(Step): async def
        work(self, data): name = data.get("name", "World") return {"greeting": f"Hello, {name}!"}
        class PrintMessageStep(Step): async def work(self, data): message = data.get("message")
        print(message) return {"status": "Message printed successfully"}
    """,
    "main.py": r"""
        # main.py import asyncio from iaflow.pipeline.runner import run_pipeline_from_json async def
        main(): print("Running the pipeline...") result = await run_pipeline_from_json(
        pipeline_file="pipelines/hello_world.json", input_data={"name": "Developer"} )
        print("\nPipeline finished with result:") print(result) if __name__ == "__main__":
        asyncio.run(main())
    """,
}

# Both ways of running that pipeline, as a consuming application has them.
BOTH_WAYS = """
import asyncio
import os
import sys

import httpx2

from iaflow.database import DatabaseManager
from iaflow.pipeline.importer import PipelineImportService
from iaflow.pipeline.runner import create_pipeline_from_json, run_pipeline_from_json
from iaflow.pipeline.services import ServiceRegistry


async def run_from_file(services):
    return await run_pipeline_from_json(
        pipeline_file="pipelines/ai_notebook_creation_pipeline.json",
        input_data={"topic": "Tide mill of Saltmere"},
        services=services,
    )


async def run_from_database(services, db):
    importer = PipelineImportService(db, pipelines_dir="pipelines")
    await importer.import_all_pipelines()
    pipeline_row = await importer.get_pipeline_by_slug("ai-notebook-creation-pipeline-v1")
    pipeline_config = pipeline_row["pipeline_config"]
    pipeline = create_pipeline_from_json(pipeline_config, services=services)
    return await pipeline.run({"topic": "Tide mill of Saltmere"})


async def main(address):
    async with (
        httpx2.AsyncClient() as http,
        DatabaseManager(os.environ["IAFLOW_DATABASE_URL"]) as db,
    ):
        services = ServiceRegistry(db=db, http=http, wikipedia_url=address, notebook_dir="notebooks")
        for result in (await run_from_file(services), await run_from_database(services, db)):
            print(result["structured_content"]["title"], result["structured_content"]["counts"])


asyncio.run(main(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of a server of the example's pages."""
    with serve_pages(ROOT / "pipelines" / "pages") as served:
        yield served


def squeeze(text: str) -> str:
    return "".join(text.split())


def start(*arguments: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=clean_environment(folder) | variables,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def write_quickstart(folder: Path) -> None:
    for path, text in find_story(README, "quickstart").files.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text)


def test_the_quickstart_is_the_one_that_was_promised() -> None:
    files: Mapping[str, str] = find_story(README, "quickstart").files
    assert {path: squeeze(text) for path, text in files.items()} == {
        path: squeeze(text) for path, text in FILES.items()
    }
    example = json.loads((ROOT / "pipelines" / "hello_world.json").read_text())
    assert json.loads(files["pipelines/hello_world.json"]) == example


def test_the_quickstart_prints_what_was_promised_and_does_so_again(tmp_path: Path) -> None:
    write_quickstart(tmp_path)
    for _ in range(2):
        done = start("main.py", folder=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, EXPECTED, "")
    assert (tmp_path / ".iaflow" / "iaflow.db").is_file()


def test_the_quickstart_runs_from_another_folder(tmp_path: Path) -> None:
    """Steps are found beside the running script, wherever it was started from."""
    project, elsewhere = tmp_path / "my_pipeline_app", tmp_path / "elsewhere"
    project.mkdir()
    elsewhere.mkdir()
    write_quickstart(project)
    main = (project / "main.py").read_text()
    (project / "main.py").write_text(main.replace('"pipelines/', f'"{project}/pipelines/'))
    done = start(str(project / "main.py"), folder=elsewhere)
    assert (done.returncode, done.stdout, done.stderr) == (0, EXPECTED, "")


@pytest.mark.parametrize("kind", ("sqlite", "postgres"))
def test_both_ways_of_running_give_the_notebook(
    kind: str, address: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    pipelines = tmp_path / "pipelines"
    pipelines.mkdir()
    shutil.copy(ROOT / "pipelines" / "ai_notebook_creation_pipeline.json", pipelines)
    # From the database there is no file for the steps to lie beside: beside the script, then.
    shutil.copytree(ROOT / "pipelines" / "knowledge_processing", tmp_path / "knowledge_processing")
    (tmp_path / "main.py").write_text(BOTH_WAYS)
    url = (
        request.getfixturevalue("postgres_url")
        if kind == "postgres"
        else f"sqlite:///{tmp_path}/app.db"
    )
    done = start("main.py", address, folder=tmp_path, IAFLOW_DATABASE_URL=url)
    assert (done.returncode, done.stderr) == (0, "")
    counts = "{'sections': 10, 'tables': 2, 'links': 8, 'references': 4}"
    assert done.stdout == f"Tide mill of Saltmere {counts}\n" * 2
    assert len(list((tmp_path / "notebooks").glob("*.ipynb"))) == 2


def test_the_venv_of_this_suite_is_what_users_get() -> None:
    """The stories run the console script beside this interpreter."""
    assert os.access(Path(sys.executable).with_name("iaflow"), os.X_OK)
