"""Pipelines and their versions, as people look through them, and letting a pipeline rest.

Decides what a request for a definition that is out of sight gets: the same as for none. Part of
the client.
"""

from __future__ import annotations

import difflib
import json

from iaflow.client.core import ClientCore
from iaflow.data.accounts import EVERYTHING, Sight
from iaflow.data.records import PipelineRecord, RunRecord, VersionRecord
from iaflow.database.pipeline_store import MOST_VERSIONS
from iaflow.errors import NotFound
from iaflow.pipeline.comparing import Difference, compare_definitions
from iaflow.pipeline.core import is_storable
from iaflow.pipeline.definition import Definition
from iaflow.pipeline.graph import Graph

__all__ = ["DefinitionRequests"]


class DefinitionRequests(ClientCore):
    """What is asked about definitions."""

    def save(self, graph: Graph) -> None:
        """Keep the version of a definition, without making it the one its slug runs."""
        self._engine.keep_version(graph)

    def publish(self, definition: Definition) -> bool:
        """
        Make a definition that was found legal the one that its slug runs; True if it was not.

        Runs that have begun keep their version, and a pause of the pipeline stays.
        """
        return self._engine.pipelines.publish(
            content_hash=definition.content_hash,
            slug=definition.slug,
            version=definition.version,
            name=definition.name,
            description=definition.description,
            document=definition.text,
            now=self._engine.clock.now(),
        )

    def graph(self, slug: str, *, sight: Sight = EVERYTHING) -> Graph:
        """Return the compiled current definition of a pipeline; raises NotFound."""
        return self._engine.library.graph(self.pipeline(slug, sight=sight).content_hash)

    def pipelines(self, *, sight: Sight = EVERYTHING) -> list[PipelineRecord]:
        """Return the imported pipelines that are seen, by slug."""
        return self._engine.pipelines.list_pipelines(sight)

    def pipeline(self, slug: str, *, sight: Sight = EVERYTHING) -> PipelineRecord:
        """
        Return an imported pipeline with its current version.

        Raises:
            NotFound: naming the nearest slugs of those that are seen.
        """
        found = self._engine.pipelines.find(slug, sight) if is_storable(slug) else None
        if found is None:
            raise self._no_pipeline(slug, sight)
        return found

    def versions(
        self, slug: str, *, sight: Sight = EVERYTHING, before: int | None = None, limit: int = 50
    ) -> list[VersionRecord]:
        """
        Return the versions of a pipeline, the newest first.

        Args:
            before: the number of a version; only older ones are returned, which makes a next page.

        Raises:
            NotFound: nothing of that slug was ever kept, or it is out of sight.
        """
        found: list[VersionRecord] = []
        if is_storable(slug):
            last = MOST_VERSIONS if before is None else max(0, min(before, MOST_VERSIONS))
            found = self._engine.pipelines.list_versions(slug, sight, before=last, limit=limit)
        if not found and (before is None or not self._is_known(slug, sight)):
            raise self._no_pipeline(slug, sight)
        return found

    def version(self, slug: str, number: int, *, sight: Sight = EVERYTHING) -> VersionRecord:
        """
        Return one version of a pipeline.

        Raises:
            NotFound: there is no such pipeline or version, or it is out of sight.
        """
        found = None
        if is_storable(slug) and 0 < number <= MOST_VERSIONS:
            found = self._engine.pipelines.find_version(slug, number, sight)
        if found is None:
            if not self._is_known(slug, sight):
                raise self._no_pipeline(slug, sight)
            raise NotFound(f"pipeline {slug!r} has no version {number}")
        return found

    def version_of(self, run: RunRecord) -> tuple[int, str]:
        """
        Return the number of the version that a run is pinned to, and what that calls itself.

        Raises:
            NotFound: the run is gone, and its version with it.
        """
        found = self._engine.pipelines.find_label(run.content_hash)
        if found is None:
            raise NotFound(f"there is no run {run.run_id}")
        return found

    def compare_versions(
        self, slug: str, from_number: int, to_number: int, *, sight: Sight = EVERYTHING
    ) -> list[Difference]:
        """
        Return what another version of a pipeline has that one has not, by meaning.

        Raises:
            NotFound: there is no such pipeline or version, or it is out of sight.
        """
        older, newer = (self.version(slug, one, sight=sight) for one in (from_number, to_number))
        return compare_definitions(json.loads(older.document), json.loads(newer.document))

    def pause_pipeline(self, slug: str, *, sight: Sight = EVERYTHING) -> PipelineRecord:
        """
        Let a pipeline rest: nothing starts it any more; what has begun goes on to its end.

        Child runs of runs that have begun, retries and reruns belong to what has begun. An import
        keeps the pause.

        Raises:
            NotFound: there is no such pipeline.
        """
        return self._set_paused(slug, sight, is_paused=True)

    def resume_pipeline(self, slug: str, *, sight: Sight = EVERYTHING) -> PipelineRecord:
        """Let a paused pipeline be started again; raises NotFound."""
        return self._set_paused(slug, sight, is_paused=False)

    def graph_of(self, run_id: str) -> Graph:
        """Return the compiled definition that a run is pinned to."""
        graph = self._engine.graph_of(run_id)
        if graph is None:
            raise NotFound(f"there is no run {run_id}")
        return graph

    def _set_paused(self, slug: str, sight: Sight, *, is_paused: bool) -> PipelineRecord:
        # It knows which slugs are near, and what is out of sight.
        self.pipeline(slug, sight=sight)
        now = self._engine.clock.now()
        self._engine.pipelines.set_paused(slug, is_paused=is_paused, now=now)
        return self.pipeline(slug, sight=sight)

    def _is_known(self, slug: str, sight: Sight) -> bool:
        if not is_storable(slug):
            return False
        store = self._engine.pipelines
        return bool(store.list_versions(slug, sight, limit=1))

    def _no_pipeline(self, slug: str, sight: Sight) -> NotFound:
        known = [pipeline.slug for pipeline in self.pipelines(sight=sight)]
        near = difflib.get_close_matches(slug, known, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        return NotFound(f"there is no pipeline {slug!r}{hint}")
