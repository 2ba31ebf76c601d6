"""The request form of the sidebar: fields, methods by family, and one control per ``Param`` of every method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
from gradio.components import Component

from ..errors import BadInput
from ..pruners.base import Param, Pruner
from . import text
from .payload import UNPRUNED
from .pictures import PictureField
from .running import RunRequest

SHOW_SHARE = "(tokens, total) => total ? `${(100 * tokens / total).toFixed(1)}% of ${total} visual tokens` : ''"
UNKNOWN_TOTAL = 1024
"""Upper end of the budget slider until a model or an example says how many visual tokens there are."""


@dataclass
class RequestForm:
    """The components of the form. ``inputs`` is their fixed order for events, ``request`` reads the values back.

    ``total`` (not shown) is the number of visual tokens N, once known.
    """

    picture: gr.Image
    question: gr.Textbox
    model: gr.Dropdown
    budget: gr.Slider
    total: gr.Number
    budget_as: gr.Dropdown
    seed: gr.Number
    max_new_tokens: gr.Number
    repeats: gr.Number
    methods: dict[str, gr.Checkbox] = field(default_factory=dict)
    params: dict[tuple[str, str], Component] = field(default_factory=dict)

    @property
    def inputs(self) -> list[Component]:
        """Every component in the order that ``request`` expects."""
        fields: list[Component] = [
            self.picture, self.question, self.model, self.budget, self.budget_as, self.seed, self.max_new_tokens,
            self.repeats,
        ]  # fmt: skip
        return [*fields, *self.methods.values(), *self.params.values()]

    def request(self, values: Sequence[Any]) -> RunRequest:
        """The values of ``inputs`` as a request. Raises BadInput with one sentence when a field is missing."""
        picture, question, model, budget, budget_as, seed, max_new_tokens, repeats = values[:8]
        flags = dict(zip(self.methods, values[8:], strict=False))
        chosen = tuple(method for method, flag in flags.items() if flag)
        params: dict[str, dict[str, Any]] = {method: {} for method in chosen}
        for (method, name), value in zip(self.params, values[8 + len(self.methods) :], strict=True):
            if method in params:
                params[method][name] = value
        if picture is None:
            raise BadInput(text.NO_PICTURE)
        if not (question or "").strip():
            raise BadInput(text.NO_QUESTION)
        if not chosen:
            raise BadInput(text.NO_METHOD)
        whole = {"The budget": budget, "The seed": seed, "New tokens": max_new_tokens, "Repeats": repeats}
        for name, value in whole.items():
            if value is None or value != int(value):
                raise BadInput(f"{name} must be a whole number.")
        return RunRequest(
            model, picture, question, chosen, int(budget), budget_as, params, int(seed), int(repeats),
            int(max_new_tokens),
        )  # fmt: skip

    @property
    def totals(self) -> list[Component]:
        """The components that ``total_is`` updates."""
        return [self.budget, self.total]

    @staticmethod
    def total_is(n_tokens: int) -> list[Any]:
        """Updates for ``totals`` when N is known."""
        return [gr.update(maximum=n_tokens), n_tokens]

    def filled_from(self, request: Any, picture: str, n_tokens: int) -> list[Any]:
        """Updates for ``inputs`` and ``total`` that show a stored request; the model stays as it is."""
        fields = [
            picture, request.question, gr.skip(), gr.update(value=request.budget, maximum=n_tokens),
            request.budget_as, request.seed, request.max_new_tokens, request.repeats,
        ]  # fmt: skip
        flags = [method in request.methods for method in self.methods]
        params = [request.params.get(method, {}).get(name, gr.skip()) for method, name in self.params]
        return [*fields, *flags, *params, n_tokens]


def build_form(
    pruners: Sequence[Pruner], models: Sequence[tuple[str, str]], start: Mapping[str, Any], n_tokens: int | None
) -> RequestForm:
    """Create the form inside the current layout.

    Args: start holds first values (picture, question, methods, budget); n_tokens is N
    if it is known already.
    """
    with gr.Column(elem_classes="tokviz-card"):
        picture = PictureField(
            start.get("picture"), label="Picture", type="filepath", image_mode=None, sources=["upload"],
            buttons=[], height=200, elem_id="tokviz-picture",
        )  # fmt: skip
        question = gr.Textbox(
            start.get("question", ""), label="Question", lines=2, max_lines=4, placeholder="what color is the star?",
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
        budget_as = gr.Dropdown(
            text.BUDGET_MEANINGS, value=start.get("budget_as", "published"), label="Counted as", filterable=False
        )
    with gr.Column(elem_classes="tokviz-card", elem_id="tokviz-methods"):
        methods = _method_choices(pruners, start.get("methods", ()))
    with gr.Accordion("Advanced", open=False, elem_classes="tokviz-card"):
        model = gr.Dropdown(list(models), value=models[0][1], label="Model", filterable=False, elem_id="tokviz-model")
        with gr.Row():
            seed = gr.Number(start.get("seed", 0), label="Seed", precision=0, minimum=0, min_width=80)
            max_new_tokens = gr.Number(32, label="New tokens", precision=0, minimum=1, min_width=80)
        repeats = gr.Number(
            1, label="Repeats", precision=0, minimum=1, info="Above 1, times are medians after a warm-up."
        )
        params = _param_controls(pruners)
    return RequestForm(
        picture, question, model, budget, total, budget_as, seed, max_new_tokens, repeats, methods, params
    )


def _method_choices(pruners: Sequence[Pruner], chosen: Sequence[str]) -> dict[str, gr.Checkbox]:
    """One checkbox per method under a caption per family; the unpruned run is always there and has none."""
    choices: dict[str, gr.Checkbox] = {}
    offered = [pruner for pruner in pruners if pruner.id != UNPRUNED]
    families = sorted({pruner.family for pruner in offered}, key=lambda family: list(text.FAMILY_LABELS).index(family))
    for family in families:
        gr.HTML(f'<h2 class="tokviz-family">{text.FAMILY_LABELS[family]}</h2>', apply_default_css=False)
        for pruner in offered:
            if pruner.family == family:
                choices[pruner.id] = gr.Checkbox(
                    pruner.id in chosen, label=pruner.label, info=pruner.claim, elem_id=f"tokviz-method-{pruner.id}",
                    elem_classes="tokviz-method", container=False,
                )  # fmt: skip
    return choices


def _param_controls(pruners: Sequence[Pruner]) -> dict[tuple[str, str], Component]:
    controls: dict[tuple[str, str], Component] = {}
    for pruner in pruners:
        if pruner.params:
            with gr.Accordion(pruner.label, open=False, elem_classes="tokviz-params"):
                for param in pruner.params:
                    controls[pruner.id, param.name] = control_for(param, pruner)
    return controls


def control_for(param: Param, pruner: Pruner) -> Component:
    """The control of one parameter, from its spec alone."""
    default: Any = param.default
    shown: dict[str, Any] = {"label": param.label, "info": param.help, "elem_id": f"tokviz-{pruner.id}-{param.name}"}
    if param.kind == "bool":
        return gr.Checkbox(bool(param.default), **shown)
    if param.kind == "choice":
        return gr.Dropdown(list(param.choices), value=param.default, filterable=False, **shown)
    step = param.step or (1 if param.kind == "int" else None)
    if param.minimum is not None and param.maximum is not None:
        return gr.Slider(param.minimum, param.maximum, default, step=step, **shown)
    return gr.Number(
        default, minimum=param.minimum, maximum=param.maximum, step=step or 1,
        precision=0 if param.kind == "int" else None, **shown,
    )  # fmt: skip
