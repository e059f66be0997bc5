"""Services: found by name, built late, closed once."""

from __future__ import annotations

import asyncio

import pytest

from iaflow.pipeline.services import ServiceMissing, ServiceRegistry
from iaflow.pipeline.step import Step


class Resource:
    def __init__(self) -> None:
        self.closed = 0

    async def aclose(self) -> None:
        self.closed += 1


def test_a_missing_service_is_named_with_those_that_there_are() -> None:
    with pytest.raises(ServiceMissing, match=r"no service 'mail'.*registered: db, http"):
        ServiceRegistry(db=1, http=2).get("mail")


def test_a_service_is_built_once_and_closed_once() -> None:
    built: list[Resource] = []
    registry = ServiceRegistry()
    registry.provide("http", lambda: built.append(Resource()) or built[-1])
    assert "http" in registry
    assert registry.get("http") is registry.get("http")
    asyncio.run(registry.close())
    asyncio.run(registry.close())
    assert [resource.closed for resource in built] == [1]
    registry.get("http")
    assert len(built) == 2


def test_what_the_caller_registered_is_the_callers_to_close() -> None:
    resource = Resource()
    registry = ServiceRegistry(http=resource)
    asyncio.run(registry.close())
    assert resource.closed == 0
    assert registry.get("http") is resource


def test_a_step_reaches_services_by_name_and_by_default() -> None:
    step = Step({"a": 1}, ServiceRegistry(db="db", http="http", other="other"))
    assert (step.get_db(), step.get_http(), step.get_service("other")) == ("db", "http", "other")
    assert step.get_service("nothing", default=None) is None
    with pytest.raises(ServiceMissing):
        step.get_service("nothing")
