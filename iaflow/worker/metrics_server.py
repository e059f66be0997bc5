"""A worker's page for Prometheus: what its processes counted, and figures from the database.

Decides where counts are kept and who answers a scrape; never stops a worker from working. Started
and stopped by the head of a worker, which never executes a step in a thread of this.
"""

from __future__ import annotations

import fcntl
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Final

from iaflow.database.dialects import Database
from iaflow.database.run_store.gauges import GaugeStore
from iaflow.metrics import (
    Gauge,
    begin_counting,
    end_counting,
    fold_ended_processes,
    render_counts,
    render_gauges,
)
from iaflow.pipeline.runner import open_database
from iaflow.settings import Settings
from iaflow.telemetry import get_logger

__all__ = ["MetricsServer", "start_metrics"]

_log = get_logger(__name__)

PREFIX: Final = "iaflow-metrics-"
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
CLIENT_SECONDS: Final = 5.0
"""A client that says nothing for so long is hung up on: there is one thread for all."""
LOOK_SECONDS: Final = 0.3
"""Seconds between two looks whether to stop."""
BIND_SECONDS: Final = 2.0
"""Pause between two tries to listen, while another process has the port."""
SHARE: Final = 10
"""Figures are read at most a tenth of the time, however often somebody scrapes."""


def start_metrics(
    settings: Settings, open_database: Callable[[Settings], Database] = open_database
) -> MetricsServer | None:
    """
    Count from now on and serve what is counted on `metrics_address`; None if it is not set.

    To be called in the head of a worker, before its children are forked, and never in a child.
    It never fails because of the address: while another process has the port, it is tried again
    and said in the log, for a worker that replaces another one must work meanwhile.

    Args:
        open_database: opens what the figures are read from, at the first scrape, in the thread
            that answers; by default that of the settings, which must be up to date.
    """
    if settings.metrics_address is None:
        return None
    return MetricsServer(settings, open_database)


class MetricsServer:
    """One thread that answers `GET /metrics`, and the folder where the counts are; see above."""

    def __init__(self, settings: Settings, open_database: Callable[[Settings], Database]) -> None:
        host, _, port = str(settings.metrics_address).rpartition(":")
        self._address = (host.strip("[]"), int(port))
        self._figures = _Figures(settings, open_database)
        _remove_left_folders()
        self._folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        # Held by this process and its children: a folder that nobody holds was left behind.
        self._hold = (self._folder / "held").open("w")
        fcntl.flock(self._hold, fcntl.LOCK_EX)
        begin_counting(self._folder)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="iaflow-metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Answer no more and remove the counts; to be called once the children have ended."""
        self._stopping.set()
        self._thread.join(timeout=CLIENT_SECONDS + 1)
        end_counting()
        self._hold.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def render(self) -> str:
        """Return the page: counts of all processes of this worker, then the figures."""
        fold_ended_processes(self._folder)
        return render_counts(self._folder) + render_gauges(self._figures.read())

    def _serve(self) -> None:
        server = self._listen()
        if server is None:
            return
        with server:
            _log.info("metrics are served", address="{}:{}".format(*server.server_address[:2]))
            server.timeout = LOOK_SECONDS
            while not self._stopping.is_set():
                server.handle_request()
        self._figures.close()

    def _listen(self) -> _Server | None:
        is_told = False
        while not self._stopping.is_set():
            try:
                return _Server(self._address, self.render)
            except OSError as error:
                if not is_told:
                    shown = "{}:{}".format(*self._address)
                    _log.warning("metrics are not served yet", address=shown, error=str(error))
                    is_told = True
            self._stopping.wait(BIND_SECONDS)
        return None


class _Figures:
    """The figures of the database; read by one thread alone."""

    def __init__(self, settings: Settings, open_database: Callable[[Settings], Database]) -> None:
        self._settings = settings
        self._open = open_database
        self._database: Database | None = None
        self._read: list[Gauge] = []
        self._fresh_until = 0.0

    def read(self) -> list[Gauge]:
        if time.monotonic() < self._fresh_until:
            return self._read
        began = time.monotonic()
        try:
            if self._database is None:
                self._database = self._open(self._settings)
            self._read = GaugeStore(self._database, self._settings.queues).read()
        except Exception as error:  # noqa: BLE001  what was counted is worth showing all the same
            _log.warning("figures cannot be read", error=str(error))
            self._read = []
        reachable = Gauge(
            "iaflow_database_reachable",
            "1 if the figures could be read from the database.",
            {"": float(bool(self._read))},
        )
        self._read = [*self._read, reachable]
        took = time.monotonic() - began
        self._fresh_until = began + SHARE * took
        return self._read

    def close(self) -> None:
        if self._database is not None:
            self._database.close()


class _Server(HTTPServer):
    def __init__(self, address: tuple[str, int], render: Callable[[], str]) -> None:
        self.render = render
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # The library's own looks up this machine's name, which may take as long as it likes.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]


class _Handler(BaseHTTPRequestHandler):
    timeout = CLIENT_SECONDS
    server_version = "iaflow"
    sys_version = ""
    server: _Server

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404)
            return
        try:
            body = self.server.render().encode()
        except Exception as error:  # noqa: BLE001  the next scrape is answered again
            _log.warning("metrics cannot be shown", error=repr(error))
            self.send_error(500)
            return
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a scrape is no event."""


def _remove_left_folders() -> None:
    """Remove the counts of workers that were killed: nobody holds them any more."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            with (folder / "held").open("r+") as hold:
                fcntl.flock(hold, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue
