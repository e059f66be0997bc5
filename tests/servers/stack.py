"""`./dev stack`: the whole distributed product on this machine, without Docker.

Decides what is started in which order, where it listens and keeps its data, and that all of it
ends together; never what the product does: it starts the same programs as a deployment. Run by
`./dev`; it stands here because here is known where Postgres and Redis come from (decision 0017).
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg2
import redis
from psycopg2 import sql

from tests.servers import postgres, valkey
from tests.servers.guardian import SESSION_VARIABLE, Guardian
from tests.servers.processes import (
    ServerError,
    find_free_port,
    is_alive,
    list_descendants,
    nobody,
    read_tail,
    spawn,
)
from tests.servers.worker import ROOT

__all__ = ["main"]

FOLDER = ROOT / ".iaflow" / "stack"
WORKERS = 2
CHILDREN = 2
"""Steps that each worker executes at once."""

POSTGRES_PORT, REDIS_PORT, WEB_PORT, FLOWER_PORT, METRICS_PORT = 5432, 6379, 8000, 5555, 9464
DATABASE = "iaflow_stack"

EXAMPLES = "steps,invoice_steps,knowledge_processing.*"
"""Where the steps of the example pipelines come from, below `pipelines/`."""

START_SECONDS = 60.0
LOOK_SECONDS = 0.2
GRACE_SECONDS = 5
"""What running steps have to end once the stack is told to; then they go back."""
LIMITS = {"worker": 9.0, "web": 7.0, "flower": 3.0, "redis": 3.0, "postgres": 5.0}
"""After so many seconds of asking, each is killed. All but the servers are asked together."""
QUICK_SECONDS = 10.0
LONGEST_PAUSE = 10.0


class Stopped(Exception):
    """Somebody wants the stack to end."""


@dataclass
class Service:
    """
    One program of the stack: how it is started, and known to be ready.

    Attributes:
        kind: its place in `LIMITS`.
        where: what is told of it.
        stop_signal: what asks it to end in good order.
        pause: seconds before it is started again, while it ends at once each time.
    """

    name: str
    kind: str
    argv: list[str]
    log: Path
    cwd: Path
    environment: dict[str, str]
    is_ready: Callable[[Service], bool]
    where: str = ""
    stop_signal: signal.Signals = signal.SIGTERM
    user: tuple[int, int] | None = None
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    start_again_at: float = 0.0
    pause: float = 0.0
    log_begins: int = 0

    def read_log(self) -> str:
        """Return what it has written since it was started the last time."""
        with self.log.open("rb") as log:
            log.seek(self.log_begins)
            return log.read().decode(errors="replace")


@dataclass
class Stack:
    """All programs, in the order of their start, and who ends them should this process not."""

    folder: Path
    guardian: Guardian
    environment: dict[str, str] = field(default_factory=dict)
    services: list[Service] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)
    in_a_hurry: bool = False

    def start(self, service: Service) -> None:
        service.log.touch(mode=0o600)
        service.log_begins = service.log.stat().st_size
        service.process = spawn(
            service.argv,
            log=service.log,
            cwd=service.cwd,
            env=service.environment,
            user=service.user,
        )
        service.started_at = time.monotonic()
        self.guardian.watch(service.process.pid, service.stop_signal)
        if service not in self.services:
            self.services.append(service)

    def wait_for(self, *services: Service) -> None:
        """Wait until all of these are ready."""
        deadline = time.monotonic() + START_SECONDS
        for service in services:
            while not service.is_ready(service):
                process = service.process
                if process is None or process.poll() is not None or time.monotonic() > deadline:
                    raise ServerError(
                        f"{service.name} did not start; its log ({service.log}) ends:\n"
                        f"{read_tail(service.log)}"
                    )
                self.check()
                self.stopping.wait(0.05)

    def check(self) -> None:
        if self.stopping.is_set():
            raise Stopped

    def keep_alive(self) -> None:
        """Start again whatever ends, until the stack is told to end."""
        while not self.stopping.wait(LOOK_SECONDS):
            for service in self.services:
                self._look(service)

    def _look(self, service: Service) -> None:
        now = time.monotonic()
        process = service.process
        if process is not None and process.poll() is not None:
            self.guardian.forget(process.pid)
            end_family(process.pid, [])
            service.process = None
            was_quick = now - service.started_at < QUICK_SECONDS
            service.pause = min(max(1.0, service.pause * 2), LONGEST_PAUSE) if was_quick else 0.0
            service.start_again_at = now + service.pause
            code = process.returncode
            how = f"by signal {-code}" if code < 0 else f"with {code}"
            again = "at once" if not service.pause else f"in {service.pause:g} s"
            tell(f"! {service.name} ended {how}; it is started again {again} (see {service.log})")
        elif process is None and now >= service.start_again_at:
            self.start(service)
            assert service.process is not None
            tell(f"  {service.name} was started again, pid {service.process.pid}")

    def end(self) -> None:
        """End everything: workers, web and Flower first, then the servers that they need."""
        for kinds in (("worker", "web", "flower"), ("redis",), ("postgres",)):
            ending = [one for one in self.services if one.kind in kinds and one.process]
            families = {
                one.name: list_descendants(one.process.pid) for one in ending if one.process
            }
            for one in ending:
                assert one.process is not None
                with contextlib.suppress(ProcessLookupError):
                    one.process.send_signal(one.stop_signal)
            began = time.monotonic()
            for one in ending:
                self._wait_for_end(one, began)
                assert one.process is not None
                end_family(one.process.pid, families[one.name])
                self.guardian.forget(one.process.pid)

    def _wait_for_end(self, service: Service, began: float) -> None:
        assert service.process is not None
        while time.monotonic() - began < LIMITS[service.kind] and not self.in_a_hurry:
            with contextlib.suppress(subprocess.TimeoutExpired):
                service.process.wait(timeout=0.1)
                return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(service.process.pid, signal.SIGKILL)
        service.process.wait(timeout=5)


def main() -> int:
    """Bring everything up, say where it is, and end all of it on Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(
        prog="./dev stack", description="Postgres, Redis, two workers, the web and Flower, here."
    )
    parser.add_argument("--fresh", action="store_true", help="remove what earlier ones kept first")
    parser.add_argument(
        "--env", action="store_true", help="print how to talk to the one that runs, for eval"
    )
    chosen = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    # Others may pass, for the server that runs as nobody where we are root, and see nothing.
    FOLDER.chmod(0o711)
    with hold_lock(FOLDER / "lock") as is_ours:
        if chosen.env:
            return print_environment(is_running=not is_ours)
        if not is_ours:
            return fail('a stack of this checkout runs already: eval "$(./dev stack --env)"')
        return run(is_fresh=chosen.fresh)


def run(*, is_fresh: bool) -> int:
    if is_fresh:
        remove_data()
    # What a killed one left leads nowhere.
    (FOLDER / "env.sh").unlink(missing_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="iaflow-stack-")).resolve()
    guardian = Guardian(scratch)
    # By this mark the guardian finds what a killed worker's children leave.
    os.environ[SESSION_VARIABLE] = str(scratch)
    stack = Stack(FOLDER, guardian)

    def stop(*_: object) -> None:
        if stack.stopping.is_set():
            stack.in_a_hurry = True
        stack.stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    code = 0
    try:
        bring_up(stack)
        tell(describe(stack))
        stack.keep_alive()
    except Stopped:
        pass
    except (ServerError, psycopg2.Error, redis.RedisError, subprocess.SubprocessError) as error:
        code = fail(str(error))
    finally:
        tell("\nending: steps that run have 5 s; once more Ctrl-C kills them")
        (FOLDER / "env.sh").unlink(missing_ok=True)
        stack.end()
        os.environ.pop(SESSION_VARIABLE, None)
        for left in guardian.close():
            tell(f"  was still there: {left}")
    tell(f"ended; data and logs stay in {FOLDER} (./dev stack --fresh removes them)")
    return code


def bring_up(stack: Stack) -> None:
    logs = stack.folder / "logs"
    logs.mkdir(exist_ok=True, mode=0o700)
    for old in logs.glob("*.log"):
        old.unlink()
    passwords = read_passwords(stack.folder / "passwords.json")
    database_url = open_postgres(stack, passwords["postgres"])
    broker_url = open_redis(stack, passwords["redis"])
    flower_port, web_port = choose_port(FLOWER_PORT), choose_port(WEB_PORT)
    stack.environment = {
        "IAFLOW_DATABASE_URL": database_url,
        "IAFLOW_BROKER_URL": broker_url,
        "IAFLOW_STEP_MODULES": os.environ.get("IAFLOW_STEP_MODULES", EXAMPLES),
        "IAFLOW_FLOWER_URL": f"http://127.0.0.1:{flower_port}",
        "IAFLOW_PUBLIC_URL": f"http://127.0.0.1:{web_port}",
        "PYTHONPATH": os.pathsep.join(
            [str(ROOT / "pipelines"), *filter(None, [os.environ.get("PYTHONPATH")])]
        ),
    }
    for words in (["db", "upgrade"], ["import", "pipelines"]):
        stack.check()
        call_iaflow(stack, words)
    started = [make_worker(stack, number) for number in range(1, WORKERS + 1)]
    started.append(make_web(stack, web_port))
    started.append(make_flower(stack, flower_port, passwords["flower"]))
    for service in started:
        stack.start(service)
    stack.wait_for(*started)
    write_secret(stack.folder / "env.sh", describe_environment(stack, passwords["flower"]))


# --- what is started


def open_postgres(stack: Stack, password: str) -> str:
    """Start Postgres, or use the one that is given; return the URL of the stack's database."""
    given = os.environ.get(postgres.URL_VARIABLE)
    if given:
        tell(f"postgres: the one of {postgres.URL_VARIABLE}")
        make_database(given)
        return postgres.replace_database(given, DATABASE)
    base = choose_database_folder()
    programs = postgres.copy_wheel(postgres.find_programs(), base)
    tell(f"postgres: {programs.version} from {programs.origin}")
    data, user, log = base / "data", nobody(), stack.folder / "logs" / "postgres.log"
    if not (data / "PG_VERSION").exists():
        initialise(stack, programs, data, password)
    made_by = (data / "PG_VERSION").read_text().strip()
    if made_by != programs.version.partition(".")[0]:
        raise ServerError(
            f"the data of the stack are of Postgres {made_by}, this is {programs.version}:"
            " remove them with ./dev stack --fresh"
        )
    port = choose_port(POSTGRES_PORT)
    settings = {
        **postgres.SETTINGS,
        "max_connections": "100",
        "shared_buffers": "64MB",
        "port": str(port),
    }
    argv = [str(programs.folder / "postgres"), "-D", str(data)]
    for name, value in settings.items():
        argv += ["-c", f"{name}={value}"]
    url = f"postgresql://iaflow:{password}@127.0.0.1:{port}/postgres"
    service = Service(
        name="postgres",
        kind="postgres",
        argv=argv,
        log=log,
        cwd=data,
        environment=postgres.describe_environment(),
        is_ready=lambda _: answers_sql(url),
        where=f"127.0.0.1:{port}",
        # "Fast": sessions are ended, data written.
        stop_signal=signal.SIGINT,
        user=user,
    )
    stack.start(service)
    stack.wait_for(service)
    make_database(url)
    return postgres.replace_database(url, DATABASE)


def initialise(
    stack: Stack, programs: postgres.PostgresPrograms, data: Path, password: str
) -> None:
    user, log = nobody(), stack.folder / "logs" / "initdb.log"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(mode=0o700)
    secret = data.with_name("password")
    write_secret(secret, password)
    if user:
        for path in (data, secret):
            os.chown(path, *user)
    argv: list[str | Path] = [
        programs.folder / "initdb",
        f"--pgdata={data}",
        "--username=iaflow",
        f"--pwfile={secret}",
        *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"),
    ]
    try:
        process = spawn(argv, log=log, cwd=data, user=user, env=postgres.describe_environment())
        stack.guardian.watch(process.pid)
        code = process.wait(timeout=120)
        stack.guardian.forget(process.pid)
    finally:
        secret.unlink()
    if code:
        shutil.rmtree(data, ignore_errors=True)
        raise ServerError(f"initdb ended with {code}; its log ends:\n{read_tail(log)}")


def make_database(url: str) -> None:
    with postgres.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
        if cursor.fetchone() is None:
            cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))


def open_redis(stack: Stack, password: str) -> str:
    """Start Redis, or use the one that is given; return its URL."""
    given = os.environ.get(valkey.URL_VARIABLE)
    if given:
        tell(f"redis: the one of {valkey.URL_VARIABLE}")
        return given
    program = valkey.find_program()
    tell(f"redis: {program.version} from {program.origin}")
    port = choose_port(REDIS_PORT)
    settings = {
        "bind": "127.0.0.1",
        "port": str(port),
        "dir": str(stack.folder),
        # A message is a hint, so nothing is kept on disk; but none may be evicted in silence.
        "save": '""',
        "appendonly": "no",
        "maxmemory-policy": "noeviction",
        "requirepass": password,
        "daemonize": "no",
    }
    # In a file: a command line can be read by everybody on the machine.
    path = stack.folder / "redis.conf"
    write_secret(path, "".join(f"{name} {value}\n" for name, value in settings.items()))
    url = f"redis://:{password}@127.0.0.1:{port}/0"
    service = Service(
        name="redis",
        kind="redis",
        argv=[str(program.path), str(path)],
        log=stack.folder / "logs" / "redis.log",
        cwd=stack.folder,
        environment=dict(os.environ),
        is_ready=lambda _: answers_ping(url),
        where=f"127.0.0.1:{port}",
    )
    stack.start(service)
    stack.wait_for(service)
    return url


def make_worker(stack: Stack, number: int) -> Service:
    taken = {one.where for one in stack.services}
    port = choose_port(METRICS_PORT + number - 1)
    own = {
        "IAFLOW_METRICS_ADDRESS": f"127.0.0.1:{port}",
        "IAFLOW_GRACE_SECONDS": str(GRACE_SECONDS),
    }
    assert own["IAFLOW_METRICS_ADDRESS"] not in taken
    return Service(
        name=f"worker {number}",
        kind="worker",
        argv=[
            *(sys.executable, "-m", "iaflow.cli", "worker", "--"),
            *("--loglevel", "INFO", "--concurrency", str(CHILDREN), "-n", f"stack{number}@%h"),
        ],
        log=stack.folder / "logs" / f"worker{number}.log",
        cwd=ROOT,
        environment={**os.environ, **stack.environment, **own},
        is_ready=lambda service: " ready." in service.read_log(),
        where=f"http://127.0.0.1:{port}/metrics",
    )


def make_web(stack: Stack, port: int) -> Service:
    url = f"http://127.0.0.1:{port}"
    return Service(
        name="web",
        kind="web",
        # Browsers keep the cookie of a sign-in over TLS alone, and here is none.
        argv=[sys.executable, "-m", "iaflow.cli", "web", "--dev", "--port", str(port)],
        log=stack.folder / "logs" / "web.log",
        cwd=ROOT,
        environment={**os.environ, **stack.environment},
        is_ready=lambda _: answers_http(f"{url}/readyz"),
        where=f"{url}/api/v1",
    )


def make_flower(stack: Stack, port: int, password: str) -> Service:
    url = f"http://127.0.0.1:{port}"
    own = {"FLOWER_BASIC_AUTH": f"iaflow:{password}"}
    return Service(
        name="flower",
        kind="flower",
        argv=[sys.executable, "-m", "iaflow.cli", "flower", "--port", str(port)],
        log=stack.folder / "logs" / "flower.log",
        cwd=ROOT,
        environment={**os.environ, **stack.environment, **own},
        is_ready=lambda _: answers_http(f"{url}/healthcheck"),
        where=url,
    )


def call_iaflow(stack: Stack, words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "iaflow.cli", *words],
        cwd=ROOT,
        env={**os.environ, **stack.environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if done.returncode:
        raise ServerError(f"iaflow {' '.join(words)} failed:\n{done.stdout}{done.stderr}")


# --- where things are


def choose_port(usual: int) -> int:
    """Return the usual port if nobody has it, else a free one."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", usual))
        except OSError:
            return find_free_port()
    return usual


def choose_database_folder() -> Path:
    """
    Return the folder for the data of Postgres, which where we are root runs as nobody.

    Below a home that is closed to others it could not reach them.
    """
    user = nobody()
    folder = FOLDER / "postgres"
    folder.mkdir(exist_ok=True, mode=0o711)
    folder.chmod(0o711)
    if user is None or can_pass(folder, user):
        return folder
    apart = Path("/var/tmp") / f"iaflow-stack-{secrets_name(ROOT)}"
    with contextlib.suppress(FileExistsError):
        apart.mkdir(mode=0o711)
    if apart.is_symlink() or apart.stat().st_uid != os.geteuid():
        raise ServerError(f"{apart} is somebody else's: remove it")
    tell(f"  its data are in {apart}, because user nobody cannot reach {FOLDER}")
    return apart


def secrets_name(path: Path) -> str:
    """Return a short name that is the same for a path each time."""
    return f"{abs(int.from_bytes(str(path).encode(), 'big')) % 0xFFFFFFFB:08x}"


def can_pass(folder: Path, user: tuple[int, int]) -> bool:
    tried = subprocess.run(
        ["test", "-x", str(folder)], user=user[0], group=user[1], extra_groups=[], check=False
    )
    return tried.returncode == 0


def remove_data() -> None:
    given = os.environ.get(postgres.URL_VARIABLE)
    if given:
        postgres.drop_databases(given, DATABASE)
    for path in FOLDER.iterdir():
        if path.name == "lock":
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    if os.geteuid() == 0:
        shutil.rmtree(Path("/var/tmp") / f"iaflow-stack-{secrets_name(ROOT)}", ignore_errors=True)


def read_passwords(path: Path) -> dict[str, str]:
    """Return the passwords of this stack, made at its first start: there is no default."""
    if not path.exists():
        names = ("postgres", "redis", "flower")
        write_secret(path, json.dumps({name: secrets.token_urlsafe(24) for name in names}))
    known: dict[str, str] = json.loads(path.read_text())
    return known


def write_secret(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


@contextlib.contextmanager
def hold_lock(path: Path) -> Iterator[bool]:
    """Tell whether this is the only stack of the checkout, and keep it so."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


# --- looking


def answers_sql(url: str) -> bool:
    try:
        with postgres.connect(url):
            return True
    except psycopg2.OperationalError as error:
        if "password authentication failed" in str(error):
            raise ServerError(f"the data of the stack have another password: {error}") from error
        return False


def answers_ping(url: str) -> bool:
    client = redis.Redis.from_url(url, socket_connect_timeout=5, socket_timeout=5)
    try:
        with contextlib.closing(client):
            return bool(client.ping())
    except (redis.ConnectionError, redis.TimeoutError):
        return False


def answers_http(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  a URL of ours
            return bool(answer.status == 200)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def end_family(head: int, members: list[int]) -> None:
    """Kill what is left of a program's processes: it had its time."""
    with contextlib.suppress(OSError):
        os.killpg(head, signal.SIGKILL)
    for pid in filter(is_alive, members):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


# --- telling


def describe(stack: Stack) -> str:
    rows = [("", "where", "pid", "log")]
    rows += [
        (
            one.name,
            one.where,
            str(one.process.pid) if one.process else "",
            str(one.log.relative_to(ROOT)),
        )
        for one in stack.services
    ]
    widths = [max(len(row[place]) for row in rows) for place in range(3)]
    listed = [
        "  "
        + "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=False))
        + f"  {row[3]}"
        for row in rows
    ]
    return "\n".join(
        [
            "",
            "iaflow runs here:",
            *listed,
            "",
            "  The web asks nobody who they are: whoever works on this machine may do everything.",
            f"  Flower asks for a name and a password: they are in {FOLDER.relative_to(ROOT)}/env.sh",
            "  A worker that ends is started again, as is everything else.",
            "",
            "In another terminal, in this folder:",
            '  eval "$(./dev stack --env)"',
            "  ./dev run start hello-world-pipeline-v1 --input name=Ada --wait",
            "  ./dev run runs",
            f"  curl {stack.environment['IAFLOW_PUBLIC_URL']}/api/v1/runs",
            "",
            "Ctrl-C ends all of it. The data stay for the next time.",
        ]
    )


def describe_environment(stack: Stack, flower_password: str) -> str:
    lines = [f"export {name}={shlex.quote(value)}" for name, value in stack.environment.items()]
    lines.append(f"# Flower: {stack.environment['IAFLOW_FLOWER_URL']} iaflow:{flower_password}")
    return "\n".join(lines) + "\n"


def print_environment(*, is_running: bool) -> int:
    path = FOLDER / "env.sh"
    if not is_running:
        return fail("no stack of this checkout runs: ./dev stack")
    for _ in range(int(START_SECONDS / LOOK_SECONDS)):
        if path.exists():
            print(path.read_text(), end="")
            return 0
        threading.Event().wait(LOOK_SECONDS)
    return fail("the stack has not come up yet; see its terminal")


def tell(text: str) -> None:
    with contextlib.suppress(OSError):
        print(text, flush=True)


def fail(text: str) -> int:
    print(f"stack: {text}", file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
