"""What the two commands install: exact versions with hashes, in step with the requirements that people write."""

import itertools
import os
import re
import shutil
import subprocess
import time
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PAIRS = ("requirements", "requirements-dev", "requirements-build")
MACHINES = [("linux", "Linux", "x86_64"), ("linux", "Linux", "aarch64"), ("darwin", "Darwin", "arm64")]
PLACES = [
    {"sys_platform": platform, "platform_system": system, "platform_machine": machine, "python_version": python,
     "python_full_version": f"{python}.7", "implementation_name": "cpython", "os_name": "posix",
     "platform_python_implementation": "CPython"}
    for (platform, system, machine), python in itertools.product(MACHINES, ("3.11", "3.12", "3.13"))
]  # fmt: skip


def required(name):
    """The requirements of a file that people write, with those of the files it takes in."""
    found = []
    for line in (ROOT / f"{name}.txt").read_text().splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("-r "):
            found += required(line[3:].removesuffix(".txt"))
        elif line:
            found.append(Requirement(line))
    return found


def pinned(name):
    """``(requirement, its hashes)`` of every entry of a lock file."""
    whole = re.sub(r"\\\n\s*", " ", (ROOT / f"{name}.lock").read_text())
    entries = [line for line in whole.splitlines() if line and not line.lstrip().startswith("#")]
    return [(Requirement(line.split(" --hash=")[0]), re.findall(r"--hash=(\S+)", line)) for line in entries]


def installed(name, place):
    """Name -> version of what a lock file installs at one place."""
    here = [pin for pin, _ in pinned(name) if pin.marker is None or pin.marker.evaluate(place)]
    names = [canonicalize_name(pin.name) for pin in here]
    assert len(set(names)) == len(names)
    return {name: Version(str(pin.specifier).removeprefix("==")) for name, pin in zip(names, here, strict=True)}


def of_project(*extras):
    """The requirements in pyproject.toml of the core, or of some extras of it, with those that an extra takes in."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [text for extra in extras for text in project["optional-dependencies"][extra]] or project["dependencies"]
    found = []
    for requirement in map(Requirement, texts):
        found += of_project(*requirement.extras) if requirement.name == "tokviz" else [requirement]
    return found


def by_name(requirements):
    """Canonical name and extras -> specifier; the same one may stand there twice, but must say the same."""
    found = {}
    for one in requirements:
        assert one.marker is None and one.url is None
        key = canonicalize_name(one.name), frozenset(one.extras)
        assert found.setdefault(key, one.specifier) == one.specifier
    return found


EXACT_ON_A_SPACE = {"torch", "torchvision"}
"""ZeroGPU has a newest torch; who installs the package may have another."""


@pytest.mark.parametrize(
    "name, extras",
    [("requirements", ["ui", "video"]), ("requirements-mcp", ["ui", "video", "mcp"]),
     ("requirements-dev", ["dev"]), ("requirements-gpu", ["gpu"])],
)  # fmt: skip
def test_the_files_repeat_what_the_package_declares(name, extras):
    core = [] if name == "requirements-gpu" else of_project()
    declared, repeated = by_name([*core, *of_project(*extras)]), by_name(required(name))
    assert declared.keys() == repeated.keys()
    for (package, more), specifier in repeated.items():
        if package in EXACT_ON_A_SPACE:
            (pin,) = specifier
            assert pin.operator == "==" and pin.version in declared[package, more], package
        else:
            assert specifier == declared[package, more], package


def test_everything_that_builds_the_package_is_there_to_test_it():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert by_name(map(Requirement, project["build-system"]["requires"])).items() <= by_name(of_project("dev")).items()


@pytest.mark.parametrize("name", PAIRS)
def test_every_requirement_is_met_by_its_lock(name):
    for place in PLACES:
        versions = installed(name, place)
        for requirement in required(name):
            if requirement.marker is None or requirement.marker.evaluate(place):
                version = versions.get(canonicalize_name(requirement.name))
                assert version is not None and version in requirement.specifier, f"run make lock: {requirement}"


@pytest.mark.parametrize("name", PAIRS)
def test_every_version_is_exact_and_has_hashes(name):
    for pin, hashes in pinned(name):
        assert re.fullmatch(r"==[^=*,]+", str(pin.specifier)), pin
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes), pin


def test_what_runs_is_what_was_tested():
    tested = {(pin.name, str(pin.specifier), str(pin.marker), *hashes) for pin, hashes in pinned("requirements-dev")}
    for pin, hashes in pinned("requirements"):
        exact = (pin.name, str(pin.specifier))  # what only one system needs to run may be tested on all
        assert (*exact, str(pin.marker), *hashes) in tested or (*exact, "None", *hashes) in tested


@pytest.mark.parametrize("name", PAIRS)
def test_a_lock_names_no_index_and_no_folder(name):
    lock = (ROOT / f"{name}.lock").read_text()
    assert not re.search(r"://|(?<![\w.])/\w|--(?!hash=)\w", lock)


def dry_run(folder, *arguments):
    """The commands that make would run; the tests themselves may run inside make, which tells its children so."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", "--dry-run", *arguments], cwd=folder, env=own, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


@pytest.fixture
def checkout(tmp_path):
    """A folder in which both commands have run."""
    for path in [ROOT / "Makefile", *ROOT.glob("requirements*")]:
        shutil.copy(path, tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").touch()
    hour_ago = time.time() - 3600
    for path in tmp_path.glob("requirements*"):
        os.utime(path, (hour_ago, hour_ago))
    (tmp_path / ".venv" / ".run-ready").touch()
    (tmp_path / ".venv" / ".test-ready").touch()
    return tmp_path


def test_the_second_time_nothing_is_installed(checkout):
    assert dry_run(checkout, "run") == [".venv/bin/python app.py"]
    assert not any("install" in line for line in dry_run(checkout, "check"))


def test_a_newer_lock_is_installed(checkout):
    soon = time.time() + 10
    os.utime(checkout / "requirements.lock", (soon, soon))
    assert "sh scripts/install_locked.sh .venv requirements.lock" in dry_run(checkout, "run")
    assert "sh scripts/install_locked.sh .venv requirements-dev.lock" in dry_run(checkout, "check")


def test_a_machine_without_the_wheels_takes_the_ranges(checkout):
    for stamp in (checkout / ".venv").glob(".*-ready"):
        stamp.unlink()
    (first, *_) = dry_run(checkout, "run", "LOCKED=no")
    assert first.endswith("-r requirements.txt") and "hash" not in first


def test_a_failed_installation_says_what_to_do(tmp_path):
    """With a stand-in for pip: as when a version has no wheel here."""
    (tmp_path / "bin").mkdir()
    for name, does in (("pip", 'echo "$@"; exit 1'), ("python", 'echo "Python 3.99"')):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    command = ["sh", "scripts/install_locked.sh", str(tmp_path), "requirements.lock"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "--require-hashes" in done.stdout
    assert "Python 3.99" in done.stderr and "LOCKED=no" in done.stderr


def front_matter():
    """Keys and values of the README's head that stand on one line."""
    head = (ROOT / "README.md").read_text().split("---\n")[1]
    return dict(re.findall(r'(?m)^(\w+): "?(.*?)"?$', head))


def test_the_space_has_what_is_locked():
    told, place = front_matter(), {**PLACES[0], "python_version": "3.12", "python_full_version": "3.12.12"}
    assert Version(told["sdk_version"]) == installed("requirements", place)["gradio"]
    assert told["python_version"].startswith("3.12.")
    # A Space installs gradio with its extras oauth and mcp beside the requirements.
    assert installed("requirements", place)["pydantic"] <= Version("2.12.5")


def test_the_space_names_nothing_that_it_does_not_use():
    told = front_matter()
    assert len(told["short_description"]) <= 60
    assert told["suggested_hardware"] in {"cpu-basic", "cpu-upgrade"}
    assert re.fullmatch(r"\d+[hm]", told["startup_duration_timeout"])
    # The default models lie in the repository; what is listed here would be linked with the Space and downloaded.
    assert not {"models", "preload_from_hub"} & set(told)
