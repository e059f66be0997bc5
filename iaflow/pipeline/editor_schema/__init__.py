"""The language as a JSON Schema, so that an editor completes keys and underlines mistakes.

Decides what can be said of a document without knowing what it means, and is never stricter than
the language; never judges a document. Called by the command line.
"""

from iaflow.pipeline.editor_schema.document import definition_schema

__all__ = ["definition_schema"]
