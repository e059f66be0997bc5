"""What the steps of this deployment are given.

Decides which services there are and how they are built; never what steps do with them.
Called once in every worker process, on first use.
"""

from __future__ import annotations

from iaflow.pipeline.runner import build_services
from iaflow.pipeline.services import ServiceRegistry
from iaflow.settings import Settings

__all__ = ["make_services"]


def make_services(settings: Settings) -> ServiceRegistry:
    """
    Return the services of a worker process: those of ``IAFLOW_SERVICES``, and an HTTP client.

    Add your own here with `registry.provide(name, factory)`: a factory is called on the
    worker, never before a fork.
    """
    return build_services(settings)
