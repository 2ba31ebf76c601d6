"""The request form of the sidebar: picture or video, question, budget, the menu of methods, settings of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from ..errors import BadInput
from ..pruners.pruner import Pruner
from ..records import Comparison
from . import text
from .media_field import MediaField
from .method_menu import MethodMenu, families, menu_value, read_menu
from .pictures import request_file
from .running import RunRequest, model_facts, why_not_faster

SHOW_SHARE = """(tokens, total) => total
  ? `${tokens === total ? 100 : (100 * tokens / total).toFixed(1)}% of ${total} visual tokens` : ''"""
PUBLISHED_SHARES = ((1, 3), (2, 9), (1, 9), (1, 18))
"""The budgets of the papers' tables, 192, 128, 64 and 32 of 576 visual tokens, for any number of them."""
LLAVA_TOKENS = 576
MAX_SAMPLED = 64
"""Frames that a model may look at, ``tokviz.video.MAX_SAMPLED`` without its imports."""
UNKNOWN_TOTAL = 1024
"""Upper end of the budget slider until a model or an example says how many visual tokens there are."""


@dataclass
class RequestForm:
    """The components of the form. ``inputs`` is their fixed order for events, ``request`` reads the values back.

    ``total`` (not shown) is the number of visual tokens N, once known.
    """

    picture: MediaField
    question: gr.Textbox
    model: gr.Dropdown
    budget: gr.Slider
    total: gr.Number
    budget_as: gr.Dropdown
    seed: gr.Number
    max_new_tokens: gr.Number
    repeats: gr.Number
    frames: gr.Number
    precision: gr.Dropdown
    kernel: gr.Dropdown
    menu: MethodMenu
    facts: gr.Textbox
    pruners: Sequence[Pruner]

    @property
    def inputs(self) -> list[Component]:
        """Every component in the order that ``request`` expects."""
        return [
            self.picture, self.question, self.model, self.budget, self.budget_as, self.seed, self.max_new_tokens,
            self.repeats, self.frames, self.precision, self.kernel, self.menu,
        ]  # fmt: skip

    def request(self, values: Sequence[Any]) -> RunRequest:
        """The values of ``inputs`` as a request. Raises BadInput with one sentence when a field is missing."""
        picture, question, model, budget, budget_as, seed, max_new_tokens, repeats, frames, *loading, menu = values
        precision, kernel = loading
        chosen, params = read_menu(self.pruners, menu)
        if picture is None:
            raise BadInput(text.NO_PICTURE)
        if not (question or "").strip():
            raise BadInput(text.NO_QUESTION)
        if not chosen:
            raise BadInput(text.NO_METHOD)
        whole = {"The budget": budget, "The seed": seed, "New tokens": max_new_tokens, "Repeats": repeats}
        for name, value in whole.items():
            if not is_whole(value):
                raise BadInput(f"{name} must be a whole number.")
        if frames is not None and not is_whole(frames):
            raise BadInput("Frames must be a whole number, or empty for the model's own choice.")
        return RunRequest(
            model, picture, question, chosen, int(budget), budget_as, params, int(seed), int(repeats),
            int(max_new_tokens), frames=None if frames is None else int(frames), precision=precision, kernel=kernel,
        )  # fmt: skip

    @property
    def totals(self) -> list[Component]:
        """The components that ``total_is`` and ``serves`` update."""
        return [self.budget, self.total, self.menu, self.facts]

    @staticmethod
    def total_is(n_tokens: int) -> list[Any]:
        """Updates for ``totals`` when N is known."""
        return [gr.update(maximum=n_tokens), n_tokens, gr.skip(), gr.skip()]

    @staticmethod
    def serves(missing: Mapping[str, str], facts: str) -> list[Any]:
        """Updates for ``totals`` when it is known what the model lacks for which methods, and how it is loaded."""
        return [gr.skip(), gr.skip(), {"missing": dict(missing)}, facts]

    def filled_from(self, comparison: Comparison, clip: Path | None = None, model: str | None = None) -> list[Any]:
        """Updates for ``inputs`` and ``total`` that show a stored request.

        clip: the file of a video, of which a comparison stores only frames. model: to be chosen, None: it stays.
        Repeats and the length of the answer were the stored run's own: the visitor's stay as they are.
        """
        request, n_tokens = comparison.request, comparison.grid.n_tokens
        fields = [
            request_file(comparison, clip), request.question, model or gr.skip(),
            gr.update(value=request.budget, maximum=n_tokens), request.budget_as, request.seed, gr.skip(), gr.skip(),
            None if comparison.video is None else len(comparison.video.frames), gr.skip(), gr.skip(),
        ]  # fmt: skip
        return [*fields, {"chosen": list(request.methods), "params": dict(request.params)}, n_tokens]


def is_whole(value: Any) -> bool:
    """Whether a client's value is a whole number (JSON may spell it 3.0)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1


def build_form(
    pruners: Sequence[Pruner],
    models: Sequence[tuple[str, str]],
    start: Mapping[str, Any],
    n_tokens: int | None,
    missing: Mapping[str, str],
) -> RequestForm:
    """Create the form inside the current layout.

    Args: start holds first values (picture, question, methods, params, budget); n_tokens is N if it is known already;
    missing says what which method lacks on the first model.
    """
    model, facts = _model_card(models)
    with gr.Column(elem_classes="tokviz-card"):
        picture = MediaField(start.get("picture"), label="Picture or video", elem_id="tokviz-picture")
        question = gr.Textbox(
            start.get("question", ""), label="Question", lines=1, max_lines=4, placeholder="what color is the star?",
            elem_id="tokviz-question",
        )  # fmt: skip
    with gr.Column(elem_classes="tokviz-card"):
        tokens = start.get("budget", 64)
        budget = gr.Slider(
            1, n_tokens or UNKNOWN_TOTAL, tokens, step=1, label="Budget, visual tokens", elem_id="tokviz-budget"
        )
        total = gr.Number(n_tokens, visible=False, label="visual tokens")
        share = gr.Textbox(
            f"{text.share(tokens, n_tokens)} of {n_tokens} visual tokens" if n_tokens else "",
            show_label=False, label="Budget as a share", interactive=False, container=False, elem_id="tokviz-share",
        )  # fmt: skip
        gr.on([budget.change, total.change], None, [budget, total], share, js=SHOW_SHARE, api_visibility="private")
        _published_budgets(budget, total, n_tokens or LLAVA_TOKENS)
        budget_as = gr.Dropdown(
            text.BUDGET_MEANINGS, value=start.get("budget_as", "published"), label="Counted as", filterable=False
        )
    with gr.Column(elem_classes="tokviz-card", elem_id="tokviz-methods"):
        value = menu_value(start.get("methods", ()), start.get("params", {}), missing)
        menu = MethodMenu(value, families=families(pruners), label="Methods", elem_id="tokviz-method-menu")
    with gr.Accordion("Advanced", open=False, elem_classes="tokviz-card"):
        with gr.Row():
            seed = gr.Number(start.get("seed", 0), label="Seed", precision=0, minimum=0, min_width=80)
            max_new_tokens = gr.Number(32, label="New tokens", precision=0, minimum=1, min_width=80)
        repeats = gr.Number(
            1, label="Repeats", precision=0, minimum=1, info="Above 1, times are medians after a warm-up."
        )
        frames = gr.Number(
            start.get("frames"), label="Frames of a video", precision=0, minimum=1, maximum=MAX_SAMPLED,
            info="Empty: as many as the model was trained with.",
        )  # fmt: skip
        precision, kernel = _loading_choices()
    return RequestForm(
        picture, question, model, budget, total, budget_as, seed, max_new_tokens, repeats, frames, precision, kernel,
        menu, facts, pruners,
    )  # fmt: skip


def _model_card(models: Sequence[tuple[str, str]]) -> tuple[gr.Dropdown, gr.Textbox]:
    """The menu of models, and one line about the chosen one."""
    with gr.Column(elem_classes="tokviz-card", elem_id="tokviz-model-card"):
        model = gr.Dropdown(list(models), value=models[0][1], label="Model", filterable=False, elem_id="tokviz-model")
        facts = gr.Textbox(
            model_facts(models[0][1]), show_label=False, label="About the model", interactive=False, container=False,
            lines=1, max_lines=4, elem_id="tokviz-facts",
        )  # fmt: skip
    return model, facts


def _loading_choices() -> tuple[gr.Dropdown, gr.Dropdown]:
    """Precision and kernel; where this machine has no use for them they are off and say why."""
    no_bits, no_kernels = why_not_faster()
    precision = gr.Dropdown(
        text.PRECISIONS, value="auto", label="Weights", filterable=False, interactive=no_bits is None,
        info=no_bits or "Fewer bits need less memory; answers may change.", elem_id="tokviz-precision",
    )  # fmt: skip
    kernel = gr.Dropdown(
        text.KERNELS, value="auto", label="Attention kernel", filterable=False, interactive=no_kernels is None,
        info=no_kernels or "Automatic: flash attention where it is installed.", elem_id="tokviz-kernel",
    )  # fmt: skip
    return precision, kernel


def _published_budgets(budget: gr.Slider, total: gr.Number, n_tokens: int) -> None:
    """A row of buttons that set the budget; what they say follows the number of visual tokens. All in the browser."""
    quiet: dict[str, Any] = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
    with gr.Row(elem_id="tokviz-budgets"):
        buttons = [
            gr.Button(str(round(n_tokens * part / whole)), size="sm", min_width=0) for part, whole in PUBLISHED_SHARES
        ]
    tokens = [f"Math.round((total || {LLAVA_TOKENS}) * {part} / {whole})" for part, whole in PUBLISHED_SHARES]
    total.change(None, total, buttons, js=f"(total) => [{', '.join(tokens)}].map(String)", **quiet)
    for button, count in zip(buttons, tokens, strict=True):
        button.click(None, total, budget, js=f"(total) => {count}", **quiet)
