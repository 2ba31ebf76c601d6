"""Made-up outcomes whose truth is known: a variant has a skill, and answers the questions that are easy enough."""

import numpy as np

from benchmarks.fidelity.outcomes import EVIDENCE_ORACLE, FAMILIES, FULL, Outcome, Variant

BUDGETS = (192, 128, 64, 32)
SKILLS = {
    "random": (0.70, 0.62, 0.50, 0.40),
    "uniform": (0.74, 0.66, 0.52, 0.41),
    "fastervlm": (0.86, 0.84, 0.80, 0.74),
    "visionzip": (0.86, 0.83, 0.77, 0.70),
    "fastv": (0.78, 0.68, 0.45, 0.30),
    "apet": (0.88, 0.87, 0.84, 0.78),
    "divprune": (0.84, 0.80, 0.71, 0.60),
    "tome": (0.75, 0.62, 0.42, 0.33),
    "sparsevlm": (0.85, 0.80, 0.70, None),
    "polymorphic": (0.85, 0.82, 0.76, 0.66),
    "adaptvtp": (0.80, 0.74, 0.62, 0.50),
    "pdrop": (0.83, 0.76, 0.58, None),
    EVIDENCE_ORACLE: (0.90, 0.90, 0.895, 0.89),
}
TYPES = {
    "fastervlm": "attention-ranked",
    "visionzip": "attention-ranked",
    "fastv": "attention-ranked",
    "apet": "approximation-error",
    "divprune": "diversity",
    "tome": "merging",
    "sparsevlm": "text-guided",
    "polymorphic": "text-guided",
    "adaptvtp": "text-guided",
    "pdrop": "progressive",
}
WRONG = {"existence": ("yes", "no"), "counting": ("3", "4"), "reading": ("cat", "dog")}


def variants(skills=SKILLS):
    """Every variant with its skill."""
    found = {Variant(FULL, {}, "No pruning", None): 0.9}
    for method, levels in skills.items():
        for budget, level in zip(BUDGETS, levels, strict=True):
            if level is not None:
                found[Variant(method, {}, method.replace("_", " ").title(), budget)] = level
    return found


def outcomes(scenes=60, per_family=2, skills=SKILLS, seed=0):
    """Outcomes of all variants on the same questions; a scene is hard or easy for everyone."""
    rng = np.random.default_rng(seed)
    questions = [(s, f, k) for s in range(scenes) for f in FAMILIES for k in range(per_family)]
    easy_scene = rng.normal(0, 0.1, scenes)
    luck = rng.random(len(questions))
    made = {}
    for variant, skill in variants(skills).items():
        noise = rng.normal(0, 0.05, len(questions))
        made[variant] = [
            _outcome(
                variant, s, i % (len(FAMILIES) * per_family), f, bool(luck[i] + noise[i] < skill + easy_scene[s]), i
            )
            for i, (s, f, _) in enumerate(questions)
        ]
    return made


def _outcome(variant, scene, number, family, right, i):
    expected, other = WRONG.get(family, ("red", "blue"))
    if i % 2:
        expected, other = other, expected
    return Outcome(
        seed=5_000_000 + scene,
        number=number,
        family=family,
        question=f"what {family} is {number}?",
        expected=expected,
        answer=expected if right else other,
        right=right,
        kept=variant.budget or 576,
        average=float(variant.budget or 576),
        evidence_recall=None if family == "existence" and i % 2 else float(right),
        position_correlation=0.25,
    )


def about(**more):
    """What a table says beside its numbers."""
    return {
        "command": "python -m tokviz bench fidelity",
        "machine": "a machine",
        "date": "2026-11-21",
        "versions": {"torch": "2.11.0"},
        "model": "tokviz-tiny",
        "fingerprint": "0123abcd",
        "n_visual": 576,
        "n_layers": 8,
        "first_seed": 5_000_000,
        "scenes": 60,
        "budgets": list(BUDGETS),
        "workers": 2,
        "seconds": 12.5,
        "left_out": [{"label": "Sparse|VLM <b>", "budget": 32, "why": "cannot reach 32"}],
        "methods": {
            m: {"family": TYPES.get(m, "control"), "where": {str(b): "projector" for b in BUDGETS}} for m in SKILLS
        },
        **more,
    }
