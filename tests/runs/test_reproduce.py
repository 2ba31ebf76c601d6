"""A comparison run again: its Python in a process of its own, its command, its link. Same answers, same kept tokens."""

import argparse
import inspect
import json
import shlex
import subprocess
import sys
from urllib.parse import unquote

import pytest

import tokviz
from tokviz.cli import compare as compare_command
from tokviz.cli import main
from tokviz.comparison import Comparison

METHODS = ["fastervlm", ("apet", {"mode": "official", "basis_tokens": 6}), "apet", "divprune+fastv", "random"]
QUESTION = 'what colour is the star? it\'s "the" $star\\ `one`'


def outcome(comparison):
    return {run.key: (run.answer, run.kept, run.error) for run in comparison}


def arguments(command):
    """As a shell reads it: a line that ends with a backslash goes on."""
    return shlex.split(command.replace("\\\n", ""), comments=True)


@pytest.fixture(scope="module")
def asked(vlm, scene_image, tmp_path_factory):
    """A comparison of an own file, with an edited lane; and that file."""
    path = tmp_path_factory.mktemp("own") / "a scene's.png"
    scene_image.save(path)
    settings = {"budget": 40, "budget_as": "average", "seed": 3, "max_new_tokens": 6, "expected": "red"}
    first = tokviz.compare(vlm, path, QUESTION, METHODS, evidence=[(3.5, 4.0, 90.0, 80.25)], **settings)
    more = tokviz.ask_with(vlm, path, None, [*first["fastervlm"].kept, 5, 6], of="fastervlm", into=first)
    return tokviz.ask_with(vlm, path, None, range(0, 576, 9), layer=2, into=more), path


def test_the_python_runs_by_itself_and_gives_the_same(asked):
    comparison, path = asked
    code = comparison.to_python(str(path)) + "import json\nprint('OUT' + result.to_json())\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    again = Comparison.from_json(done.stdout.split("OUT", 1)[1])
    assert outcome(again) == outcome(comparison) and len(again) == 8
    # What is asked again is a comparison that asks the same; times are measured anew.
    assert again.request == comparison.request and again.to_python(str(path)) == comparison.to_python(str(path))


def test_the_command_gives_the_same_but_for_lanes_by_hand(asked, tmp_path, capsys):
    comparison, path = asked
    told = comparison.to_command(str(path))
    remarks = [line for line in told.splitlines() if line.startswith("#")]
    assert len(remarks) == 2 and all("chosen by hand" in line for line in remarks)
    words = arguments(told)
    assert words[:2] == ["tokviz", "compare"]
    assert main([*words[1:], "--json", str(tmp_path / "again.json")]) == 0
    again = outcome(Comparison.load(tmp_path / "again.json"))
    assert again == {key: value for key, value in outcome(comparison).items() if not key.startswith("edited")}
    capsys.readouterr()


def test_of_an_example_nothing_else_is_needed(capsys, tmp_path):
    example = tokviz.load_examples()[0]
    code = example.comparison.to_python().replace("repeats=5", "repeats=1")
    found = {}
    exec(code, found)
    assert outcome(found["result"]) == outcome(example.comparison)
    words = arguments(example.comparison.to_command().replace("--repeats=5", ""))
    assert words[2:4] == ["--example", example.id]
    assert main([*words[1:], "--json", str(tmp_path / "again.json")]) == 0
    assert outcome(Comparison.load(tmp_path / "again.json")) == outcome(example.comparison)
    assert main(["compare", "--example", "nosuch", "--question", "who?"]) == 2
    assert "There is no example 'nosuch'" in capsys.readouterr().err


def test_what_a_command_leaves_out_is_what_python_leaves_out():
    """Only what differs from the defaults of ``tokviz.compare`` is written: those of the command must be the same."""
    parser = argparse.ArgumentParser()
    compare_command.add_to(parser.add_subparsers())
    left_out = vars(parser.parse_args(["compare", "x.png", "--question=q"]))
    names = ("budget", "budget_as", "seed", "repeats", "max_new_tokens", "frames")
    parameters = inspect.signature(tokviz.compare).parameters
    assert {name: left_out[name] for name in names} == {name: parameters[name].default for name in names}


def test_the_link_says_what_was_asked(asked):
    comparison, _ = asked
    link = comparison.to_link("https://example.org/space/?__theme=dark")
    page, _, rest = link.partition("#compare?")
    parts = dict(part.split("=", 1) for part in rest.split("&"))
    assert page == "https://example.org/space/?__theme=dark" and "example" not in parts
    assert unquote(parts["question"]) == QUESTION and not set(rest) & set(" \"'`<>\\")
    assert parts["methods"] == "fastervlm,apet~mode%3Dofficial~basis_tokens%3D6,apet,divprune%2Bfastv,random"
    assert (parts["budget"], parts["as"], parts["seed"], parts["new"]) == ("40", "average", "3", "6")
    assert tokviz.load_examples()[0].comparison.to_link().startswith("http://127.0.0.1:7860/#compare?example=")


def test_hostile_words_stay_words(asked):
    comparison, _ = asked
    question = "');import os;os.abort()#\n\u202e$(reboot) `x`"
    hostile = comparison.model_copy(
        update={
            "request": comparison.request.model_copy(update={"question": question}),
            "image": comparison.image.model_copy(update={"name": "-rf\n$(x).png"}),
        }
    )
    code = hostile.to_python()
    compile(code, "reproduced", "exec")
    assert repr(question) in code and code.isascii() and "os.abort()" not in code.replace(repr(question), "")
    told = hostile.to_command()
    assert all(character.isprintable() or character == "\n" for character in told)
    words = arguments(told)
    assert words[2] == "./-rf $(x).png" and any(word.startswith("--question=');import") for word in words)
    assert json.dumps(hostile.to_link()).isascii()
