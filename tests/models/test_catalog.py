"""The menu of models: every entry is what its family really builds, counted on weights that hold no memory."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from tokviz.models.catalog import CATALOG, EMBEDDED, Parameters, find, memory_gb, size_words, weights_gb
from tokviz.models.families import FAMILIES

PUBLISHED = [entry for entry in CATALOG if entry.id not in EMBEDDED]


def built(entry):
    """The model of an entry without weights, from the sizes that the entry gives."""
    config = {name: dict(part) if hasattr(part, "items") else part for name, part in entry.config.items()}
    kind = config.pop("model_type")
    config.pop("visual_tokens", None)  # ours, for planning
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(kind, **config))
    model.tie_weights()
    return model


def test_ids_are_unique_and_each_family_lists_its_own():
    assert len({entry.id for entry in CATALOG}) == len(CATALOG) and tuple(entry.id for entry in CATALOG[:2]) == EMBEDDED
    for family in FAMILIES.values():
        assert family.catalog, f"{family.id} has nothing on the menu"
        for entry in family.catalog:
            assert entry.family == family.id == entry.config["model_type"]
            assert find(entry.id) is entry
            assert entry.takes and set(entry.takes) <= set(family.takes)


@pytest.mark.parametrize(("layer", "layers"), [(-2, 23), (-1, 24), (5, 5)])
def test_planning_counts_the_vision_layers_that_features_pass_through(layer, layers):
    """23 of CLIP's 24 in LLaVA-1.5; stages inside the tower are planned by it, as ``VisionTower`` is cut by it."""
    config = {**find("llava-hf/llava-1.5-7b-hf").config, "vision_feature_layer": layer}
    assert FAMILIES["llava"].planned(config).n_vision_layers == layers


@pytest.mark.parametrize("entry", PUBLISHED, ids=lambda entry: entry.id)
def test_an_entry_counts_every_parameter(entry):
    model = built(entry)
    output = model.get_output_embeddings()
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not output)
    total = sum(parameter.numel() for parameter in model.parameters())
    assert entry.parameters == Parameters(linear, total - linear)


@pytest.mark.parametrize("entry", PUBLISHED, ids=lambda entry: entry.id)
def test_the_estimates_lie_above_the_weights_and_shrink_with_the_bits(entry):
    assert weights_gb(entry.parameters, 16) == pytest.approx(2 * entry.parameters.total / 1e9)
    assert entry.memory_gb > weights_gb(entry.parameters, 16) - 0.05
    assert entry.memory_gb > entry.estimated_gb(8) > entry.memory_gb_4bit > 0
    assert entry.revision is None or len(entry.revision) == 40
    assert entry.label and entry.licence and entry.visual_tokens > 0


def test_the_estimate_by_hand():
    text = {"hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 3,
            "intermediate_size": 16}  # fmt: skip
    tokens = 100 + 512
    cache, layer = 2 * 3 * 4 * tokens * 2, tokens * (4 * 8 + 3 * 16) * 2
    assert memory_gb(Parameters(1000, 10), text, 100, 16) == pytest.approx((2020 + cache + layer) / 1e9)
    assert memory_gb(Parameters(1000, 10), text, 100, 8) == pytest.approx((1020 + cache + layer) / 1e9)
    assert memory_gb(Parameters(1000, 10), text, 100, 4) == pytest.approx((582.5 + cache + layer) / 1e9)
    # Heads that are wider than their share of the hidden size (Qwen3): 10 instead of 4 numbers per key.
    wide = {**text, "head_dim": 10}
    assert memory_gb(Parameters(0, 0), wide, 100, 16) == pytest.approx((cache * 2.5 + layer) / 1e9)


def test_sizes_are_said_as_people_do():
    assert [size_words(n) for n in (3_512_345, 256_484_928, 7_063_427_072)] == ["3.5 M", "256 M", "7.1 B"]
