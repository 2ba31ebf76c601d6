"""Several people tag one run: nothing is overwritten silently, everything can be undone."""

import os
import sqlite3
import subprocess
import sys
import threading

import pytest

from tokviz.errors import BadInput
from tokviz.workbench import Edit, Filter, TagStore
from tokviz.workbench.filters import HasText
from tokviz.workbench.tag_file import FILE
from tokviz.workbench.tags import Given


@pytest.fixture
def store(tmp_path):
    made = TagStore(tmp_path)
    yield made
    made.close()


def edit(*ids, seen=0, **what):
    return Edit(case_ids=ids, seen=seen, **what)


def test_a_run_that_nobody_tagged_has_no_file_and_no_labels(store, tmp_path):
    assert (store.latest(), store.given(["a"]), store.slices()) == (0, {}, [])
    assert not (tmp_path / FILE).exists()


def test_tags_of_two_people_add_up_and_a_status_is_not_overwritten(store):
    first = store.edit(edit("a", "b", status="confirmed", add=("small",)), "ann")
    second = store.edit(edit("a", "c", status="dismissed", add=("tiny  text",), remove=("none",)), "bob")
    assert (first.cases, first.clashes, second.cases, second.clashes) == (2, [], 2, ["a"])
    assert store.given(["a", "b", "c", "d"]) == {
        "a": Given(tags=["small", "tiny text"], status="confirmed"),
        "b": Given(tags=["small"], status="confirmed"),
        "c": Given(tags=["tiny text"], status="dismissed"),
    }
    # Who has seen the change may change it again.
    assert store.edit(edit("a", seen=second.latest, status="unclear")).clashes == []
    labels = store.labels()
    assert labels.statuses == {"unclear": ["a"], "confirmed": ["b"], "dismissed": ["c"]}
    assert labels.tags == {"small": ["a", "b"], "tiny text": ["a", "c"]}


def test_a_note_and_a_status_do_not_clash_with_each_other(store):
    store.edit(edit("a", note="look at the sign"))
    assert store.edit(edit("a", status="confirmed")).clashes == []
    assert store.edit(edit("a", note="mine")).clashes == ["a"]
    assert store.given(["a"])["a"].note == "look at the sign"


def test_undo_gives_back_what_was_there_but_not_what_others_changed_since(store):
    store.edit(edit("a", add=("old",), note="one"))
    many = store.edit(edit("a", "b", seen=1, status="confirmed", add=("old", "new"), note="two"))
    store.edit(edit("b", seen=many.latest, status="dismissed"))
    undone = store.undo(many.change)
    assert (undone.cases, undone.clashes) == (2, ["b"])
    assert store.given(["a", "b"]) == {"a": Given(tags=["old"], note="one"), "b": Given(status="dismissed")}
    with pytest.raises(BadInput, match="nothing to undo"):
        store.undo(many.change)
    again = store.undo(undone.change)  # an undo is undone like any change
    assert again.cases == 2
    assert store.given(["a"])["a"] == Given(tags=["new", "old"], status="confirmed", note="two")


def test_an_edit_that_changes_nothing_leaves_no_change(store):
    done = store.edit(edit("a", add=("x",)))
    assert store.edit(edit("a", add=("x",))).change is None
    assert store.latest() == done.latest


@pytest.mark.parametrize("tag", ["", "   ", "x" * 61, "\n"])
def test_a_tag_without_or_with_an_endless_name_is_refused(store, tag):
    with pytest.raises(BadInput, match="1 to 60 characters"):
        store.edit(edit("a", add=(tag,)))
    assert store.given(["a"]) == {}


def test_a_name_is_data_whatever_it_says(store):
    name = "'; DROP TABLE cases; --<b>"
    store.edit(edit(name, add=(name,), note=name))
    assert store.given([name])[name] == Given(tags=[name], note=name)


def test_slices_are_saved_by_name_and_not_overwritten_unseen(store):
    asked = Filter(conditions=(HasText(text="sign"),))
    saved = store.save_slice("  signs ", asked)
    assert (saved.name, Filter.model_validate(store.slices()[0].filter)) == ("signs", asked)
    with pytest.raises(BadInput, match="a slice 'signs' already"):
        store.save_slice("signs", Filter())
    changed = store.save_slice("signs", Filter(), seen=saved.changed)
    with pytest.raises(BadInput, match="saved again since you saw it"):
        store.delete_slice("signs", seen=saved.changed)
    store.delete_slice("signs", seen=changed.changed)
    assert store.slices() == []


def test_threads_and_another_process_lose_nothing(store, tmp_path):
    program = (
        "import sys; from tokviz.workbench import Edit, TagStore\n"
        "store = TagStore(sys.argv[1])\n"
        "for i in range(10): store.edit(Edit(case_ids=(f'case-{i}',), seen=0, add=('process',)))"
    )
    other = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)])

    def work(name):
        for i in range(10):
            store.edit(edit(f"case-{i}", add=(name,)))

    threads = [threading.Thread(target=work, args=(f"thread-{k}",)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert other.wait(timeout=120) == 0
    everything = ["process", "thread-0", "thread-1", "thread-2"]
    assert {tuple(given.tags) for given in store.given([f"case-{i}" for i in range(10)]).values()} == {
        tuple(everything)
    }


def test_a_server_for_strangers_and_a_damaged_file_say_so(tmp_path):
    with pytest.raises(BadInput, match="can be read, not changed"):
        TagStore(tmp_path, read_only=True).edit(edit("a", add=("x",)))
    (tmp_path / FILE).write_bytes(b"no database" * 1000)
    with pytest.raises(BadInput, match="cannot be read"):
        TagStore(tmp_path).labels()
    with pytest.raises(BadInput, match="cannot be written"):
        TagStore(tmp_path).edit(edit("a", add=("x",)))


def test_a_kill_in_the_middle_of_an_edit_leaves_all_of_it_or_nothing(store, tmp_path):
    store.edit(edit("a", add=("before",)))
    program = (
        "import os, sys; from tokviz.workbench import Edit, TagStore\n"
        "store = TagStore(sys.argv[1])\n"
        "store._check_number_of_tags = lambda db: os._exit(9)\n"
        "store.edit(Edit(case_ids=('a', 'b'), seen=9, add=('after',), status='confirmed'))"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)], timeout=120).returncode == 9
    assert store.given(["a", "b"]) == {"a": Given(tags=["before"])}
    assert store.edit(edit("b", add=("x",))).cases == 1
    with sqlite3.connect(tmp_path / FILE) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert os.path.exists(tmp_path / FILE)
