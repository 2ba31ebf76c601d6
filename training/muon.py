"""Muon in float32: momentum whose direction is orthogonalised before it is applied.

`torch.optim.Muon` orthogonalises in bfloat16, which a CPU without bfloat16 instructions emulates slowly. This one works
in float32, stacks matrices of equal shape, and lets every rank do its share of them.

Source: Jordan et al., "Muon" (2024); size of a step as in Liu et al., "Muon is Scalable for LLM Training" (2025), 2.2.
"""

from __future__ import annotations

from collections import defaultdict

import torch
import torch.distributed as dist
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalize(stack: Tensor, steps: int = 5) -> Tensor:
    """Replace each matrix by (about) the nearest one whose singular values are all alike, by Newton-Schulz steps.

    Shape:
        stack: (B, M, N) float32; returns the same.
    """
    a, b, c = COEFFICIENTS
    tall = stack.shape[1] > stack.shape[2]
    x = stack.mT if tall else stack
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and updates as large as AdamW's (0.2 * sqrt of the longer side).

    Args:
        params: matrices only.
        lr: learning rate, comparable with AdamW's.
        momentum: share of the old direction kept at each step.
        weight_decay: decoupled, times lr.
    """

    def __init__(self, params: list[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update; with several ranks each orthogonalises every n-th stack and all share the results."""
        ranks = dist.get_world_size() if dist.is_initialized() else 1
        rank = dist.get_rank() if ranks > 1 else 0
        for group in self.param_groups:
            stacks: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    stacks[parameter.shape].append(parameter)
            for shape, parameters in stacks.items():
                directions = []
                for parameter in parameters:
                    state = self.state[parameter]
                    if "momentum" not in state:
                        state["momentum"] = torch.zeros_like(parameter)
                    state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                    directions.append(parameter.grad.lerp(state["momentum"], group["momentum"]))
                update = torch.stack(directions)
                if ranks > 1:
                    mine = torch.zeros_like(update)
                    mine[rank::ranks] = orthogonalize(update[rank::ranks])
                    dist.all_reduce(mine)
                    update = mine
                else:
                    update = orthogonalize(update)
                size = group["lr"] * 0.2 * max(shape) ** 0.5
                for parameter, change in zip(parameters, update, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(change, alpha=-size)
