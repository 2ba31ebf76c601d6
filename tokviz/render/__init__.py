"""Pictures for export: overlay, figure. Sees Comparisons only, no torch, no gradio."""
