"""What visitors leave on the disk: counted, bounded, theirs, and gone with the server."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tokviz.errors import BadInput
from tokviz.serving.storage import NOT_OURS, Storage

KB = 1000


def put(folder, name, n_bytes=KB, age_s=0.0):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * n_bytes)
    os.utime(path, (time.time() - age_s,) * 2)
    return path


@pytest.fixture
def kept(tmp_path):
    folder = tmp_path / "server"
    folder.mkdir()
    return Storage(folder, in_all=lambda: 10 * KB, of_one=lambda: 3 * KB)


def test_only_files_of_the_folder_are_a_clients_and_nothing_else_is_told_apart(kept, tmp_path):
    inside = put(kept.folder, "abc/picture.png")
    assert kept.own_file(str(inside)) == str(inside)
    secret = put(tmp_path, "secret.png")
    link = kept.folder / "link.png"
    link.symlink_to(secret)
    loop = kept.folder / "loop.png"
    loop.symlink_to(loop)
    sibling = put(tmp_path, "server-of-another/picture.png")
    foreign = [
        str(secret), str(tmp_path / "missing.png"), str(link), str(loop), str(sibling), str(kept.folder), "/etc/passwd",
        f"{kept.folder}/../secret.png", "abc/picture.png", "", ".", "\0", "x" * 5000, None, 3, ["a"], {"path": "a"},
        "http://127.0.0.1/picture.png", f"file://{inside}",
    ]  # fmt: skip
    for path in foreign:
        with pytest.raises(BadInput) as refused:
            kept.own_file(path)
        assert str(refused.value) == NOT_OURS, path


def test_a_visitor_keeps_the_newest_uploads_and_never_loses_those_of_others(kept):
    paths = [put(kept.folder, f"{number}/a.png", KB) for number in range(5)]
    kept.uploaded("other", [str(paths[0])])
    kept.uploaded("me", [str(path) for path in paths[:2]])  # the first is the same file as the other's
    for path in paths[2:]:
        kept.uploaded("me", [str(path)])
    assert [path.exists() for path in paths] == [True, False, True, True, True]
    assert not paths[1].parent.exists()
    kept.uploaded("me", [str(put(kept.folder, "large/a.png", 4 * KB))])  # more than a visitor's share: alone
    assert sorted(path.name for path in kept.folder.iterdir()) == ["0", "large"]


def test_room_is_made_of_the_oldest_but_never_of_the_first_screen_or_of_what_is_fresh(kept):
    first = put(kept.folder, "tokviz/first.png", 2 * KB, age_s=900)
    kept.keep_all()
    old = put(kept.folder, "old/a.png", 3 * KB, age_s=800)
    middle = put(kept.folder, "middle/a.png", 3 * KB, age_s=700)
    kept.make_room(2 * KB)
    assert old.exists()
    kept.make_room(4 * KB)
    assert not old.exists() and middle.exists() and first.exists()
    put(kept.folder, "fresh/a.png", 5 * KB)
    with pytest.raises(BadInput, match="no room for more files"):
        kept.make_room(5 * KB)
    assert not middle.exists() and first.exists()


def test_nothing_stays_longer_than_a_day(kept):
    day = put(kept.folder, "tokviz/session/a.json", age_s=25 * 3600)
    young = put(kept.folder, "tokviz/young.json", age_s=23 * 3600)
    kept.make_room(0)
    assert not day.exists() and young.exists() and not day.parent.exists()


def test_cut_uploads_are_removed_and_running_ones_are_not(kept):
    cut = put(kept.folder, "tmpabc", age_s=5)
    with kept.uploading():
        with kept.uploading():
            stale = put(kept.folder, "tmpold", age_s=3600)
        assert cut.exists() and not stale.exists()  # another upload may still be writing the fresh one
    assert not cut.exists()


SERVER = """
import sys, time
from tokviz.serving.storage import storage
folder = storage().folder
(folder / "upload.png").write_bytes(b"x")
print(folder, flush=True)
if "sleep" in sys.argv:
    time.sleep(60)
"""


def _server(base, *arguments):
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(base)}
    return subprocess.Popen(
        [sys.executable, "-c", SERVER, *arguments], env=environment, stdout=subprocess.PIPE, text=True
    )


def test_a_server_cleans_up_after_itself_and_after_one_that_was_killed(tmp_path):
    killed, living = _server(tmp_path, "sleep"), _server(tmp_path, "sleep")
    folder, other = (Path(server.stdout.readline().strip()) for server in (killed, living))
    try:
        assert (folder / "upload.png").is_file() and folder.parent == tmp_path
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert folder.exists()
        next_one = _server(tmp_path)
        own = Path(next_one.communicate()[0].strip())
        assert not folder.exists() and not own.exists()
        assert (other / "upload.png").is_file()  # of a server that still runs
    finally:
        living.kill()
        living.wait()


def test_servers_that_start_at_once_leave_each_other_alone(tmp_path):
    servers = [_server(tmp_path, "sleep") for _ in range(6)]
    try:
        folders = [Path(server.stdout.readline().strip()) for server in servers]
        assert len(set(folders)) == 6 and all((folder / "upload.png").is_file() for folder in folders)
    finally:
        for server in servers:
            server.kill()
            server.wait()
