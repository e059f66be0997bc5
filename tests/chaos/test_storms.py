"""Storms (RELIABILITY F1, F4, F5, F26 in their quick sizes): runs amid faults on real workers.

Each says how often its faults hit, and is wrong if they hit too seldom.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg2
import pytest
import redis

from iaflow.data.status import END_OF_RUN
from tests.chaos.mix import KINDS
from tests.chaos.storm import Storm
from tests.servers import wait_until
from tests.servers.postgres import OwnPostgresServer
from tests.servers.valkey import OwnRedisServer

pytestmark = pytest.mark.timeout(300)

MakeStorm = Callable[[int], Storm]


def test_workers_are_killed(make_storm: MakeStorm) -> None:
    """F1: 250 runs, 40 kills of children and of whole workers, three quarters of them amid a step."""
    storm = make_storm(250)
    for _ in range(2):
        storm.worker()
    kills = 0
    with storm.under_way(pace=0.08):
        while kills < 40:
            time.sleep(storm.rng.uniform(0.1, 0.8))
            storm.kill_someone(heads=kills % 8 == 7)
            kills += 1
    assert storm.finish() == []
    assert storm.hits.counts["of these amid a step"] >= 28


def test_postgres_is_stopped(make_storm: MakeStorm, durable_postgres: OwnPostgresServer) -> None:
    """F4: 3 immediate stops, 30 backends terminated; what was acknowledged is there."""
    storm = make_storm(100)
    for _ in range(2):
        storm.worker()
    with storm.under_way(pace=0.15):
        for _ in range(3):
            for _ in range(10):
                time.sleep(storm.rng.uniform(0.05, 0.4))
                storm.hits.add("backends terminated", terminate_one(durable_postgres.url, storm))
            storm.hits.add("stops")
            if storm.live_steps():
                storm.hits.add("of these amid a step")
            durable_postgres.stop("immediate")
            time.sleep(storm.rng.uniform(0, 2))
            durable_postgres.start()
    assert storm.finish(crashes=3) == []
    assert storm.hits.counts["stops"] == 3
    assert storm.hits.counts["backends terminated"] >= 15


def terminate_one(url: str, storm: Storm) -> int:
    """Terminate a backend of anybody but ourselves; return how many it hit."""
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND datname LIKE 'iaflow%' ORDER BY random() LIMIT 1) s"
        )
        [(count,)] = cursor.fetchall()
    connection.close()
    return int(count)


def test_redis_loses_everything(make_storm: MakeStorm, own_redis: OwnRedisServer) -> None:
    """F5: flushes, restarts, killed and paused clients; a start works while it is away."""
    storm = make_storm(150)
    for _ in range(2):
        storm.worker()
    slowest = 0.0
    with storm.under_way(pace=0.1):
        for turn in range(5):
            time.sleep(storm.rng.uniform(0.3, 1.0))
            storm.hits.add("messages flushed", flush(own_redis))
            time.sleep(storm.rng.uniform(0.3, 1.0))
            with redis.Redis.from_url(own_redis.url) as client:
                for one in client.client_list():
                    client.client_kill_filter(_id=one["id"], skipme=True)
                    storm.hits.add("connections killed")
                if turn % 2:
                    client.client_pause(1000)
                    storm.hits.add("pauses")
            if turn in (1, 3):
                own_redis.stop(crash=True)
                storm.hits.add("restarts")
                began = time.monotonic()
                storm.client.start("chain", key=f"away-{turn}")
                slowest = max(slowest, time.monotonic() - began)
                own_redis.start()
    violations = [one for one in storm.finish() if "away-" not in one]
    assert violations == []
    print(f"a start while Redis was away took {slowest:.3f} s at most")
    assert slowest < 5
    assert storm.hits.counts["restarts"] == 2
    assert storm.hits.counts["connections killed"] >= 10


def flush(server: OwnRedisServer) -> int:
    """Let Redis lose all that it has; return how many messages these were."""
    with redis.Redis.from_url(server.url) as client:
        waiting = sum(client.llen(key) for key in client.scan_iter() if client.type(key) == b"list")
        client.flushall()
    return int(waiting)


def test_workers_are_replaced_one_by_one(make_storm: MakeStorm) -> None:
    """F26: each worker is asked to leave and replaced, three rounds: no attempt is lost."""
    storm = make_storm(120)
    for _ in range(2):
        storm.worker()
    with storm.under_way(pace=0.1):
        for _ in range(3):
            for worker in list(storm.workers):
                storm.hits.add("workers asked to leave")
                if storm.live_steps():
                    storm.hits.add("of these amid steps")
                storm.workers.remove(worker)
                storm.worker()
                assert worker.terminate(10) == 0
    assert storm.finish() == []
    losses = {
        step.worker_losses
        for run in storm.client.runs(limit=500)
        for step in storm.client.steps(run.run_id)
    }
    assert losses == {0}


def test_messages_come_any_number_of_times(make_storm: MakeStorm) -> None:
    """F7: each message is sent 0, 1, 2, 5 or 20 times; every step is executed once."""
    storm = make_storm(80)
    for _ in range(2):
        storm.worker(application="noisy_app")
    with storm.under_way(pace=0.1):
        pass
    violations = storm.finish()
    sent = [int(line) for line in (storm.folder / "sent").read_text().splitlines()]
    dropped, doubled = sent.count(0), sum(times - 1 for times in sent if times > 1)
    print(f"of {len(sent)} messages {dropped} were dropped, {doubled} came too often")
    assert violations == []
    assert dropped >= 20
    assert doubled >= 500


def test_a_new_version_comes_while_people_are_asked(make_storm: MakeStorm) -> None:
    """F15: fifty runs wait, a new version is imported, the workers are replaced: each keeps its own."""
    storm = make_storm(0)
    worker = storm.worker()
    old = [storm.client.start("question", key=f"old-{n}").run_id for n in range(50)]
    wait_until(lambda: len(storm.client.inbox()) == 50, 60, "fifty questions")
    before = {run_id: storm.client.run(run_id).content_hash for run_id in old}
    definition = {**KINDS["question"].definition, "version": "2"}
    definition["outputs"] = {"value": "{{ after.value }}", "version": 2}
    storm.publish(definition)
    storm.workers.remove(worker)
    storm.worker()
    assert worker.terminate(20) == 0
    new = [storm.client.start("question", key=f"new-{n}").run_id for n in range(5)]
    wait_until(lambda: len(storm.client.inbox()) == 55, 60, "five more")
    for pause in storm.client.inbox():
        storm.client.answer(pause.pause_id, {"amount": 4}, answered_by="somebody")
    wait_until(
        lambda: all(storm.client.run(one).status in END_OF_RUN for one in (*old, *new)), 60, "ends"
    )
    runs = {one: storm.client.run(one) for one in (*old, *new)}
    assert {one: runs[one].content_hash for one in old} == before
    assert [runs[one].outputs for one in old] == [{"value": 5}] * 50
    assert [runs[one].outputs for one in new] == [{"value": 5, "version": 2}] * 5
    print("50 runs ended on the version they began with, 5 on the new one")
