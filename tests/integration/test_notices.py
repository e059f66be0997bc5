"""Notices: who is reminded, asked as well and told of an end, once each, whatever fails on the way.

Time is virtual where hours pass; receivers of webhooks and workers are real.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from iaflow.bootstrap import Application
from iaflow.data.records import NoticeRecord
from iaflow.data.status import NoticeKind, RunStatus
from iaflow.pipeline.check import compile_definition
from iaflow.pipeline.notifying import (
    NOTIFIER,
    TRIES,
    Courier,
    WebhookNotifier,
    _sign,
    verify_signature,
)
from iaflow.pipeline.services import ServiceRegistry
from tests.integration.houses import House, document, question
from tests.servers import wait_until
from tests.servers.fixtures import StartWorker

OPENED, REMINDER, ESCALATED = (
    NoticeKind.QUESTION_OPENED,
    NoticeKind.QUESTION_REMINDER,
    NoticeKind.QUESTION_ESCALATED,
)


def asking(**config: Any) -> dict[str, Any]:
    return document({"ask": question(**config)}, name="asking")


PATIENT = {
    "assignees": {"users": ["ann"]},
    "reminders": [10, 20],
    "escalate": [{"after": 15, "assignees": {"users": ["bob"], "roles": ["boss"]}}],
}


def kinds(house: House, run_id: str) -> list[NoticeKind]:
    return [notice.kind for notice in house.engine.notices.of_run(run_id)]


def answer(house: House, run_id: str, who: str) -> None:
    house.engine.answer(
        house.pause(run_id).pause_id, {"decision": "yes", "note": ""}, answered_by=who
    )


# --- reminders and escalation


def test_people_are_told_in_their_order(house: House) -> None:
    run_id = house.run(asking(**PATIENT)).run_id
    expected = [OPENED]
    for seconds, kind in ((9, None), (1, REMINDER), (5, ESCALATED), (5, REMINDER), (500, None)):
        house.pass_time(seconds)
        for _ in range(3):
            house.sweep()
        expected += [kind] if kind else []
        assert kinds(house, run_id) == expected
    told = house.engine.notices.of_run(run_id)
    assert told[1].body["assignees"] == {"users": ["ann"]}
    assert told[2].body["assignees"] == {"users": ["ann", "bob"], "roles": ["boss"]}
    answer(house, run_id, "bob")


def test_who_was_asked_first_may_answer_after_an_escalation(house: House) -> None:
    run_id = house.run(asking(**PATIENT)).run_id
    house.pass_time(16)
    house.sweep()
    answer(house, run_id, "ann")


def test_of_what_nobody_looked_at_in_time_one_is_sent(house: House) -> None:
    run_id = house.run(asking(**PATIENT)).run_id
    house.pass_time(1000)
    house.sweep()
    assert sorted(kinds(house, run_id)) == sorted([OPENED, REMINDER, ESCALATED])


@pytest.mark.parametrize("end", ("answer", "cancel", "expiry"))
def test_an_end_stops_it(house: House, end: str) -> None:
    run_id = house.run(asking(**PATIENT, expires_in=12)).run_id
    house.pass_time(10)
    house.sweep()
    match end:
        case "answer":
            answer(house, run_id, "ann")
        case "cancel":
            house.engine.cancel_run(run_id, "enough")
        case _:
            house.pass_time(3)
    for _ in range(3):
        house.sweep()
        house.pass_time(100)
    assert kinds(house, run_id) == [OPENED, REMINDER]
    assert house.engine.next_due(run_id) is None


# --- delivery


class Receiver:
    """A notifier that keeps what it was told, and fails as often as it is to."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.told: list[str] = []

    def notify(self, notice: NoticeRecord) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("no mail today")
        self.told.append(notice.notice_id)


def courier(house: House, notifier: Any) -> Courier:
    services = ServiceRegistry()
    services.register(NOTIFIER, notifier)
    return Courier(house.engine, services)


def test_what_fails_is_tried_again_and_given_up(house: House) -> None:
    run_id = house.run(asking()).run_id
    receiver = Receiver(failures=10_000)
    pauses = []
    while (due_at := house.engine.notices.next_due(run_id)) is not None:
        wait = (due_at - house.clock.now()).total_seconds()
        pauses.append(round(wait))
        house.pass_time(max(wait, 0))
        assert asyncio.run(courier(house, receiver).deliver(run_id)) == 0
    assert pauses == [0, 5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600]
    [notice] = house.engine.notices.of_run(run_id)
    assert (notice.tries, notice.delivered_at) == (TRIES, None)
    assert notice.error is not None
    assert "no mail today" in notice.error


def test_a_notice_is_delivered_once_it_can_be(house: House) -> None:
    run_id = house.run(asking()).run_id
    receiver = Receiver(failures=2)
    for _ in range(5):
        asyncio.run(courier(house, receiver).deliver(run_id))
        house.pass_time(60)
    [notice] = house.engine.notices.of_run(run_id)
    assert receiver.told == [notice.notice_id]
    assert notice.delivered_at is not None


def test_who_dies_on_the_way_leaves_it_to_others(house: House) -> None:
    """Claimed, sent, and not marked: after a minute it is sent again, with the same id."""
    run_id = house.run(asking()).run_id
    receiver = Receiver()
    dying = courier(house, receiver)
    dying._mark = lambda deliveries: 0  # type: ignore[method-assign]
    asyncio.run(dying.deliver(run_id))
    asyncio.run(courier(house, receiver).deliver(run_id))
    assert len(receiver.told) == 1
    house.pass_time(61)
    asyncio.run(courier(house, receiver).deliver(run_id))
    assert len(receiver.told) == 2
    assert len(set(receiver.told)) == 1


def test_couriers_at_once_send_each_notice_once(shared_house: House) -> None:
    for _ in range(30):
        shared_house.run(asking())
    receiver = Receiver()
    sent: list[int] = []

    def deliver() -> None:
        sent.append(asyncio.run(courier(shared_house, receiver).deliver()))
        shared_house.database.release_thread()

    threads = [threading.Thread(target=deliver) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(receiver.told) == len(set(receiver.told)) == sum(sent) >= 30


def test_a_plain_notifier_that_is_slow_holds_up_no_step(house: House) -> None:
    """It runs in a thread: the loop, on which steps work, goes on."""
    run_id = house.run(asking()).run_id
    begun = threading.Event()
    go_on = threading.Event()

    class Slow:
        def notify(self, notice: NoticeRecord) -> None:
            begun.set()
            assert go_on.wait(20)

    async def deliver() -> int:
        delivering = asyncio.ensure_future(courier(house, Slow()).deliver(run_id))
        await asyncio.to_thread(begun.wait, 20)
        go_on.set()
        return await delivering

    assert asyncio.run(asyncio.wait_for(deliver(), 20)) == 1


# --- webhooks


@contextmanager
def listening(reply: Callable[[dict[str, str], bytes], int]) -> Iterator[str]:
    """A receiver of webhooks; `reply` gets headers and body, and says the status."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = reply(dict(self.headers), body)
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook"
    finally:
        server.shutdown()
        server.server_close()


SECRET = b"a shared secret of enough letters"


def test_a_webhook_is_signed_and_verified(house: House) -> None:
    run_id = house.run(asking(**PATIENT)).run_id
    requests: list[tuple[dict[str, str], bytes]] = []

    def reply(headers: dict[str, str], body: bytes) -> int:
        requests.append((headers, body))
        return 204

    with listening(reply) as url:
        notifier = WebhookNotifier(url, SECRET)
        assert asyncio.run(courier(house, notifier).deliver(run_id)) == 1
    [(headers, body)] = requests
    told = json.loads(body)
    assert told["kind"] == "question_opened"
    assert told["assignees"] == {"users": ["ann"]}
    assert headers["Idempotency-Key"] == told["notice_id"]
    signature = headers["Iaflow-Signature"]
    assert verify_signature(SECRET, signature, body)
    assert not verify_signature(b"another secret", signature, body)
    assert not verify_signature(SECRET, signature, body + b" ")
    assert not verify_signature(SECRET, "", body)
    assert not verify_signature(SECRET, "t=x,v1=y", body)
    old = _sign(SECRET, body, int(time.time()) - 1000)
    assert not verify_signature(SECRET, old, body)
    assert verify_signature(SECRET, old, body, tolerance_seconds=2000)


@pytest.mark.parametrize("status", (301, 307, 400, 500))
def test_a_webhook_that_is_not_accepted_is_tried_again(house: House, status: int) -> None:
    """A redirect is not followed: who is told is the operator's choice alone."""
    run_id = house.run(asking()).run_id
    paths: list[bytes] = []
    with listening(lambda _, body: paths.append(body) or status) as url:
        assert asyncio.run(courier(house, WebhookNotifier(url)).deliver(run_id)) == 0
    assert len(paths) == 1
    [notice] = house.engine.notices.of_run(run_id)
    assert notice.error == f"WebhookRefused: the webhook answered {status}"
    assert notice.due_at is not None


# --- real workers


STEPS = """
from iaflow.pipeline import Step


class Works(Step):
    async def work(self, data):
        return {}


class Fails(Step):
    async def work(self, data):
        raise RuntimeError("a word that no notice has")
"""


@pytest.mark.timeout(120)
def test_a_worker_tells_of_questions_and_ends(
    open_app: Callable[..., Application],
    postgres_url: str,
    redis_url: str,
    start_worker: StartWorker,
    tmp_path: Path,
) -> None:
    """The receiver is slow, and refuses each notice once: steps go on meanwhile."""
    (tmp_path / "told_steps.py").write_text(STEPS)
    seen: dict[str, int] = {}
    accepted: list[dict[str, Any]] = []
    lock = threading.Lock()

    def reply(headers: dict[str, str], body: bytes) -> int:
        time.sleep(0.5)
        assert verify_signature(SECRET, headers["Iaflow-Signature"], body)
        told = json.loads(body)
        with lock:
            seen[told["notice_id"]] = seen.get(told["notice_id"], 0) + 1
            if seen[told["notice_id"]] == 1:
                return 503
            accepted.append(told)
        return 200

    def start(step_class: str) -> str:
        graph = compile_definition(
            {
                "name": step_class,
                "steps": [{"id": "one", "module": "told_steps", "step_class": step_class}],
                "flow": {"start_at": "one"},
            }
        )
        app.client.save(graph)
        return app.client.start_graph(graph).run_id

    app = open_app(postgres_url, redis_url)
    with listening(reply) as url:
        start_worker(
            database_url=postgres_url,
            redis_url=redis_url,
            modules="told_steps",
            pythonpath=[tmp_path],
            env={
                "IAFLOW_NOTIFY_URL": url,
                "IAFLOW_NOTIFY_SECRET": SECRET.decode(),
                "IAFLOW_NOTIFY_RUNS": "failed",
                "IAFLOW_SWEEP_SECONDS": "0.3",
            },
        )
        graph = compile_definition(
            {
                "name": "asked",
                "steps": [{"id": "ask", **question(reminders=[2])}],
                "flow": {"start_at": "ask"},
            }
        )
        app.client.save(graph)
        asked = app.client.start_graph(graph).run_id
        failed = start("Fails")
        runs = [start("Works") for _ in range(20)]
        wait_until(
            lambda: all(app.client.run(one).status is RunStatus.SUCCEEDED for one in runs),
            30,
            "runs that nobody is told of",
        )
        wait_until(lambda: len(accepted) == 3, 60, "three notices")
    found = {(one["kind"], one["run_id"]) for one in accepted}
    assert found == {
        ("question_opened", asked),
        ("question_reminder", asked),
        ("run_failed", failed),
    }
    assert "no notice has" not in json.dumps(accepted)
