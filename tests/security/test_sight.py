"""Which pipelines somebody sees: the same in Python and in the SQL of either dialect."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from iaflow.data.accounts import EVERYTHING, PATTERN, Sight
from iaflow.database.dialects import Database
from tests.servers import ServerRoom

SLUGS = st.from_regex(r"[ab0][ab_0-]{0,4}", fullmatch=True)
PATTERNS = st.one_of(SLUGS, SLUGS.map(lambda slug: slug + "*"), st.just("*"))
SIGHTS = st.lists(PATTERNS, max_size=4).map(lambda some: Sight(tuple(some)))
# As a statement asks, with the escape that `as_likes` names.
IS_LIKE = sa.text(r"SELECT CAST(:slug AS TEXT) LIKE CAST(:pattern AS TEXT) ESCAPE '\'")


@pytest.fixture(scope="module")
def databases(server_room: ServerRoom, postgres_template: str) -> Iterator[list[Database]]:
    """One of each dialect."""
    url = server_room.create_database(postgres_template)
    opened = [Database("sqlite://"), Database(url)]
    yield opened
    for database in opened:
        database.close()
    server_room.postgres.drop_database(url)


@given(sight=SIGHTS, slug=SLUGS)
def test_what_is_seen_is_what_like_finds(
    databases: list[Database], sight: Sight, slug: str
) -> None:
    patterns = json.loads(sight.as_likes() or "")
    for database in databases:
        with database.engine.connect() as connection:
            found = [
                connection.execute(IS_LIKE, {"slug": slug, "pattern": pattern}).scalar_one()
                for pattern in patterns
            ]
        assert any(found) is sight.sees(slug), database.dialect


@given(PATTERNS)
def test_what_is_tried_is_what_may_be_given(pattern: str) -> None:
    assert PATTERN.fullmatch(pattern)


def test_everything_and_nothing() -> None:
    assert (EVERYTHING.as_likes(), EVERYTHING.sees("anything")) == (None, True)
    assert (Sight(()).as_likes(), Sight(()).sees("anything")) == ("[]", False)
    # A sign that stands for any letter in SQL stands for itself in a slug.
    assert [Sight(("a_b",)).sees(slug) for slug in ("a_b", "axb")] == [True, False]
