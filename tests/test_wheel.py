"""What ``pip install tokviz`` gives: the wheel, used from an empty folder outside the checkout."""

import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import tomllib
import venv
import zipfile
from contextlib import contextmanager
from email import message_from_bytes
from importlib import metadata
from pathlib import Path

import httpx
import pytest
from clip_files import coded, grey_frames
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

import tokviz

ROOT = Path(__file__).resolve().parents[1]
DATA = ("assets", "examples", "docs/methods")
MOST_MB = 40
"""The two models and the examples are 33 MB. An index takes 100."""
QUESTION = "what color is the star?"

WITH_THE_CORE_ALONE = """
import sys

sys.modules.update(dict.fromkeys({missing!r}))  # neither found nor imported
import tokviz
from tokviz import cli
from tokviz.errors import BadInput

code = cli.main({command!r})
session = tokviz.Comparison.load("session.json")
print(len(session.runs), tokviz.Comparison.from_json(session.to_json()) == session)
try:
    tokviz.compare(tokviz.load("tokviz-tiny-video"), {clip!r}, "how many?", methods=["apet"], budget=64)
except BadInput as error:
    print(error)
sys.exit(code)
"""
"""``tokviz compare`` where nothing is installed that ``pip install tokviz`` would not bring, and what a video needs."""


def run(*command, folder, quiet=False, **environment):
    """Standard output of a command that knows nothing of the checkout; the test fails with what it says.

    quiet: and of what it should not have said on standard error.
    """
    ran = subprocess.run(command, cwd=folder, env=outside(**environment), capture_output=True, text=True, timeout=200)
    assert ran.returncode == 0 and not (quiet and ran.stderr), f"{command}: {ran.stdout}{ran.stderr}"
    return ran.stdout


def outside(**more):
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    return {**kept, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **more}


def built(folder):
    """The wheel of this checkout."""
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder), folder=ROOT)
    (wheel,) = folder.glob("*.whl")
    return wheel


def installed(wheel, folder):
    """The programs of a new environment that holds the wheel beside the dependencies that are installed here."""
    venv.create(folder, with_pip=False, symlinks=True)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    home = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    # A .pth file adds a folder but runs no .pth in it: an editable install of the checkout stays unseen.
    Path(home, "dependencies.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    python = str(programs / "python")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check",
        "--no-deps", "--no-index", str(wheel), folder=folder)  # fmt: skip
    return programs


def check_content(wheel):
    """Everything that users run, nothing that only we do, and the version that the package tells."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = [name for name in names if name.endswith("/METADATA")]
        told = message_from_bytes(archive.read(metadata))
    assert told["Version"] == tokviz.__version__ and wheel.name == f"tokviz-{tokviz.__version__}-py3-none-any.whl"
    assert told.get_payload().startswith("# tokviz")
    assert {name.split("/")[0] for name in names} == {"tokviz", metadata.split("/")[0]}
    tracked = subprocess.run(["git", "ls-files", "tokviz", *DATA], cwd=ROOT, capture_output=True)
    if tracked.returncode == 0:  # from an archive of the sources git cannot tell
        wanted = [name for name in tracked.stdout.decode().splitlines() if (ROOT / name).exists()]
        packed = {re.sub(f"^(?={'|'.join(DATA)})", "tokviz/_data/", name) for name in wanted}
        assert packed <= set(names), sorted(packed - set(names))
    assert "tokviz/py.typed" in names and not [name for name in names if "__pycache__" in name or name.endswith(".pyi")]
    assert wheel.stat().st_size < MOST_MB * 1e6


@contextmanager
def serving(program, folder, temporary):
    """``tokviz serve``, started: the process, its address, and what it says."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [program, "serve", "--port", str(port), "--model", "tokviz-tiny"]
    with open(temporary / "log", "w") as log:
        server = subprocess.Popen(
            command, cwd=folder, env=outside(GRADIO_TEMP_DIR=str(temporary)), stdout=log, stderr=log
        )
    try:
        yield server, f"http://127.0.0.1:{port}", (temporary / "log").read_text
    finally:
        server.kill()
        server.wait()


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


def beside_the_core():
    """Modules that are installed here and do not come with the core alone."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core = closure(Requirement(text).name for text in project["dependencies"])
    missing = {
        module
        for module, owners in metadata.packages_distributions().items()
        if not {canonicalize_name(owner) for owner in owners} & {*core, "tokviz"}
    }
    assert {"gradio", "av", "pandas", "mcp", "pytest"} <= missing and not {"torch", "numpy", "PIL"} & missing
    return missing


def check_serving(server, address, told, temporary, image):
    """``tokviz serve`` answers, with a page that is dressed, and ends when it is told to, even while it is asked.

    By SIGINT and a second signal behind it, as ``timeout`` sends one, which must not break off the cleaning up of what
    visitors left; test_agents.py ends one by SIGTERM.
    """
    deadline = time.monotonic() + 120
    while True:
        try:
            page = httpx.get(f"{address}/", timeout=30)
            break
        except httpx.TransportError:
            assert server.poll() is None and time.monotonic() < deadline, told()
            time.sleep(0.2)
    assert page.status_code == 200 and "tokviz" in page.text
    config = httpx.get(f"{address}/config", timeout=30).json()
    assert "tokviz-view" in str(config["components"]) and "example-0" in str(config["components"])
    assert config["css"], "no style sheet"
    (folder,) = [path for path in temporary.glob("tokviz-*") if path.is_dir()]
    sent = {"files": ("a.png", image.read_bytes())}
    (path,) = httpx.post(f"{address}/gradio_api/upload", files=sent, timeout=30).json()
    assert Path(path).is_relative_to(folder)
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    asked = [file, QUESTION, ["apet", "divprune"], 64, "published", {}, 0, 64, 100, "", "", None]
    call = f"{address}/gradio_api/call/compare"
    event = httpx.post(call, json={"data": asked}, timeout=30).json()["event_id"]
    with httpx.stream("GET", f"{call}/{event}", timeout=30):
        time.sleep(1)
        server.send_signal(signal.SIGINT)
        time.sleep(0.1)
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0, told()
    assert not folder.exists() and not list(temporary.glob("tokviz-*"))
    assert "Traceback" not in told()


def python_of_readme():
    """All Python of the README, in its order, as one program."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    return "\n".join(blocks)


@pytest.mark.slow
def test_the_wheel_works_from_an_empty_folder(tmp_path):
    """One item, so that the wheel is built once and few interpreters start."""
    wheel = built(tmp_path / "dist")
    check_content(wheel)
    programs = installed(wheel, tmp_path / "venv")
    empty, served, temporary = (tmp_path / name for name in ("empty", "served", "temporary"))
    for folder in (empty, served, temporary):
        folder.mkdir()
    python, program = (str(programs / name) for name in ("python", "tokviz"))
    place, image = run(
        python, "-c", "import tokviz; from tokviz.files import resource as r; print(tokviz.__file__);"
        "print(r('examples/01-existence/image.png'))", folder=empty,
    ).split()  # fmt: skip
    assert Path(place).is_relative_to(tmp_path / "venv") and Path(image).is_relative_to(Path(place).parent)

    with serving(program, served, temporary) as server:  # it starts while others work
        clip = tmp_path / "clip.mp4"
        clip.write_bytes(coded(grey_frames(12)))
        command = ["compare", image, "--question", QUESTION, "--methods", "apet,fastv",
                   "--figure", "figure.pdf", "--json", "session.json"]  # fmt: skip
        core = WITH_THE_CORE_ALONE.format(missing=beside_the_core(), command=command, clip=str(clip))
        said = run(python, "-c", core, folder=empty, quiet=True)
        assert "ApET" in said and "\x1b" not in said and (empty / "figure.pdf").read_bytes().startswith(b"%PDF")
        assert said.splitlines()[-2:] == [
            "3 True",
            "Reading a video needs the package av, which is not installed: pip install 'tokviz[video]'.",
        ]
        assert sorted(path.name for path in empty.iterdir()) == ["figure.pdf", "session.json"]
        assert run(program, "--version", folder=empty) == f"tokviz {tokviz.__version__}\n"
        check_serving(*server, temporary, Path(image))
    assert not list(served.iterdir()), "serving leaves nothing in the folder it is started from"

    with Image.open(image) as input_image:
        input_image.save(empty / "scene.png")
    assert run(python, "-c", python_of_readme(), folder=empty)
