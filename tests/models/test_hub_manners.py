"""Around a call of the hub's client: its retries are not logged, and defects of ours do not pass for its errors."""

import logging
import threading

import pytest
from tiny_families import CASES

from tokviz.errors import BadInput
from tokviz.models import checkpoint, hub
from tokviz.models.families import FAMILIES

CLIENT = "huggingface_hub.utils._http"


@pytest.fixture
def heard():
    """What the client's logger let through."""
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logging.getLogger(CLIENT).addHandler(handler)
    yield records
    logging.getLogger(CLIENT).removeHandler(handler)


def test_retries_are_silent_around_our_calls_only(heard, monkeypatch):
    logger = logging.getLogger(CLIENT)

    def unreachable(*asked, **options):
        logger.warning("Retrying in 1s [Retry 1/5].")
        elsewhere = threading.Thread(target=logger.warning, args=("somebody else's",))
        elsewhere.start()
        elsewhere.join()
        raise ConnectionError("no route")

    monkeypatch.setattr(hub, "hf_hub_download", unreachable)
    with pytest.raises(BadInput, match="hub cannot be reached"):
        hub.fetch_config("a/b", None)
    logger.warning("afterwards")
    assert heard == ["somebody else's", "afterwards"]


def test_a_defect_in_what_hears_of_progress_is_not_blamed_on_the_hub(monkeypatch, tmp_path):
    def download(name, tqdm_class=None, dry_run=False, **options):
        if dry_run:
            return []
        with tqdm_class(unit="B", desc="reconstructing", total=5) as bar:
            bar.update(5)
        return str(tmp_path)

    def hears(words, share):
        raise KeyError("a defect")

    monkeypatch.setattr(hub, "snapshot_download", download)
    monkeypatch.setattr(hub, "_bytes_to_download", lambda *_: 5)
    assert hub.fetch("a/b", None, hub.Report(None)) == tmp_path
    with pytest.raises(KeyError, match="a defect"):
        hub.fetch("a/b", None, hub.Report(hears))
    monkeypatch.setattr(hub, "_check_room", lambda *_: {}["another"])
    with pytest.raises(KeyError, match="another"):
        hub.fetch("a/b", None, hub.Report(hears))


def test_a_defect_while_planning_is_no_unknown_model(monkeypatch):
    assert checkpoint.planning_before_loading("llava-hf/llava-1.5-7b-hf") is not None
    monkeypatch.setattr(type(FAMILIES["llava"]), "planned", lambda self, config: config["a defect"])
    for name in ("llava-hf/llava-1.5-7b-hf", "tokviz-tiny"):
        with pytest.raises(KeyError, match="a defect"):
            checkpoint.planning_before_loading(name)


ODD = [None, 0, -1, "x", [], {}, [1], [[1, 2]], 1e308, float("nan"), float("inf"), True, 10**30]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.media == "image"])
def test_odd_configurations_of_folders_are_planned_or_not_but_never_crash(name, tmp_path):
    import json

    import torch

    case = CASES[name]
    config = json.loads(case.model(torch.float32).config.to_json_string(use_diff=False))
    processor = {"image_processor": {"size": {"shortest_edge": 56, "longest_edge": 999}, "patch_size": 14,
                                     "merge_size": 2}}  # fmt: skip

    def plan(config, processor):
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "processor_config.json").write_text(json.dumps(processor))
        return checkpoint.planning_before_loading(str(tmp_path))

    plan(config, processor)
    parts = [key for key in ("text_config", "vision_config") if isinstance(config.get(key), dict)]
    for value in ODD:
        for key in (*parts, "image_grid_pinpoints", "vision_feature_layer", "vision_aspect_ratio", "model_type"):
            plan({**config, key: value}, processor)
        for part in parts:
            for key in ("num_hidden_layers", "image_size", "patch_size", "model_type"):
                plan({**config, part: {**config[part], key: value}}, processor)
        for key in ("size", "patch_size", "merge_size"):
            plan(config, {"image_processor": {**processor["image_processor"], key: value}})
        plan(config, {"image_processor": value})
        plan(config, value)
        plan(value, processor)
