"""Whose turn it is: bounded, fair, and nothing lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokviz.errors import BadInput
from tokviz.serving.queue import RunQueue


def served(queue, tickets):
    """Callers in the order in which they get their turn."""
    order, left = [], list(tickets)
    while left:
        (turn,) = [ticket for ticket in left if ticket.before == 0]
        order.append(turn.caller)
        left.remove(turn)
        turn.leave()
    return order


def test_one_caller_with_many_runs_does_not_keep_the_others_waiting():
    queue = RunQueue()
    many = [queue.enter("script") for _ in range(5)]
    visitor = queue.enter("visitor")
    assert visitor.before == 1  # only the run that has its turn
    assert [ticket.before for ticket in many] == [0, 2, 3, 4, 5]
    assert served(queue, [*many, visitor]) == ["script", "visitor", "script", "script", "script", "script"]


def test_callers_take_turns_over_time():
    queue = RunQueue()
    first = [queue.enter("a") for _ in range(3)]
    second = [queue.enter("b") for _ in range(3)]
    assert served(queue, [*first, *second]) == ["a", "b", "a", "b", "a", "b"]


def test_a_full_line_and_a_full_share_are_refused_with_what_to_do():
    queue = RunQueue(places=4, places_of_one=3)
    mine = [queue.enter("me") for _ in range(3)]
    with pytest.raises(BadInput, match=r"3 runs of yours are waiting already; .*ask again"):
        queue.enter("me")
    queue.enter("you")
    with pytest.raises(BadInput, match=r"busy: 4 runs are waiting. Please try again"):
        queue.enter("they")
    mine[0].leave()
    mine[0].leave()  # twice does no harm
    assert queue.enter("they").before == 1  # "you" has its turn now, and "me" was served before


def test_one_address_never_holds_all_places():
    queue = RunQueue(places=6, places_of_one=4, places_of_address=5)
    for _ in range(4):
        queue.enter("page 1.1.1.1", "1.1.1.1")
    queue.enter("program 1.1.1.1", "1.1.1.1")
    with pytest.raises(BadInput, match="1 runs of yours"):
        queue.enter("program 1.1.1.1", "1.1.1.1")
    assert (
        queue.enter("page 2.2.2.2", "2.2.2.2").before == 2
    )  # behind the run at work and the program's, that came before


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=40))
def test_everybody_is_served_once_and_nobody_waits_behind_a_second_run_of_another(steps):
    queue = RunQueue(places=100, places_of_one=100)
    tickets = []
    for caller, leaves in steps:
        tickets.append(queue.enter(caller))
        if leaves:
            tickets.pop(len(tickets) // 2).leave()
    positions = sorted(ticket.before for ticket in tickets)
    assert positions == list(range(len(tickets)))
    for ticket in tickets:
        first = next(other for other in tickets if other.caller == ticket.caller)
        if ticket is first and ticket.before:
            ahead = [other.caller for other in tickets if other.before < ticket.before]
            assert len(ahead) <= 1 + len(set(ahead))  # the one that has its turn, and one run of each
    assert len(served(queue, tickets)) == len(tickets)
