from firezone.durations import MINUTE, SECOND
from firezone.node.direct_retry import FIRST_GAP, LONGEST_GAP, DirectRetry


def test_the_gaps_double_up_to_five_minutes():
    retry = DirectRetry()
    assert retry.poll_timeout() is None and not retry.take_due(0)
    retry.note_path(direct=False, now=0)
    times, now = [], 0
    while now < 30 * MINUTE:
        now = retry.poll_timeout().deadline
        assert not retry.take_due(now - 1) and retry.take_due(now)
        times.append(now)
    gaps = [b - a for a, b in zip([0, *times], times, strict=False)]
    assert gaps[:4] == [15 * SECOND, 30 * SECOND, 60 * SECOND, 120 * SECOND]
    assert set(gaps[5:]) == {LONGEST_GAP}


def test_a_direct_path_begins_them_anew():
    retry = DirectRetry()
    retry.note_path(direct=False, now=0)
    assert retry.take_due(FIRST_GAP)
    retry.note_path(direct=True, now=FIRST_GAP)
    assert retry.poll_timeout() is None
    retry.note_path(direct=False, now=MINUTE)
    assert retry.poll_timeout().deadline == MINUTE + FIRST_GAP


def test_another_relayed_path_changes_nothing():
    retry = DirectRetry()
    retry.note_path(direct=False, now=0)
    retry.note_path(direct=False, now=5 * SECOND)
    assert retry.poll_timeout().deadline == FIRST_GAP
