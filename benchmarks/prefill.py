"""What pruning saves where it is meant to: time to the first token, per token after it, and memory, of 7B models.

    python -m benchmarks.prefill --device cuda --shape full        # all three models, one after the other
    python -m benchmarks.prefill --device cuda --shape full --models llava-1.5-7b --minutes 9
    python -m benchmarks.prefill --device cuda --shape full --models llava-1.5-7b --minutes 9 --resume
    python -m benchmarks.prefill --device cpu --shape small        # without a GPU: true token counts, small models

Random weights in the published shapes, made on the device; nothing is downloaded. Every measured line is written at
once to ``benchmarks/prefill.json`` and ``.md`` (``--out``), so a run that is cut short is kept, and ``--resume`` adds
what is missing. A full model in bfloat16 takes 14 to 17 GB; guessed, not measured: less than 24 GB of GPU memory with
maps and caches, and 3 to 8 minutes per model on an H200. Nothing is asserted about time: the numbers are for reading.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tokviz.engine import Prompt
from tokviz.engine.stages import synchronise
from tokviz.errors import BadInput
from tokviz.pruners import get, methods
from tokviz.pruners.pruner import Pruner
from tokviz.runs.execute import Execution, Settings, execute, execution_timings, processed
from tokviz.runs.metrics import timing
from tokviz.types import Budget, Params, Schedule, Selection, Signals, Stage

from .machine import cpu_name
from .prefill_eager import Maps, eager, eager_prompt, llm_maps, maps_kept, read_off_maps, vision_maps
from .prefill_models import KINDS, SHAPES, Bench, Kind, bench
from .prefill_tables import OF_EACH_SITTING, Key, Line, Store

REPEATS = 5
NEW_TOKENS = 16
EVERYTHING = Schedule(())


@dataclass(frozen=True)
class Plan:
    """What one line measures. how: ``none`` (no pruning, same kernel), ``floor``, ``kernel`` or ``eager``."""

    how: str
    method: str
    budget: int | None
    schedule: Schedule
    params: dict[str, Any]

    @property
    def key(self) -> Key:
        """What tells lines of one run apart."""
        return self.how, self.method, self.budget

    def entering(self, n_visual: int) -> int:
        """How many of a picture's ``n_visual`` tokens the prompt has before anything is pruned."""
        return n_visual if self.how != "floor" or self.budget is None else self.budget


@dataclass(frozen=True)
class Fired:
    """One execution. vision_ms: tower and projector. peak_bytes: of everything, None where the device does not say."""

    shot: Execution
    vision_ms: float
    peak_bytes: int | None
    map_bytes: int = 0


# -- one execution -----------------------------------------------------------------------------------------------------


def floor_prompt(prompt: Prompt, tokens: int) -> Prompt:
    """The prompt as if its picture had ``tokens`` visual tokens: text and the first of them, and nothing to prune."""
    visual = prompt.visual_mask[0]
    stay = ~visual | (visual & (visual.cumsum(dim=0) <= tokens))
    columns = stay.nonzero()[:, 0]
    return replace(
        prompt,
        input_ids=prompt.input_ids[:, columns],
        inputs_embeds=prompt.inputs_embeds[:, columns],
        attention_mask=prompt.attention_mask[:, columns],
        position_ids=None if prompt.position_ids is None else prompt.position_ids[..., columns],
        visual_mask=prompt.visual_mask[:, columns],
        question_mask=None if prompt.question_mask is None else prompt.question_mask[:, columns],
        alive=[prompt.alive[0][:tokens]],
    )


@torch.inference_mode()
def fire(bench: Bench, plan: Plan, settings: Settings) -> Fired:
    """Encode and answer once, as the page does, or as published."""
    needs = {need for stage in plan.schedule.stages for need in stage.needs}
    vision_peak = _peak_from_here(bench.device)
    if plan.how == "eager":
        return _fire_eager(bench, plan, settings, vision_peak)
    prompt = bench.encoded(needs)
    encoding_peak = vision_peak()
    if plan.how == "floor":
        prompt = floor_prompt(prompt, plan.entering(bench.grid.n_tokens))
    return _answered(bench, prompt, plan, settings, encoding_peak)


def _fire_eager(bench: Bench, plan: Plan, settings: Settings, peak: Callable[[], int | None]) -> Fired:
    schedule, layers = plan.schedule, llm_maps(plan.schedule)
    needs = {need for stage in schedule.stages for need in stage.needs}
    in_vision = 0
    if vision_maps(schedule):
        prompt, in_vision = eager_prompt(bench, schedule, needs)
    else:
        prompt = bench.encoded(needs)
    encoding_peak = peak()
    maps = Maps()
    modules: list[Any] = [bench.family.layers(bench.model)[layer] for layer in sorted(layers)]
    with eager(bench, vision=False, llm=bool(layers)), maps_kept([layer.self_attn for layer in modules], maps):
        reading = replace(plan, schedule=read_off_maps(bench, schedule, maps))
        fired = _answered(bench, prompt, reading, settings, encoding_peak)
        return replace(fired, map_bytes=max(in_vision, maps.peak_bytes))


def _answered(bench: Bench, prompt: Prompt, plan: Plan, settings: Settings, peak: int | None) -> Fired:
    selecting: list[int] = []
    noted = _noting(plan.schedule, _peak_from_here(bench.device), selecting)
    shot = execute(bench.model, bench.family, prompt, noted, plan.params, settings)
    peaks = [p for p in (peak, *selecting, shot.answer.peak_bytes) if p is not None]
    vision_ms = prompt.vision_ms if shot.vision_ms is None else shot.vision_ms
    return Fired(shot, vision_ms, max(peaks, default=None))


def _noting(schedule: Schedule, peak: Callable[[], int | None], peaks: list[int]) -> Schedule:
    """The same schedule, writing down the peak after each selection: ``answer`` starts the device's count anew."""

    def noting(stage: Stage) -> Stage:
        def select(signals: Signals, keep: int | None, params: Params, generator: torch.Generator) -> Selection:
            selection = stage.select(signals, keep, params, generator)
            if (now := peak()) is not None:
                peaks.append(now)
            return selection

        return replace(stage, select=select)

    return Schedule(tuple(noting(stage) for stage in schedule.stages))


def _peak_from_here(device: torch.device) -> Callable[[], int | None]:
    """Start the device's count of the most memory held; the result reads it. None on devices that do not count."""
    if device.type != "cuda":
        return lambda: None
    synchronise(device)
    torch.cuda.reset_peak_memory_stats(device)
    return lambda: torch.cuda.max_memory_allocated(device)


def measure(bench: Bench, plan: Plan, settings: Settings) -> Line:
    """Medians over ``settings.repeats`` executions after a warm-up."""
    gc.collect()  # what a line before left in cycles would count as memory of this one
    fire(bench, plan, settings)
    return line_of(bench, plan, [fire(bench, plan, settings) for _ in range(settings.repeats)])


def line_of(bench: Bench, plan: Plan, fired: Sequence[Fired]) -> Line:
    """What executions of one plan come to."""
    shots, last = [one.shot for one in fired], fired[-1]
    n_visual = plan.entering(bench.grid.n_tokens)
    timings = execution_timings(shots)
    peaks = [one.peak_bytes for one in fired if one.peak_bytes is not None]
    return Line(
        how=plan.how,
        method=plan.method,
        budget=plan.budget,
        tokens_per_layer=processed(last.shot.events, n_visual, bench.n_layers),
        vision_ms=timing([one.vision_ms for one in fired]).median_ms,
        selection_ms=timings["selection"].median_ms,
        prefill_ms=timings["prefill"].median_ms,
        decode_ms=timings["decode_per_token"].median_ms,
        kv_bytes=last.shot.answer.kv_bytes,
        peak_bytes=max(peaks) if peaks else None,
        map_bytes=max(one.map_bytes for one in fired),
        samples=len(fired),
    )


# -- one model ---------------------------------------------------------------------------------------------------------


def plans(bench: Bench, chosen: Sequence[Pruner], budgets: Sequence[int]) -> tuple[list[Plan], list[dict[str, Any]]]:
    """What can be measured on this model, cheapest comparisons first, and what cannot, with the reason."""
    made, refused = [Plan("none", "no pruning", None, EVERYTHING, {})], []
    for budget in budgets:
        made.append(Plan("floor", "the floor", budget, EVERYTHING, {}))
        for pruner in chosen:
            params = dict(pruner.complete({}))
            try:
                schedule = pruner.schedule(Budget(budget), bench.info, params).of_stages
            except BadInput as error:
                refused.append({"method": pruner.id, "budget": budget, "reason": str(error)})
                continue
            made.append(Plan("kernel", pruner.id, budget, schedule, params))
            if vision_maps(schedule) or llm_maps(schedule):
                made.append(Plan("eager", pruner.id, budget, schedule, params))
    return made, refused


def measured(
    bench: Bench, wanted: Sequence[Plan], settings: Settings, skip: Collection[Key], deadline: float
) -> Iterator[Line]:
    """Line by line, without those in ``skip``; no pruning first, and once more at the end to show a restless machine.

    Every budget with anything to measure has its floor in the same sitting. deadline: of ``time.monotonic``, after
    which nothing but that last line is begun.
    """
    opened = {plan.budget for plan in wanted if _is_open(plan, skip)}
    due = [plan for plan in wanted if _is_open(plan, skip) or (plan.how == "floor" and plan.budget in opened)]
    fire(bench, wanted[0], settings)  # a device's very first run loads kernels and picks algorithms
    yield measure(bench, wanted[0], settings)
    for plan in due:
        if time.monotonic() > deadline:
            print("Out of time; run again with --resume.", flush=True)
            break
        yield measure(bench, plan, settings)
    yield replace(measure(bench, wanted[0], settings), how="again")


def _is_open(plan: Plan, skip: Collection[Key]) -> bool:
    return plan.how not in OF_EACH_SITTING and plan.key not in skip


def run(kind: Kind, args: argparse.Namespace, store: Store, deadline: float) -> None:
    """Measure one model and write every line as it comes."""
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    with _no_network():
        made = bench(kind, args.shape, device, dtype, args.attention)
    chosen = [get(name) for name in args.methods] or [pruner for pruner in methods() if pruner.id != "full"]
    budgets = args.budgets or kind.budgets_of(args.shape)
    wanted, refused = plans(made, chosen, budgets)
    settings = Settings(Budget(1), seed=0, repeats=args.repeats, max_new_tokens=args.tokens, stop=threading.Event())
    facts = {
        "model": kind.id,
        "label": kind.label,
        "shape": args.shape,
        "device": device_name(device),
        "dtype": args.dtype,
        "attention": "/".join(dict.fromkeys(made.kernels)),
    }
    skip = store.done(facts) if args.resume else set()
    if not any(_is_open(plan, skip) for plan in wanted):
        print(kind.id, "is complete.", flush=True)
        return
    sitting = store.begin(
        facts,
        about={
            "visual_tokens": made.grid.n_tokens,
            "text_tokens": int(made.inputs["input_ids"].shape[1]) - made.grid.n_tokens,
            "new_tokens": args.tokens,
            "parameters": sum(parameter.numel() for parameter in made.model.parameters()),
            "weights_bytes": sum(p.numel() * p.element_size() for p in made.model.parameters()),
        },
        sitting=environment(args),
        refused=refused,
        resume=args.resume,
    )
    for line in measured(made, wanted, settings, skip, deadline):
        print(kind.id, sitting.add(line), flush=True)
    sitting.end(load=_load())


@contextmanager
def _no_network() -> Iterator[None]:
    """Shapes need nothing from the hub; should transformers ask for something all the same, it must fail at once."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before


def device_name(device: torch.device) -> str:
    """The GPU's or the processor's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU: {cpu_name()}"


def _load() -> float | None:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def environment(args: argparse.Namespace) -> dict[str, Any]:
    """What the numbers of a sitting depend on besides the model."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "command": args.command,
        "note": args.note,
        "repeats": args.repeats,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load_before": _load(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "python": platform.python_version(),
        **({"cuda": str(torch.version.cuda)} if args.device.startswith("cuda") else {}),
    }


# -- the command line --------------------------------------------------------------------------------------------------


def parsed(given: Sequence[str] | None) -> argparse.Namespace:
    """The options, completed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.prefill", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float16", "float32"), help="default: bfloat16; on a CPU float32"
    )
    parser.add_argument("--shape", choices=SHAPES, default="full")
    parser.add_argument("--attention", default="sdpa", help="as transformers calls it: sdpa, flash_attention_2, ...")
    parser.add_argument("--models", type=_names, default=[], help=f"of {', '.join(kind.id for kind in KINDS)}")
    parser.add_argument("--methods", type=_names, default=[], help="ids, comma-separated; default: all")
    parser.add_argument("--budgets", type=_numbers, default=[], help="visual tokens; default: those of the papers")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--tokens", type=int, default=NEW_TOKENS, help="length of every answer, at least 2")
    parser.add_argument("--minutes", type=float, help="begin no further line after so many minutes")
    parser.add_argument("--resume", action="store_true", help="keep the lines that are there and add what is missing")
    parser.add_argument("--note", default="", help="written beside the numbers, for example how busy the machine was")
    parser.add_argument("--out", default=str(Path(__file__).with_name("prefill")), help="where to, without ending")
    args = parser.parse_args(given)
    known = [kind.id for kind in KINDS]
    if unknown := sorted(set(args.models) - set(known)):
        parser.error(f"there is no model {unknown[0]!r}; known: {', '.join(known)}")
    if args.tokens < 2 or args.repeats < 1:
        parser.error("an answer has at least 2 tokens, and something must be repeated at least once")
    args.dtype = args.dtype or ("float32" if args.device == "cpu" else "bfloat16")
    words = [
        f"--{name} {value}"
        for name, value in vars(args).items()
        if name in ("device", "dtype", "shape", "attention", "repeats", "tokens")
    ]
    words += [
        f"--{name} {','.join(map(str, getattr(args, name)))}"
        for name in ("models", "methods", "budgets")
        if getattr(args, name)
    ]
    args.command = " ".join(["python -m benchmarks.prefill", *words])
    return args


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _numbers(text: str) -> list[int]:
    return [int(number) for number in _names(text)]


def main(given: Sequence[str] | None = None) -> None:
    """The command line."""
    args = parsed(given)
    deadline = time.monotonic() + 60 * args.minutes if args.minutes else float("inf")
    store = Store(Path(args.out))
    for kind in KINDS:
        if (not args.models or kind.id in args.models) and time.monotonic() <= deadline:
            run(kind, args, store, deadline)


if __name__ == "__main__":
    main()
