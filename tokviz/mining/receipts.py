"""What the receipt tells of whoever computes: weights, settings, device, kernel, versions; and of the methods' code."""

from __future__ import annotations

import ast
import datetime
import hashlib
import inspect
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..cases import CaseFile
from ..models.catalog import find
from ..models.loading import VisionLanguageModel
from ..pruners import Pruner
from ..runs.job import versions
from .manifest import Manifest, MinedFile, MinedMethod, MinedModel
from .plan import PART_CASES, Plan
from .sources import folder_of


@dataclass(frozen=True)
class Computed:
    """What computes: the model with its digests, where it lies, by which kernel and versions."""

    model: MinedModel
    device: str
    dtype: str
    kernel: str
    versions: dict[str, str]

    def unlike(self, other: Computed) -> str:
        """Name what differs."""
        pairs = zip(asdict(self).items(), asdict(other).values(), strict=True)
        return "; ".join(f"{name}: {one} and {another}" for (name, one), another in pairs if one != another)


def computed_by(vlm: VisionLanguageModel) -> Computed:
    """Describe the model of this process. It reads all weights: seconds for billions of them."""
    record = vlm.record
    return Computed(
        model=MinedModel(
            id=record.name,
            revision=_revision(vlm),
            family=record.family,
            weights_sha256=weights_digest(vlm.model),
            settings_sha256=settings_digest(vlm),
        ),
        device=" + ".join(record.devices or [record.device]),
        dtype=record.dtype if record.quantization is None else f"{record.dtype}, {record.quantization}",
        kernel=" + ".join(filter(None, [record.attention, record.tower_attention])),
        versions=versions(),
    )


def receipt(computed: Computed, plan: Plan, cases: CaseFile, count: int, asked: int, command: str) -> Manifest:
    """Make the manifest of a run that begins now. count, asked: cases in the file, and of those to be mined."""
    return Manifest(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=command,
        cases=MinedFile(name=cases.name, digest=cases.digest, layout=cases.layout, count=count, asked=asked),
        methods=[
            MinedMethod(
                key=chosen.requested.key,
                id=chosen.pruner.id,
                label=chosen.label,
                kind=chosen.pruner.family,
                params=chosen.requested.params,
                code_sha256=code_digest(chosen.pruner),
            )
            for chosen in plan.methods
        ],
        budgets=list(plan.budgets),
        budget_as=plan.budget_as,
        seeds=list(plan.seeds),
        seed=plan.seeds[0],
        max_new_tokens=plan.max_new_tokens,
        frames=plan.frames,
        part_cases=PART_CASES,
        **vars(computed),
    )


def _revision(vlm: VisionLanguageModel) -> str | None:
    """The commit on the hub that the files came from, None for any other folder."""
    entry = find(vlm.record.name)
    folder = Path(folder_of(vlm))
    if folder.parent.name == "snapshots":
        return folder.name
    return entry.revision if entry is not None else None


def weights_digest(model: Any) -> str:
    """SHA-256 over all parameters and buffers that are stored: name, type, shape and bytes of each, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            if tensor.device.type != "meta":
                digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def settings_digest(vlm: VisionLanguageModel) -> str:
    """SHA-256 of what else answers depend on: generation settings, template, preprocessing, vocabulary."""
    tokenizer = vlm.processor.tokenizer
    image = getattr(vlm.processor, "image_processor", None)
    parts = [
        vlm.model.generation_config.to_json_string(use_diff=False, ignore_metadata=True),
        str(getattr(vlm.processor, "chat_template", "")),
        json.dumps(image.to_dict() if image is not None else {}, sort_keys=True, default=str),
        json.dumps(sorted(tokenizer.get_vocab().items())),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def code_digest(pruner: Pruner) -> str:
    """SHA-256 of the source of a method: of its module and of all that it imports from its own package.

    Of a method without source (typed into a notebook cell that is gone), of its name alone.
    """
    plan = inspect.unwrap(pruner.schedule)
    modules = {getattr(plan, "__module__", ""), *(_modules_in(cell) for cell in _cells(plan))}
    files = sorted({path for module in filter(None, modules) for path in _files(module)}, key=lambda path: path.name)
    digest = hashlib.sha256(pruner.id.encode())
    for path in files:
        digest.update(f"\n{path.name}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _cells(function: Any) -> Iterator[Any]:
    """What a function closes over: the select functions of a stage."""
    for cell in getattr(function, "__closure__", None) or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not bound yet
            continue


def _modules_in(value: Any) -> str:
    return str(getattr(inspect.unwrap(value) if callable(value) else value, "__module__", None) or "")


@cache
def _files(module: str) -> frozenset[Path]:
    """The source of a module and of the modules of its package that it imports, theirs included."""
    package, found, left = module.rpartition(".")[0], {}, [module]
    while left:
        name = left.pop()
        path = Path(getattr(sys.modules.get(name), "__file__", None) or "")
        if name in found or path.suffix != ".py" or not path.is_file():
            continue
        found[name] = path
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 1 and package:
                names = [node.module] if node.module else [alias.name for alias in node.names]
                left += [f"{package}.{each}" for each in names]
    return frozenset(found.values())
