"""docker-compose.yml, held to what the product needs; by docker itself where it is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rich_click as click
import yaml

from iaflow.cli import root
from iaflow.settings import Settings
from tests.servers.fixtures import StartWorker
from tests.servers.worker import ROOT

TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, Any] = COMPOSE["services"]
EXAMPLE = (ROOT / ".env.example").read_text()
DOCKERFILE = (ROOT / "workers" / "Dockerfile").read_text()
SECRETS = {"POSTGRES_PASSWORD", "REDIS_PASSWORD", "FLOWER_BASIC_AUTH", "IAFLOW_SECRET_KEY"}
# `${NAME:?why}`, `${NAME:-default}`
VARIABLE = re.compile(r"\$\{(\w+)(:[?-])([^}]*)\}")


def seconds(words: str) -> float:
    found = re.fullmatch(r"(\d+)s", words)
    assert found is not None, words
    return float(found[1])


def strings(value: Any) -> Iterator[str]:
    match value:
        case dict():
            for one in value.values():
                yield from strings(one)
        case list():
            for one in value:
                yield from strings(one)
        case str():
            yield value


def is_one_shot(service: dict[str, Any]) -> bool:
    return service.get("restart") == "no"


def test_docker_reads_it() -> None:
    """Where docker compose is installed; where it is not, the other tests of this file stand for it."""
    docker = shutil.which("docker")
    known = docker and subprocess.run(
        [docker, "compose", "version"], capture_output=True, check=False
    )
    if not docker or not known or known.returncode:
        assert set(SERVICES) == {"postgres", "redis", "schema", "worker", "web", "flower"}
        return
    given = {**os.environ, **dict.fromkeys(SECRETS, "a:b")}
    argv = [docker, "compose", "--project-directory", str(ROOT), "config", "--quiet"]
    subprocess.run(argv, cwd=ROOT, env=given, check=True)
    bare = {name: value for name, value in os.environ.items() if name not in SECRETS}
    argv[2:2] = ["--env-file", "/dev/null"]
    refused = subprocess.run(argv, cwd=ROOT, env=bare, capture_output=True, check=False)
    assert refused.returncode != 0


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_a_health_check_or_ends(name: str) -> None:
    service = SERVICES[name]
    if is_one_shot(service):
        return
    check = service["healthcheck"]
    assert check["test"][0] in ("CMD", "CMD-SHELL")
    assert seconds(check["timeout"]) <= seconds(check["interval"])
    assert service["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_given_little(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert set(service.get("cap_add", ())) <= {
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "SETGID",
        "SETUID",
    }
    assert "no-new-privileges:true" in service["security_opt"]
    assert "/tmp" in service["tmpfs"]
    assert service["logging"]["options"]["max-size"]
    assert "privileged" not in service
    if service["image"] == "iaflow-worker":
        assert "cap_add" not in service


def test_there_is_no_default_secret() -> None:
    used: dict[str, set[str]] = {}
    for text in strings(SERVICES):
        assert "$" not in VARIABLE.sub("", text), text
        for name, kind, _ in VARIABLE.findall(text):
            used.setdefault(name, set()).add(kind)
    assert {name for name, kinds in used.items() if kinds == {":?"}} == SECRETS
    assert all(kinds == {":-"} for name, kinds in used.items() if name not in SECRETS)
    for name, service in SERVICES.items():
        for key, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|AUTH|_KEY$", key):
                assert VARIABLE.fullmatch(str(value)), f"{name}: {key}"


def test_every_variable_stands_in_the_example() -> None:
    listed = dict(re.findall(r"^(\w+)=(.*)$", EXAMPLE, re.M))
    named = {found[0]: found[2] for found in VARIABLE.findall(TEXT.replace("\n#", "\n"))}
    assert listed.keys() == named.keys()
    for name, value in listed.items():
        # What is a secret is empty; the rest is what holds without it.
        assert value == ("" if name in SECRETS else named[name]), name


def test_every_setting_is_one_and_is_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {
        "IAFLOW_SCHEMA" if name == "schema_name" else f"IAFLOW_{name.upper()}"
        for name in Settings.model_fields
    }
    for name in ("schema", "worker", "web", "flower"):
        environment = SERVICES[name]["environment"]
        ours = {key for key in environment if key.startswith("IAFLOW_")}
        assert ours <= known
        for key in ours:
            monkeypatch.setenv(key, fill_in(str(environment[key])))
        settings = Settings()
        assert settings.database_url == "postgresql://iaflow:secret@postgres:5432/iaflow"
        assert settings.broker_url == "redis://:secret@redis:6379/0"


def fill_in(text: str) -> str:
    return VARIABLE.sub(lambda found: found[3] if found[2] == ":-" else "secret", text)


def test_a_worker_has_time_to_leave() -> None:
    worker = SERVICES["worker"]
    grace = float(worker["environment"]["IAFLOW_GRACE_SECONDS"])
    assert seconds(worker["stop_grace_period"]) >= grace + 5
    assert "container_name" not in worker, "it could not be scaled"
    assert "ports" not in worker, "it could not be scaled"


def test_redis_drops_nothing_and_keeps_nothing() -> None:
    command = SERVICES["redis"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--maxmemory-policy"] == "noeviction"
    assert options["--save"] == ""
    assert VARIABLE.fullmatch(options["--requirepass"])


def test_ports_are_open_to_this_machine_alone() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert published == ["127.0.0.1:8000:8000", "127.0.0.1:5555:5555"]
    assert not any("network_mode" in service for service in SERVICES.values())


def test_one_waits_for_another_that_can_be_waited_for() -> None:
    for name, service in SERVICES.items():
        for other, rule in service.get("depends_on", {}).items():
            if is_one_shot(SERVICES[other]):
                assert rule["condition"] == "service_completed_successfully", name
            else:
                assert rule["condition"] == "service_healthy", name
    assert "schema" in SERVICES["worker"]["depends_on"]
    assert "schema" in SERVICES["web"]["depends_on"]
    assert "postgres" in SERVICES["schema"]["depends_on"]


@pytest.mark.parametrize("name", ("schema", "worker", "web", "flower"))
def test_a_command_names_a_program_that_is_there(name: str) -> None:
    program, *words = SERVICES[name]["command"]
    assert program == "iaflow"
    command: click.Command = root
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    words = words[: words.index("--")] if "--" in words else words
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known
    line = re.search(r"^CMD (.*)$", DOCKERFILE, re.M)
    assert line is not None
    assert '["iaflow", "worker"' in line[1]


def test_images_are_pinned_to_a_version_and_the_build_finds_its_files() -> None:
    for service in SERVICES.values():
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).is_file()
        else:
            assert re.fullmatch(r"[a-z]+:\d+", service["image"])
    assert re.search(r"^FROM python:3\.\d+-slim$", DOCKERFILE, re.M)
    copied = re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.M)
    assert all((ROOT / source).exists() for sources in copied for source in sources.split())
    # What runs in it is nobody's root.
    assert DOCKERFILE.index("USER iaflow") < DOCKERFILE.index("CMD")


def test_a_worker_that_answers_is_healthy(
    start_worker: StartWorker, postgres_url: str, redis_url: str, tmp_path: Path
) -> None:
    def check(broker: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "workers.healthcheck"],
            cwd=ROOT,
            env={**os.environ, "IAFLOW_DATABASE_URL": postgres_url, "IAFLOW_BROKER_URL": broker},
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )

    worker = start_worker(database_url=postgres_url, redis_url=redis_url)
    assert check(redis_url).returncode == 0
    worker.kill()
    sick = check(redis_url)
    assert (sick.returncode, "no worker of host" in sick.stderr) == (1, True)
    away = check("redis://127.0.0.1:1/0")
    assert (away.returncode, "cannot be asked" in away.stderr) == (1, True)
