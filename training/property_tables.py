"""The page of measured properties: one row per wanted property, one column per model, then every block."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.tables import flow, markdown

Result = Mapping[str, Any]
"""What `training.properties` measured of one model."""
NOTHING = "no number published"


@dataclass(frozen=True)
class Wanted:
    """One row of the page.

    value: what a model's result says, as text. holds: whether it is as wanted, None where it is stated only.
    published: of LLaVA-1.5 or the nearest model, with its source.
    """

    number: int
    what: str
    wanted: str
    published: str
    value: Callable[[Result], str]
    holds: Callable[[Result], bool] | None = None


def estimate(entry: Mapping[str, Any], digits: int = 2) -> str:
    """ "0.48 (0.39 to 0.54)"; "none" where no scene says anything."""
    if entry["mean"] is None:
        return "none"
    mean, low, high = (f"{entry[key]:.{digits}f}" for key in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def percent(entry: Mapping[str, Any], digits: int = 1) -> str:
    """ "48.0 % (39.1 to 54.2)"."""
    if entry["mean"] is None:
        return "none"
    mean, low, high = (f"{100 * entry[key]:.{digits}f}" for key in ("mean", "low", "high"))
    return f"{mean} % ({low} to {high})"


def mean_of(result: Result, name: str) -> float:
    """The mean of a measure, "lengths.auc"; NaN where there is none."""
    value = entry_of(result, name)["mean"]
    return math.nan if value is None else float(value)


def entry_of(result: Result, name: str) -> Mapping[str, Any]:
    """A measure by its name, "lengths.auc"."""
    group, key = name.split(".")
    entry: Mapping[str, Any] = result[group][key]
    return entry


def number(name: str, digits: int = 2) -> Callable[[Result], str]:
    """Shows a measure with its interval."""
    return lambda result: estimate(entry_of(result, name), digits)


def share(name: str) -> Callable[[Result], str]:
    """Shows a measure with its interval, in percent."""
    return lambda result: percent(entry_of(result, name))


def at_least(name: str, least: float) -> Callable[[Result], bool]:
    """Whether a mean reaches a number."""
    return lambda result: mean_of(result, name) >= least


def above(name: str, line: float) -> Callable[[Result], bool]:
    """Whether the lower end of the interval lies above a number."""

    def holds(result: Result) -> bool:
        low = entry_of(result, name)["low"]
        return low is not None and low > line

    return holds


def below(name: str, limit: float) -> Callable[[Result], bool]:
    """Whether a mean stays below a number."""
    return lambda result: mean_of(result, name) < limit


FEWEST_OUTLIERS, MOST_OUTLIERS = 0.005, 0.05


def _some_outliers(space: str) -> Callable[[Result], bool]:
    return lambda result: FEWEST_OUTLIERS <= mean_of(result, f"lengths.{space}outlier_share") <= MOST_OUTLIERS


def _outliers(space: str) -> Callable[[Result], str]:
    def value(result: Result) -> str:
        factor, longest = (
            entry_of(result, f"lengths.{space}outlier_factor"),
            entry_of(result, f"lengths.{space}longest"),
        )
        times = "" if factor["mean"] is None else f", {factor['mean']:.1f} times the median"
        return f"{percent(entry_of(result, f'lengths.{space}outlier_share'), 2)}{times}; longest {longest['mean']:.2f}"

    return value


def _v2drop(result: Result) -> str:
    means = result["variation"]["auc"]["mean"]
    return ", ".join(f"block {block}: {means[block]:.2f}" for block in result["v2drop_blocks"])


def _v2drop_holds(result: Result) -> bool:
    lows = result["variation"]["auc"]["low"]
    return all(lows[block] > 0.5 for block in result["v2drop_blocks"])


def _concentrated(result: Result) -> bool:
    """Less spread in the penultimate block than in any before it."""
    even = result["cls"]["evenness"]["mean"][: result["cls_block"] + 1]
    return bool(min(even) == even[-1] and len(even) > 1)


def _early_and_penultimate(name: str, show: Callable[[str], Callable[[Result], str]]) -> Callable[[Result], str]:
    return lambda result: f"{show(f'cls.{name}_early')(result)}, then {show(f'cls.{name}_penultimate')(result)}"


def _pair(name: str) -> Callable[[Result], str]:
    return lambda result: f"{share(f'migration.{name}_early')(result)}, then {share(f'migration.{name}_late')(result)}"


def _names_more_than_chance(result: Result) -> bool:
    return mean_of(result, "alignment.on_naming_polymorphic") > mean_of(result, "alignment.naming_words")


def _naming_rows() -> list[Wanted]:
    kinds = (
        ("naming", "all kinds but size"), ("naming_shape", "shape"), ("naming_color", "colour"),
        ("naming_word", "word of a sign"), ("naming_number", "printed number"), ("naming_digit", "handwritten digit"),
    )  # fmt: skip
    source = '"weak and coarse" alignment of patches with words (arXiv 2505.17316); no AUC published'
    return [
        Wanted(2, f"nearer to the word that names it than to the others: {title}", "0.85 or more",
               source if name == "naming" else NOTHING, number(f"alignment.{name}"),
               at_least(f"alignment.{name}", 0.85))
        for name, title in kinds
    ]  # fmt: skip


WANTED: tuple[Wanted, ...] = (
    Wanted(1, "length tells evidence from background (AUC)", "0.4 to 0.6", NOTHING, number("lengths.auc"),
           lambda r: 0.4 <= mean_of(r, "lengths.auc") <= 0.6),
    Wanted(1, "background tokens more than twice as long as their median, projected",
           "some: 0.5 to 5 % (our reading)",
           "about 2 % of all tokens, mostly background (DINOv2 and others, arXiv 2309.16588, at second hand); CLIP has "
           "them (arXiv 2506.08010), LLaVA's 3 to 5 an image (arXiv 2510.08510, at second hand)",
           _outliers(""), _some_outliers("")),
    Wanted(1, "the same before the projector", "some: 0.5 to 5 % (our reading)", "as above", _outliers("tower_"),
           _some_outliers("tower_")),
    Wanted(1, "median length over that of the words", "stated",
           "10 to 100 (arXiv 2503.17349, at second hand); \"high-norm visual tokens and the low-norm text tokens\" "
           "(arXiv 2512.08374)",
           number("lengths.ratio", 1)),
    *_naming_rows(),
    Wanted(2, "small or large (two words)", "stated", NOTHING, number("alignment.naming_size")),
    Wanted(2, "Polymorphic's softmaxes that are one-hot, where it looks", "below 50 % (our reading)", NOTHING,
           share("alignment.one_hot_polymorphic"), below("alignment.one_hot_polymorphic", 0.5)),
    Wanted(2, "their entropy over ln of the number of words", "stated", NOTHING,
           number("alignment.rater_evenness_polymorphic")),
    Wanted(2, "what of them falls on words that name things", "more than such words' share of the text (our reading)",
           NOTHING, lambda r: f"{share('alignment.on_naming_polymorphic')(r)} of {share('alignment.naming_words')(r)}",
           _names_more_than_chance),
    Wanted(2, "its score tells evidence from background, existence questions (AUC)", "above 0.5 (our reading)", NOTHING,
           number("alignment.rater_auc_existence_polymorphic"),
           above("alignment.rater_auc_existence_polymorphic", 0.5)),
    Wanted(2, "AdaptVTP's alignment: correlation with minus the length", "stated", NOTHING,
           number("alignment.adaptvtp_length")),
    Wanted(2, "AdaptVTP's alignment tells evidence from background (AUC)", "stated", NOTHING,
           number("alignment.adaptvtp_auc")),
    Wanted(3, "entropy of [CLS] attention over ln N: first third, then penultimate block",
           "least in the penultimate of all up to it (our reading)",
           "spread early, concentrated on few tokens in layer 23 of 24: Polymorphic, Figures 3 and 4, no numbers",
           _early_and_penultimate("evenness", number), _concentrated),
    Wanted(3, "attention of [CLS] on its strongest 5 % of patches: first third, then penultimate block",
           "half of it or more in the penultimate (our reading)", "as above, no numbers",
           _early_and_penultimate("top_share", share), at_least("cls.top_share_penultimate", 0.5)),
    Wanted(4, "change tells evidence from background where V2Drop looks (AUC)", "above 0.5 in each (our reading)",
           "\"lazy\" tokens change little and matter little (arXiv 2509.01552); no AUC published", _v2drop,
           _v2drop_holds),
    Wanted(5, "attention of the last text token on the picture: first third, then last third of the blocks",
           "below 5 % in the last third", "below 5 % in middle and deep layers while decoding: ToDRE, Figure 5, "
           "LLaVA-NeXT-7B", _pair("last_row"), below("migration.last_row_late", 0.05)),
    Wanted(5, "the same, all text tokens", "below 5 % in the last third",
           "high early, vanishing deep: ToDRE, Figure 2, LLaVA-NeXT-7B, no numbers", _pair("text_rows"),
           below("migration.text_rows_late", 0.05)),
    Wanted(5, "the same, answer tokens", "below 5 % in the last third", "as two rows above", _pair("answer_rows"),
           below("migration.answer_rows_late", 0.05)),
    Wanted(5, "picture withdrawn before the last third: change of the right answers, in points",
           "no more than 1 lost (our reading)", "98.9 % of the average score is left when it goes between 1/2 and 7/8: "
           "ToDRE, Table 4, stage 2 only, LLaVA-NeXT-7B; from block 15 of 32 on \"while maintaining performance\": "
           "VTW, arXiv 2405.05803", lambda r: _points(entry_of(r, "migration.withdrawn_late")),
           lambda r: mean_of(r, "migration.withdrawn_late") >= -0.01),
    Wanted(5, "blocks of the decoder", "12 to 16", "32", lambda r: str(r["decoder_blocks"]),
           lambda r: 12 <= r["decoder_blocks"] <= 16),
    Wanted(6, "correlation of the last text token's attention with the raster position, mean of the blocks",
           "above 0 (our reading)", "late positions get more: ApET, Figure 2, a picture without numbers",
           number("position.last_row_pearson_mean", 3), above("position.last_row_pearson_mean", 0.0)),
    Wanted(6, "that correlation, all text tokens", "above 0 (our reading)", NOTHING,
           number("position.text_rows_pearson_mean", 3), above("position.text_rows_pearson_mean", 0.0)),
    Wanted(6, "that correlation by ranks (Spearman), all text tokens", "stated", NOTHING,
           number("position.text_rows_spearman_mean", 3)),
)  # fmt: skip
"""All properties; where a target is a matter of reading, the row says so."""


def _points(entry: Mapping[str, Any]) -> str:
    mean, low, high = (f"{100 * entry[key]:+.1f}" for key in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def cell(row: Wanted, result: Result) -> str:
    """The value, and whether it is as wanted."""
    if row.holds is None:
        return row.value(result)
    return f"{row.value(result)}: {'yes' if row.holds(result) else 'no'}"


def summary_table(models: Mapping[str, Result]) -> str:
    """Properties as rows, models as columns."""
    head = ["", "property", "wanted", "LLaVA-1.5 or its kin", *(label.replace("|", "\\|") for label in models)]
    rows = [
        [str(row.number), row.what, row.wanted, row.published, *(cell(row, result) for result in models.values())]
        for row in WANTED
    ]
    return markdown(head, rows)


def decoder_table(result: Result) -> str:
    """Every block of the decoder; V: V2Drop ranks by its change, P: Polymorphic looks before it."""

    def at(name: str, block: int, scale: float = 1.0) -> str:
        value = entry_of(result, name)["mean"][block]
        return "none" if value is None else f"{scale * value:.{2 if scale == 1.0 else 1}f}"

    rows = []
    for block in range(result["decoder_blocks"]):
        marks = [mark for mark, own in (("V", "v2drop_blocks"), ("P", "polymorphic_layers")) if block in result[own]]
        words = ", ".join(f"{word} {100 * part:.0f} %" for word, part in result["strongest_words"][block].items())
        rows.append([
            " ".join([str(block), *marks]), at("variation.auc", block), at("variation.ratio", block),
            *(at(f"migration.{name}", block, 100) for name in ("last_row", "text_rows", "answer_rows", "withdrawn")),
            *(at(f"position.{name}", block) for name in ("last_row_pearson", "text_rows_pearson")),
            at("alignment.one_hot", block, 100), at("alignment.rater_auc_existence", block), words.replace("|", "\\|"),
        ])  # fmt: skip
    everything = at("migration.withdrawn", result["decoder_blocks"], 100)
    rows.append(["never", *[""] * 5, everything, *[""] * 5])
    head = [
        "block", "change, AUC", "evidence over background", "last text token on the picture, %", "all text, %",
        "answer, %", "right if withdrawn before it, %", "position, last", "position, all text", "one-hot, %",
        "rater score, existence, AUC", "strongest words",
    ]  # fmt: skip
    return markdown(head, rows)


def tower_table(result: Result) -> str:
    """Every block of the tower; * marks the one whose output the projector gets."""
    columns: Sequence[Sequence[float | None]] = [
        result["cls"][name]["mean"] for name in ("evenness", "top_share", "auc")
    ]
    rows = [
        [f"{block}*" if block == result["cls_block"] else str(block),
         *("none" if value is None else f"{value:.2f}" for value in values)]
        for block, values in enumerate(zip(*columns, strict=True))
    ]  # fmt: skip
    return markdown(["block", "entropy over ln N", "on the strongest 5 %", "evidence from background, AUC"], rows)


HOW = """Background is every patch that shows no object and no sign (lines, dots and splashes count as background);
evidence are the patches that show what a question needs. An AUC is how often an evidence token beats a background
token, ties half; it is taken per question, averaged per scene, then over scenes. Intervals are 95% of a bootstrap that
draws whole scenes. All visual tokens are present in every measurement; "withdrawn" hides them from the text from one
block on, at unchanged positions. Attention is the mean over heads."""


def page(models: Mapping[str, Result]) -> str:
    """The whole page as Markdown."""
    parts = [
        "# Properties of the embedded model",
        flow("""Written by `python -m training.properties`; `properties.json` has every number. "yes" and "no" say
            whether a property is as wanted ("above" asks it of the lower end of the interval). What is known of
            LLaVA-1.5 is quoted from the papers named; "at second hand" means that we read it quoted, not in the
            paper."""),
        flow(HOW),
        summary_table(models),
    ]
    for label, result in models.items():
        parts += [
            f"## {label}",
            flow(f"""{result["scenes"]} held-out scenes from seed {result["first_seed"]} on, {result["questions"]}
                questions, {result["visual_tokens"]} visual tokens; weights {result["weights"]};
                {result["seconds"] / 60:.1f} minutes ({result["machine"]})."""),
            flow("""Decoder. V: blocks whose change V2Drop ranks by; P: blocks before which Polymorphic looks. One-hot:
                softmaxes of visual tokens over the text, of what enters the block, with more than 99 % on one word;
                strongest words: on which most of them fall."""),
            decoder_table(result),
            flow("Attention of [CLS] in the vision tower (*: the block whose output is projected)."),
            tower_table(result),
        ]
    return "\n\n".join(parts) + "\n"
