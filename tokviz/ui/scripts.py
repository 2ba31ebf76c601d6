"""Which files of ``assets/`` the parts of the page are made of, and their text. No gradio: saved pages have them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..files import resource

ASSETS = resource("assets")
VIEW_SCRIPTS = (
    "patch_geometry.js",
    "unpacking.js",
    "patch_sheet.js",
    "patch_chance.js",
    "patch_draw.js",
    "patch_groups.js",
    "answer_words.js",
    "patch_lane.js",
    "lane_outcome.js",
    "lane_numbers.js",
    "answers_bar.js",
    "outcomes.js",
    "patch_tools.js",
    "patch_sides.js",
    "view_settings.js",
    "view_memory.js",
    "zoom.js",
    "preview.js",
    "lane_order.js",
    "chart_draw.js",
    "why_charts.js",
    "agreement.js",
    "why_panel.js",
    "patch_table.js",
    "film_bars.js",
    "film_strip.js",
    "staleness.js",
    "legend.js",
    "patch_view.js",
)

STUDY_SCRIPTS = (
    "study_tools.js",
    "study_chart.js",
    "study_sweep.js",
    "study_inside.js",
    "study_horizon.js",
    "study_edit.js",
    "study_rescue.js",
    "study_panel.js",
)

COST_SCRIPTS = ("cost_panel.js",)

AGAIN_SCRIPTS = ("run_again.js",)

VIEW_STYLES = ("patch_view.css", "why_charts.css", "zoom.css", "lane_order.css")

WORKBENCH_SCRIPTS = (
    "workbench_state.js",
    "workbench_facets.js",
    "workbench_cards.js",
    "workbench_case.js",
    "workbench_map.js",
    "workbench_tables.js",
    "workbench.js",
)


def asset(name: str) -> str:
    """The text of a file in ``assets/``."""
    return (ASSETS / name).read_text(encoding="utf-8")


def script(name: str) -> str:
    """A script in ``assets/`` as it travels: lines that are comments, a sixth of all, and indentation stay here."""
    return re.sub(r"(?m)^[ \t]+", "", re.sub(r"(?m)^[ \t]*//.*\n", "", asset(name)))


def styles(names: str | Sequence[str]) -> str:
    """The text of style sheets, one after the other, without their comments."""
    text = "\n".join(map(asset, filter(None, [names] if isinstance(names, str) else names)))
    return re.sub(r"(?m)^[ \t]+", "", re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL))
