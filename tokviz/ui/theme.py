"""Colours and fonts of the page, as gradio takes them. What is ours alone is in ``colours.css``."""

from __future__ import annotations

import gradio as gr
from gradio.themes.utils.fonts import LocalFont

_COLOURS = {
    "body_background_fill": ("#f6f6f4", "#121316"),
    "block_background_fill": ("#ffffff", "#1c1e22"),
    "block_label_background_fill": ("transparent", "transparent"),
    "block_label_text_color": ("#62676e", "#a0a6ad"),
    "block_title_text_color": ("#62676e", "#a0a6ad"),
    "block_title_background_fill": ("transparent", "transparent"),
    "block_info_text_color": ("#62676e", "#a0a6ad"),
    "input_background_fill": ("#f3f4f2", "#141519"),
    "input_border_color": ("#e2e3e1", "#2e3137"),
    "border_color_primary": ("#e2e3e1", "#2e3137"),
    "button_primary_background_fill": ("#0072b2", "#56b4e9"),
    "button_primary_background_fill_hover": ("#00649c", "#84c1e4"),
    "button_primary_text_color": ("#ffffff", "#101216"),
    "slider_color": ("#0072b2", "#56b4e9"),
    "block_shadow": ("none", "none"),
}
"""Of the theme, light and dark."""
_BLUES = ["eef6fb", "d7eaf5", "b0d6ec", "84c1e4", "56b4e9", "0072b2", "00649c", "005686", "004870", "003a5a", "002c44"]
"""Okabe and Ito's blue, from light to dark."""


def theme() -> gr.themes.Base:
    """Quiet frames, one accent; only fonts that come with gradio, in the weights that it ships whole."""
    blue = gr.themes.Color(*(f"#{shade}" for shade in _BLUES), name="okabe-ito-blue")  # type: ignore[misc]  # eleven, and the name
    dark = {f"{name}_dark": colour for name, (_, colour) in _COLOURS.items()}
    return gr.themes.Base(
        primary_hue=blue,
        secondary_hue=blue,
        neutral_hue="zinc",
        radius_size="md",
        text_size="md",
        spacing_size="sm",
        font=[LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif"],
        font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"],
    ).set(
        block_border_width="0px",
        block_label_border_width="0px",
        block_title_text_weight="700",
        block_title_text_size="13px",
        block_info_text_size="12px",
        checkbox_background_color_selected="#0072b2",
        checkbox_border_color_selected="#0072b2",
        **{name: colour for name, (colour, _) in _COLOURS.items()},
        **dark,
    )
