"""The menu of methods: what it shows of every method, what it gives back, and who is greyed out with which sentence."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import tokviz
from tokviz.errors import BadInput
from tokviz.models import checkpoint
from tokviz.models.catalog import embedded_folder
from tokviz.names import UNPRUNED, MethodFamily
from tokviz.pruners.pruner import Paper, Param, Pruner
from tokviz.serving import model_cache
from tokviz.types import CLIP_RELEVANCE, CLS_ATTENTION, PlanningInfo, Schedule
from tokviz.ui import text
from tokviz.ui.form import families, menu_value, missing_by_method, offered, read_menu

PRUNERS = tokviz.methods()
N_TOKENS = json.loads((embedded_folder() / "config.json").read_text())["image_seq_length"]
EMBEDDED = PlanningInfo(n_visual=N_TOKENS, n_layers=8, has_cls=True, n_vision_layers=5)


def no_stages(budget, info, params) -> Schedule:
    return Schedule(())


def pruner(id: str, family: MethodFamily = "diversity", **more) -> Pruner:
    paper = Paper("A title", "Someone et al.", 2025, "https://example.org/paper")
    return replace(
        Pruner(id=id, label=id.title(), family=family, claim="Keeps things.", paper=paper, schedule=no_stages), **more
    )


def test_every_method_is_shown_once_with_its_claim_paper_and_parameters():
    groups = families(PRUNERS)
    assert json.loads(json.dumps(groups, allow_nan=False)) == groups
    labels = [group["label"] for group in groups]
    assert len(set(labels)) == len(labels) and all(group["why"].endswith(".") for group in groups)
    shown = {method["id"]: method for group in groups for method in group["methods"]}
    assert list(shown) == [p.id for p in offered(PRUNERS)] and set(shown) == {p.id for p in PRUNERS} - {UNPRUNED}
    for p in offered(PRUNERS):
        method = shown[p.id]
        assert (method["label"], method["claim"]) == (p.label, p.claim)
        assert p.paper is None or (
            method["paper"]["url"] == p.paper.url and method["paper"]["url"].startswith("https://")
        )
        assert [(q["name"], q["default"], q["help"]) for q in method["params"]] == [
            (q.name, q.default, q.help) for q in p.params
        ]


def test_every_family_has_a_caption_and_an_explanation():
    assert set(text.FAMILY_EXPLAINED) == set(text.FAMILY_LABELS) == set(MethodFamily.__args__)


def test_a_model_greys_out_what_it_cannot_serve_with_the_methods_own_sentence():
    some = [
        pruner("plain"), pruner("cls", needs=(CLS_ATTENTION,)), pruner("tiles", needs_tiles=True),
        pruner("tower", merges_in_vision=True), pruner("clip", needs=(CLIP_RELEVANCE,)),
    ]  # fmt: skip
    assert set(missing_by_method(some, EMBEDDED)) == {"tiles", "clip"}
    bare = PlanningInfo(n_visual=144, n_layers=8, has_cls=False)
    missing = missing_by_method(some, bare)
    assert set(missing) == {"cls", "tiles", "tower", "clip"}
    assert all(missing[p.id] == p.missing(bare) for p in some[1:])
    assert missing_by_method(some, None) == {}


def test_the_value_comes_back_in_the_order_of_the_menu_and_without_strangers():
    some = [pruner("one"), pruner("two", "control"), pruner("three", "attention-ranked")]
    value = menu_value(["two", "one", "three", "full", "nobody"], {"one": {"p": 1}, "nobody": {"p": 2}}, {})
    assert read_menu(some, value) == (("three", "one", "two"), {"three": {}, "one": {"p": 1}, "two": {}})


@pytest.mark.parametrize(
    "value",
    [None, [], {}, {"chosen": "apet"}, {"chosen": ["apet"], "params": []}, {"chosen": ["apet"], "params": {"apet": 1}}],
)
def test_a_forged_value_is_refused_with_a_sentence(value):
    with pytest.raises(BadInput, match="please reload"):
        read_menu(PRUNERS, value)


def test_parameters_reach_the_script_with_their_limits():
    param = Param("share", "Share", "float", 0.5, "How much.", minimum=0.0, maximum=1.0, step=0.05)
    [group] = families([pruner("one", params=(param,))])
    assert group["methods"][0]["params"] == [
        {"name": "share", "label": "Share", "kind": "float", "default": 0.5, "help": "How much.", "minimum": 0.0,
         "maximum": 1.0, "step": 0.05, "choices": []}
    ]  # fmt: skip


def test_the_embedded_model_is_known_before_it_is_loaded(monkeypatch):
    monkeypatch.setenv("TOKVIZ_MODEL", "tokviz-tiny")
    assert model_cache.planning("tokviz-tiny") == EMBEDDED
    assert model_cache.planning("another/one") is None
    from tokviz.runs.execute import planning_info

    vlm = tokviz.load("tokviz-tiny")
    grid = vlm.family.grid(vlm.model, vlm.processor, model_cache.SQUARE, {})
    assert planning_info(vlm, grid) == EMBEDDED


@pytest.mark.parametrize(
    "change",
    [{"model_type": "gpt"}, {"text_config": {}}, {"vision_config": None}, {"vision_feature_layer": [1, 2]},
     {"vision_feature_layer": None}, {"vision_feature_layer": float("inf")}],
)  # fmt: skip
def test_a_configuration_that_says_too_little_is_not_guessed(tmp_path: Path, change):
    config = json.loads((embedded_folder() / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert checkpoint.planning_before_loading(str(tmp_path)) == EMBEDDED
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    assert checkpoint.planning_before_loading(str(tmp_path)) is None
    (tmp_path / "config.json").write_text("not json")
    assert checkpoint.planning_before_loading(str(tmp_path)) is None
    assert checkpoint.planning_before_loading("owner/name") is None
