"""The importer on a database that others use too.

Decides what happens without tables and with several importers; starts a real Postgres.
"""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from iaflow.database import DatabaseManager
from iaflow.errors import SchemaOutdated
from iaflow.pipeline.importer import ImportReport, PipelineImportService

STEP = {"id": "greet", "module": "steps", "step_class": "GreetStep"}


def write(folder: Path, description: str) -> None:
    document = {"name": "Ünï", "slug": "uni", "description": description, "steps": [STEP]}
    folder.mkdir(exist_ok=True)
    (folder / "uni.json").write_text(json.dumps(document | {"flow": {"start_at": "greet"}}))


async def import_all(url: str, folder: Path) -> ImportReport:
    async with DatabaseManager(url) as db:
        return await PipelineImportService(db, folder).import_all_pipelines()


IMPORT_WHEN_TOLD = """
import asyncio, sys
from iaflow.database import DatabaseManager
from iaflow.pipeline.importer import PipelineImportService

async def main(url, folder):
    async with DatabaseManager(url) as db:
        importer = PipelineImportService(db, folder)
        print("ready", flush=True)
        sys.stdin.readline()
        report = await importer.import_all_pipelines()
        assert len(report.imported) == 1, report

asyncio.run(main(*sys.argv[1:]))
"""


def test_definitions_are_kept_as_written(postgres_url: str, tmp_path: Path) -> None:
    async def story() -> None:
        write(tmp_path, "first")
        async with DatabaseManager(postgres_url) as db:
            importer = PipelineImportService(db, tmp_path)
            assert len((await importer.import_all_pipelines()).imported) == 1
            assert len((await importer.import_all_pipelines()).unchanged) == 1
            row = await importer.get_pipeline_by_slug("uni")
        assert row["pipeline_config"] == json.loads((tmp_path / "uni.json").read_text())
        assert row["created_at"].tzinfo is not None

    asyncio.run(story())


def test_without_tables_it_says_what_to_run(empty_postgres_url: str, tmp_path: Path) -> None:
    write(tmp_path, "first")
    with pytest.raises(SchemaOutdated, match="run `iaflow db upgrade`"):
        asyncio.run(import_all(empty_postgres_url, tmp_path))


def test_processes_that_import_at_once_number_their_versions_apart(
    postgres_url: str, tmp_path: Path
) -> None:
    folders = [tmp_path / str(i) for i in range(4)]
    for folder in folders:
        write(folder, f"of {folder.name}")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", IMPORT_WHEN_TOLD, postgres_url, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for folder in folders
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("now\n")
        process.stdin.flush()
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, said

    async def story() -> None:
        async with DatabaseManager(postgres_url) as db:
            rows = await db.fetch_all("SELECT number FROM iaflow.pipeline_versions ORDER BY 1")
        assert [row["number"] for row in rows] == [1, 2, 3, 4]

    asyncio.run(story())
