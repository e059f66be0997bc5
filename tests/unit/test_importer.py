"""Which files of a folder come into the database, and what is said about the others.

Decides with a database in memory and files of a few bytes; no server is started.
"""

import asyncio
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from iaflow.database import DatabaseManager
from iaflow.database.pipeline_store import PipelineStore
from iaflow.errors import DefinitionRefused, NotFound
from iaflow.pipeline.check import CODES as CODES_OF_DEFINITIONS
from iaflow.pipeline.importer import CODES, ImportReport, PipelineImportService
from iaflow.pipeline.strict_json import MAX_BYTES

BEGIN = datetime(2026, 3, 1, 9, tzinfo=UTC)


class SteppingClock:
    """A clock that is a minute later each time it is read."""

    def __init__(self) -> None:
        self._now = BEGIN - timedelta(minutes=1)

    def now(self) -> datetime:
        self._now += timedelta(minutes=1)
        return self._now

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("an import waits for nothing")


@pytest.fixture
def db() -> Iterator[DatabaseManager]:
    manager = DatabaseManager("sqlite://")
    yield manager
    asyncio.run(manager.close())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "pipelines"
    made.mkdir()
    return made


def document(name: str = "Hello", **keys: Any) -> dict[str, Any]:
    step = {"id": "greet", "module": "steps", "step_class": "GreetStep"}
    return {"name": name, "steps": [step], "flow": {"start_at": "greet"}} | keys


def write(folder: Path, file: str, content: Any = None, **keys: Any) -> Path:
    path = folder / file
    path.write_text(json.dumps(content or document(**keys)))
    return path


def import_all(db: DatabaseManager, folder: Path, **options: Any) -> ImportReport:
    return asyncio.run(PipelineImportService(db, folder, **options).import_all_pipelines())


def find(db: DatabaseManager, slug: str) -> dict[str, Any]:
    return asyncio.run(PipelineImportService(db).get_pipeline_by_slug(slug))


def names(files: Any) -> list[str]:
    return [Path(one.file).name for one in files]


def codes(report: ImportReport) -> dict[str, list[str]]:
    return {Path(one.file).name: [p.code for p in one.problems] for one in report.refused}


# --- from a folder into the database


def test_a_folder_is_imported_and_found_by_slug(db: DatabaseManager, folder: Path) -> None:
    given = document(
        "Ünï Demo", version="2.3", description="Says hello.", parameters={"n": 1.0, "b": [1e3]}
    )
    write(folder, "b.json", given)
    write(folder, "a.json", name="Other")
    report = import_all(db, folder, clock=SteppingClock())
    assert names(report.imported) == ["a.json", "b.json"]
    assert (report.unchanged, report.refused) == ((), ())
    slug = report.imported[1].slug
    row = find(db, slug)
    assert row.pop("pipeline_config") == given
    assert row == {
        "id": slug,
        "slug": slug,
        "name": "Ünï Demo",
        "version": "2.3",
        "number": 1,
        "content_hash": report.imported[1].content_hash,
        "description": "Says hello.",
        "created_at": BEGIN + timedelta(minutes=1),
        "updated_at": BEGIN + timedelta(minutes=1),
    }


def test_numbers_and_order_are_those_of_the_file(db: DatabaseManager, folder: Path) -> None:
    text = json.dumps(document()).replace(
        '"name"', '"parameters": {"z": 1.0, "a": 12345678901234567890, "e": 1e3}, "name"'
    )
    (folder / "a.json").write_text(text)
    slug = import_all(db, folder).imported[0].slug
    assert json.dumps(find(db, slug)["pipeline_config"]) == json.dumps(json.loads(text))


def test_unchanged_definitions_write_nothing(db: DatabaseManager, folder: Path) -> None:
    path = write(folder, "a.json")
    clock = SteppingClock()
    first = import_all(db, folder, clock=clock)
    commits = db.database.tally.statements
    # The same meaning in another spelling is the same definition.
    path.write_text(json.dumps(json.loads(path.read_text()), indent=4, sort_keys=True))
    second = import_all(db, folder, clock=clock)
    assert second.imported == ()
    assert second.unchanged[0].content_hash == first.imported[0].content_hash
    assert db.database.tally.statements - commits < 10
    row = find(db, first.imported[0].slug)
    assert row["updated_at"] == row["created_at"] == BEGIN


def test_a_changed_definition_is_a_new_version_and_keeps_the_old(
    db: DatabaseManager, folder: Path
) -> None:
    clock = SteppingClock()
    write(folder, "a.json", description="old")
    old = import_all(db, folder, clock=clock).imported[0]
    write(folder, "a.json", description="new")
    new = import_all(db, folder, clock=clock).imported[0]
    row = find(db, "hello-v1")
    assert (row["number"], row["description"], row["content_hash"]) == (2, "new", new.content_hash)
    assert (row["created_at"], row["updated_at"]) == (BEGIN, BEGIN + timedelta(minutes=1))
    assert PipelineStore(db.database).read_document(old.content_hash) is not None


def test_going_back_to_an_old_version_makes_no_third(db: DatabaseManager, folder: Path) -> None:
    for description in ("old", "new", "old"):
        write(folder, "a.json", description=description)
        assert names(import_all(db, folder).imported) == ["a.json"]
    assert find(db, "hello-v1")["number"] == 1
    assert len(PipelineStore(db.database).list_versions("hello-v1")) == 2


def test_what_left_the_folder_stays_in_the_database(db: DatabaseManager, folder: Path) -> None:
    write(folder, "a.json").rename(folder / "b.json")
    import_all(db, folder)
    (folder / "b.json").unlink()
    assert import_all(db, folder) == ImportReport((), (), ())
    assert find(db, "hello-v1")["name"] == "Hello"


def test_one_file_is_imported_alone(db: DatabaseManager, folder: Path) -> None:
    path = write(folder, "a.json")
    importer = PipelineImportService(db, "nowhere")
    imported = asyncio.run(importer.import_file(path))
    assert (imported.file, imported.slug, imported.is_new) == (str(path), "hello-v1", True)
    assert not asyncio.run(importer.import_file(str(path))).is_new
    with pytest.raises(DefinitionRefused, match="file_unreadable"):
        asyncio.run(importer.import_file(folder / "none.json"))


def test_the_importer_takes_the_plain_database_too(db: DatabaseManager, folder: Path) -> None:
    write(folder, "a.json")
    service = PipelineImportService(db.database, folder)
    assert names(asyncio.run(service.import_all_pipelines()).imported) == ["a.json"]
    assert find(db, "hello-v1")["number"] == 1


# --- refusing


def test_a_bad_file_does_not_keep_the_others_out(db: DatabaseManager, folder: Path) -> None:
    write(folder, "good.json")
    write(folder, "wrong.json", {"name": "Wrong", "steps": [], "stepz": 1})
    (folder / "broken.json").write_text('{"name": ')
    (folder / "latin.json").write_bytes('{"name": "Ü"}'.encode("latin-1"))
    (folder / "bom.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(document()).encode())
    (folder / "empty.json").write_bytes(b"")
    report = import_all(db, folder)
    assert names(report.imported) == ["good.json"]
    refused = codes(report)
    assert sorted(refused) == ["bom.json", "broken.json", "empty.json", "latin.json", "wrong.json"]
    assert refused["latin.json"] == ["json_not_utf8"]
    assert "key_unknown" in refused["wrong.json"]
    assert all(refused.values())
    assert [one["file"] for one in report.as_json()["refused"]] == [
        str(folder / name) for name in sorted(refused)
    ]


def test_what_is_too_long_is_refused_unread(db: DatabaseManager, folder: Path) -> None:
    with (folder / "huge.json").open("wb") as file:
        file.truncate(1 << 40)
    write(folder, "long.json", description="x" * 2000)
    write(folder, "short.json")
    report = import_all(db, folder, max_bytes=1500)
    assert codes(report) == {"huge.json": ["json_too_large"], "long.json": ["json_too_large"]}
    assert "1,099,511,627,776 bytes" in report.refused[0].problems[0].message
    assert MAX_BYTES < 1 << 40


def test_two_files_of_one_slug_are_both_refused(db: DatabaseManager, folder: Path) -> None:
    write(folder, "a.json", version="1.0")
    write(folder, "b.json", version="1.1")
    write(folder, "c.json", version="2.0")
    report = import_all(db, folder)
    assert names(report.imported) == ["c.json"]
    assert codes(report) == {"a.json": ["slug_taken"], "b.json": ["slug_taken"]}
    assert report.refused[0].problems[0].message == "the slug 'hello-v1' is also that of b.json"
    with pytest.raises(NotFound):
        find(db, "hello-v1")


def test_queues_that_nobody_serves_are_refused(db: DatabaseManager, folder: Path) -> None:
    given = document()
    given["steps"][0]["queue"] = "gpu"
    write(folder, "a.json", given)
    assert codes(import_all(db, folder, queues=("iaflow",))) == {"a.json": ["queue_unknown"]}
    assert names(import_all(db, folder, queues=("iaflow", "gpu")).imported) == ["a.json"]


def test_codes_are_explained_once() -> None:
    assert not CODES.keys() & CODES_OF_DEFINITIONS.keys()


# --- which files


def test_only_definitions_are_read(db: DatabaseManager, folder: Path) -> None:
    for name in ("a.expected.json", ".hidden.json", "notes.txt", "b.json.bak", "c.JSON.txt"):
        (folder / name).write_text("not a definition")
    (folder / "below").mkdir()
    write(folder / "below", "d.json")
    assert import_all(db, folder) == ImportReport((), (), ())


def test_links_inside_the_folder_are_followed(db: DatabaseManager, folder: Path) -> None:
    # As Kubernetes mounts a ConfigMap.
    (folder / "..data").mkdir()
    write(folder / "..data", "a.json")
    (folder / "a.json").symlink_to("..data/a.json")
    assert names(import_all(db, folder).imported) == ["a.json"]


def test_the_folder_itself_may_be_a_link(db: DatabaseManager, folder: Path, tmp_path: Path) -> None:
    write(folder, "a.json")
    (tmp_path / "current").symlink_to(folder)
    assert names(import_all(db, tmp_path / "current").imported) == ["a.json"]


def test_links_out_of_the_folder_are_refused(
    db: DatabaseManager, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "pipelines-secret").mkdir()
    beside = write(tmp_path / "pipelines-secret", "secret.json")
    (folder / "absolute.json").symlink_to(beside)
    (folder / "relative.json").symlink_to("../pipelines-secret/secret.json")
    (tmp_path / "hop").symlink_to(tmp_path / "pipelines-secret")
    (folder / "twice.json").symlink_to("../hop/secret.json")
    assert codes(import_all(db, folder)) == {
        name: ["file_outside"] for name in ("absolute.json", "relative.json", "twice.json")
    }
    with pytest.raises(DefinitionRefused, match="file_outside"):
        asyncio.run(PipelineImportService(db).import_file(folder / "absolute.json"))


def test_what_is_no_plain_file_is_refused(db: DatabaseManager, folder: Path) -> None:
    os.mkfifo(folder / "pipe.json")
    (folder / "directory.json").mkdir()
    (folder / "dangling.json").symlink_to("nothing.json")
    (folder / "circle.json").symlink_to("circle.json")
    assert codes(import_all(db, folder)) == {
        name: ["file_unreadable"]
        for name in ("circle.json", "dangling.json", "directory.json", "pipe.json")
    }


def test_a_folder_that_is_not_there_is_said(db: DatabaseManager, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="none cannot be read: No such file"):
        import_all(db, tmp_path / "none")


# --- finding


def test_a_slug_that_is_not_there_names_its_nearest(db: DatabaseManager, folder: Path) -> None:
    with pytest.raises(NotFound, match="'hello-v1': none has been imported yet"):
        find(db, "hello-v1")
    write(folder, "a.json", name="Hello World")
    write(folder, "b.json", name="Invoice")
    import_all(db, folder)
    with pytest.raises(NotFound, match=r"the nearest are hello-world-v1$"):
        find(db, "helo-wrld-v1")
    with pytest.raises(NotFound, match="none of the 2 is near"):
        find(db, "zzz")
