"""Draws a definition's graph, and a run's progress on it, as SVG, Mermaid or DOT text.

Decides how steps and transitions look; never reads a run, a file or a clock, and gives the same
text for the same graph. Called by the command line, the web pages and the docs.
"""

from __future__ import annotations

from iaflow.pipeline.drawing.dot import draw_dot
from iaflow.pipeline.drawing.mermaid import draw_mermaid
from iaflow.pipeline.drawing.svg import draw_svg

__all__ = ["draw_dot", "draw_mermaid", "draw_svg"]
