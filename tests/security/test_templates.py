"""Texts that would be code elsewhere are texts here (T8): in definitions, inputs, outputs, answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa

from iaflow.data.status import RunStatus
from tests.integration import houses
from tests.web.webs import Visitor, Web

CANARY: Final = "canary-of-a-module-7f3a91"

PATHS: Final = (
    "__class__",
    "__class__.__mro__.1.__subclasses__",
    "__init__.__globals__.CANARY",
    "work.__globals__['CANARY']",
    "__dict__",
    "constructor.prototype",
    "__proto__.polluted",
    "config.CANARY",
    "os.environ.IAFLOW_CANARY",
)
FORMS: Final = (
    "{{{{ {} }}}}",
    "{{{{ parameters.{} }}}}",
    "{{{{ before.{} }}}}",
    "{{{{ run.{} }}}}",
    "{{{{ '{}' }}}}",
    "{{{{ {}() }}}}",
    "{{{{ {} | attr('CANARY') }}}}",
    "{{{{{{{{ {} }}}}}}}}",
    "{{0.{}}}",
    "{{{}!r:>{{width}}}}",
    "{{% print({}) %}}",
    "{{# {} #}}",
    "${{{}}}",
    "#{{{}}}",
    "<%= {} %>",
    "%({})s",
)
OTHERS: Final = (
    "{{{{",
    "}}}}",
    "{{ }}",
    "{{ {{ before }} }}",
    "\uff5b\uff5b before.__class__ \uff5d\uff5d",
    "{\u200b{ before.__class__ }}",
    "{{ be\u0301fore.__class__ }}",
    "{{ b\u0435fore.__class__ }}",
    "{{ ''.__class__.__base__.__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
)
TEXTS: Final = (*(form.format(path) for form in FORMS for path in PATHS), *OTHERS)
"""Some 150 attacks on engines that look attributes up, format, or render twice."""


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """A web whose process holds what the texts are after."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(houses, "CANARY", CANARY, raising=False)
        patch.setattr(houses.Work, "CANARY", CANARY, raising=False)
        patch.setenv("IAFLOW_CANARY", CANARY)
        folder = tmp_path_factory.mktemp("templates")
        with Web(f"sqlite:///{folder / 'runs.db'}") as web:
            yield web
            assert CANARY not in dump(web, folder)


def dump(web: Web, folder: Path) -> str:
    """Return every row of every table as text."""
    database = web.application.database
    with database.engine.connect() as connection:
        rows = [
            repr(row)
            for table in database.tables.metadata.sorted_tables
            for row in connection.execute(sa.select(table))
        ]
    assert len(rows) > len(TEXTS)
    return "\n".join(rows)


def define(slug: str, value: Any, **more: Any) -> dict[str, Any]:
    """Return a definition whose second step is given a value behind a first one."""
    work = {"module": "tests.integration.houses", "step_class": "Work"}
    return {
        "name": slug,
        "slug": slug,
        "steps": [
            {"id": "before", **work, "inputs": {"known": 1}},
            {"id": "echo", **work, "inputs": {"v": value}},
        ],
        "flow": {"start_at": "before", "transitions": [{"from": "before", "to": "echo"}]},
        **more,
    }


def each(items: str, slug: str, **more: Any) -> dict[str, Any]:
    """Return a definition that carries each text alone and amid others, one item each."""
    definition = define(slug, None, **more)
    definition["steps"][1] |= {
        "foreach": {"items": items},
        "inputs": {"v": "{{ item }}", "amid": "<{{ item }}>"},
    }
    return definition


def look(asker: Visitor, run_id: str) -> str:
    """Return all that the API tells of a run."""
    path = f"/api/v1/runs/{run_id}"
    places = ("", "/steps", "/steps/echo", "/steps/echo/items", "/events", "/decisions")
    told = "\n".join(asker.get(path + place).text for place in places)
    assert CANARY not in told
    return told


def judge(web: Web, run_id: str) -> None:
    """Look whether every text came through as it was."""
    web.wait_for(run_id)
    run = web.client.run(run_id)
    assert run.status is RunStatus.SUCCEEDED, run.error_message
    expected = [{"v": text, "amid": f"<{text}>"} for text in TEXTS]
    assert run.outputs is not None
    assert run.outputs["results"] == expected
    look(web.user("adele"), run_id)


def test_in_definitions(web: Web) -> None:
    """Refused at its place, or literal text, or a value that is not there; nothing else."""
    adele, counts = web.user("adele"), {"refused": 0, "literal": 0, "missing": 0}
    for number, text in enumerate(TEXTS):
        definition = define(f"in-definition-{number}", text)
        reply = adele.post("/api/v1/pipelines/validate", {"definition": definition})
        assert reply.status_code == 200, (text, reply.text)
        assert CANARY not in reply.text
        if not reply.json()["ok"]:
            counts["refused"] += 1
            pointers = {one["pointer"] for one in reply.json()["errors"]}
            assert pointers == {"/steps/1/inputs/v"}, (text, pointers)
            continue
        run_id = adele.start(web.publish(definition))
        web.wait_for(run_id)
        run = web.client.run(run_id)
        if run.status is RunStatus.FAILED:
            counts["missing"] += 1
            assert run.error_code == "reference_missing", (text, run.error_message)
        else:
            counts["literal"] += 1
            assert run.outputs == {"v": text}, text
        look(adele, run_id)
    print(f"{len(TEXTS)} texts in definitions: {counts}")
    assert min(counts.values()) > 0


def test_in_inputs(web: Web) -> None:
    slug = web.publish(each("{{ parameters.texts }}", "in-inputs", parameters={"texts": []}))
    judge(web, web.user("adele").start(slug, {"texts": list(TEXTS)}))


def test_in_outputs(web: Web) -> None:
    definition = each("{{ before.texts }}", "in-outputs")
    definition["steps"][0]["config"] = {"values": {"texts": list(TEXTS)}}
    # What a config holds is literal, whatever it looks like.
    judge(web, web.user("adele").start(web.publish(definition)))


def test_in_answers(web: Web) -> None:
    definition = each("{{ before.texts }}", "in-answers")
    fields = [{"name": "texts", "type": "json"}, {"name": "one", "type": "text"}]
    definition["steps"][0] = {
        "id": "before",
        "type": "human_input",
        "config": {"ui_schema": {"title": "Which?", "fields": fields}},
    }
    adele = web.user("adele")
    run_id = adele.start(web.publish(definition))
    web.wait_for(run_id, RunStatus.WAITING)
    [pause] = web.client.inbox(run_id)
    answer = {"texts": list(TEXTS), "one": TEXTS[0]}
    replied = adele.post(f"/api/v1/pauses/{pause.pause_id}/answer", {"answer": answer})
    assert replied.status_code == 200, replied.text
    assert json.loads(replied.text)["answer"]["texts"] == list(TEXTS)
    judge(web, run_id)
