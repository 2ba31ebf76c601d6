"""When work is given up because nobody waits for it."""

from tokviz.serving.callers import ARRIVE_S, RETURN_S, Listeners


def test_work_is_given_up_only_when_its_listener_left_or_never_came():
    now = [0.0]
    listeners = Listeners(lambda: now[0])
    assert not listeners.is_gone("in process")
    listeners.expect("call")
    now[0] = ARRIVE_S - 1
    assert not listeners.is_gone("call")
    now[0] = ARRIVE_S + 1
    assert listeners.is_gone("call")
    listeners.arrived("call")
    now[0] += 1000
    assert not listeners.is_gone("call")
    listeners.arrived("call")
    listeners.left("call")
    now[0] += 1000
    assert not listeners.is_gone("call")  # one of two streams is open
    listeners.left("call")
    now[0] += RETURN_S / 2
    assert not listeners.is_gone("call")  # a browser may come back
    now[0] += RETURN_S
    assert listeners.is_gone("call")


def test_asking_again_and_again_gives_no_more_time():
    now = [0.0]
    listeners = Listeners(lambda: now[0])
    for now[0] in range(0, 100, 20):
        listeners.expect("never comes")
    assert listeners.is_gone("never comes")
    listeners.arrived("never comes")
    listeners.left("never comes")
    listeners.expect("never comes")
    now[0] += ARRIVE_S - 1
    assert not listeners.is_gone("never comes")


def test_what_is_remembered_is_bounded_and_open_streams_are_never_forgotten():
    listeners = Listeners()
    listeners.arrived("open")
    for number in range(6000):
        listeners.expect(f"{number}")
    assert len(listeners._ears) <= 5000
    listeners.left("open")
    assert not listeners.is_gone("open")
