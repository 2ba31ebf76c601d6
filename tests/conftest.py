"""Shared: the embedded model (loaded once) and a scene whose answer is known."""

import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import pytest
from PIL import Image

gc.disable()  # importing and collecting make much that stays and little garbage; on again when that is done


@pytest.hookimpl(trylast=True)
def pytest_collection_finish():
    """Torch, gradio and the tests themselves are here to stay: no later collection of garbage walks through them.

    The page's models are let go with a full collection each, which took a quarter of a second and is milliseconds now.
    """
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def vlm():
    """The embedded model."""
    import tokviz

    return tokviz.load()


@pytest.fixture(scope="session")
def n_tokens(vlm):
    """How many visual tokens the embedded model makes of an image."""
    vision = vlm.model.config.vision_config
    return (vision.image_size // vision.patch_size) ** 2


@pytest.fixture(scope="session")
def budget(n_tokens):
    """The smallest budget of most papers' tables: 64 of 576, a ninth."""
    return n_tokens // 9


@pytest.fixture(scope="session")
def scene():
    """A held-out scene."""
    from scenes import HELD_OUT_SEEDS, generate_scene

    return generate_scene(HELD_OUT_SEEDS[3])


@pytest.fixture(scope="session")
def scene_image(scene):
    """The scene as a PIL image."""
    return Image.fromarray(scene.image)
