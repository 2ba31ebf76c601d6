"""Search of VTW's layer K: from which layer on does a model answer as if the picture were still there?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from scenes import HELD_OUT_SEEDS, generate_scene
from tokviz.engine import Prompt, encode, running_on
from tokviz.errors import BadInput
from tokviz.media.images import read_image, stored_image
from tokviz.models.loading import VisionLanguageModel
from tokviz.models.prompts import model_inputs
from tokviz.pruners import get
from tokviz.runs.examples import load_examples
from tokviz.types import Budget, PlanningInfo, Selection, Signals, Stage

ETA = 0.003
"""Largest divergence in nats at which the official search stops, for LLaVA-1.5-7B and by default."""

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Sample:
    """One picture and one question about it."""

    image: Image.Image
    question: str


@dataclass(frozen=True)
class Calibration:
    """What the search found.

    layers: the K that were tried, ascending. divergence: for each the mean over the samples of KL(p_withdrawn ||
    p_full) of the first answer token, in nats.
    """

    model: str
    n_layers: int
    n_samples: int
    eta: float
    layers: tuple[int, ...]
    divergence: tuple[float, ...]

    @property
    def layer(self) -> int | None:
        """The first K whose mean divergence is at most ``eta``."""
        return next((k for k, kl in zip(self.layers, self.divergence, strict=True) if kl <= self.eta), None)

    @property
    def closest(self) -> tuple[int, float]:
        """The K with the smallest divergence, and that divergence."""
        return min(zip(self.layers, self.divergence, strict=True), key=lambda pair: (pair[1], pair[0]))


def first_layer(n_layers: int) -> int:
    """Where the search starts: 5 of 32 as officially, in proportion elsewhere, at least 1."""
    return max(1, 5 * n_layers // 32)


@torch.inference_mode()
def calibrate_vtw(
    vlm: VisionLanguageModel,
    samples: Sequence[Sample],
    *,
    eta: float = ETA,
    first: int | None = None,
    on_sample: Callable[[int], None] = lambda done: None,
) -> Calibration:
    """For K from ``first`` to L - 1: how far the first answer token is from the unpruned one when VTW withdraws at K.

    Each sample is encoded once; then one full forward and one withdrawn forward per K. Text keeps its positions.
    Source: VTW, official ``lmms_eval/__main__.py --findk`` (20 samples, first 5, eta 0.003 for LLaVA-1.5-7B, 0.0005
    for 13B, 0.0001 for LLaVA-1.6-7B). Differs: the picture may stand anywhere in the prompt, divergence in float64.
    ``on_sample`` hears how many samples are done. Raises BadInput for no sample, an ``eta`` that is no positive number,
    or a ``first`` that is no layer of the model.
    """
    n_layers = vlm.record.n_layers
    first = first_layer(n_layers) if first is None else first
    if not samples:
        raise BadInput("There is no sample to calibrate with; give at least one picture.")
    if not 0 < eta < float("inf"):
        raise BadInput(f"eta must be a positive number, not {eta:g}.")
    if not 1 <= first < n_layers:
        raise BadInput(f"The first layer to try must lie between 1 and {n_layers - 1}, not {first}.")
    layers = range(first, n_layers)
    total = torch.zeros(len(layers), dtype=torch.float64)
    for number, sample in enumerate(samples, 1):
        total += divergence_per_layer(vlm, sample, layers)
        on_sample(number)
    mean = (total / len(samples)).tolist()
    return Calibration(vlm.record.name, n_layers, len(samples), eta, tuple(layers), tuple(mean))


def divergence_per_layer(vlm: VisionLanguageModel, sample: Sample, layers: Sequence[int]) -> Tensor:
    """KL(p_withdrawn || p_full) in nats of one sample's first answer token, for VTW at each of ``layers``.

    Shape: -> ``(len(layers),)`` float64 on the CPU.
    """
    inputs, _ = model_inputs(vlm, sample.image, sample.question)
    prompt = encode(vlm.model, vlm.family, inputs, ())
    with running_on(vlm.model, vlm.family, prompt):
        full = _log_probabilities(vlm, prompt)
    found = []
    for layer in layers:
        stages, choose = _withdrawal(vlm, prompt, layer)
        with running_on(vlm.model, vlm.family, prompt, stages, choose):
            withdrawn = _log_probabilities(vlm, prompt)
        found.append((withdrawn.exp() * (withdrawn - full)).sum())
    return torch.stack(found).cpu()


def _withdrawal(
    vlm: VisionLanguageModel, prompt: Prompt, layer: int
) -> tuple[tuple[Stage, ...], Callable[[Stage, Signals, int], Selection]]:
    """VTW's own stage for this layer, and how the engine asks it."""
    vtw = get("vtw")
    params = vtw.complete({"layer": layer})
    info = PlanningInfo(prompt.n_visual[0], vlm.record.n_layers, vlm.family.id)
    generator = torch.Generator()

    def choose(stage: Stage, signals: Signals, row: int) -> Selection:
        return stage.select(signals, stage.keep, params, generator)

    return vtw.schedule(Budget(1), info, params).stages, choose


def _log_probabilities(vlm: VisionLanguageModel, prompt: Prompt) -> Tensor:
    """Log-probabilities of the first answer token. Shape: ``(vocabulary,)`` float64."""
    output = vlm.model(**prompt.generate_inputs(), use_cache=False, logits_to_keep=1)
    return output.logits[0, -1].double().log_softmax(-1)


# --------------------------------------------------------------------------------------------------------- samples


def scene_samples(count: int) -> list[Sample]:
    """The first question on each of the first ``count`` held-out procedural scenes that allow one."""
    if not 1 <= count <= len(HELD_OUT_SEEDS):
        raise BadInput(f"The number of scenes must lie between 1 and {len(HELD_OUT_SEEDS):,}, not {count}.")
    scenes = (generate_scene(seed, questions_per_family=1) for seed in HELD_OUT_SEEDS)
    found: Iterator[Sample] = (
        Sample(Image.fromarray(scene.image), scene.questions[0].text) for scene in scenes if scene.questions
    )
    return [sample for sample, _ in zip(found, range(count), strict=False)]


def image_samples(folder: Path, question: str) -> list[Sample]:
    """Every picture of a folder, in the order of names, with the same question. Raises BadInput when there is none."""
    if not folder.is_dir():
        raise BadInput(f"There is no folder {str(folder)!r}.")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_ENDINGS and path.is_file())
    if not files:
        raise BadInput(f"The folder {str(folder)!r} holds no picture ({', '.join(IMAGE_ENDINGS)}).")
    return [Sample(read_image(path).image, question) for path in files]


def case_samples(folder: Path) -> list[Sample]:
    """Picture and question of every stored case of a folder (see ``examples/``) that is about a picture, not a video.

    Raises BadInput when there is none.
    """
    if not folder.is_dir():
        raise BadInput(f"There is no folder {str(folder)!r}.")
    cases = [case for case in load_examples(folder) if case.comparison.video is None]
    if not cases:
        raise BadInput(f"The folder {str(folder)!r} holds no cases (folders with case.json and session.json).")
    return [Sample(stored_image(case.comparison.image), case.comparison.request.question) for case in cases]
