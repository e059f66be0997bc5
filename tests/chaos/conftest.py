"""Fixtures of the chaos tests: how large they are, and a storm with servers of its own."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from iaflow.database import migrator
from tests.chaos.storm import Storm
from tests.servers.fixtures import StartWorker
from tests.servers.postgres import OwnPostgresServer
from tests.servers.valkey import OwnRedisServer, RedisServer


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """What faults and mixes are drawn from: `--seed` plays one again."""
    named: int = request.config.getoption("seed")
    return named or random.SystemRandom().randrange(1, 1_000_000)


@pytest.fixture
def durable_postgres(start_postgres: Callable[..., OwnPostgresServer]) -> OwnPostgresServer:
    """A Postgres of this test's own, which flushes as in production: it is stopped amid commits."""
    return start_postgres(durable=True)


@pytest.fixture
def own_redis(private_redis: RedisServer) -> OwnRedisServer:
    """A Redis of this test's own, which keeps nothing."""
    assert isinstance(private_redis, OwnRedisServer)
    return private_redis


@pytest.fixture
def make_storm(
    tmp_path: Path,
    durable_postgres: OwnPostgresServer,
    own_redis: OwnRedisServer,
    start_worker: StartWorker,
    seed: int,
) -> Iterator[Callable[[int], Storm]]:
    """A function that makes a storm of so many runs."""
    made: list[Storm] = []

    def make(runs: int) -> Storm:
        url = durable_postgres.create_database()
        migrator.upgrade(url)
        storm = Storm(tmp_path, url, own_redis.url, start_worker, seed=seed, runs=runs)
        made.append(storm)
        return storm

    yield make
    for storm in made:
        storm.close()
