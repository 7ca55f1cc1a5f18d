from firezone.durations import SECOND
from firezone.turn.backoff import Backoff


def test_sends_at_0_1_2500_and_4750_ms_and_gives_up_at_8125() -> None:
    backoff = Backoff(started_at=7 * SECOND)
    steps = []
    while not backoff.is_exhausted:
        steps.append(backoff.next_at - 7 * SECOND)
        backoff.step()

    assert steps == [SECOND, 2_500_000_000, 4_750_000_000]
    assert backoff.next_at - 7 * SECOND == 8_125_000_000


def test_a_step_is_due_from_its_time_on() -> None:
    backoff = Backoff(started_at=0)

    assert not backoff.is_due(SECOND - 1)
    assert backoff.is_due(SECOND)


def test_a_small_budget_means_one_attempt() -> None:
    backoff = Backoff(started_at=0, budget=SECOND)

    assert backoff.next_at == SECOND and backoff.is_exhausted
