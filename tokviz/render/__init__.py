"""Pictures for export: overlays and figures. Sees Comparisons only; no torch, no gradio, no pyplot."""

from .figure import comparison_figure, figure_bytes, figure_format, save_figure
from .overlay import cluster_overlay, kept_overlay, plain_picture, score_overlay
from .plain_text import plain_text
from .raster import Canvas, open_canvas

__all__ = [
    "Canvas", "cluster_overlay", "comparison_figure", "figure_bytes", "figure_format", "kept_overlay", "open_canvas",
    "plain_picture", "plain_text", "save_figure", "score_overlay",
]  # fmt: skip
