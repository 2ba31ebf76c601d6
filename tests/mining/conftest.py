"""A tiny model in a folder, so that other processes can load it, and a small data set."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_case import noise
from tiny_families import CASES

import tokviz

METHODS = ["apet", "random", "fastv", ("fastv", {"layer": 3}), "pdrop", "downsample"]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """LLaVA with 4 x 4 patches and random weights."""
    folder = tmp_path_factory.mktemp("tiny") / "tiny-llava"
    CASES["llava"].model(torch.float32).save_pretrained(folder)
    CASES["llava"].processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder):
    return tokviz.load(tiny_folder)


@pytest.fixture(scope="session")
def data_set(tmp_path_factory):
    """Five questions about three images; one image is damaged, one is missing, two answers are known."""
    folder = tmp_path_factory.mktemp("data")
    for number in range(3):
        noise(48 + 8 * number, 48, seed=number).save(folder / f"{number}.png")
    Image.fromarray(np.full((40, 40, 3), 200, np.uint8)).save(folder / "plain.png")
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:200])
    lines = [
        {"id": "a", "image": "0.png", "question": "what is it ?", "answer": "star", "evidence": [[0, 0, 24, 24]]},
        {"id": "b", "image": "0.png", "question": "what color is the star ?", "family": "color"},
        {"id": "broken", "image": "broken.png", "question": "what is it ?"},
        {"id": "c", "image": "1.png", "question": "is it the star ?", "answers": ["what", "is"], "split": "val"},
        {"id": "gone", "image": "gone.png", "question": "what is it ?"},
        {"id": "d", "image": "plain.png", "question": "what is it ?", "answer": "it"},
        {"id": "e", "image": "2.png", "question": "what ?"},
    ]
    file = folder / "cases.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)) + "\nnot json\n")
    return file


@pytest.fixture(scope="session")
def options():
    return {"methods": METHODS, "budgets": [16, 8, 3], "seeds": 2, "max_new_tokens": 3, "workers": 1}


@pytest.fixture(scope="session")
def mined(tiny, data_set, options, tmp_path_factory):
    """The data set, mined in this process without any trouble."""
    return tokviz.mine(tiny, data_set, out=tmp_path_factory.mktemp("mined") / "run", **options)
