"""What visitors leave on the disk: counted, bounded, theirs, and gone with the server."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from own_loop import run_async

from tokviz.errors import BadInput
from tokviz.serving import storage as module
from tokviz.serving.callers import on_behalf_of
from tokviz.serving.storage import FILES_OF_REQUEST, NOT_OURS, Storage, temporary_file

KB = 10_000


def put(folder, name, n_bytes=KB, age_s=0.0):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * n_bytes)
    os.utime(path, (time.time() - age_s,) * 2)
    return path


@pytest.fixture
def walks(monkeypatch):
    """The folder is looked at before every question: the tests write into it behind the storage's back."""
    monkeypatch.setattr(module, "_WALK_EVERY_S", -1)


@pytest.fixture
def kept(tmp_path):
    folder = tmp_path / "server"
    folder.mkdir()
    return Storage(folder, in_all=lambda: 10 * KB, of_one=lambda: 3 * KB)


def test_only_files_of_the_folder_are_a_clients_and_nothing_else_is_told_apart(kept, tmp_path):
    inside = put(kept.folder, "abc/image.png")
    assert kept.own_file(str(inside)) == str(inside)
    secret = put(tmp_path, "secret.png")
    link = kept.folder / "link.png"
    link.symlink_to(secret)
    loop = kept.folder / "loop.png"
    loop.symlink_to(loop)
    sibling = put(tmp_path, "server-of-another/image.png")
    foreign = [
        str(secret), str(tmp_path / "missing.png"), str(link), str(loop), str(sibling), str(kept.folder), "/etc/passwd",
        f"{kept.folder}/../secret.png", "abc/image.png", "", ".", "\0", "x" * 5000, None, 3, ["a"], {"path": "a"},
        "http://127.0.0.1/image.png", f"file://{inside}",
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


def test_room_is_made_of_the_oldest_but_never_of_the_first_screen_or_of_what_is_fresh(kept, walks):
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


@pytest.fixture
def served(kept, monkeypatch):
    """``kept`` as the storage that the page writes to."""
    monkeypatch.setattr(module, "storage", lambda: kept)
    return kept


def make(name, n_bytes=KB):
    return temporary_file(name, lambda path: path.write_bytes(b"x" * n_bytes))


def files(kept):
    return sorted(str(path.relative_to(kept.folder)) for path in kept.folder.rglob("*") if path.is_file())


def test_what_is_made_for_a_visitor_uses_up_the_visitors_own_share_only(served):
    served.uploaded("other", [str(put(served.folder, "other/a.png", 2 * KB))])
    with on_behalf_of("greedy"):
        for number in range(40):
            make(f"{number}/session.json")
        with pytest.raises(BadInput, match="no room"):
            make("huge", 9 * KB)
    assert files(served) == ["other/a.png", "tokviz/39/session.json"]
    with on_behalf_of("other"):
        make("mine.png")
    served.make_room(5 * KB)


def test_what_two_visitors_made_stays_while_one_of_them_has_it(served):
    for address in ("me", "other"):
        with on_behalf_of(address):
            shared = make("shared.png")
    with on_behalf_of("me"):
        for number in range(3):
            make(f"{number}.png")
        assert shared.exists()
    with on_behalf_of("other"):
        for number in range(5, 8):
            make(f"{number}.png")
    assert not shared.exists()


def test_the_room_that_is_asked_for_is_that_of_the_file(served):
    served.keep([put(served.folder, "kept.png", 9 * KB)])
    make("small.png", KB // 2)
    with pytest.raises(BadInput, match="no room"):
        make("large.png", KB)
    assert files(served) == ["kept.png", "tokviz/small.png"]


def test_a_visitors_old_files_make_room_before_older_ones_of_others(kept):
    mine, others = put(kept.folder, "mine/a.png", 2 * KB, 100), put(kept.folder, "others/a.png", 2 * KB, 900)
    kept.uploaded("me", [str(mine)])
    kept.uploaded("other", [str(others)])
    kept.make_room(7 * KB, "me")
    assert not mine.exists() and others.exists()
    kept.make_room(9 * KB, "me")
    assert not others.exists()


def test_empty_files_take_room_too_and_their_number_is_bounded(tmp_path):
    kept = Storage(tmp_path, lambda: 100 * KB, lambda: 50 * KB, files_in_all=12, files_of_one=5)
    for number in range(9):
        kept.uploaded("me", [str(put(tmp_path, f"{number}/empty", 0))])
    assert files(kept) == [f"{number}/empty" for number in range(4, 9)]
    for number in range(10, 17):
        kept.uploaded(f"visitor {number}", [str(put(tmp_path, f"{number}/empty", 0))])
    with pytest.raises(BadInput, match="no room"):
        kept.make_room(1, "another")
    few = Storage(tmp_path / "few", lambda: 100 * KB, lambda: KB)
    for number in range(9):
        few.uploaded("me", [str(put(few.folder, f"{number}/empty", 0))])
    assert len(files(few)) == 2  # of 4 kB each


def test_a_request_of_many_files_is_refused_and_leaves_nothing_of_its_own(kept):
    before = put(kept.folder, "before/a.png", 0)
    kept.uploaded("other", [str(before)])
    many = [str(put(kept.folder, f"{number}/a.png", 0)) for number in range(FILES_OF_REQUEST)]
    with pytest.raises(BadInput, match=f"at most {FILES_OF_REQUEST} files"):
        kept.uploaded("me", [*many, str(before)])
    assert files(kept) == ["before/a.png"]


def test_nobodys_share_is_more_than_half_of_everything(monkeypatch):
    monkeypatch.setenv("TOKVIZ_DISK_MB", "100")
    assert module.limit_of_one() == 50_000_000


def test_the_folder_is_walked_through_now_and_then_and_not_for_every_request(kept, monkeypatch):
    walked = []
    walk = os.walk
    monkeypatch.setattr(module.os, "walk", lambda folder: walked.append(folder) or walk(folder))
    for number in range(20):
        kept.make_room(KB, "me")
        kept.uploaded("me", [str(put(kept.folder, f"{number}/a.png", KB))])
    assert len(walked) == 1
    put(kept.folder, "unknown.png", 8 * KB)
    kept.make_room(5 * KB)
    monkeypatch.setattr(module, "_WALK_EVERY_S", -1)
    with pytest.raises(BadInput, match="no room"):
        kept.make_room(5 * KB)


def test_many_visitors_at_once_leave_the_count_right(served, walks):
    def visit(visitor):
        with on_behalf_of(f"visitor {visitor % 3}"):
            for number in range(25):
                try:
                    assert make(f"{(number + visitor) % 7}/a.png", KB // 2).parent.parent == served.made
                    path = put(served.folder, f"upload-{visitor}-{number}/a.png", KB // 2)
                    served.uploaded(f"visitor {visitor % 3}", [str(path)])
                except BadInput:  # everything is fresh: there may be no room
                    pass

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(visit, range(6)))
    there = {path: max(path.stat().st_size, 4096) for path in served.folder.rglob("*") if path.is_file()}
    served._reconcile()
    assert {path: file.size for path, file in served._files.items()} == there
    assert all(file.owners for file in served._files.values())


def test_nothing_stays_longer_than_a_day(kept):
    day = put(kept.folder, "tokviz/session/a.json", age_s=25 * 3600)
    young = put(kept.folder, "tokviz/young.json", age_s=23 * 3600)
    kept.make_room(0)
    assert not day.exists() and young.exists() and not day.parent.exists()


def test_cut_uploads_are_removed_and_running_ones_are_not(kept):
    cut = put(kept.folder, "tmpabc", age_s=5)

    async def two_uploads():
        async with kept.uploading():
            async with kept.uploading():
                stale = put(kept.folder, "tmpold", age_s=3600)
            assert cut.exists() and not stale.exists()  # another upload may still be writing the fresh one

    run_async(two_uploads())
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
