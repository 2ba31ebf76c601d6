"""Loading over the network, from a hub that this test serves: the model comes, and each trouble has its sentence."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_hub import serving

import tokviz
from tokviz.models.catalog import embedded_folder

SCRIPT = """
import json, sys, time
time.sleep = lambda seconds: None  # the client waits between its attempts
import tokviz
found = {}
for name, options in json.loads(sys.argv[1]):
    steps = []
    try:
        vlm = tokviz.load(name, on_progress=lambda words, share: steps.append((words, share)), **options)
        found[name] = ["loaded", vlm.record.name, vlm.record.parameters, steps]
    except Exception as error:
        found[name] = [type(error).__name__, str(error)]
print(json.dumps(found))
"""
REPOSITORIES = ("good", "gated", "withdrawn", "sick", "empty", "huge", "nosuch")


def loading(names, address, home, **environment):
    """What comes of each name in a fresh interpreter, whose hub is at ``address`` and whose cache is in ``home``."""
    whole = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0",
             "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1", "HF_HUB_ETAG_TIMEOUT": "2",
             **environment}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps([(name, {}) for name in names])], env=whole, text=True,
        capture_output=True, cwd=Path(__file__).resolve().parents[2], timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Retry" not in done.stderr and "thrown while" not in done.stderr and "127.0.0.1" not in done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A cache of the hub of these tests."""
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="module")
def found(home):
    """What came of every repository."""
    with serving(embedded_folder()) as address:
        return loading([f"tiny/{name}" for name in REPOSITORIES] + ["not an/id"], address, home)


@pytest.mark.slow
def test_a_model_of_the_hub_loads_with_progress(found, vlm):
    state, name, parameters, steps = found["tiny/good"]
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
        kind, words = found[name][:2]
        assert kind == "BadInput" and sentence in words, (name, found[name])
        assert "\n" not in words and "http" not in words and "Traceback" not in words and "/tmp" not in words
    assert len({found[name][1] for name in expected}) == len(expected)
    assert "There is no model" in found["not an/id"][1] or "no id of the model hub" in found["not an/id"][1]


@pytest.mark.slow
def test_without_a_hub_the_cache_is_enough_and_else_it_is_said(found, home, tmp_path):
    nowhere = "http://127.0.0.1:9"
    again = loading(["tiny/good", "tiny/other"], nowhere, home)
    assert again["tiny/good"][0] == "loaded"
    assert "The model hub cannot be reached" in again["tiny/other"][1] and "connection" in again["tiny/other"][1]
    offline = loading(["tiny/good"], nowhere, tmp_path, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in offline["tiny/good"][1]
    assert tokviz.load  # the same function as everybody's
