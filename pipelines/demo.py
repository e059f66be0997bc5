"""Shows the main things in a minute: `./dev demo`.

Runs the three example pipelines in a folder of its own, the last one over several processes;
decides nothing and imports only what users import. Called by people.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx2

from iaflow.pipeline.runner import run_pipeline_from_json
from iaflow.pipeline.services import ServiceRegistry

HERE = Path(__file__).resolve().parent
TOPIC = "Tide mill of Saltmere"
LARGE_INVOICE = {
    "invoice_number": "INV-2002",
    "vendor": "Steel & Sons",
    "amount": 4800,
    "lines": [{"description": "Shelf", "quantity": 8, "unit_price": 600}],
}


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="iaflow-demo-"))
    print(f"Everything that this demo makes is in {folder}")
    asyncio.run(show_hello_world(folder))
    with serve_pages(HERE / "pages") as address:
        asyncio.run(show_notebook(address, folder))
    show_invoice(folder)
    print(f"\nDone. The graph, the notebook and the database are in {folder}")


async def show_hello_world(folder: Path) -> None:
    say("1. Hello, world: two steps, one template")
    outputs = await run_pipeline_from_json(
        pipeline_file=HERE / "hello_world.json",
        input_data={"name": "Developer"},
        database_url=database_of(folder),
    )
    print(f"outputs: {outputs}")


async def show_notebook(address: str, folder: Path) -> None:
    say("2. An article becomes a notebook: an HTTP service, a file")
    async with httpx2.AsyncClient(timeout=10) as http:
        outputs = await run_pipeline_from_json(
            pipeline_file=HERE / "ai_notebook_creation_pipeline.json",
            input_data={"topic": TOPIC},
            services=ServiceRegistry(
                http=http, wikipedia_url=address, notebook_dir=str(folder / "notebooks")
            ),
            database_url=database_of(folder),
        )
    content = outputs["structured_content"]
    print(f"title:      {content['title']}")
    for part, count in content["counts"].items():
        print(f"{part + ':':<11} {count}")
    print(f"notebook:   {content['notebook']}")


def show_invoice(folder: Path) -> None:
    say("3. An invoice waits for a person, and goes on in another process")
    definition = HERE / "invoice_approval.json"
    run_command = partial(call_iaflow, folder)
    # A value is read as JSON where it is JSON, else as text.
    given = [f"--input={name}={as_text(value)}" for name, value in LARGE_INVOICE.items()]
    started = json.loads(run_command("run", str(definition), *given, "--json", expect=4))
    run_id = started["run_id"]
    print(f"run {run_id} is {started['status']}")

    pause = next(p for p in json.loads(run_command("inbox", "--json")) if p["run_id"] == run_id)
    print("what the person sees:")
    for name, value in pause["shown"].items():
        print(f"  {name + ':':<9} {value}")
    print(f"and is asked: {pause['ui_schema']['title']}")
    for field in pause["ui_schema"]["fields"]:
        print(f"  {field['label']}: {' or '.join(field.get('options', ['(free text)']))}")

    say("   The answer: approve")
    run_command(
        "answer", pause["pause_id"], "--set", "decision=Approve", "--set", "notes=Needed in May."
    )
    ended = json.loads(run_command("show", run_id, "--json"))
    print(f"run {run_id} is {ended['status']}, outputs: {ended['outputs']}")
    for step in ended["steps"]:
        print(f"  {step['step_id']:<17} {step['status']}")

    say("   Why did nobody inform the vendor of a rejection?")
    print(run_command("why", run_id, "inform_vendor").rstrip())
    run_command("graph", run_id, "-o", str(folder / "invoice.svg"))
    print(f"\nthe run as a picture: {folder / 'invoice.svg'}")


def database_of(folder: Path) -> str:
    return f"sqlite:///{folder / 'iaflow.db'}"


def say(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}", flush=True)


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def call_iaflow(folder: Path, *arguments: str, expect: int = 0) -> str:
    """Run the command line in a process of its own and return what it prints."""
    command = [str(Path(sys.executable).with_name("iaflow")), *arguments]
    done = subprocess.run(
        command,
        cwd=HERE,  # where the modules of the steps are
        env={**os.environ, "IAFLOW_DATABASE_URL": database_of(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode != expect:
        words = " ".join(arguments)
        sys.exit(f"`iaflow {words}` ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


@contextmanager
def serve_pages(folder: Path) -> Iterator[str]:
    """Serve a folder on a free port of this machine; yield the address that names go after."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(PageHandler, directory=str(folder)))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class PageHandler(SimpleHTTPRequestHandler):
    """Serves `name.html` under `name`, as wikis do, and says nothing about it."""

    def translate_path(self, path: str) -> str:
        return super().translate_path(path) + ".html"

    def log_message(self, format: str, *args: Any) -> None:
        pass


if __name__ == "__main__":
    main()
