import json

import pytest

from tokviz import cli


@pytest.fixture
def loaded(monkeypatch, vlm):
    """The model of the session, so that no call loads it again."""
    import tokviz

    monkeypatch.setattr(tokviz, "load", lambda name: vlm, raising=False)


def calibrate(*more):
    return cli.main(["calibrate", "vtw", *map(str, more)])


def test_it_prints_the_curve_and_the_layer_and_writes_both(loaded, capsys, tmp_path):
    file = tmp_path / "curve.json"
    assert calibrate("--scenes", 1, "--eta", 1e6, "--first", 5, "--json", file) == 0
    captured = capsys.readouterr()
    assert captured.err == "", "quiet when it is not a terminal"
    assert "K = 5. Use it with --param vtw.layer=5." in captured.out
    curve = json.loads(file.read_text())
    assert curve["layers"] == [5, 6, 7] and curve["layer"] == 5 and curve["n_samples"] == 1
    for layer, divergence in zip(curve["layers"], curve["divergence"], strict=True):
        row = next(line for line in captured.out.splitlines() if line.split()[:1] == [str(layer)])
        assert f"{divergence:.6f}" in row and "yes" in row and f"{layer} of 8" in row


def test_when_no_layer_is_good_enough_it_says_how_close_it_came(loaded, capsys, tmp_path):
    file = tmp_path / "curve.json"
    assert calibrate("--scenes", 1, "--eta", 1e-12, "--first", 6, "--json", file) == 2
    captured = capsys.readouterr()
    curve = json.loads(file.read_text())
    assert curve["layer"] is None
    smallest = min(curve["divergence"])
    assert f"smallest divergence is {smallest:.3g} nats" in captured.err
    assert len(captured.err.splitlines()) == 1
    assert f"{smallest:.6f}" in captured.out and "K =" not in captured.out


def test_images_of_a_folder(loaded, capsys, tmp_path, scene_image):
    scene_image.save(tmp_path / "a.png")
    assert calibrate("--images", tmp_path, "--question", "what color is the star?", "--eta", 1e6, "--first", 7) == 0
    assert "mean of 1 samples" in capsys.readouterr().out
    assert calibrate("--images", tmp_path, "--question", "<image>?") == 2
    assert "reserved by the model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["calibrate"], "arguments are required: method"),
        (["calibrate", "apet"], "invalid choice: 'apet'"),
        (["calibrate", "vtw", "--scenes", "0"], "number of scenes"),
        (["calibrate", "vtw", "--images", "x"], "go together"),
        (["calibrate", "vtw", "--question", "x"], "go together"),
        (["calibrate", "vtw", "--images", "missing", "--question", "q"], "no folder 'missing'"),
        (["calibrate", "vtw", "--cases", "missing"], "no folder 'missing'"),
        (["calibrate", "vtw", "--cases", "."], "holds no cases"),
        (["calibrate", "vtw", "--cases", "x", "--images", "y", "--question", "q"], "not allowed with"),
        (["calibrate", "vtw", "--json", "no/such/folder/c.json"], "cannot be written"),
    ],
)
def test_bad_input_is_refused_before_the_model_is_loaded(arguments, sentence, capsys, monkeypatch, tmp_path):
    import tokviz

    def load(name):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(tokviz, "load", load, raising=False)
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and len(captured.err.splitlines()) == 1
    assert sentence in captured.err
