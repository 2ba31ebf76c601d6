"""A drawn run and its rows as plain dicts: what every query is checked against, by loops that a reader can follow."""

from collections import defaultdict

import pytest

from scripts.synthetic_run import Shape, write_run


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("workbench") / "drawn", Shape(cases=240, seeds=3, per_part=64))


@pytest.fixture(scope="session")
def run(run_folder):
    from tokviz.workbench import OpenRun

    with OpenRun(run_folder) as opened:
        yield opened


@pytest.fixture(scope="session")
def mined_cases(run_folder):
    """Rows of the cases table as dicts, in order."""
    from tokviz.mining.mined import open_run

    return open_run(run_folder).table("cases").to_pylist()


@pytest.fixture(scope="session")
def mined_rows(run_folder):
    """Rows by case number, method and budget: a list with one entry per seed."""
    from tokviz.mining.mined import open_run

    found = defaultdict(list)
    for row in open_run(run_folder).table("rows").to_pylist():
        found[row["ordinal"], row["method"], row["budget"]].append(row)
    return found
