"""A processor that makes other images, frames or counts than its model takes is refused when the model is loaded."""

import pytest
from tiny_families import CASES

from tokviz.errors import Unsupported

CHANGES = {
    "llava": [
        ("image_processor", "do_resize", False),
        ("image_processor", "do_center_crop", False),
        ("image_processor", "crop_size", {"height": 64, "width": 64}),
        (None, "patch_size", 4),
        (None, "vision_feature_select_strategy", "full"),
        (None, "num_additional_image_tokens", 0),
    ],
    "llava_next (vicuna)": [
        (None, "vision_feature_select_strategy", "full"),
        (None, "num_additional_image_tokens", 0),
    ],
    "llava_next_video (videos)": [("video_processor", "do_center_crop", False)],
    "video_llava (videos)": [
        ("image_processor", "do_resize", False),
        ("image_processor", "do_center_crop", False),
        ("video_processor", "do_resize", False),
        (None, "vision_feature_select_strategy", "full"),
        (None, "num_additional_image_tokens", 0),
    ],
    "llava_onevision (videos)": [("video_processor", "do_resize", False)],
    "internvl (videos)": [("image_processor", "do_resize", False), ("video_processor", "do_resize", False)],
    "smolvlm (videos)": [
        ("image_processor", "do_resize", False),
        ("video_processor", "do_resize", False),
        ("video_processor", "max_image_size", {"longest_edge": 64}),
    ],
}


@pytest.mark.parametrize(
    ("name", "part", "setting", "value"), [(name, *change) for name, changes in CHANGES.items() for change in changes]
)
def test_what_would_fail_or_be_drawn_wrongly_is_refused(name, part, setting, value):
    case = CASES[name]
    model, processor = case.model(), case.processor()
    case.here.check(model, processor, "this")
    setattr(processor if part is None else getattr(processor, part), setting, value)
    with pytest.raises(Unsupported, match=r"^this has a processor that"):
        case.here.check(model, processor, "this")


def test_frames_of_video_llava_need_their_cls_counted():
    """Counted as in ``full``, images come out right and frames one short."""
    case = CASES["video_llava (videos)"]
    model, processor = case.model(), case.processor()
    processor.num_additional_image_tokens, processor.vision_feature_select_strategy = 0, "full"
    with pytest.raises(Unsupported, match="CLS"):
        case.here.check(model, processor, "this")


@pytest.mark.parametrize("name", ["llava", "llava_next (vicuna)", "video_llava", "llava_onevision", "internvl"])
def test_features_come_from_behind_a_layer_that_there_is(name):
    case = CASES[name]
    model, processor = case.model(), case.processor()
    n_layers = model.config.vision_config.num_hidden_layers
    for layer in (1, n_layers, -1, -n_layers):
        model.config.vision_feature_layer = layer
        case.here.check(model, processor, "this")
    for layer in (0, n_layers + 1, -n_layers - 1, -n_layers - 2, [-2, -1]):
        model.config.vision_feature_layer = layer
        with pytest.raises(Unsupported, match="the output of one layer"):
            case.here.check(model, processor, "this")
