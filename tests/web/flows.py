"""The definitions that the tests of runs over HTTP start, by what they are good for."""

from __future__ import annotations

from typing import Any

from tests.integration.houses import child, document, each, question


def make_line(slug: str = "house") -> dict[str, Any]:
    """first → big, if its number is big; else small; the data of `first` is its parameter."""
    return document(
        {
            "first": {"inputs": {"n": "{{ parameters.n }}"}},
            "big": {},
            "small": {},
        },
        [
            ("first", "big", {"condition": "result.n > 10"}),
            ("first", "small", {"condition": "result.n <= 10"}),
        ],
        name=slug,
        parameters={"n": 1},
    )


def make_question(slug: str = "house", **config: Any) -> dict[str, Any]:
    """Ask somebody, then go on."""
    return document({"ask": question(**config), "after": {}}, [("ask", "after")], name=slug)


def make_failing(slug: str = "house", **config: Any) -> dict[str, Any]:
    """A step that fails, with a secret of its own in the error."""
    return document(
        {"good": {}, "bad": {"config": {"fail": 99, **config}}}, [("good", "bad")], name=slug
    )


def make_items(slug: str = "house") -> dict[str, Any]:
    """A step for each item, one of which fails."""
    return document(
        {"each": each("{{ parameters.items }}", tolerated_failures=5)},
        name=slug,
        parameters={"items": []},
    )


def make_parent(slug: str, below: str) -> dict[str, Any]:
    """A run of another pipeline, which is waited for."""
    return document({"below": child(below)}, name=slug)


def make_event(slug: str = "house") -> dict[str, Any]:
    """Wait for a signal, then go on."""
    return document(
        {"paid": {"type": "event", "config": {"name": "payment"}}, "after": {}},
        [("paid", "after")],
        name=slug,
    )


def make_hanging(slug: str = "house") -> dict[str, Any]:
    """A step that hangs beside one that does not."""
    return document(
        {"start": {}, "hangs": {"class": "Hangs"}, "quick": {}},
        [("start", "hangs"), ("start", "quick")],
        name=slug,
    )
