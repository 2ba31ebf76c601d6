"""What both stages share: ranks, gradient averaging, a schedule by time, a log, and checkpoints that resume."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from training.muon import Muon


def launch(body: Callable[..., None], ranks: int, port: int, *args: Any) -> None:
    """Run `body(rank, ranks, *args)` in `ranks` one-thread processes.

    Two of them hold up better than two OpenMP threads where other programs use the cores too.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    if ranks == 1:
        torch.set_num_threads(1)
        body(0, 1, *args)
    else:
        mp.spawn(_start, args=(body, ranks, port, args), nprocs=ranks)


def _start(rank: int, body: Callable[..., None], ranks: int, port: int, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
    body(rank, ranks, *args)
    dist.destroy_process_group()


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Average the gradients over the ranks, as one flat vector."""
    if not dist.is_initialized():
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()


def share_number(value: float) -> float:
    """Rank 0's value, on every rank: the clock must not differ between ranks."""
    if not dist.is_initialized():
        return value
    box = torch.tensor([value], dtype=torch.float64)
    dist.broadcast(box, 0)
    return float(box)


def rate(progress: float, warmup: float = 0.03, floor: float = 0.02) -> float:
    """Learning-rate factor at `progress` in 0..1: linear warm-up, then cosine down to `floor`."""
    if progress < warmup:
        return max(progress / warmup, 0.02)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup))))


class Optimizers:
    """Muon for the hidden matrices, AdamW for the rest, one schedule for both."""

    def __init__(
        self, matrices: list[Tensor], rest: list[Tensor], muon_lr: float, adam_lr: float, decay: float
    ) -> None:
        self.all: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(rest, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
        ]
        if matrices:
            self.all.append(Muon(matrices, lr=muon_lr, weight_decay=decay))
        self.base = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.all]
        self.parameters = [*matrices, *rest]

    def step(self, factor: float, clip: float = 1.0) -> float:
        """Average over ranks, clip, update, clear; returns the norm of the gradient."""
        average_gradients(self.parameters)
        norm = nn.utils.clip_grad_norm_(self.parameters, clip)
        for optimizer, rates in zip(self.all, self.base, strict=True):
            for group, base in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = base * factor
            optimizer.step()
        for parameter in self.parameters:
            parameter.grad = None
        return float(norm)

    def state(self) -> list[dict[str, Any]]:
        """For a checkpoint."""
        return [optimizer.state_dict() for optimizer in self.all]

    def restore(self, states: list[dict[str, Any]]) -> None:
        """From a checkpoint."""
        for optimizer, state in zip(self.all, states, strict=True):
            optimizer.load_state_dict(state)


def split_matrices(module: nn.Module, hidden: Callable[[str], bool]) -> tuple[list[Tensor], list[Tensor]]:
    """(matrices for Muon, everything else); `hidden` says by name which weights are hidden matrices."""
    matrices, rest = [], []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            (matrices if parameter.ndim == 2 and hidden(name) else rest).append(parameter)
    return matrices, rest


class Log:
    """One JSON object per line, on rank 0 only."""

    def __init__(self, path: Path, rank: int) -> None:
        self.path = path if rank == 0 else None
        path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, **values: Any) -> None:
        """Append one line; numbers are shortened to five digits."""
        if self.path is None:
            return
        short = {k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in values.items()}
        with self.path.open("a") as file:
            file.write(json.dumps(short) + "\n")


def save_atomically(payload: dict[str, Any], path: Path) -> None:
    """Never leave half a checkpoint behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(payload, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


class Clock:
    """Seconds trained so far, over several sittings."""

    def __init__(self, before: float = 0.0) -> None:
        self.before, self.started = before, time.monotonic()

    def seconds(self) -> float:
        """Seconds of training, earlier sittings included."""
        return self.before + time.monotonic() - self.started
