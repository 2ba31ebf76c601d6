"""Which vision layer makes the features, wherever a configuration counts layers from; and what planning says of it."""

import pytest
from tiny_families import CASES

from tokviz.models.llava import Llava
from tokviz.models.loading import wrap

KINDS = [name for name, case in CASES.items() if isinstance(case.here, Llava) and case.media == "image"]


@pytest.mark.parametrize("name", KINDS)
def test_the_layer_whose_output_are_the_features(name):
    """hidden_states has one entry more than there are layers: entry h leaves layer h - 1."""
    case = CASES[name]
    vlm = wrap(case.model(), case.processor())
    layers = list(vlm.family.vision_layers(vlm.model, "image"))
    for layer, expected in ((1, 0), (3, 2), (len(layers), -1), (-1, -1), (-2, -2)):
        vlm.model.config.vision_feature_layer = layer
        assert vlm.family.vision_layer(vlm.model, "feature") is layers[expected], layer
        assert vlm.family.vision_layer(vlm.model, "last") is layers[-1]
        tower = vlm.family.vision_tower(vlm.model)
        assert tower is None or tower.layers[-1].attention is layers[expected].self_attn


@pytest.mark.parametrize(("layer", "passed"), [(-2, 23), (-1, 24), (24, 24), (22, 22), (1, 1)])
def test_planning_counts_the_layers_that_the_features_pass(layer, passed):
    config = {"vision_feature_layer": layer, "text_config": {"num_hidden_layers": 32},
              "vision_config": {"model_type": "clip_vision_model", "num_hidden_layers": 24, "image_size": 336,
                                "patch_size": 14}}  # fmt: skip
    assert Llava().planned(config).n_vision_layers == passed
