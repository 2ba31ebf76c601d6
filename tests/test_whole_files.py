"""Output files are there whole or as they were before."""

import errno
import os
import stat
import threading

import pytest

from tokviz import cli
from tokviz.errors import BadInput
from tokviz.files import UNFINISHED, write_or_refuse, write_whole


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_and_keeps_its_mode_and_new_ones_follow_the_umask(tmp_path):
    path = tmp_path / "it.json"
    write_whole(path, b"one")
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    path.chmod(0o640)
    write_whole(path, b"two")
    assert path.read_bytes() == b"two" and stat.S_IMODE(path.stat().st_mode) == 0o640
    assert names(tmp_path) == ["it.json", "plain"]


def test_a_link_stays_one_and_names_may_be_long(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write_whole(link, b"new")
    assert link.is_symlink() and target.read_text() == "new"
    long = tmp_path / ("x" * 255)
    write_whole(long, b"new")
    assert long.read_text() == "new"


def test_pipes_are_written_to_and_stay_pipes(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_whole(pipe, b"through")
    reader.join(10)
    assert read == [b"through"] and stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("fails", ["replace", "fsync"])
@pytest.mark.parametrize("before", [None, "old"])
def test_a_disk_that_is_full_leaves_what_was_there(tmp_path, monkeypatch, fails, before):
    path = tmp_path / "it.json"
    if before is not None:
        path.write_text(before)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, fails, full)
    with pytest.raises(BadInput, match="cannot be written: no space left on device"):
        write_or_refuse(path, b"new")
    assert names(tmp_path) == ([] if before is None else ["it.json"])
    assert before is None or path.read_text() == before


def test_a_killed_writer_leaves_no_half_session(tmp_path, monkeypatch, scene_image, vlm):
    """Everything that ``compare`` writes passes through the same door: nothing is at its place before it is whole."""
    import tokviz

    scene_image.save(tmp_path / "scene.png")
    session, figure = tmp_path / "out.json", tmp_path / "out.svg"
    seen = []
    real = os.replace

    def watched(old, new):
        assert old.endswith(UNFINISHED) and not os.path.exists(new)
        seen.append((os.path.basename(new), os.path.getsize(old)))
        real(old, new)

    monkeypatch.setattr(os, "replace", watched)
    monkeypatch.setattr(tokviz, "load", lambda *_, **__: vlm, raising=False)
    asked = ["compare", str(tmp_path / "scene.png"), "--question", "what color is the star?", "--methods", "apet"]
    assert cli.main([*asked, "--json", str(session), "--figure", str(figure)]) == 0
    assert seen == [("out.json", session.stat().st_size), ("out.svg", figure.stat().st_size)]
