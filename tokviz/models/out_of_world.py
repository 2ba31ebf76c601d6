"""How unlike a model's training images an image is: statistics that lie beside the weights of a small, closed world.

A model that was trained on drawn scenes answers about a photograph just as surely, and its answer means nothing. Its
own tower tells the two apart: the spread over the patches of every channel in its middle, as a point in as many
dimensions as the tower is wide, and the Mahalanobis distance of that point from those of training scenes (Lee et al.,
2018, use the distance, on means and per class). ``training/out_of_world.py`` fits the statistics and says what else was
tried.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import BadInput

FILE = "out_of_world.npz"
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class WorldStatistics:
    """What training images look like to the tower, and from which distance on an image is called outside.

    Shape: mean ``(V,)``; directions ``(K, V)``, orthonormal; variances ``(K,)``; all float32. layer: the one of the
    tower in front of which it looks, from 0. false_alarms: the share of training images beyond ``threshold``.
    """

    mean: Tensor
    directions: Tensor
    variances: Tensor
    other_variance: float
    threshold: float
    layer: int
    false_alarms: float

    def distance(self, spreads: Tensor) -> Tensor:
        """How far images are from training images. Shape: spreads ``(B, V)`` as from ``spread`` -> ``(B,)`` float32."""
        away = spreads.float() - self.mean
        along = away @ self.directions.T
        left = away.square().sum(1) - along.square().sum(1)
        return ((along.square() / self.variances).sum(1) + left.clamp(min=0) / self.other_variance).sqrt()

    def save(self, path: Path) -> None:
        """Write a file of a few kilobytes."""
        numbers = [self.other_variance, self.threshold, self.layer, self.false_alarms]
        np.savez(
            path, mean=self.mean.numpy(), directions=self.directions.half().numpy(), variances=self.variances.numpy(),
            others=np.array(numbers),
        )  # fmt: skip

    @classmethod
    def load(cls, path: Path) -> WorldStatistics:
        """Read what ``save`` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            BadInput: If it holds something else; files of strangers are read without running any of them.
        """
        try:
            with zipfile.ZipFile(path) as packed:
                if sum(entry.file_size for entry in packed.infolist()) > _MOST_BYTES:
                    raise ValueError("too large")
            with np.load(path, allow_pickle=False) as stored:
                mean, directions, variances = (
                    torch.from_numpy(stored[name]).float() for name in ("mean", "directions", "variances")
                )
                other, threshold, layer, false_alarms = stored["others"].tolist()
            if directions.shape != (len(variances), len(mean)) or mean.ndim != 1 or not other > 0:
                raise ValueError("sizes do not fit")
        except (ValueError, KeyError, TypeError, zipfile.BadZipFile, OSError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise BadInput(f"{FILE} beside the model's weights is broken: train or download the model anew.") from error
        return cls(mean, directions, variances, other, threshold, int(layer), false_alarms)


def spread(states: Tensor) -> Tensor:
    """How much every channel varies over the patches of an image.

    Shape: states ``(B, N, V)`` in front of a layer, without [CLS] -> ``(B, V)`` float32.
    """
    return states.float().std(dim=1)


def statistics_in(folder: Path | None) -> WorldStatistics | None:
    """The statistics that lie beside a model's weights, if any. Raises BadInput for a broken file."""
    if folder is None or not (folder / FILE).is_file():
        return None
    return WorldStatistics.load(folder / FILE)
