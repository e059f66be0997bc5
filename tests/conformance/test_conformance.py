"""Every case, wherever a run may live: the same document means the same thing everywhere.

Decides which case is played where; the judge decides whether it held. Cases come from the
command line (``--cases PATH``), else from the shared patterns and from `cases` beside this file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

from iaflow.database import migrator
from iaflow.database.dialects import Database
from iaflow.errors import DefinitionRefused, InputRefused
from iaflow.pipeline.check import compile_definition
from tests.conformance.bodies import BODIES, CASES, load_bodies
from tests.conformance.embedded import play_all_scaled, play_virtual
from tests.conformance.judge import Played, judge
from tests.conformance.on_celery import Crew, play_on_celery
from tests.conformance.options import IN_VIRTUAL_TIME, chosen_cases, chosen_places
from tests.conformance.reading import Case, name_apart, read_cases
from tests.servers import ServerRoom, WorkerProcess
from tests.servers.fixtures import take_or_skip

Results = Mapping[str, Played | Exception]

OWN = Path(__file__).with_name("cases")
PATTERNS = CASES / "patterns"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" not in metafunc.fixturenames:
        return
    places = chosen_places(metafunc.config)
    named = chosen_cases(metafunc.config)
    if named is None:
        # Without the shared folder one test is left, which says so.
        named = (*(read_cases(PATTERNS) if PATTERNS.is_dir() else ()), *read_cases(OWN))
    cases = name_apart(named)
    metafunc.parametrize(
        ("place", "case"),
        [
            pytest.param(
                place,
                case,
                id=f"{place}-{case.id}",
                # The first of a place that has real time waits for all of them, and plays in it.
                marks=()
                if place in IN_VIRTUAL_TIME
                else (pytest.mark.timeout(600), pytest.mark.alone),
            )
            for place in places
            for case in cases
        ],
    )


@pytest.fixture(scope="session")
def virtual_bodies() -> ModuleType:
    """The step bodies, in virtual time."""
    return load_bodies()


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Database]]:
    """One database of each kind for all cases: runs do not meet."""
    opened = {
        "memory": Database("sqlite://"),
        "sqlite": Database(f"sqlite:///{tmp_path_factory.mktemp('conformance')}/runs.db"),
    }
    for database in opened.values():
        migrator.upgrade(database)
    yield opened
    for database in opened.values():
        database.close()


def test_the_shared_cases_are_there() -> None:
    assert PATTERNS.is_dir(), f"there are no cases at {PATTERNS}: they belong beside the checkout"
    assert BODIES.is_file(), f"there are no step bodies at {BODIES}"


@pytest.fixture(scope="module")
def on_postgres(
    request: pytest.FixtureRequest,
    server_room: ServerRoom,
    tmp_path_factory: pytest.TempPathFactory,
) -> Results:
    """How every case went that is asked of Postgres: several runs at a time, in real time."""
    cases = cases_of(request, "postgres")
    database_url = server_room.create_database(request.getfixturevalue("postgres_template"))
    database = Database(database_url)
    folder = tmp_path_factory.mktemp("postgres")
    try:
        return asyncio.run(play_all_scaled(cases, database=database, folder=folder))
    finally:
        database.close()
        server_room.postgres.drop_database(database_url)


@pytest.fixture(scope="module")
def on_celery(
    request: pytest.FixtureRequest,
    server_room: ServerRoom,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Results]:
    """How every case went that is asked of the workers."""
    yield from play_on_workers(
        request, server_room, tmp_path_factory, "celery", server_room.take_redis_database()
    )


@pytest.fixture(scope="module")
def on_rabbitmq(
    request: pytest.FixtureRequest,
    server_room: ServerRoom,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Results]:
    """The same where RabbitMQ carries the messages; left out where there is none."""
    take_or_skip(lambda: server_room.rabbitmq)
    yield from play_on_workers(
        request, server_room, tmp_path_factory, "rabbitmq", server_room.take_vhost()
    )


def play_on_workers(
    request: pytest.FixtureRequest,
    server_room: ServerRoom,
    folders: pytest.TempPathFactory,
    place: str,
    broker_url: str,
) -> Iterator[Results]:
    cases = cases_of(request, place)
    folder = folders.mktemp(place)
    database_url = server_room.create_database(request.getfixturevalue("postgres_template"))
    crew = Crew(
        partial(WorkerProcess, log_directory=folder, guardian=server_room.guardian),
        database_url=database_url,
        broker_url=broker_url,
        folder=folder,
        with_lone_worker=any(case.workers == 1 for case in cases),
    )
    try:
        yield play_on_celery(crew, cases)
    finally:
        for worker in crew.workers:
            worker.kill()
        server_room.postgres.drop_database(database_url)


def test_a_case_goes_as_expected(
    place: str, case: Case, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if case.is_refused:
        require_refusal(case)
        return
    with refusals_told():
        if place in IN_VIRTUAL_TIME:
            database = request.getfixturevalue("databases")[place]
            bodies = request.getfixturevalue("virtual_bodies")
            played = play_virtual(case, bodies=bodies, database=database, folder=tmp_path)
        else:
            played = take(request.getfixturevalue(f"on_{place}"), case)
    faults = judge(case, played)
    if faults:
        pytest.fail("\n".join([*faults, "what happened:", played.story]), pytrace=False)


def cases_of(request: pytest.FixtureRequest, place: str) -> list[Case]:
    """Return the cases that are to be played at a place, after all selecting."""
    chosen = [
        item.callspec.params
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.fspath == request.node.fspath
        and item.originalname == "test_a_case_goes_as_expected"
    ]
    return [one["case"] for one in chosen if one["place"] == place and not one["case"].is_refused]


def take(results: Results, case: Case) -> Played:
    """Return how a case went; what it raised is raised."""
    result = results[case.id]
    if isinstance(result, Exception):
        raise result
    return result


@contextmanager
def refusals_told() -> Iterator[None]:
    """Fail with what the load says, where a case has no run that could be judged."""
    refusal = ""
    try:
        yield
    except (DefinitionRefused, InputRefused) as error:
        refusal = str(error)
    if refusal:
        pytest.fail(refusal, pytrace=False)


def require_refusal(case: Case) -> None:
    with pytest.raises(DefinitionRefused) as refused:
        compile_definition(case.document)
    assert refused.value.problems
