"""Tell a supervisor whether this worker answers: ``python -m workers.healthcheck``.

Decides healthy or not by asking this host's workers over the broker; never mends anything.
Called by docker-compose.yml and by other supervisors.
"""

from __future__ import annotations

import socket
import sys

from workers.app import app

__all__ = ["main"]

ANSWER_SECONDS = 5.0


def main() -> int:
    """Return 0 if a worker of this host answers a ping, else 1 with a sentence on stderr."""
    here = socket.gethostname()
    replies = app.control.ping(timeout=ANSWER_SECONDS)
    names = [name for reply in replies for name in reply if name.endswith(f"@{here}")]
    if names:
        return 0
    sys.stderr.write(f"no worker of host {here} answered within {ANSWER_SECONDS:.0f} s\n")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
