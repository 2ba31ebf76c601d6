"""Loading over the network, from a hub that this test serves: the model comes, and each trouble has its sentence."""

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_hub import serving
from huggingface_hub import constants

import tokviz
from tokviz.errors import BadInput
from tokviz.models.catalog import embedded_folder

SCRIPT = """
import json, sys, time
time.sleep = lambda seconds: None  # the client waits between its attempts
import tokviz
for line in sys.stdin:
    found = {}
    for name in json.loads(line):
        steps = []
        try:
            vlm = tokviz.load(name, on_progress=lambda words, share: steps.append((words, share)))
            found[name] = ["loaded", vlm.record.name, vlm.record.parameters, steps]
        except Exception as error:
            found[name] = [type(error).__name__, str(error)]
    print(json.dumps(found), flush=True)
"""
REPOSITORIES = ("good", "gated", "withdrawn", "sick", "empty", "huge", "nosuch")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What came of every repository while the hub was there, and of some after it had gone.

    In a fresh interpreter, as the client reads its settings when it is imported; in one, as that takes the most time.
    """
    folder = tmp_path_factory.mktemp("hub")
    with ExitStack() as hub, open(folder / "said", "w") as said:
        address = hub.enter_context(serving(embedded_folder()))
        settings = {"HF_ENDPOINT": address, "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "0",
                    "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1",
                    "HF_HUB_ETAG_TIMEOUT": "2"}  # fmt: skip
        with subprocess.Popen(
            [sys.executable, "-c", SCRIPT], env={**os.environ, **settings}, text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=said, cwd=Path(__file__).resolve().parents[2],
        ) as loading:  # fmt: skip

            def come_of(*names):
                loading.stdin.write(json.dumps(names) + "\n")
                loading.stdin.flush()
                told = loading.stdout.readline()
                assert told, (folder / "said").read_text()[-2000:]
                return json.loads(told)

            there = come_of(*(f"tiny/{name}" for name in REPOSITORIES), "not an/id")
            hub.close()
            gone = come_of("tiny/good", "tiny/other")
    words = (folder / "said").read_text()
    assert loading.returncode == 0, words[-2000:]
    assert "Retry" not in words and "thrown while" not in words and "127.0.0.1" not in words
    return SimpleNamespace(there=there, gone=gone)


@pytest.mark.slow
def test_a_model_of_the_hub_loads_with_progress(found, vlm):
    state, name, parameters, steps = found.there["tiny/good"]
    assert (state, name, parameters) == ("loaded", "tiny/good", vlm.record.parameters)
    words = list(dict.fromkeys(step.partition(" ")[0] for step, _ in steps))
    assert words == ["Reading", "Downloading", "Loading"]
    downloaded = [share for step, share in steps if step.startswith("Downloading")]
    assert downloaded == sorted(downloaded) and downloaded[-1] == pytest.approx(1)
    weights = [share for step, share in steps if step == "Loading weights"]
    assert weights == sorted(weights) and weights[-1] == 1 and len(weights) > 50


@pytest.mark.slow
def test_each_trouble_has_its_own_sentence(found):
    expected = {
        "tiny/gated": "tiny/gated is gated: accept its licence",
        "tiny/withdrawn": "tiny/withdrawn was withdrawn",
        "tiny/sick": "answered with error 503",
        "tiny/empty": "it has no config.json",
        "tiny/huge": "no room on the disk for tiny/huge",
        "tiny/nosuch": "has no model tiny/nosuch, or it is private",
    }
    for name, sentence in expected.items():
        kind, words = found.there[name][:2]
        assert kind == "BadInput" and sentence in words, (name, found.there[name])
        assert "\n" not in words and "http" not in words and "Traceback" not in words and "/tmp" not in words
    assert len({found.there[name][1] for name in expected}) == len(expected)
    assert "There is no model" in found.there["not an/id"][1] or "no id of the model hub" in found.there["not an/id"][1]


@pytest.mark.slow
def test_without_a_hub_the_cache_is_enough_and_else_it_is_said(found, monkeypatch):
    assert found.gone["tiny/good"][0] == "loaded"
    assert "The model hub cannot be reached" in found.gone["tiny/other"][1]
    assert "connection" in found.gone["tiny/other"][1]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # what the variable of that name sets
    with pytest.raises(BadInput, match="HF_HUB_OFFLINE is set"):
        tokviz.load("tiny/other")
