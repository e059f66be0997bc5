"""Pipelines, their versions, and what is found in a definition, as the API tells of them.

Decides which fields are told; never who may see them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Self

from pydantic import Field

from iaflow.data.records import PipelineRecord, VersionRecord
from iaflow.errors import Problem
from iaflow.pipeline.comparing import Difference, DifferenceKind, Subject
from iaflow.web.schemas.base import Body, Instant, Object, Reply

__all__ = [
    "ComparedVersions",
    "DefinitionBody",
    "Findings",
    "Imported",
    "Pipeline",
    "PipelineWithDefinition",
    "ProblemEntry",
    "Version",
    "VersionWithDefinition",
]

DEFINITION = {
    "name": "Greetings",
    "slug": "greetings",
    "steps": [{"id": "ask", "type": "human_input", "config": {"ui_schema": {"title": "Who?"}}}],
    "flow": {"start_at": "ask", "transitions": []},
}


class DefinitionBody(Body):
    """A definition of a pipeline, whole."""

    definition: Object = Field(
        description="The document (docs/definition-reference.md); its numbers are kept as they "
        "are written: 1.0 is not 1.",
        examples=[DEFINITION],
    )


class ProblemEntry(Reply):
    """One finding in a document: what, where, and how to mend it."""

    code: str = Field(examples=["step_unknown"])
    pointer: str = Field(description="A JSON pointer into the document.", examples=["/flow"])
    message: str
    hint: str

    @classmethod
    def list_from(cls, problems: Iterable[Problem]) -> list[Self]:
        """Return the entries of problems."""
        return [cls(**problem.as_json()) for problem in problems]


class Findings(Reply):
    """What the check of a definition found; `ok` if it may be imported."""

    ok: bool
    errors: list[ProblemEntry]
    warnings: list[ProblemEntry]


class Pipeline(Reply):
    """A pipeline, with the version that starts run."""

    slug: str = Field(examples=["invoice-approval-v1"])
    name: str
    description: str
    version: str = Field(description="What the definition says of its version.")
    number: int = Field(description="Which import it is, from 1.", examples=[3])
    content_hash: str = Field(description="SHA-256 of the definition: the version's identity.")
    is_paused: bool = Field(description="Nothing starts it while it is.")
    created_at: Instant
    updated_at: Instant

    @classmethod
    def from_record(cls, record: PipelineRecord) -> Self:
        """Return what is told of a pipeline."""
        return cls(**_of_pipeline(record))


class PipelineWithDefinition(Pipeline):
    """A pipeline, with its current definition."""

    definition: Object

    @classmethod
    def from_record(cls, record: PipelineRecord) -> Self:
        """Return what is told of a pipeline, its definition too."""
        return cls(**_of_pipeline(record), definition=json.loads(record.document))


class Version(Reply):
    """A version of a pipeline: it never changes."""

    slug: str
    number: int = Field(examples=[3])
    version: str
    name: str
    content_hash: str
    created_at: Instant

    @classmethod
    def from_record(cls, record: VersionRecord) -> Self:
        """Return what is told of a version."""
        return cls(**_of_version(record))


class VersionWithDefinition(Version):
    """A version of a pipeline, with its definition."""

    definition: Object

    @classmethod
    def from_record(cls, record: VersionRecord) -> Self:
        """Return what is told of a version, its definition too."""
        return cls(**_of_version(record), definition=json.loads(record.document))


class Imported(Reply):
    """What became of a definition that was sent."""

    is_new: bool = Field(description="False: its text is that of the current version.")
    pipeline: Pipeline
    warnings: list[ProblemEntry]


class DifferenceEntry(Reply):
    """One difference by meaning: layout and the order of keys are none."""

    kind: DifferenceKind
    subject: Subject
    name: str = Field(description="The step's id, or from where to where a transition leads.")
    pointer: str = Field(description="In the newer document; in the older one if it was removed.")
    before: Any = Field(default=None, description="Null if it was added.")
    after: Any = Field(default=None, description="Null if it was removed.")


class ComparedVersions(Reply):
    """What another version of a pipeline has that one has not."""

    slug: str
    from_number: int
    to_number: int
    differences: list[DifferenceEntry]

    @classmethod
    def from_differences(
        cls, slug: str, from_number: int, to_number: int, found: Iterable[Difference]
    ) -> Self:
        """Return what is told of differences."""
        return cls(
            slug=slug,
            from_number=from_number,
            to_number=to_number,
            differences=[
                DifferenceEntry(
                    kind=one.kind,
                    subject=one.subject,
                    name=one.name,
                    pointer=one.pointer,
                    before=one.before,
                    after=one.after,
                )
                for one in found
            ],
        )


def _of_pipeline(record: PipelineRecord) -> dict[str, Any]:
    return {
        "slug": record.slug,
        "name": record.name,
        "description": record.description,
        "version": record.version,
        "number": record.number,
        "content_hash": record.content_hash,
        "is_paused": record.is_paused,
        "created_at": record.created_at,
        "updated_at": record.updated_at,
    }


def _of_version(record: VersionRecord) -> dict[str, Any]:
    return {
        "slug": record.slug,
        "number": record.number,
        "version": record.version,
        "name": record.name,
        "content_hash": record.content_hash,
        "created_at": record.created_at,
    }
