"""Comparisons as figures, overlays and tables. Sees sessions only; no torch, no gradio, no pyplot."""

from .figures import comparison_figure, figure_bytes, figure_format, save_figure
from .format import plain_text
from .overlays import cluster_overlay, kept_overlay, plain_image, score_overlay
from .raster import Canvas, open_canvas

__all__ = [
    "Canvas",
    "cluster_overlay",
    "comparison_figure",
    "figure_bytes",
    "figure_format",
    "kept_overlay",
    "open_canvas",
    "plain_image",
    "plain_text",
    "save_figure",
    "score_overlay",
]
