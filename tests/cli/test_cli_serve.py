"""``tokviz serve``: what is given goes before the environment, and what cannot be served is a sentence."""

import socket

import gradio as gr
import pytest

from tokviz import cli
from tokviz.ui import serve


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Set first, so that what the command sets is taken back, too."""
    for name in ("HOST", "PORT", "GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT", "TOKVIZ_MODEL"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def served(monkeypatch):
    """Where and with which models the page would be served."""
    from tokviz.serving.model_menu import named_by_operator

    places = []

    def serve_nowhere(runs, media):
        places.append((*serve._address(), named_by_operator()))
        raise SystemExit

    monkeypatch.setattr(serve, "serve", serve_nowhere)
    return places


def test_without_options_the_environment_decides(served, monkeypatch):
    cli.main(["serve"])
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")  # as on a Space
    monkeypatch.setenv("GRADIO_SERVER_PORT", "7861")
    cli.main(["serve"])
    monkeypatch.setenv("HOST", "127.0.0.2")
    monkeypatch.setenv("PORT", "80")
    monkeypatch.setenv("TOKVIZ_MODEL", "tokviz-tiny-video")
    cli.main(["serve"])
    assert served == [("127.0.0.1", 7860, []), ("0.0.0.0", 7861, []), ("127.0.0.2", 80, ["tokviz-tiny-video"])]


def test_options_go_before_the_environment(served, monkeypatch):
    monkeypatch.setenv("HOST", "127.0.0.2")
    monkeypatch.setenv("PORT", "80")
    cli.main(["serve", "--host", "0.0.0.0", "--port", "9000", "--model", "tokviz-tiny,tokviz-tiny-video"])
    assert served == [("0.0.0.0", 9000, ["tokviz-tiny", "tokviz-tiny-video"])]


def test_whoever_serves_strangers_by_an_option_lets_none_of_them_download(served):
    from tokviz.serving.model_menu import is_public

    cli.main(["serve", "--host", "127.0.0.1"])
    assert not is_public()
    cli.main(["serve", "--host", "0.0.0.0"])
    assert is_public()


@pytest.mark.parametrize("port", ["0", "65536", "-1"])
def test_a_port_that_is_none_is_a_sentence(port, capsys):
    assert cli.main(["serve", "--port", port]) == 2
    assert capsys.readouterr().err == f"tokviz: --port must lie between 1 and 65535, not {port}.\n"


@pytest.mark.parametrize("port", ["http", "0", "99999", "1.5"])
def test_a_port_of_the_environment_that_is_none_is_a_sentence(port, monkeypatch, capsys):
    monkeypatch.setenv("PORT", port)
    monkeypatch.setattr(serve.signal, "signal", lambda *_: None)
    assert cli.main(["serve"]) == 2
    assert capsys.readouterr().err == (f"tokviz: The port must be a whole number between 1 and 65535, not '{port}'.\n")


def test_a_port_that_is_taken_is_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr(serve.signal, "signal", lambda *_: None)
    monkeypatch.setattr(serve, "warm_up", lambda: None)
    with gr.Blocks(analytics_enabled=False) as page:
        gr.Markdown("Never served.")
    monkeypatch.setattr(serve, "build_page", lambda run, workbench: page)
    monkeypatch.setattr(serve, "serve_agents", lambda: False)
    monkeypatch.setattr(serve, "launch_settings", lambda workbench: {"_frontend": False})
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert cli.main(["serve", "--port", str(port), "--model", "tokviz-tiny"]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith(f"tokviz: The page cannot be served on port {port} of 127.0.0.1: the port is taken")
    assert "--port" in told


def test_runs_and_their_media_are_handed_on(monkeypatch, tmp_path, capsys):
    """And what holds no run is a sentence before anything is served."""
    given = []

    def serve_nowhere(runs, media):
        given.append((runs, media))
        raise SystemExit

    with monkeypatch.context() as instead:
        instead.setattr(serve, "serve", serve_nowhere)
        cli.main(["serve", "--runs", "runs", "--media", "a", "--media", "b"])
    assert given == [("runs", ["a", "b"])]
    monkeypatch.setattr(serve.signal, "signal", lambda *_: None)
    assert cli.main(["serve", "--runs", str(tmp_path)]) == 2
    assert "There is no mined run in" in capsys.readouterr().err


def test_strangers_on_a_space_and_the_package_itself_are_not_written_for(monkeypatch, tmp_path):
    from scripts.synthetic_run import Shape, write_run

    write_run(tmp_path / "runs" / "one", Shape(cases=4, methods=2, budgets=(64,)))
    assert serve.mined_runs(str(tmp_path / "runs")).read_only is False
    monkeypatch.setenv("SPACE_ID", "somebody/tokviz")
    assert serve.mined_runs(str(tmp_path / "runs")).read_only is True
    monkeypatch.delenv("SPACE_ID")
    monkeypatch.setattr(serve, "resource", lambda name: tmp_path / "runs")
    assert serve.mined_runs(None).read_only is True
    monkeypatch.setattr(serve, "resource", lambda name: tmp_path / "none")
    assert serve.mined_runs(None) is None
