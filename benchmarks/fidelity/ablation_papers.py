"""The ablations of the papers as data: what they vary, what they printed, and which of our variants stands beside it.

Only numbers that the papers print, each with its table. A new ablation is one entry of ``ABLATIONS``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .outcomes import Variant


def variant(method: str, budget: int, **params: Any) -> Variant:
    """A variant labelled by what it is, so that two ablations that share one share its label too."""
    settings = ", ".join(f"{name} {value}" for name, value in params.items())
    return Variant(method, params, f"{method} ({settings})" if settings else method, budget)


@dataclass(frozen=True)
class Setting:
    """One row of an ablation.

    name: as the paper calls it. printed: the paper's numbers, in the order of ``Ablation.columns``; empty where the
    paper has no such row. worse_than_reference: what the paper shows without printing numbers.
    """

    name: str
    variant: Variant
    printed: tuple[float, ...] = ()
    worse_than_reference: bool = False


@dataclass(frozen=True)
class Ablation:
    """One ablation of one paper.

    varies: what differs between the rows. source: paper and table. on: the paper's model and budget. columns: of the
    paper's table, unpruned: its row for the unpruned model. mean_printed: the last column is the paper's own mean
    retention in percent; otherwise it is computed from the columns. reference: name of the row that all others are
    compared with, the paper's choice. claim: what the paper concludes, in our words. notes: what differs here.
    """

    id: str
    title: str
    varies: str
    source: str
    on: str
    columns: tuple[str, ...]
    unpruned: tuple[float, ...]
    mean_printed: bool
    reference: str
    settings: tuple[Setting, ...]
    claim: str
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [setting.name for setting in self.settings]
        if len(set(names)) != len(names) or names.count(self.reference) != 1:
            raise ValueError(f"{self.id}: names repeat, or {self.reference!r} is not among them")
        for row in (self.unpruned, *(setting.printed for setting in self.settings if setting.printed)):
            if len(row) != len(self.columns):
                raise ValueError(f"{self.id}: {len(row)} numbers for {len(self.columns)} columns")

    @property
    def reference_setting(self) -> Setting:
        """The row that all others are compared with."""
        return next(setting for setting in self.settings if setting.name == self.reference)

    def paper_mean(self, setting: Setting) -> float | None:
        """The paper's mean retention of a row, in percent of its unpruned model; None where it prints no such row."""
        if not setting.printed:
            return None
        if self.mean_printed:
            return setting.printed[-1]
        shares = [value / whole for value, whole in zip(setting.printed, self.unpruned, strict=True)]
        return 100 * sum(shares) / len(shares)

    def paper_difference(self, setting: Setting) -> float | None:
        """The row's mean minus that of the reference, in points as printed; None without numbers."""
        mean, reference = self.paper_mean(setting), self.paper_mean(self.reference_setting)
        # Means are printed with two decimals at most: what is left behind the sixth is rounding of the subtraction.
        return None if mean is None or reference is None else round(mean - reference, 6)

    def paper_direction(self, setting: Setting) -> int | None:
        """1 if the paper has the row above its reference, -1 below, 0 equal as printed; None where it does not say."""
        if setting.worse_than_reference:
            return -1
        difference = self.paper_difference(setting)
        return None if difference is None else (difference > 0) - (difference < 0)


_APET_COLUMNS = ("GQA", "POPE", "MME")
_APET_UNPRUNED = (61.9, 85.9, 1862)
_APET_ON = "LLaVA-1.5-7B, 64 of 576 tokens (unpruned row from Table 1)"

APET_SAMPLING = Ablation(
    id="apet_sampling",
    title="ApET: how the basis is sampled",
    varies="how the ten basis tokens are chosen: farthest points (FPS), density peaks (DPC), or by lot",
    source="ApET, Table 5",
    on=_APET_ON,
    columns=_APET_COLUMNS,
    unpruned=_APET_UNPRUNED,
    mean_printed=False,
    reference="FPS",
    settings=(
        Setting("FPS", variant("apet", 64), (56.9, 84.4, 1714)),
        Setting("DPC", variant("apet", 64, sampling="dpc"), (57.1, 84.8, 1691)),
        Setting("random", variant("apet", 64, sampling="random"), (55.7, 82.5, 1634)),
    ),
    claim="FPS and DPC are both competitive, and even a random basis holds up; FPS was chosen because it is cheaper.",
    notes=("By lot means drawn from a generator seeded by the scene; the paper does not say how many draws it made.",),
)

APET_BASIS = Ablation(
    id="apet_basis",
    title="ApET: how many basis tokens",
    varies="the number M of basis tokens",
    source="ApET, Table 6",
    on=_APET_ON,
    columns=_APET_COLUMNS,
    unpruned=_APET_UNPRUNED,
    mean_printed=False,
    reference="M = 10",
    settings=(
        Setting("M = 6", variant("apet", 64, basis_tokens=6), (56.0, 83.5, 1676)),
        Setting("M = 8", variant("apet", 64, basis_tokens=8), (56.7, 84.1, 1705)),
        Setting("M = 10", variant("apet", 64), (56.9, 84.4, 1714)),
        Setting("M = 12", variant("apet", 64, basis_tokens=12), (56.8, 83.9, 1699)),
        Setting("M = 14", variant("apet", 64, basis_tokens=14), (56.4, 83.7, 1663)),
    ),
    claim="Stable over a wide range of M, with the best results at M = 10.",
)

_POLYMORPHIC_COLUMNS = ("GQA", "TextVQA", "MME", "POPE (F1)", "mean %")
_POLYMORPHIC_UNPRUNED = (61.92, 46.00, 1864.84, 85.85, 100.0)
_WITHOUT_STAGE_1 = (58.33, 42.40, 1719.43, 83.47, 93.95)
_K_CLAIM = "Moderate K is best: too small and too large values both lose; K = 2 is the default at every budget."

POLYMORPHIC_K_128 = Ablation(
    id="polymorphic_k_128",
    title="Polymorphic: the factor K at 128 tokens",
    varies="the factor K: stage 1 keeps K times the budget, and stage 2 brings the average over the blocks down to it",
    source="Polymorphic, Table 5",
    on="LLaVA-1.5-7B, 128 of 576 tokens",
    columns=_POLYMORPHIC_COLUMNS,
    unpruned=_POLYMORPHIC_UNPRUNED,
    mean_printed=True,
    reference="K = 2",
    settings=(
        Setting("K = 1 as printed (no stage 1)", variant("polymorphic", 128, stage_1=False), _WITHOUT_STAGE_1),
        Setting("K = 1.5", variant("polymorphic", 128, factor=1.5), (58.79, 44.35, 1764.12, 85.33, 96.34)),
        Setting("K = 2", variant("polymorphic", 128), (59.00, 44.56, 1780.38, 85.02, 96.66)),
        Setting("K = 2.5", variant("polymorphic", 128, factor=2.5), (59.17, 44.09, 1762.54, 84.88, 96.20)),
        Setting("K = 3", variant("polymorphic", 128, factor=3.0), (58.53, 42.62, 1772.28, 84.37, 95.12)),
    ),
    claim=_K_CLAIM,
    notes=(
        "The paper's row K = 1 repeats the numbers of its row without stage 1 (Table 6), and its text says that K = 1 "
        "relies on the question alone; so it is run without stage 1 here. K = 1 as defined, stage 1 alone, is in the "
        "ablation of the stages.",
    ),
)

POLYMORPHIC_K_64 = Ablation(
    id="polymorphic_k_64",
    title="Polymorphic: the factor K at 64 tokens",
    varies=POLYMORPHIC_K_128.varies,
    source="Polymorphic, Table 5",
    on="LLaVA-1.5-7B, 64 of 576 tokens",
    columns=_POLYMORPHIC_COLUMNS,
    unpruned=_POLYMORPHIC_UNPRUNED,
    mean_printed=True,
    reference="K = 2",
    settings=(
        Setting("K = 1.5", variant("polymorphic", 64, factor=1.5), (56.08, 42.45, 1697.62, 81.16, 92.10)),
        Setting("K = 2", variant("polymorphic", 64), (56.20, 42.60, 1734.67, 81.79, 92.92)),
        Setting("K = 2.5", variant("polymorphic", 64, factor=2.5), (56.54, 41.69, 1755.58, 82.75, 93.12)),
        Setting("K = 3", variant("polymorphic", 64, factor=3.0), (55.75, 38.87, 1742.08, 83.02, 91.16)),
    ),
    claim=_K_CLAIM,
)

_STAGES_CLAIM = "Each stage alone is worse than both together."

POLYMORPHIC_STAGES_128 = Ablation(
    id="polymorphic_stages_128",
    title="Polymorphic: one stage or both at 128 tokens",
    varies="which of the two stages run",
    source="Polymorphic, Table 6",
    on="LLaVA-1.5-7B, 128 of 576 tokens",
    columns=_POLYMORPHIC_COLUMNS,
    unpruned=_POLYMORPHIC_UNPRUNED,
    mean_printed=True,
    reference="both",
    settings=(
        Setting("stage 1 only", variant("polymorphic", 128, factor=1.0), (57.70, 43.89, 1758.08, 84.47, 95.32)),
        Setting("stage 2 only", variant("polymorphic", 128, stage_1=False), _WITHOUT_STAGE_1),
        Setting("both", variant("polymorphic", 128), (59.00, 44.56, 1780.38, 85.02, 96.66)),
    ),
    claim=_STAGES_CLAIM,
)

POLYMORPHIC_STAGES_64 = Ablation(
    id="polymorphic_stages_64",
    title="Polymorphic: one stage or both at 64 tokens",
    varies="which of the two stages run",
    source="Polymorphic, Table 6",
    on="LLaVA-1.5-7B, 64 of 576 tokens",
    columns=_POLYMORPHIC_COLUMNS,
    unpruned=_POLYMORPHIC_UNPRUNED,
    mean_printed=True,
    reference="both",
    settings=(
        Setting("stage 1 only", variant("polymorphic", 64, factor=1.0), (55.18, 41.83, 1675.53, 77.38, 90.00)),
        Setting("both", variant("polymorphic", 64), (56.20, 42.60, 1734.67, 81.79, 92.92)),
    ),
    claim=_STAGES_CLAIM,
    notes=(
        "Neither the paper's table nor this one has stage 2 only at 64: of 8 blocks the first alone, which sees all "
        "576 tokens, makes an average of 72.",
    ),
)

_TODRE_COLUMNS = ("MME", "ScienceQA", "GQA", "POPE", "average %")
_TODRE_UNPRUNED = (1519.6, 72.0, 64.2, 87.7, 100.0)
_STAGE_2_ONLY = (1497.5, 70.5, 63.7, 87.7, 98.9)

TODRE_STAGES = Ablation(
    id="todre_stages",
    title="ToDRE: one stage or both",
    varies="which of the two stages run; stage 2 alone starts from all tokens, whatever the budget",
    source="ToDRE, Table 4",
    on="LLaVA-NeXT-7B, 10% of up to 2880 tokens; here 64 of 576 (11.1%)",
    columns=_TODRE_COLUMNS,
    unpruned=_TODRE_UNPRUNED,
    mean_printed=True,
    reference="both",
    settings=(
        Setting("stage 1 only", variant("todre", 64, stage_2=False), (1400.0, 69.6, 60.1, 86.1, 95.1)),
        Setting("both", variant("todre", 64), (1413.1, 70.0, 60.3, 85.9, 95.5)),
        Setting("stage 2 only", variant("todre", 64, stage_1=False), _STAGE_2_ONLY),
    ),
    claim="Withdrawal on top of the diverse subset costs nothing, and even gains 0.4 points.",
)

TODRE_TAU = Ablation(
    id="todre_tau",
    title="ToDRE: the threshold τ of withdrawal",
    varies="the share of attention below which all visual tokens go, with stage 2 only, as in the paper",
    source="ToDRE, Table 5",
    on="LLaVA-NeXT-7B, all of up to 2880 tokens until withdrawal; here all 576",
    columns=_TODRE_COLUMNS,
    unpruned=_TODRE_UNPRUNED,
    mean_printed=True,
    reference="τ = 0.03",
    settings=(
        Setting("τ = 0.01", variant("todre", 64, stage_1=False, tau=0.01), (1495.0, 70.6, 63.7, 87.8, 98.9)),
        Setting("τ = 0.03", variant("todre", 64, stage_1=False), _STAGE_2_ONLY),
        Setting("τ = 0.05", variant("todre", 64, stage_1=False, tau=0.05), (1495.0, 68.2, 63.7, 87.8, 98.1)),
        Setting("τ = 0.10", variant("todre", 64, stage_1=False, tau=0.1), (1517.9, 65.9, 58, 87.7, 95.4)),
        Setting("τ = 0.8 (not in the paper)", variant("todre", 64, stage_1=False, tau=0.8)),
        Setting("τ = 0.9 (not in the paper)", variant("todre", 64, stage_1=False, tau=0.9)),
        Setting("τ = 1 (not in the paper)", variant("todre", 64, stage_1=False, tau=1.0)),
    ),
    claim="A larger τ saves more time and costs more: nothing up to 0.03, 3.5 points at 0.10.",
    notes=(
        "The thresholds above 0.10 are ours: how much attention text spends on the picture in the second half differs "
        "from model to model, and a threshold that no question falls below says nothing about withdrawal.",
        "The paper's Table 6, which layers are probed, cannot be repeated: of 8 blocks the four at L/2, 5L/8, 6L/8 and "
        "7L/8 are all there are in the second half.",
    ),
)

ADAPTVTP_FILTER = Ablation(
    id="adaptvtp_filter",
    title="AdaptVTP: with and without the text filter",
    varies="whether the fifth of the tokens that lies farthest from the question goes before the rest is spread out",
    source="AdaptVTP, Figure 2",
    on="LLaVA-1.5-7B, 64 of 576 tokens; a bar chart without printed numbers",
    columns=(),
    unpruned=(),
    mean_printed=False,
    reference="with filter",
    settings=(
        Setting("with filter", variant("adaptvtp", 64)),
        Setting("without filter", variant("adaptvtp", 64, filter=False), worse_than_reference=True),
    ),
    claim="Without the filter the drops are noticeably larger on every benchmark shown.",
)

ABLATIONS = (
    APET_SAMPLING,
    APET_BASIS,
    POLYMORPHIC_K_128,
    POLYMORPHIC_K_64,
    POLYMORPHIC_STAGES_128,
    POLYMORPHIC_STAGES_64,
    TODRE_STAGES,
    TODRE_TAU,
    ADAPTVTP_FILTER,
)
"""In the order of the document."""
