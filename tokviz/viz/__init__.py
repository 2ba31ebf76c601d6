"""Comparisons as figures, overlays and tables. Sees sessions only; no torch, no gradio, no pyplot."""
