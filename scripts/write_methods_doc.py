"""Write what docs say about methods, from the objects in ``tokviz/pruners``.

    python -m scripts.write_methods_doc

That is ``docs/methods.md``, README's list, and the head of every ``docs/methods/<id>.md``; what stands below the head
is written by hand and stays. Run it after a change to a declaration; a test checks that the files are current.
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from tokviz.errors import BadInput
from tokviz.names import VisionLayer
from tokviz.pruners import PRUNERS
from tokviz.pruners.pruner import Param, Pruner
from tokviz.types import Budget, Need, PlanningInfo, Schedule

ROOT = Path(__file__).resolve().parents[1]
DOC, README = ROOT / "docs" / "methods.md", ROOT / "README.md"
PAGES = ROOT / "docs" / "methods"
LLAVA = PlanningInfo(n_visual=576, n_layers=32, n_vision_layers=23, has_text_tower=True)
TILES = PlanningInfo(2880, 32, "llava_next", n_views=5, has_tiles=True, n_vision_layers=23, has_text_tower=True)
FILM = PlanningInfo(6272, 28, "llava_onevision", has_cls=False, n_views=32, has_frames=True, takes_video=True)
PUBLISHED_BUDGETS = {LLAVA: (192, 128, 64), TILES: (640, 320, 160), FILM: (1568, 1254, 627)}
"""Budgets that papers print for each of them; of a film 25, 20 and 10 per cent."""

FAMILIES = {
    "control": ("Controls", "baselines that every method has to beat"),
    "attention-ranked": ("Attention-ranked", "keep what gets the most attention"),
    "approximation-error": ("Approximation error", "keep what a few basis tokens cannot approximate"),
    "diversity": ("Diversity", "keep the tokens that differ most"),
    "merging": ("Merging", "merge similar tokens into one"),
    "text-guided": ("Text-guided", "let the question decide"),
    "progressive": ("Progressive", "drop in steps, deeper and deeper inside the LLM"),
}

TOWER, PROMPT, LLM = range(3)
SIGNALS = {
    "cls_attention": (TOWER, "[CLS] attention"),
    "cls_logits": (TOWER, "[CLS] attention before the softmax"),
    "cls_full_width": (TOWER, "[CLS] attention with all heads as one"),
    "cls_feature": (TOWER, "[CLS] feature"),
    "encoder_keys": (TOWER, "keys"),
    "full_keys": (TOWER, "keys of all heads"),
    "received_attention": (TOWER, "attention received (without [CLS])"),
    "object_attention": (TOWER, "attention received in the object layer"),
    "deep_attention": (TOWER, "attention received"),
    "shallow_attention": (TOWER, "[CLS] attention, or attention received, in a shallow layer"),
    "encoder_features": (TOWER, "features before the projector"),
    "clip_relevance": (TOWER, "CLIP's text tower"),
    "text_features": (PROMPT, "text after the image"),
    "question_features": (PROMPT, "the question"),
    "llm_input": (PROMPT, "the whole input of the LLM"),
    "sequence_index": (PROMPT, "places of the tokens in the prompt"),
    "evidence": (PROMPT, "the marked evidence"),
    "last_row": (LLM, "attention of the last prompt token"),
    "text_rows": (LLM, "attention of the text"),
    "head_rows": (LLM, "attention of the text per head"),
    "rotary_similarity": (LLM, "rotary distances"),
    "previous_features": (LLM, "hidden states one layer earlier"),
    "key_norms": (LLM, "key norms"),
    "normed_features": (LLM, "hidden states after the final norm"),
}
"""Where each signal comes from, and its name in the table of needs."""
LAYERS = {"last": " (last layer)", "this": " (of the next layer)"}

INTRODUCTION = """\
# Methods

Written by `python -m scripts.write_methods_doc` from the objects in `tokviz/pruners`; change those, not this file. Each
method has its own page: its parameters, how many tokens it leaves at the published budgets, and where the paper and the
code differ. [Versions](versions.md) says which version of each paper tokviz follows and what later ones changed;
[Methods that are not here](methods/not-here.md) says why.

A budget can mean three things, and papers mix them. **F** is the number of visual tokens left after the last stage.
**A_in** is the average number that the LLM's layers actually process. **A_log** is the average of the counts *after*
each layer, as SparseVLM's logger computes it: if tokens are dropped after a layer, that layer counts with its pruned
size. Below, budgets are counted as in each method's paper, for 576 visual tokens and 32 layers (LLaVA-1.5-7B); for the
2880 of LLaVA-NeXT if a method needs crops; and for the 32 frames of 196 tokens of LLaVA-OneVision-7B (28 layers) if it
needs a video.

Every method that drops tokens takes the parameter `positions`: `source` (the default) treats the positions of later
tokens as the method's paper or code does, `keep` leaves every token the position that it had in the whole prompt, and
`reindex` numbers what is left without gaps. Models whose positions have several axes (Qwen-VL) always keep them, and
refuse `reindex`.

Two methods can be stacked, one before the LLM and one inside it: `divprune+fastv` is an id like any other, in Python,
on the command line, at `/compare` and in the page. The first leaves `share` times the budget (2 by default), and the
second brings that down to the budget, counted its own way. The parameters of both are the stack's, as `first_...` and
`second_...`. Pairs that cannot be stacked are refused with the reason.

*Before layer i* means that layer `i`, counted from 0, is the first that sees fewer tokens. Published layer numbers
apply at the published depths (32, 40, 28 layers); for other models they are scaled in proportion.

The column *positions* is about LLaVA. On Qwen models, whose positions have three axes, every stage of every method
keeps the three ids of the tokens that stay, and stages before the LLM run after the patch merger. Qwen3-VL's vision
tower also adds features to its tokens inside the LLM (deepstack): a kept token gets its own, whatever was merged into
it, and an added token gets none.
"""


def escaped(text: str) -> str:
    """Text that cannot break a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")


def table(*rows: tuple[str, ...]) -> str:
    """A Markdown table; the first row is its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"


def info_of(pruner: Pruner) -> PlanningInfo:
    """The model that the plans of ``pruner`` are printed for."""
    return next(info for info in (LLAVA, TILES, FILM) if pruner.missing(info) is None)


def plan(pruner: Pruner, tokens: int) -> Schedule:
    """The default schedule at a published budget. Raises BadInput where the method cannot meet it."""
    return pruner.schedule(Budget(tokens), info_of(pruner), pruner.complete({}))


def sites(schedule: Schedule) -> list[str]:
    """Where the stages stand, those inside the vision tower as one."""
    inside = [s.site.vision_layer for s in schedule.stages if isinstance(s.site, VisionLayer)]
    labels = [f"inside vision layers {inside[0]} to {inside[-1]}"] if inside else []
    labels += ["the image itself"] if schedule.smaller is not None else []
    return labels + [s.site_label for s in schedule.stages if not isinstance(s.site, VisionLayer)]


def where(pruner: Pruner) -> str:
    """Sites of the default schedule in a few words."""
    layers = [s.site for s in plan(pruner, 192).stages if isinstance(s.site, int)]
    words = [label for label in sites(plan(pruner, 192)) if not label.startswith("before layer")]
    if layers:
        words.append(f"before layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}")
    return "; ".join(words) or "–"


def positions(pruner: Pruner) -> str:
    """What happens to position ids of what stays."""
    return " / ".join(dict.fromkeys(stage.positions for stage in plan(pruner, 192).stages)) or "–"


def needs(pruner: Pruner, place: int) -> str:
    """What the method reads at one of the three places."""
    words = []
    for need in pruner.needs:
        found, name = SIGNALS[need.kind]
        if found == place:
            words.append(name + LAYERS.get(need.layer or "", "") + ("\\*" if need in pruner.does_without else ""))
    if pruner.merges_in_vision and place == TOWER:
        words.append("keys of every layer")
    return ", ".join(dict.fromkeys(words)) or "–"


def must_have(pruner: Pruner) -> str:
    """What a model has to offer beyond visual tokens in an LLM."""
    required = [need for need in pruner.needs if need not in pruner.does_without]
    words = []
    if any(need.kind.startswith("cls_") for need in required):
        words.append("a [CLS] token")
    if Need("clip_relevance") in required:
        words.append("CLIP's text tower")
    if Need("evidence") in required:
        words.append("marked evidence")
    if pruner.needs_tiles:
        words.append("a thumbnail and crops")
    if pruner.needs_frames:
        words.append("frames of a video")
    if pruner.merges_in_vision:
        words.append("a vision tower whose layers can merge tokens")
    return ", ".join(words) or "–"


def link(pruner: Pruner) -> str:
    """The label, as a link to the method's page."""
    return f"[{pruner.label}](methods/{pruner.id}.md)"


def overview() -> str:
    """One table per family."""
    parts = []
    for family, (name, idea) in FAMILIES.items():
        members = [pruner for pruner in PRUNERS if pruner.family == family]
        rows = [
            (
                link(pruner),
                escaped(pruner.claim),
                "–" if pruner.paper is None else f"[{pruner.paper.year}]({pruner.paper.url})",
                where(pruner),
                "yes" if pruner.merges else "no",
                positions(pruner),
                ", ".join(f"`{param.name}`" for param in pruner.params) or "–",
            )
            for pruner in members
        ]
        head = ("method", "claim", "paper", "where it prunes", "merges", "positions", "parameters")
        parts.append(f"### {name}: {idea}\n\n{table(head, *rows)}")
    return "\n".join(parts)


def requirements() -> str:
    """What each method reads, and what a model must therefore have."""
    rows = [
        (link(p), needs(p, TOWER), needs(p, PROMPT), needs(p, LLM), must_have(p))
        for p in PRUNERS
        if p.family != "control"
    ]
    head = ("method", "from the vision tower", "from the prompt", "from inside the LLM", "the model must have")
    return table(head, *rows)


def counts(schedule: Schedule) -> str:
    """Stages and what they leave, e.g. ``encoder output: 288; before layer 16: 96``."""
    parts = [] if schedule.smaller is None else [f"the image itself: at most {schedule.smaller}"]
    for kind, group in groupby(schedule.stages, key=lambda s: (isinstance(s.site, VisionLayer), s.keep is None)):
        stages = list(group)
        inside, at_run_time = kind
        if inside:
            left = ", ".join(str(s.keep) for s in stages[:2]) + f", … {stages[-1].keep}"
            parts.append(f"{sites(Schedule(tuple(stages)))[0]}: {left}")
        elif at_run_time and len(stages) > 1:
            parts.append(f"before layers {', '.join(str(s.site) for s in stages)}: decided at run time")
        else:
            parts += [f"{s.site_label}: {'decided at run time' if s.keep is None else s.keep}" for s in stages]
    return "; ".join(parts) or "nothing is dropped"


def plans(pruner: Pruner) -> str:
    """The planned stages and the three meanings at the published budgets."""
    info = info_of(pruner)
    rows = []
    for tokens in PUBLISHED_BUDGETS[info]:
        try:
            schedule = plan(pruner, tokens)
        except BadInput as refusal:
            rows.append((str(tokens), escaped(str(refusal)), "", "", ""))
            continue
        found = schedule.meanings(info.n_visual, info.n_layers)
        averages = (f"{found.average_in:.1f}", f"{found.average_logged:.1f}")
        rows.append((str(tokens), counts(schedule), str(found.final), *averages))
    return table((f"of {info.n_visual}", "stages: tokens left", "F", "A_in", "A_log"), *rows)


def parameter(param: Param) -> str:
    """One line about a parameter."""
    if param.kind == "choice":
        choices = [f"**{choice}**" if choice == param.default else choice for choice in param.choices]
        values = " / ".join(choices)
    elif param.kind == "bool":
        values = f"**{'on' if param.default else 'off'}**"
    else:
        values = f"**{param.default:g}**, {param.minimum:g} to {param.maximum:g}"
    return f"- `{param.name}` ({values}): {param.help}"


def without_parameters(pruner: Pruner) -> str:
    """What the page of a method says that has no parameter of its own."""
    if not pruner.settings:
        return "None."
    if pruner.encodes_anew:
        return "None. `positions` is accepted and changes nothing, as no token is dropped."
    return "None but `positions`, which every method that drops tokens takes."


HEAD, TAIL = "<!-- written by scripts/write_methods_doc.py -->\n", "<!-- from here on by hand -->\n"


def head(pruner: Pruner) -> str:
    """What a method's page says from its declaration."""
    also = f" Also published as {', '.join(pruner.aliases)}." if pruner.aliases else ""
    parts = [f"# {pruner.label}", f"`{pruner.id}`. {pruner.claim}{also}"]
    if pruner.paper is not None:
        paper = pruner.paper
        parts.append(f"{paper.authors}, [{paper.title}]({paper.url}), {paper.year}.")
    stands = [f"- prunes: {where(pruner)}", f"- positions: {positions(pruner)}"]
    sources = {"the vision tower": TOWER, "the prompt": PROMPT, "inside the LLM": LLM}
    stands += [f"- from {name}: {words}" for name, place in sources.items() if (words := needs(pruner, place)) != "–"]
    if pruner.does_without:
        stands.append("- \\*: optional, the method can do without it")
    parts += ["\n".join(stands), "## Parameters"]
    parts.append("\n".join(parameter(param) for param in pruner.params) or without_parameters(pruner))
    parts += ["## What it leaves", plans(pruner).rstrip()]
    return "\n\n".join(parts) + "\n\n"


def page(pruner: Pruner, old: str) -> str:
    """The page with its head as it is now, and with what ``old`` says below the head."""
    return HEAD + head(pruner) + TAIL + old.partition(TAIL)[2]


def methods_doc() -> str:
    """The whole of ``docs/methods.md``."""
    reads = (
        "All of it is captured from the stock model while it runs. Attention is recomputed only for the few rows that\n"
        "a method reads, so the model keeps its fast kernel. \\*: optional, the method can do without it.\n"
    )
    parts = [INTRODUCTION, "## Families\n", overview(), "## What each method reads\n", reads, requirements()]
    return "\n".join(parts)


START, END = "<!-- methods: written by scripts/write_methods_doc.py -->\n", "<!-- end of methods -->"


def readme_list() -> str:
    """README's table: families and their members."""
    rows = [
        (f"{name.lower()}: {idea}", ", ".join(p.label for p in PRUNERS if p.family == family))
        for family, (name, idea) in FAMILIES.items()
    ]
    return table(("family", "methods"), *rows)


def with_list(readme: str) -> str:
    """README with its list of methods as it is now."""
    before, rest = readme.split(START)
    return before + START + readme_list() + END + rest.split(END)[1]


def main() -> None:
    """Write all of them."""
    DOC.write_text(methods_doc(), encoding="utf-8")
    README.write_text(with_list(README.read_text(encoding="utf-8")), encoding="utf-8")
    PAGES.mkdir(exist_ok=True)
    for pruner in PRUNERS:
        file = PAGES / f"{pruner.id}.md"
        file.write_text(page(pruner, file.read_text(encoding="utf-8") if file.exists() else ""), encoding="utf-8")


if __name__ == "__main__":
    main()
