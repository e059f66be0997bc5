"""The Celery application of this deployment: ``celery -A workers.app worker``.

Decides which services and which configuration its workers have; never more. Called by
Celery, and by the producers that share it.
"""

from __future__ import annotations

import celeryconfig
from iaflow.worker.app import create_app
from workers.services import make_services

app = create_app(
    services=make_services,
    configuration={
        name: getattr(celeryconfig, name) for name in dir(celeryconfig) if name.islower()
    },
)
