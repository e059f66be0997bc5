"""The steps of the example pipelines by themselves: what they return, and how they fail."""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx2
import pytest

from iaflow.errors import Fail, Retry, exception_code
from iaflow.pipeline import Step, StepContext
from iaflow.pipeline.check import check
from iaflow.pipeline.services import ServiceRegistry

PIPELINES = Path(__file__).parents[2] / "pipelines"
PAGE = (PIPELINES / "pages" / "Tide_mill_of_Saltmere.html").read_text(encoding="utf-8")
Answer = Callable[[httpx2.Request], httpx2.Response]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a module as a definition names it: from the folder of the definitions."""
    monkeypatch.syspath_prepend(str(PIPELINES))
    return importlib.import_module


def run_step(kind: type[Step], data: dict[str, Any], **services: Any) -> dict[str, Any]:
    step = kind({}, ServiceRegistry(**services))
    step.context = StepContext(
        run_id="run-1",
        step_id="step",
        attempt=1,
        item_index=None,
        report=lambda fraction, message: None,
        log=lambda message, **fields: None,
        is_cancelled=lambda: False,
    )
    output: dict[str, Any] = asyncio.run(step.work(data))
    return output


@pytest.mark.parametrize(
    "name", ("hello_world", "ai_notebook_creation_pipeline", "invoice_approval")
)
def test_definitions_load_without_a_finding(name: str) -> None:
    checked = check((PIPELINES / f"{name}.json").read_text(encoding="utf-8"))
    assert (checked.errors, checked.warnings) == ((), ())


@pytest.mark.parametrize(
    "name", ("hello_world", "ai_notebook_creation_pipeline", "invoice_approval")
)
def test_expected_results_name_steps_that_there_are(name: str) -> None:
    definition = json.loads((PIPELINES / f"{name}.json").read_text(encoding="utf-8"))
    cases = json.loads((PIPELINES / f"{name}.expected.json").read_text(encoding="utf-8"))
    known = {step["id"] for step in definition["steps"]}
    assert len({case["case"] for case in cases}) == len(cases) > 1
    for case in cases:
        assert set(case) <= {"case", "input", "services", "answers", "expect"}
        by_step = ("steps", "step_outputs", "shown", "attempts", "errors", "counts")
        assert set(case["expect"]) <= {"status", "outputs", *by_step}
        named = {step for key in by_step for step in case["expect"].get(key, {})}
        assert named | {answer["step"] for answer in case.get("answers", [])} <= known


# --- the notebook pipeline


def scrape(load: Callable[[str], ModuleType], answer: Answer, topic: str = "x") -> dict[str, Any]:
    module = load("knowledge_processing.wikipedia_scraper_step")
    client = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    return run_step(
        module.WikipediaScraperStep,
        {"topic": topic},
        http=client,
        wikipedia_url="http://wiki.test/wiki/",
    )


def test_the_scraper_asks_for_the_article_and_says_who_it_is(load: Any) -> None:
    asked: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        return httpx2.Response(200, text=PAGE)

    output = scrape(load, answer, "Tide mill/of Saltmere?")
    assert output["article_title"] == "Tide mill of Saltmere"
    assert isinstance(output["scraped_content"], str)
    assert "<script" not in output["scraped_content"]
    assert str(asked[0].url) == "http://wiki.test/wiki/Tide_mill%2Fof_Saltmere%3F"
    assert asked[0].headers["User-Agent"].startswith("iaflow-notebook-example/")


def test_a_long_article_comes_in_pieces_that_fit(load: Any) -> None:
    body = "<p>" + "word " * 100_000 + "</p>"
    output = scrape(load, lambda _: httpx2.Response(200, text=f"<h1>T</h1><main>{body}</main>"))
    chunks = output["scraped_content"]
    assert [len(chunk) <= 250_000 for chunk in chunks] == [True, True, True]


def test_an_article_over_the_limit_is_refused_by_name(load: Any) -> None:
    body = "<p>" + "word " * 250_000 + "</p>"
    with pytest.raises(Fail) as caught:
        scrape(load, lambda _: httpx2.Response(200, text=f"<main>{body}</main>"))
    assert caught.value.code == "article_too_large"


@pytest.mark.parametrize(
    ("status", "headers", "kind", "code"),
    (
        (404, {}, Fail, "page_not_found"),
        (403, {}, Fail, "page_refused"),
        (500, {}, Exception, "page_unavailable"),
        (429, {}, Exception, "page_unavailable"),
        (429, {"Retry-After": "7"}, Retry, "Retry"),
        (200, {}, Fail, "no_article"),
    ),
)
def test_answers_that_are_no_article(
    load: Any, status: int, headers: dict[str, str], kind: type[Exception], code: str
) -> None:
    with pytest.raises(kind) as caught:
        scrape(load, lambda _: httpx2.Response(status, headers=headers, text=""))
    assert exception_code(caught.value) == code
    # What may be tried again is no `Fail`, which never is.
    assert isinstance(caught.value, Fail) == (kind is Fail)
    if isinstance(caught.value, Retry):
        assert caught.value.after == 7


def test_a_site_that_does_not_answer_may_be_tried_again(load: Any) -> None:
    def refuse(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("connection refused", request=request)

    with pytest.raises(Exception, match="does not answer: connection refused") as caught:
        scrape(load, refuse)
    assert exception_code(caught.value) == "page_unavailable"


@pytest.mark.parametrize("pieces", (1, 3))
def test_the_processor_writes_the_same_notebook_each_time(
    load: Any, tmp_path: Path, pieces: int
) -> None:
    module = load("knowledge_processing.structured_wikipedia_processor_step")
    size = len(PAGE) // pieces + 1
    parts = [PAGE[k : k + size] for k in range(0, len(PAGE), size)]
    data = {"scraped_html": parts if pieces > 1 else PAGE, "title": "A title of its own"}
    outputs = [
        run_step(module.StructuredWikipediaProcessorStep, data, notebook_dir=str(tmp_path))
        for _ in range(2)
    ]
    assert outputs[0] == outputs[1]
    content = outputs[0]["structured_content"]
    assert content["title"] == "A title of its own"
    assert content["counts"] == {"sections": 10, "tables": 2, "links": 8, "references": 4}
    assert [str(path) for path in tmp_path.iterdir()] == [content["notebook"]]
    assert json.loads(Path(content["notebook"]).read_text(encoding="utf-8"))["nbformat"] == 4


# --- the invoice pipeline


INVOICE: dict[str, Any] = {
    "invoice_number": "I-1",
    "vendor": "V",
    "amount": 0.3,
    "currency": "EUR",
    "lines": [{"description": "Pin", "quantity": 3, "unit_price": 0.1}],
}


def test_an_invoice_adds_up_in_tenths(load: Any) -> None:
    output = run_step(load("invoice_steps").ValidateInvoiceStep, INVOICE)
    assert output == {**INVOICE, "summary": ["3 x Pin: 0.30"]}


@pytest.mark.parametrize(
    ("change", "code"),
    (({"amount": 0.31}, "totals_differ"), ({"lines": []}, "invoice_incomplete")),
)
def test_an_invoice_that_cannot_be_right(load: Any, change: dict[str, Any], code: str) -> None:
    with pytest.raises(Fail) as caught:
        run_step(load("invoice_steps").ValidateInvoiceStep, {**INVOICE, **change})
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("iban", "valid"),
    (
        ("DE89370400440532013000", True),
        ("gb82 west 1234 5698 7654 32", True),
        ("DE89370400440532013001", False),
        ("DE00", False),
        ("", False),
        ("ÄÖ89370400440532013000", False),
    ),
)
def test_account_numbers_are_checked(load: Any, iban: str, valid: bool) -> None:
    data = {**INVOICE, "iban": iban}
    pay = load("invoice_steps").PayVendorStep
    if valid:
        assert run_step(pay, data) == {"payment_id": "PAY-I-1"}
    else:
        with pytest.raises(Fail) as caught:
            run_step(pay, data)
        assert caught.value.code == "iban_invalid"


def test_a_second_attempt_does_not_pay_twice(load: Any) -> None:
    module = load("invoice_steps")
    ledger = module.Ledger()
    data = {**INVOICE, "iban": "DE89370400440532013000"}
    outputs = [run_step(module.PayVendorStep, data, payments=ledger) for _ in range(2)]
    assert outputs[0] == outputs[1]
    assert ledger.paid == {"run-1:step": "PAY-I-1"}


def test_an_unreachable_bank_may_be_tried_again(load: Any) -> None:
    module = load("invoice_steps")
    data = {**INVOICE, "iban": "DE89370400440532013000", "vendor": "Unreachable Ltd"}
    with pytest.raises(module.BankUnreachable) as caught:
        run_step(module.PayVendorStep, data)
    assert exception_code(caught.value) == "bank_unreachable"


@pytest.mark.parametrize(
    ("decision", "payment_id", "status"),
    (
        ("Approve", "PAY-1", "paid"),
        ("Reject", "", "rejected"),
        ("Approve", "", "payment_failed"),
    ),
)
def test_the_archive_says_how_it_ended(
    load: Any, decision: str, payment_id: str, status: str
) -> None:
    data = {"invoice_number": "I-1", "decision": decision, "payment_id": payment_id}
    assert run_step(load("invoice_steps").ArchiveInvoiceStep, data) == {
        "status": status,
        "record": f"I-1: {status}",
    }
