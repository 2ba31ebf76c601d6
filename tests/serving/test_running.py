"""What a run is declared at: enough, and not a visitor's whole day."""

import pytest

from tokviz.serving.running import LEAST_S, MOST_S, Pace, RunSize


@pytest.mark.parametrize("parameters", [5_000_000, 3_000_000_000, 7_000_000_000, 8_000_000_000])
def test_a_usual_run_asks_for_ten_to_twenty_seconds(parameters):
    assert 10 <= Pace().declared("model", parameters, RunSize.of(3, 1, 32)) <= 20
    assert Pace().declared("model", parameters, RunSize.of(1, 1, 8)) <= 15


def test_measured_runs_replace_the_guess_and_bounds_hold():
    pace, size = Pace(), RunSize.of(3, 1, 32)
    for seconds in (20.0, 24.0, 400.0):  # one was disturbed
        pace.record("model", size, seconds)
    assert pace.n_measured("model") == 3 and pace.seconds("model", None, size) == 24.0
    assert pace.declared("model", None, size) == 40
    assert pace.declared("model", None, RunSize.of(20, 5, 32)) == MOST_S
    fast = Pace()
    fast.record("model", size, 0.4)
    assert fast.declared("model", None, size) == LEAST_S
    assert fast.seconds("model", None, RunSize.of(3, 5, 32)) == pytest.approx(2.4)  # five repeats and a warm-up
