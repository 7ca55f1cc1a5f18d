from itertools import pairwise

from firezone.durations import MINUTE, SECOND
from firezone.model import ResourceId
from firezone.policy import Resumptions
from firezone.policy.resumption import MAX_RESUMED

RESOURCE = ResourceId("r")


def asked(resumptions):
    """When, until it gives up."""
    while (timeout := resumptions.poll_timeout()) is not None:
        assert resumptions.due(timeout.deadline - 1) == []
        assert resumptions.due(timeout.deadline) == [RESOURCE]
        yield timeout.deadline


def test_the_pauses_grow_and_it_ends():
    resumptions = Resumptions()
    resumptions.begin(RESOURCE, 0)
    times = list(asked(resumptions))
    pauses = [b - a for a, b in pairwise([0, *times])]
    assert [pause // SECOND for pause in pauses[:6]] == [1, 2, 4, 8, 10, 10]
    assert set(pauses[4:]) == {10 * SECOND}
    assert 4 * MINUTE < times[-1] <= 5 * MINUTE
    assert RESOURCE not in resumptions


def test_what_is_settled_is_not_asked_for():
    resumptions = Resumptions()
    resumptions.begin(RESOURCE, 0)
    resumptions.settle(RESOURCE)
    assert resumptions.poll_timeout() is None
    assert resumptions.due(MINUTE) == []


def test_so_many_at_a_time():
    resumptions = Resumptions()
    for n in range(MAX_RESUMED + 10):
        resumptions.begin(ResourceId(str(n)), 0)
    assert len(resumptions.due(SECOND)) == MAX_RESUMED
    assert len(resumptions.take_all()) == MAX_RESUMED
    assert resumptions.poll_timeout() is None


def test_it_rests_while_a_connection_is_made_and_goes_on_when_that_fails():
    resumptions = Resumptions()
    resumptions.begin(RESOURCE, 0)
    resumptions.rest(RESOURCE)
    assert resumptions.poll_timeout() is None and RESOURCE in resumptions
    assert resumptions.due(60 * SECOND) == []
    resumptions.go_on(RESOURCE, 60 * SECOND)
    assert resumptions.due(60 * SECOND) == [RESOURCE]


def test_it_does_not_go_on_for_ever():
    resumptions = Resumptions()
    resumptions.begin(RESOURCE, 0)
    resumptions.rest(RESOURCE)
    resumptions.go_on(RESOURCE, 301 * SECOND)
    assert RESOURCE not in resumptions and resumptions.poll_timeout() is None
