"""What ``pip install tokviz`` gives: the wheel, used from an empty folder outside the checkout."""

import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import venv
import zipfile
from contextlib import contextmanager
from email import message_from_bytes
from pathlib import Path

import httpx
import pytest
from PIL import Image

import tokviz

ROOT = Path(__file__).resolve().parents[1]
DATA = ("assets", "examples", "docs/methods")
MOST_MB = 40
"""The two models and the examples are 33 MB. An index takes 100."""


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


def check_serving(server, address, told):
    """``tokviz serve`` answers, with a page that is dressed, and ends when it is told to."""
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
    server.send_signal(signal.SIGINT)
    assert server.wait(30) == 0, told()
    assert "Traceback" not in told()


def python_of_readme():
    """All Python of the README, in its order, as one program."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    return "\n".join(blocks)


@pytest.mark.slow
def test_the_wheel_works_from_an_empty_folder(tmp_path):
    """One item, so that the wheel is built once."""
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
        said = run(program, "compare", image, "--question", "what color is the star?", "--methods", "apet,fastv",
            "--figure", "figure.pdf", "--json", "session.json", folder=empty, quiet=True)  # fmt: skip
        assert "ApET" in said and "\x1b" not in said and (empty / "figure.pdf").read_bytes().startswith(b"%PDF")
        assert sorted(path.name for path in empty.iterdir()) == ["figure.pdf", "session.json"]
        assert run(program, "--version", folder=empty) == f"tokviz {tokviz.__version__}\n"
        check_serving(*server)
    assert not list(served.iterdir()), "serving leaves nothing in the folder it is started from"

    with Image.open(image) as input_image:
        input_image.save(empty / "scene.png")
    assert run(python, "-c", python_of_readme(), folder=empty)
