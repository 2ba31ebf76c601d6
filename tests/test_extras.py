"""What works without the optional packages, and what a missing one is told of."""

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from clip_files import coded, grey_frames
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tokviz import cli, errors
from tokviz.errors import BadInput

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

CORE_ONLY = """
import sys

sys.modules.update(dict.fromkeys({missing!r}))  # neither found nor imported
import tokviz
from tokviz.errors import BadInput
from tokviz.viz.figures import save_figure

vlm = tokviz.load()
result = tokviz.compare(vlm, {image!r}, "what color is the star?", methods=["apet", "fastv"], budget=64)
save_figure(result, "figure.pdf")
print(len(result.runs), tokviz.Comparison.from_json(result.to_json()) == result)
try:
    tokviz.compare(tokviz.load("tokviz-tiny-video"), "clip.mp4", "how many?", methods=["apet"], budget=64)
except BadInput as error:
    print(error)
"""


def closure(names):
    """The distributions that come with these, without extras."""
    found, ahead = set(), [canonicalize_name(name) for name in names]
    while ahead:
        name = ahead.pop()
        if name in found:
            continue
        found.add(name)
        for text in metadata.requires(name) or ():
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                ahead.append(canonicalize_name(needed.name))
    return found


def test_images_are_compared_and_figures_saved_with_the_core_alone(tmp_path):
    """Everything that ``pip install tokviz`` would not bring is hidden from a new interpreter."""
    core = closure(Requirement(text).name for text in PROJECT["dependencies"])
    missing = {
        module
        for module, owners in metadata.packages_distributions().items()
        if not {canonicalize_name(owner) for owner in owners} & {*core, "tokviz"}
    }
    assert {"gradio", "av", "pandas", "mcp", "pytest"} <= missing and not {"torch", "numpy", "PIL"} & missing
    (tmp_path / "clip.mp4").write_bytes(coded(grey_frames(12)))
    image = str(ROOT / "examples" / "01-existence" / "image.png")
    program = CORE_ONLY.format(missing=missing, image=image)
    ran = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{program}"],
        cwd=tmp_path, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    compared, told = ran.stdout.splitlines()
    assert compared == "3 True" and (tmp_path / "figure.pdf").stat().st_size
    assert told == "Reading a video needs the package av, which is not installed: pip install 'tokviz[video]'."


def test_every_extra_that_a_sentence_names_exists():
    named = {
        extra
        for path in (ROOT / "tokviz").rglob("*.py")
        for extra in re.findall(r"tokviz\[(\w+)\]", path.read_text())
        + re.findall(r"need\(\"\w+\", \"(\w+)\"", path.read_text())
    }
    assert {"ui", "video", "gpu"} <= named <= set(PROJECT["optional-dependencies"])


def test_a_missing_package_is_told_of_in_a_sentence():
    errors.need("json", "ui", "This")
    with pytest.raises(BadInput, match=r"^This needs the package nosuch, .*: pip install 'tokviz\[ui\]'\.$"):
        errors.need("nosuch", "ui", "This")


def test_the_page_without_gradio_is_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr(errors, "is_installed", lambda package: package != "gradio")
    assert cli.main(["serve"]) == 2
    told = capsys.readouterr().err
    assert told == "tokviz: The page needs the package gradio, which is not installed: pip install 'tokviz[ui]'.\n"
