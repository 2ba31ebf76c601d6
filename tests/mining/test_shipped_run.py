"""The run that comes with tokviz: made by one command, the same every time, and nothing of this machine in it."""

import pytest

from scripts import shipped_run
from tokviz.errors import BadInput
from tokviz.mining.manifest import MANIFEST, read_manifest
from tokviz.ui import serve
from tokviz.workbench import tag_file
from tokviz.workbench.media import media_file


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    asked = {"methods": ["apet", "random"], "budgets": [64], "seeds": 2, "most": 2, "workers": 1}
    return shipped_run.mined(tmp_path_factory.mktemp("shipped"), 1, **asked)


def test_it_is_shipped_whole_with_its_images_and_opens_without_being_asked_for(run, tmp_path, monkeypatch):
    place = tmp_path / "runs" / "tokviz-tiny"
    size = shipped_run.ship(run, place)
    files = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
    (image,) = (run / "media").iterdir()
    assert files == {
        MANIFEST, "map.parquet", "rows/part-00000.parquet", "cases/part-00000.parquet", f"media/{image.name}",
    }  # fmt: skip
    assert size == sum((place / name).stat().st_size for name in files) / 1e6
    text = (place / MANIFEST).read_text()
    assert str(run.parent) not in text and str(shipped_run.IMPORT_FOLDER) not in text
    assert read_manifest(place).command == "python -m scripts.shipped_run"

    for module in (serve, tag_file):  # where the package lies
        monkeypatch.setattr(module, "resource", lambda name: tmp_path / "runs")
    workbench = serve.mined_runs(None)
    opened = workbench.opened("tokviz-tiny")
    case = {"image": "images/x.png", "video": None, "media_sha256": image.stem}
    assert media_file(opened, case) == place / "media" / image.name
    with pytest.raises(BadInput, match="comes with tokviz"):
        workbench.answer("save_slice", {"run": "tokviz-tiny", "name": "mine"})
    workbench.close()
    assert {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()} == files


def test_what_comes_out_the_same_is_left_as_it_is(run, tmp_path):
    place = tmp_path / "there"
    assert shipped_run.differences(place, run) == ["there was none"]
    shipped_run.ship(run, place)
    manifest = read_manifest(place)
    later = manifest.parts[0].model_copy(update={"seconds": 9.0})
    (place / MANIFEST).write_bytes(manifest.model_copy(update={"created": "later", "parts": [later]}).to_bytes())
    assert shipped_run.differences(place, run) == []
    other = later.model_copy(update={"sha256": "0" * 64})
    (place / MANIFEST).write_bytes(manifest.model_copy(update={"parts": [other]}).to_bytes())
    assert shipped_run.differences(place, run) == ["parts"]


def test_a_run_that_is_too_large_or_unfinished_is_not_shipped(run, tmp_path, monkeypatch):
    shipped_run.ship(run, tmp_path / "there")
    before = (tmp_path / "there" / MANIFEST).read_bytes()
    monkeypatch.setattr(shipped_run, "MOST_MB", 0.001)
    with pytest.raises(BadInput, match="mine fewer scenes"):
        shipped_run.ship(run, tmp_path / "there")
    (tmp_path / "half").mkdir()
    half = read_manifest(run).model_copy(update={"status": "running"})
    (tmp_path / "half" / MANIFEST).write_bytes(half.to_bytes())
    with pytest.raises(BadInput, match="not finished"):
        shipped_run.ship(tmp_path / "half", tmp_path / "there")
    assert (tmp_path / "there" / MANIFEST).read_bytes() == before


def test_every_method_that_runs_is_mined_and_those_of_papers_come_first():
    import tokviz

    names = shipped_run.every_method(tokviz.load("tokviz-tiny"))
    assert {"apet", "fastv", "visionzip", "oracle", "random", "downsample"} <= set(names)
    assert "full" not in names and "dycoke" not in names  # DyCoke compares frames of a video
    assert names[:3] == ["fastervlm", "apet", "divprune"] and names[-1] in {"oracle", "pool", "random_at"}
