"""Mining killed at random moments: nothing that was on the disk is lost, and the tables come out the same."""

import sys

import pytest

from scripts.kill_mining import _STORE, kill_and_compare, main
from tokviz.files import IMPORT_FOLDER


def test_a_process_that_writes_is_killed_and_goes_on(tmp_path):
    command = [sys.executable, "-c", _STORE.format(root=str(IMPORT_FOLDER)), "90"]
    kill_and_compare(command, tmp_path, kills=2, longest=0.2, seed=1)


@pytest.mark.generator
@pytest.mark.timeout(1800)
def test_the_command_is_killed_and_goes_on(capsys):
    assert main(["--kills", "4", "--cases", "8"]) == 0
    assert "every table is the same" in capsys.readouterr().out
