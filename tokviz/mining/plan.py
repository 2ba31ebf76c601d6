"""What a mining is asked to do, checked before any work, and its receipt."""

from __future__ import annotations

import ast
import datetime
import hashlib
import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..cases import CaseFile
from ..errors import BadInput
from ..models.catalog import find
from ..models.loading import VisionLanguageModel
from ..names import UNPRUNED, BudgetMeaning
from ..pruners import PRUNERS, Pruner
from ..pruners.plugins import packaged
from ..pruners.stack import JOIN
from ..records import RequestedMethod
from ..runs.compare import versions
from ..runs.inputs import check_whole
from ..runs.requests import MAX_NEW_TOKENS, ChosenMethod, MethodLike, chosen_methods, listed
from ..short import passed
from .manifest import Manifest, MinedFile, MinedMethod, MinedModel
from .sources import folder_of

PART_CASES = 100
QUICK_CASES, QUICK_BUDGETS = 40, 2
MOST_BUDGETS, MOST_SEEDS, MOST_TOKENS = 32, 64, 1_000_000
_PERCENT = re.compile(r"\s*(\d{1,3}(?:\.\d{1,6})?)\s*%\s*")


@dataclass(frozen=True)
class Plan:
    """What every case is asked, the same in every process.

    chosen: the unpruned run first. budgets: descending. model_id: as rows name it.
    """

    chosen: tuple[ChosenMethod, ...]
    budgets: tuple[int, ...]
    budget_as: BudgetMeaning
    seeds: tuple[int, ...]
    max_new_tokens: int
    frames: int | None
    model_id: str

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle methods by their ids: what a schedule is made of cannot be sent to another process."""
        asked = [chosen.requested for chosen in self.methods]
        return _rebuilt, (asked, {name: value for name, value in vars(self).items() if name != "chosen"})

    @property
    def methods(self) -> tuple[ChosenMethod, ...]:
        """Without the unpruned run."""
        return tuple(chosen for chosen in self.chosen if chosen.pruner.id != UNPRUNED)


def _rebuilt(asked: list[RequestedMethod], rest: dict[str, Any]) -> Plan:
    return Plan(chosen=tuple(chosen_methods(asked)), **rest)


def only_here(plan: Plan) -> list[str]:
    """The methods that another process does not know: those that were made or registered in this one."""
    found = {pruner.id for pruner in (*PRUNERS, *packaged(PRUNERS))}
    return [chosen.requested.key for chosen in plan.methods if not {*chosen.pruner.id.split(JOIN)} <= found]


def checked_plan(
    vlm: VisionLanguageModel,
    methods: Sequence[MethodLike],
    budgets: Sequence[int | str],
    *,
    params: Mapping[str, Mapping[str, Any]] | None,
    budget_as: BudgetMeaning,
    seeds: int,
    seed: int,
    max_new_tokens: int,
    frames: int | None,
    quick: bool,
) -> Plan:
    """Check what is asked for. quick: the largest and the smallest budget and one seed. Raises BadInput."""
    check_whole("The number of seeds", seeds, 1, MOST_SEEDS)
    check_whole("The seed", seed, 0, 2**63 - 1 - seeds)
    check_whole("The number of new tokens", max_new_tokens, 1, MAX_NEW_TOKENS)
    if budget_as not in ("published", "final", "average"):
        raise BadInput(f"budget_as must be published, final or average, not {passed(budget_as)}.")
    chosen = chosen_methods(methods, params)
    if len(chosen) < 2:
        raise BadInput("There is no method to mine: name at least one beside the unpruned run.")
    found = checked_budgets(vlm, budgets)
    if quick and len(found) > QUICK_BUDGETS:
        found = [found[0], found[-1]]
    last = 1 if quick else seeds
    return Plan(
        tuple(chosen), tuple(found), budget_as, tuple(range(seed, seed + last)), max_new_tokens, frames, vlm.record.name
    )


def checked_budgets(vlm: VisionLanguageModel, budgets: Sequence[int | str]) -> list[int]:
    """Budgets in tokens, descending, each once; shares are of a square image's tokens. Raises BadInput."""
    found = set()
    for value in listed("budgets", budgets):
        share = _PERCENT.fullmatch(value) if isinstance(value, str) else None
        if share is not None and 0 < float(share[1]) <= 100:
            found.add(max(1, round(vlm.n_visual * float(share[1]) / 100)))
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_TOKENS:
            raise BadInput(
                f'A budget is a whole number of visual tokens, or a share of them such as "25%", not {passed(value)}.'
            )
        found.add(value)
    if not found:
        raise BadInput('There are no budgets: give visual tokens (64) or shares of all of them ("25%").')
    if len(found) > MOST_BUDGETS:
        raise BadInput(f"There are {len(found)} budgets; a mining has at most {MOST_BUDGETS}.")
    return sorted(found, reverse=True)


def positions(count: int, limit: int | None, quick: bool) -> Sequence[int]:
    """Places in the case file of the cases that are mined: all of them, or ``limit`` evenly spaced ones.

    quick: at most 40.
    """
    wanted = min(count if limit is None else limit, QUICK_CASES if quick else count, count)
    return range(count) if wanted == count else [at * count // wanted for at in range(wanted)]


def receipt(
    vlm: VisionLanguageModel, plan: Plan, cases: CaseFile, count: int, asked: int, command: str, part_cases: int
) -> Manifest:
    """Make the manifest of a run that begins now."""
    record = vlm.record
    kernels = " + ".join(filter(None, [record.attention, record.tower_attention]))
    return Manifest(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=command,
        cases=MinedFile(name=cases.name, digest=cases.digest, layout=cases.layout, count=count, asked=asked),
        model=MinedModel(
            id=record.name,
            revision=_revision(vlm),
            family=record.family,
            weights_sha256=weights_digest(vlm.model),
            settings_sha256=settings_digest(vlm),
        ),
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
        device=" + ".join(record.devices or [record.device]),
        dtype=record.dtype if record.quantization is None else f"{record.dtype}, {record.quantization}",
        kernel=kernels,
        versions=versions(),
        part_cases=part_cases,
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
