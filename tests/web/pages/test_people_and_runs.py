"""The start, the list of runs, users and one's account: what each shows, to whom."""

from __future__ import annotations

from iaflow.data.status import RunStatus
from tests.web.flows import make_failing, make_line
from tests.web.pages.payloads import PAYLOADS
from tests.web.pages.reading import page_of, text_of, texts_of
from tests.web.people import approval
from tests.web.webs import Web


def test_an_empty_installation_says_how_to_begin(web: Web) -> None:
    if not web.client.pipelines():
        assert "iaflow import" in text_of(page_of(web.user("adele").get("/")))
        assert "There is no run yet" in text_of(page_of(web.user("adele").get("/runs")))


def test_the_start_has_what_waits_failed_and_runs(web: Web) -> None:
    web.publish(approval("home-asks", ui_schema={"title": "Approve it?", "fields": []}))
    web.publish(make_failing("home-fails"))
    asks, fails = web.user("otto").start("home-asks"), web.user("otto").start("home-fails")
    web.wait_for(asks, RunStatus.WAITING)
    web.wait_for(fails, RunStatus.FAILED)
    [pause] = web.client.inbox(asks)
    page = page_of(web.user("adele").get("/"))
    links = set(page.xpath("//main//a/@href"))
    assert {f"/inbox/{pause.pause_id}", f"/runs/{asks}", f"/runs/{fails}"} <= links
    assert "Approve it?" in text_of(page)
    # Whoever answers questions sees the question alone; a stranger none of it.
    page = page_of(web.user("paula").get("/"))
    assert f"/inbox/{pause.pause_id}" in page.xpath("//main//a/@href")
    assert not page.xpath("//main//a[starts-with(@href, '/runs')]")
    page = page_of(web.user("fremd").get("/"))
    assert "home-" not in text_of(page)


def test_runs_are_filtered_by_the_address(web: Web) -> None:
    web.publish(make_line("list-line"))
    web.publish(make_failing("list-fails"))
    lines = [web.user("otto").start("list-line") for _ in range(3)]
    failed = web.user("aurel").start("list-fails")
    for run_id in (*lines, failed):
        web.wait_for(run_id)

    def shown(**asked: str) -> list[str]:
        page = page_of(web.user("adele").get("/runs", **asked))
        links = page.xpath("//td[contains(@class, 'run-name')]/a/@href")
        return [link.removeprefix("/runs/") for link in links]

    assert shown(pipeline="list-line") == lines[::-1]
    assert shown(pipeline="list-fails", status="failed", started_by="aurel") == [failed]
    assert shown(pipeline="list-fails", status="succeeded") == []
    assert shown(pipeline="list-line", started_by="aurel") == []
    assert shown(pipeline="list-line", since="2026-01-01T00:00", top="1") == lines[::-1]
    assert shown(pipeline="list-line", until="2001-01-01T00:00Z") == []
    page = page_of(web.user("fremd").get("/runs", pipeline="list-line"))
    assert "No run fits" in text_of(page)


def test_pages_of_runs_lead_to_each_other(web: Web) -> None:
    web.publish(make_line("many-line"))
    for _ in range(52):
        web.client.start("many-line")
    page = page_of(web.user("adele").get("/runs", pipeline="many-line"))
    [older] = page.xpath("//a[@rel='next']/@href")
    assert len(page.xpath("//tbody/tr")) == 50
    page = page_of(web.user("adele").ask("GET", older))
    assert len(page.xpath("//tbody/tr")) == 2
    assert not page.xpath("//a[@rel='next']")


def test_an_account_shows_its_own_alone(web: Web) -> None:
    web.token("vera", "runs:read")
    words = text_of(page_of(web.user("vera").get("/account")))
    assert "of vera" in words
    assert "this one" in words
    assert "of vera" not in text_of(page_of(web.user("otto").get("/account")))
    assert "of vera" in text_of(page_of(web.user("adele").get("/users/vera")))
    # A program is told no more than what it may.
    page = page_of(web.token("vera", "runs:read").get("/account"))
    assert not page.xpath("//form")
    assert web.sessions.cookie_name not in page.text_content()


def test_stored_texts_come_out_as_texts(web: Web) -> None:
    """Who started a run, a question's title, a token's name, a browser's name for itself."""
    adele = web.user("adele")
    web.publish(make_line("texts-line"))
    for text in PAYLOADS:
        clean = text.replace("\x0c", "")
        web.client.start("texts-line", started_by=clean[:200])
        name = clean.encode("ascii", "ignore").decode().replace("\n", "").replace("\t", "")
        if name.strip() == name:
            adele.post("/api/v1/tokens", {"name": name[:100], "scopes": ["runs:read"]})
    web.publish(approval("texts-asks", ui_schema={"title": PAYLOADS[0], "fields": []}))
    web.wait_for(web.client.start("texts-asks").run_id, RunStatus.WAITING)
    found = set()
    address = "/runs?pipeline=texts-line"
    while address:
        page = page_of(adele.ask("GET", address))
        found |= {text.strip() for text in texts_of(page)}
        address = "".join(page.xpath("//a[@rel='next']/@href"))
    for text in PAYLOADS:
        clean = text.replace("\x0c", "")[:200].strip()
        assert clean in found, clean
    page_of(adele.get("/account"))
    assert PAYLOADS[0] in text_of(page_of(adele.get("/")))
