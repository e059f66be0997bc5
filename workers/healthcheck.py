"""Tell a supervisor whether this worker answers: ``python -m workers.healthcheck``.

Decides healthy or not by asking this host's workers over the broker; never mends anything.
Called by docker-compose.yml and by other supervisors.
"""

from __future__ import annotations

import socket
import sys

from iaflow.pipeline.executors.celery import make_app
from iaflow.settings import load_settings

__all__ = ["main"]

ANSWER_SECONDS = 5.0


def main() -> int:
    """Return 0 if a worker of this host answers a ping, else 1 with a sentence on stderr."""
    here = socket.gethostname()
    # Not this deployment's own app: asking needs none of the services that it builds.
    control = make_app(load_settings()).control
    try:
        # Of all workers only those of this host answer, and the first answer is enough.
        answers = control.ping(timeout=ANSWER_SECONDS, limit=1, pattern=f"*@{here}", matcher="glob")
    except Exception as error:  # noqa: BLE001  every transport has errors of its own
        sys.stderr.write(f"the broker cannot be asked: {error}\n")
        return 1
    if answers:
        return 0
    sys.stderr.write(f"no worker of host {here} answered within {ANSWER_SECONDS:.0f} s\n")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
