"""The types of columns, as either dialect has them.

Decides how ids, instants and JSON are kept; nothing else. Used by the tables.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, DateTime, Integer, String, Text
from sqlalchemy.dialects import postgresql

__all__ = ["BIG", "INSTANT", "JSON_TEXT", "UUID"]

# Ids are uuid7, so new rows go to the right end of every index. SQLite has text for both;
# instants there are ISO 8601 in UTC of one width, so that their order is the order of time.
UUID = String(36).with_variant(postgresql.UUID(as_uuid=False), "postgresql")
INSTANT = String(32).with_variant(DateTime(timezone=True), "postgresql")
# `json`, not `jsonb`, which rewrites numbers and the order of keys.
JSON_TEXT = Text().with_variant(postgresql.JSON(), "postgresql")
BIG = BigInteger().with_variant(Integer(), "sqlite")
