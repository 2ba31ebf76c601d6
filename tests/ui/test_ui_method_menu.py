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
from tokviz.session_limits import MAX_RUNS
from tokviz.types import CLIP_RELEVANCE, CLS_ATTENTION, PlanningInfo, Schedule
from tokviz.ui import text
from tokviz.ui.form import MAX_METHODS, families, missing_by_method, offered, read_menu

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
            (q.name, q.default, q.help) for q in p.settings
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


OWN = {"positions": "source"}


def test_a_model_that_takes_videos_offers_what_compares_frames_before_it_knows_what_it_is_asked_about():
    some = [pruner("plain"), pruner("tiles", needs_tiles=True), pruner("frames", needs_frames=True)]
    bare = PlanningInfo(n_visual=144, n_layers=8)
    assert set(missing_by_method(some, bare)) == {"tiles", "frames"}
    assert "this model takes images only" in missing_by_method(some, bare)["frames"]
    both = replace(bare, takes_video=True)
    assert missing_by_method(some, both) == {"tiles": some[1].missing(both)}


def test_the_value_comes_back_in_the_order_of_the_menu_complete_and_without_strangers():
    power = Param("power", "Power", "float", 1.0, "How strong.")
    some = [pruner("one", params=(power,)), pruner("two", "control"), pruner("three", "attention-ranked")]
    value = {"chosen": ["two", ["one", {"power": 2}], "three", "full", ["nobody", {"p": 2}]], "missing": {}}
    assert read_menu(some, value) == (("three", OWN), ("one", {"power": 2, **OWN}), ("two", OWN))


def test_a_method_comes_back_once_for_each_of_its_settings():
    chosen = [
        ["apet", {}],
        ["apet", {"mode": "official"}],
        "fastervlm",
        ["apet", {"mode": "paper", "basis_tokens": 10}],
    ]
    read = read_menu(PRUNERS, {"chosen": chosen})
    # The last one has the settings of the first: it would be the same lane.
    assert [(method, params.get("mode")) for method, params in read] == [
        ("apet", "paper"), ("apet", "official"), ("fastervlm", None),
    ]  # fmt: skip
    assert read_menu(PRUNERS, {"chosen": [list(pair) for pair in read]}) == read


@pytest.mark.parametrize(
    "value",
    [
        None, [], {}, {"chosen": "apet"}, {"chosen": None}, {"chosen": {"apet": {}}}, {"chosen": [1]},
        {"chosen": [["apet"]]}, {"chosen": [["apet", 1]]}, {"chosen": [["apet", {}, {}]]}, {"chosen": [[{}, "apet"]]},
        {"chosen": [{"apet": {}}]}, {"chosen": ["apet"], "params": {"apet": {"mode": "official"}}},  # of an older page
    ],
)  # fmt: skip
def test_a_forged_value_is_refused_with_a_sentence(value):
    with pytest.raises(BadInput, match="please reload"):
        read_menu(PRUNERS, value)


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"speed": 2}, "ApET has no parameter 'speed'"),
        ({"basis_tokens": "ten"}, "basis_tokens must be a number, not 'ten'"),
        ({"basis_tokens": 10**400}, "basis_tokens must lie between 1 and 64"),
        ({"mode": ["official"]}, "mode must be one of paper, official"),
        ({"mode": {"path": "/etc/passwd"}}, "mode must be one of paper, official"),
        ({"mode": None}, "mode must be one of paper, official"),
    ],
)
def test_settings_that_a_method_does_not_have_are_refused_before_anything_runs(params, sentence):
    with pytest.raises(BadInput, match=sentence):
        read_menu(PRUNERS, {"chosen": ["apet", ["apet", params]]})


def test_a_thousand_copies_are_refused():
    copies = [["vispruner", {"important_share": i / 1000}] for i in range(1000)]
    with pytest.raises(BadInput, match=f"at most {MAX_METHODS} methods; this one asks for 1,000"):
        read_menu(PRUNERS, {"chosen": copies})
    assert len(read_menu(PRUNERS, {"chosen": copies[:MAX_METHODS]})) == MAX_METHODS < MAX_RUNS
    assert len(offered(PRUNERS)) < MAX_METHODS  # each of them once, and some again


def test_parameters_reach_the_script_with_their_limits():
    param = Param("share", "Share", "float", 0.5, "How much.", minimum=0.0, maximum=1.0, step=0.05)
    [group] = families([pruner("one", params=(param,))])
    assert group["methods"][0]["params"][:-1] == [
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


def test_a_stack_comes_back_from_the_menu_with_the_parameters_of_both():
    value = {"chosen": [["divprune+fastv", {"second_layer": 3}], "divprune", "fastv+nobody", "full+fastv", "a+b+c"]}
    (alone, _), (stacked, params) = read_menu(PRUNERS, value)
    assert (alone, stacked, params["second_layer"], params["share"]) == ("divprune", "divprune+fastv", 3, 2.0)
    with pytest.raises(BadInput, match=r"DivPrune \+ FastV has no parameter 'layer'"):
        read_menu(PRUNERS, {"chosen": [["divprune+fastv", {"layer": 3}]]})
