"""The request form of the sidebar: image or video, question, budget, the menu of methods, settings of the run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from ..comparison import Comparison
from ..errors import BadInput
from ..names import UNPRUNED, Box
from ..pruners.pruner import Param, Pruner
from ..pruners.stack import CLAIM, JOIN, LABEL, PARAM, PARAM_LABEL, SHARE, parts, place_in_stack, stack
from ..serving.model_cache import model_facts
from ..serving.running import RunRequest
from ..short import passed
from ..types import PlanningInfo
from ..viz.format import share
from . import text
from .components import EvidenceField, MediaField, MethodMenu
from .files import evidence_in_file, request_file

SHOW_SHARE = """(tokens, total) => total
  ? `${tokens === total ? 100 : (100 * tokens / total).toFixed(1)}% of ${total} visual tokens` : ''"""
PUBLISHED_SHARES = ((1, 3), (2, 9), (1, 9), (1, 18))
"""The budgets of the papers' tables, 192, 128, 64 and 32 of 576 visual tokens, for any number of them."""
LLAVA_TOKENS = 576
MAX_SAMPLED = 64
"""Frames that a model may look at, ``tokviz.media.video.MAX_SAMPLED`` without its imports."""
MAX_METHODS = 48
"""Most entries of one request, all methods once and some of them again: what they leave fits into a session file."""
UNKNOWN_TOTAL = 1024
"""Upper end of the budget slider until a model or an example says how many visual tokens there are."""
_WHOLE = {"budget": "The budget", "seed": "The seed", "max_new_tokens": "Max new tokens", "repeats": "Repeats"}


@dataclass
class _Fields:
    """The fields of the form, in the order of events."""

    image: MediaField
    question: gr.Textbox
    model: gr.Dropdown
    budget: gr.Slider
    budget_as: gr.Dropdown
    seed: gr.Number
    max_new_tokens: gr.Number
    repeats: gr.Number
    frames: gr.Number
    precision: gr.Dropdown
    kernel: gr.Dropdown
    expected: gr.Textbox
    evidence: EvidenceField
    menu: MethodMenu


INPUTS = [field.name for field in fields(_Fields)]


@dataclass
class RequestForm(_Fields):
    """The components of the form. ``inputs`` is their fixed order for events, ``request`` reads the values back.

    ``total`` (not shown) is the number of visual tokens N, once known.
    """

    total: gr.Number
    facts: gr.Textbox
    pruners: Sequence[Pruner]

    @property
    def inputs(self) -> list[Component]:
        """Every component in the order that ``request`` expects."""
        return [getattr(self, name) for name in INPUTS]

    def request(self, values: Sequence[Any]) -> RunRequest:
        """The values of ``inputs`` as a request. Raises BadInput with one sentence when a field is missing."""
        given = dict(zip(INPUTS, values, strict=True))
        methods = read_menu(self.pruners, given.pop("menu"))
        if given["image"] is None:
            raise BadInput(text.NO_IMAGE)
        if not (given["question"] or "").strip():
            raise BadInput(text.NO_QUESTION)
        if not methods:
            raise BadInput(text.NO_METHOD)
        wanted: dict[str, Any] = {name: whole_number(words, given[name]) for name, words in _WHOLE.items()}
        if given["frames"] is not None:
            wanted["frames"] = whole_number("Video frames, unless left empty,", given["frames"])
        wanted["expected"] = (given["expected"] or "").strip() or None
        wanted["evidence"], wanted["evidence_at"] = placed_boxes(given["evidence"])
        return RunRequest(methods=methods, **{**given, **wanted})

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

    @staticmethod
    def filled_from(
        comparison: Comparison, clip: Path | None = None, model: str | None = None, *, is_known: bool = False
    ) -> list[Any]:
        """Updates for ``inputs`` and ``total`` that show a stored request.

        clip: the file of a video, of which a comparison stores only frames. model: to be chosen, None: it stays.
        is_known: the server knows the right answer of this image and question by itself. Then the fields for it are
        empty: what was right for one question would stay there for the next.
        Repeats and the length of the answer were the stored run's own: the visitor's stay as they are.
        """
        request, n_tokens = comparison.request, comparison.grid.n_tokens
        boxes, frames = evidence_in_file(comparison)
        placed = [[frame, *box] for frame, box in zip(frames, boxes, strict=True)] if frames else boxes
        updates = {
            "image": request_file(comparison, clip),
            "question": request.question,
            "model": model or gr.skip(),
            "budget": gr.update(value=request.budget, maximum=n_tokens),
            "budget_as": request.budget_as,
            "seed": request.seed,
            "frames": None if comparison.video is None else len(comparison.video.frames),
            "expected": "" if is_known else request.expected_answer or "",
            "evidence": [] if is_known else placed,
            "menu": {"chosen": stored_methods(comparison)},
        }
        return [*(updates.get(name, gr.skip()) for name in INPUTS), n_tokens]


def is_whole(value: Any) -> bool:
    """Whether a client's value is a whole number (JSON may spell it 3.0)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1


def whole_number(what: str, value: Any) -> int:
    """A client's value as a whole number. Raises BadInput."""
    if not is_whole(value):
        raise BadInput(f"{what} must be a whole number, not {passed(value)}.")
    return int(value)


def build_form(
    pruners: Sequence[Pruner],
    models: Sequence[tuple[str, str]],
    start: Mapping[str, Any],
    n_tokens: int | None,
    missing: Mapping[str, str],
) -> RequestForm:
    """Create the form inside the current layout.

    Args:
        start: first values (image, question, methods, budget).
        n_tokens: N if it is known already.
        missing: what which method lacks on the first model.
    """
    made: dict[str, Any] = {"pruners": pruners}
    with gr.Column(elem_classes="tokviz-card", elem_id="tokviz-model-card"):
        made["model"] = gr.Dropdown(
            list(models), value=models[0][1], label="Model", filterable=False, elem_id="tokviz-model"
        )
        made["facts"] = read_only(
            model_facts(models[0][1]), label="About the model", lines=1, max_lines=4, elem_id="tokviz-facts"
        )
    with gr.Column(elem_classes="tokviz-card"):
        made["image"] = MediaField(start.get("image"), label="Image or video", elem_id="tokviz-image")
        look: dict[str, Any] = {"lines": 1, "max_lines": 4, "placeholder": "what color is the star?"}
        made["question"] = gr.Textbox(start.get("question", ""), label="Question", elem_id="tokviz-question", **look)
    with gr.Accordion("Right answer and evidence", open=False, elem_classes="tokviz-card", elem_id="tokviz-truth"):
        made["expected"] = gr.Textbox(
            label="Expected answer", placeholder="marks answers right or wrong", elem_id="tokviz-expected", max_lines=1
        )
        made["evidence"] = EvidenceField(label="Evidence", elem_id="tokviz-evidence")
    with gr.Column(elem_classes="tokviz-card"):
        made |= _budget(start, n_tokens)
    with gr.Column(elem_classes="tokviz-card", elem_id="tokviz-methods"):
        made["menu"] = MethodMenu(
            {"chosen": list(start.get("methods", ())), "missing": dict(missing)},
            families=json.dumps(families(pruners)),
            stack=json.dumps(stack_recipe()),
            most=MAX_METHODS,
            label="Methods",
            elem_id="tokviz-method-menu",
        )
    with gr.Accordion("Advanced", open=False, elem_classes="tokviz-card"):
        made |= _advanced(start)
    return RequestForm(**made)


def read_only(value: str, **settings: Any) -> gr.Textbox:
    """A text that is only read."""
    return gr.Textbox(value, show_label=False, interactive=False, container=False, **settings)


def _budget(start: Mapping[str, Any], n_tokens: int | None) -> dict[str, Any]:
    """The budget, what share of all tokens it is, the papers' budgets as buttons, and how it is counted."""
    tokens = start.get("budget", 64)
    budget = gr.Slider(
        1, n_tokens or UNKNOWN_TOTAL, tokens, step=1, label="Budget (visual tokens)", elem_id="tokviz-budget"
    )
    total = gr.Number(n_tokens, visible=False, label="visual tokens")
    words = f"{share(tokens, n_tokens)} of {n_tokens} visual tokens" if n_tokens else ""
    part = read_only(words, label="Budget as a share", elem_id="tokviz-share")
    gr.on([budget.change, total.change], None, [budget, total], part, js=SHOW_SHARE, api_visibility="private")
    _published_budgets(budget, total, n_tokens or LLAVA_TOKENS)
    budget_as = gr.Dropdown(
        text.BUDGET_MEANINGS,
        value=start.get("budget_as", "published"),
        label="Counted as",
        filterable=False,
        elem_id="tokviz-counted-as",
    )
    return {"budget": budget, "total": total, "budget_as": budget_as}


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


def _advanced(start: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the run; those that this machine has no use for are off and say why."""
    from ..models.devices import why_not_faster

    no_bits, no_kernels = why_not_faster()

    def number(value: int | None, label: str, **settings: Any) -> gr.Number:
        return gr.Number(value, label=label, precision=0, **{"minimum": 1, **settings})

    def choice(choices: Any, label: str, why_not: str | None, info: str, elem_id: str) -> gr.Dropdown:
        state: dict[str, Any] = {"interactive": why_not is None, "info": why_not or info}
        return gr.Dropdown(choices, value="auto", label=label, filterable=False, elem_id=elem_id, **state)

    with gr.Row():
        seed = number(start.get("seed", 0), "Seed", minimum=0, min_width=80)
        new_tokens = number(32, "Max new tokens", min_width=80)
    return {
        "seed": seed,
        "max_new_tokens": new_tokens,
        "repeats": number(1, "Repeats", info="Above 1: times are medians, after a warm-up."),
        "frames": number(
            start.get("frames"),
            "Video frames",
            maximum=MAX_SAMPLED,
            info="Empty: as many as the model was trained on.",
        ),
        "precision": choice(
            text.PRECISIONS, "Weights", no_bits, "Fewer bits need less memory; answers may change.", "tokviz-precision"
        ),
        "kernel": choice(
            text.KERNELS,
            "Attention kernel",
            no_kernels,
            "Automatic: flash attention if it is installed.",
            "tokviz-kernel",
        ),
    }


def offered(pruners: Sequence[Pruner]) -> list[Pruner]:
    """The methods that can be chosen, in the order of the menu; the unpruned run is always there and has no entry."""
    order = list(text.FAMILY_LABELS)
    return sorted((p for p in pruners if p.id != UNPRUNED), key=lambda pruner: order.index(pruner.family))


def families(pruners: Sequence[Pruner]) -> list[dict[str, Any]]:
    """What the menu shows, by family: captions, methods with claim and paper, parameter specs."""
    groups: dict[str, dict[str, Any]] = {}
    for pruner in offered(pruners):
        group = groups.setdefault(
            pruner.family,
            {"label": text.FAMILY_LABELS[pruner.family], "why": text.FAMILY_EXPLAINED[pruner.family], "methods": []},
        )
        paper = pruner.paper
        about = paper and {
            "year": paper.year,
            "url": paper.url,
            "about": f"{paper.title} ({paper.authors}, {paper.year})",
        }
        method = {name: getattr(pruner, name) for name in ("id", "label", "claim")}
        facts = {"paper": about, "params": param_facts(pruner), "place": place_in_stack(pruner)}
        group["methods"].append({**method, **facts})
    return list(groups.values())


def param_facts(pruner: Pruner) -> list[dict[str, Any]]:
    """The parameters of a method as plain data."""
    return [_facts(param) for param in pruner.settings]


def _facts(param: Param) -> dict[str, Any]:
    return {**vars(param), "choices": list(param.choices)}


def stack_recipe() -> dict[str, Any]:
    """How the menu makes a stack of two methods: what ``pruners.stack`` makes it of, as plain data."""
    words = {"join": JOIN, "label": LABEL, "claim": CLAIM}
    param = {"name": PARAM, "label": PARAM_LABEL}
    return {**words, "param": param, "share": _facts(SHARE)}


def stored_methods(comparison: Comparison) -> list[list[Any]]:
    """The methods of a stored request as the menu takes them."""
    return [[asked.method, asked.params] for asked in comparison.request.methods]


def missing_by_method(pruners: Sequence[Pruner], info: PlanningInfo | None) -> dict[str, str]:
    """What each method lacks on a model, as sentences; empty when nothing is known of the model yet."""
    if info is None:
        return {}
    # What the model will be asked about is not known yet; where it takes videos, it may be one.
    filmed = replace(info, has_frames=True, n_views=max(2, info.n_views)) if info.takes_video else info
    sentences = {p.id: p.missing(filmed if p.needs_frames else info) for p in offered(pruners)}
    return {method: sentence for method, sentence in sentences.items() if sentence is not None}


def method_entries(value: Any, refusal: str) -> list[tuple[str, dict[str, Any]]]:
    """A client's list of ids, or pairs of an id and parameters, as pairs; what they name is not looked at.

    Raises BadInput: with the sentence ``refusal`` for another shape, and for more than ``MAX_METHODS`` entries.
    """
    if not isinstance(value, list | tuple):
        raise BadInput(refusal)
    if len(value) > MAX_METHODS:
        raise BadInput(f"One request compares at most {MAX_METHODS} methods; this one asks for {len(value):,}.")
    entries = [(entry, {}) if isinstance(entry, str) else entry for entry in value]
    for entry in entries:
        is_pair = isinstance(entry, list | tuple) and len(entry) == 2
        if not (is_pair and isinstance(entry[0], str) and isinstance(entry[1], dict)):
            raise BadInput(refusal)
    return [(method, dict(params)) for method, params in entries]


def placed_boxes(given: Any) -> tuple[tuple[Box, ...], tuple[int, ...]]:
    """A client's boxes, and the file's frames that they lie in; the run checks the edges. Raises BadInput."""
    boxes = [] if given is None else given
    sizes = {len(box) if isinstance(box, list) else 0 for box in boxes} if isinstance(boxes, list) else {0}
    if not (sizes <= {4} or sizes <= {5}):
        raise BadInput(
            "evidence must be a list of boxes [x0, y0, x1, y1] in pixels, or, all of them, [frame, x0, y0, x1, y1] of "
            "a video."
        )
    frames = tuple(whole_number("The frame of an evidence box", box[0]) for box in boxes if len(box) == 5)
    return tuple(tuple(box[-4:]) for box in boxes), frames


def read_menu(pruners: Sequence[Pruner], value: Any) -> tuple[tuple[str, dict[str, Any]], ...]:
    """The chosen methods in the order of the menu, each with all its parameters; equal ones once.

    The value comes from a browser: that of ``MethodMenu``, its entries as of ``method_entries``. Ids that are not on
    offer are left out. Raises BadInput, with the method's own sentence for parameters that it does not have.
    """
    is_menu = isinstance(value, Mapping) and {"chosen"} <= set(value) <= {"chosen", "missing"}
    entries = method_entries(value["chosen"] if is_menu else None, text.UNREADABLE_MENU)
    picked: list[tuple[str, dict[str, Any]]] = []
    known = {pruner.id: pruner for pruner in offered(pruners)}
    pairs = filter(None, map(parts, dict.fromkeys(method for method, _ in entries)))
    made = [stack(*(known[id] for id in pair)) for pair in pairs if set(pair) <= set(known)]
    for pruner in (*offered(pruners), *made):
        for method, params in entries:
            complete = method == pruner.id and (method, dict(pruner.complete(params)))
            if complete and complete not in picked:
                picked.append(complete)
    return tuple(picked)
