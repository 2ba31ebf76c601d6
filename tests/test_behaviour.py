"""The digests of behaviour: a sample of them is compared on every run, and what they must notice is tried."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scripts.behaviour import collecting, plan, sample, store
from scripts.behaviour_digest import main

ROOT = Path(__file__).resolve().parents[1]
CASE = "llava/apet/default/square/third/published"


@pytest.fixture(scope="module")
def names():
    return collecting.names()


def digested(*wanted):
    return store.digests_of(dict(collecting.collect(wanted)))


def called(*arguments):
    """The script as a user calls it."""
    command = [sys.executable, "-m", "scripts.behaviour_digest", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_sample_behaves_as_it_did():
    done = called("--check", "--sample")
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]


def test_every_case_has_a_digest(names):
    made_with, stored = store.read(store.DIGESTS)
    assert sorted(stored) == names
    assert {"torch", "transformers", "machine", "arithmetic"} <= set(made_with)
    assert store.DIGESTS.stat().st_size < 1.5e6


def test_every_parameter_value_is_tried_on_every_family(names):
    runs = [name.split("/") for name in names if name.count("/") == 5]
    tried = {(family, method, setting) for family, method, given, *_ in runs for setting in given.split(",")}
    for family in plan.adapter.families():
        for method, parameters in plan.adapter.methods().items():
            assert (family, method, "default") in tried
            for parameter in () if family.endswith(plan.THIN) else parameters:
                values = parameter.choices or ((True, False) if parameter.kind == "bool" else ())
                for value in {*values} - {parameter.default}:
                    assert (family, method, f"{parameter.name}={value}") in tried
                assert values or any(t[:2] == (family, method) and t[2].startswith(f"{parameter.name}=") for t in tried)


def test_the_sample_covers_families_methods_and_values(names):
    part = sample.of(names)
    runs, chosen = ({name for name in which if name.count("/") == 5} for which in (names, part))
    for depth in (slice(0, 1), slice(1, 3)):
        assert {tuple(n.split("/")[depth]) for n in runs} == {tuple(n.split("/")[depth]) for n in chosen}
    assert len(part) < len(names) / 10


def test_a_case_is_the_same_alone_and_in_company():
    others = ["llava/tome/default/square/third/published", "llava/fastv/layer=2/square/third/published",
              "llava/request/square"]  # fmt: skip
    together = digested(CASE, *others)
    assert together[CASE] == digested(CASE)[CASE]
    assert together["llava/request/square"] == digested("llava/request/square")["llava/request/square"]
    assert len(together) == 4


def changed(monkeypatch, method, change):
    """Patch one method in memory: ``change(selection) -> selection`` behind every stage."""
    registry = plan.adapter.registry

    def patched(pruner):
        def schedule(budget, info, params):
            planned = pruner.schedule(budget, info, params)
            return dataclasses.replace(planned, stages=tuple(map(patched_stage, planned.stages)))

        return dataclasses.replace(pruner, schedule=schedule)

    def patched_stage(stage):
        return dataclasses.replace(stage, select=lambda *arguments: change(stage.select(*arguments)))

    pruners = tuple(patched(p) if p.id == method else p for p in registry.PRUNERS)
    monkeypatch.setattr(registry, "PRUNERS", pruners)


def one_bit(tensor):
    """The first number as its neighbour."""
    made = tensor.clone()
    made.view(-1)[0] = torch.nextafter(made.view(-1)[0], torch.tensor(torch.inf))
    return made


def other_token(selection):
    free = [token for token in range(16) if token not in selection.kept.tolist()]
    kept = torch.tensor(sorted([*selection.kept.tolist()[1:], free[0]]))
    return dataclasses.replace(selection, kept=kept)


def told(change):
    """A selection whose diagnostics are others."""
    return lambda selection: selection.with_diagnostics(lambda own: dataclasses.replace(own, **change(own)))


@pytest.mark.parametrize(
    "method, change, parts",
    [
        ("divprune", other_token, {"decisions", "floats"}),
        ("visionzip", lambda s: dataclasses.replace(s, features=one_bit(s.features)), {"floats"}),
        ("fastervlm", told(lambda own: {"warnings": ["Take care."]}), {"sentences"}),
        ("fastervlm", told(lambda own: {"facts": {**own.facts, "more": 1}}), {"diagnostics"}),
    ],
    ids=["another token", "one bit of a merged feature", "a warning", "a fact"],
)
def test_what_changes_is_named(monkeypatch, method, change, parts):
    name = f"llava/{method}/default/square/third/published"
    before = digested(name, CASE)
    changed(monkeypatch, method, change)
    found = store.differences(before, digested(name, CASE))
    assert set(found) == {name}, "and of other methods nothing"
    assert parts <= set(found[name]) and (len(parts) > 1 or set(found[name]) - {"floats"} <= parts)


def test_a_changed_pruner_is_noticed_in_a_users_own_generate(monkeypatch):
    name = "llava/divprune/own generate/batch"
    before = digested(name)
    changed(monkeypatch, "divprune", other_token)
    assert store.differences(before, digested(name))[name][:2] == ["decisions", "floats"]


def test_a_reworded_refusal_is_a_sentence(monkeypatch):
    name = "refusals/budget 0"
    content = dict(collecting.collect([name]))[name]
    reworded = {**content, "sentences": {"error": content["sentences"]["error"] + " Thank you."}}
    found = store.differences(store.digests_of({name: content}), store.digests_of({name: reworded}))
    assert found == {name: ["sentences"]}


@pytest.fixture
def here(monkeypatch):
    """The script in this process, whose arithmetic is its own."""
    monkeypatch.setattr("scripts.behaviour_digest.is_pinned", lambda: True)
    monkeypatch.setattr("scripts.behaviour_digest.pin_torch", lambda: None)
    return lambda *arguments: main([*arguments])


def test_check_reports_and_exits_with_1(here, monkeypatch, tmp_path, capsys):
    path, name = tmp_path / "digests.json", "llava/divprune/default/square/third/published"
    options = ["--only", "llava/divprune/default/square/third", "--digests", str(path)]
    assert here("--write", *options) == 0
    assert here("--check", *options) == 0 and "All equal" in capsys.readouterr().out
    made_with, stored = store.read(path)
    assert here("--check", "--only", "no such case", "--digests", str(path)) == 2

    with monkeypatch.context() as patched:
        changed(patched, "divprune", other_token)
        assert here("--check", *options) == 1
    said = capsys.readouterr().out
    assert f"{name}: decisions, floats" in said and f"{len(stored)} of {len(stored)} cases differ" in said

    # Where arithmetic is another, bits prove nothing; decisions do.
    hashes = stored[name]
    store.write(path, {**made_with, "arithmetic": "another"}, {**stored, name: (hashes[0], "0" * 10, *hashes[2:])})
    assert here("--check", *options) == 0
    assert "Only decisions and sentences are compared" in capsys.readouterr().out
    assert here("--write", *options) == 2, "half of a file cannot be another machine's"
    store.write(path, {**made_with, "arithmetic": "another"}, {**stored, name: ("0" * 10, *hashes[1:])})
    assert here("--check", *options) == 1


def test_show_prints_all_that_a_case_did(here, capsys):
    assert here("--show", CASE) == 0
    shown = json.loads(capsys.readouterr().out)
    assert set(shown) == set(store.PARTS)
    assert len(shown["decisions"]["stages"]) == len(shown["floats"]["stages"]) == len(shown["diagnostics"]) == 2
    assert store.digests_of({CASE: shown}) == digested(CASE), "what is shown is what is hashed"
    assert here("--show", "llava/nothing") == 2 and "there is no case" in capsys.readouterr().err


def test_numbers_count_with_every_bit_and_names_do_not():
    one = torch.tensor([1.0, float("nan")])
    assert store.tensor_digest(one) == store.tensor_digest(one * -1 * -1) == store.tensor_digest(one.double())
    assert store.tensor_digest(one)["sha"] != store.tensor_digest(one_bit(one))["sha"]
    assert store.tensor_digest(one)["sha"] != store.tensor_digest(one[None])["sha"]
    assert store.digest({"a": 1.0, "b": (1, 2)}) == store.digest({"b": [1, 2], "a": 1.0})
    assert store.digest(0.1 + 0.2) != store.digest(0.3)


def test_new_and_lost_cases_are_named():
    hashes = ("a", "b", "c", "d")
    assert store.differences({"x": hashes}, {"y": hashes}) == {"x": ["missing"], "y": ["new"]}
