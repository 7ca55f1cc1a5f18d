"""Which number stands for which peer, and for how long."""

from firezone.durations import MINUTE, SECOND
from firezone.model import Endpoint
from firezone.turn.channels import FIRST_CHANNEL, LAST_CHANNEL, Channels

ALL = LAST_CHANNEL - FIRST_CHANNEL + 1


def peer(index: int) -> Endpoint:
    return Endpoint.of("192.0.2.1", 1 + index)


def bind(channels: Channels, index: int, now: int, confirm: bool = True) -> int | None:
    binding = channels.bind(peer(index), now)
    if binding is None:
        return None
    if confirm:
        channels.confirm(binding.number, now)
    return binding.number


def filled(now: int = 0) -> Channels:
    channels = Channels()
    for index in range(ALL):
        assert bind(channels, index, now) == FIRST_CHANNEL + index
    return channels


def test_returns_first_available_channel() -> None:
    channels = Channels()

    assert [bind(channels, i, 0) for i in range(3)] == [0x4000, 0x4001, 0x4002]


def test_recycles_channels_in_case_they_are_not_in_use() -> None:
    channels = filled()

    assert bind(channels, ALL, 0) is None
    assert bind(channels, ALL, 15 * MINUTE - 1) is None
    assert bind(channels, ALL, 15 * MINUTE) == 0x4000


def test_uses_unused_channels_first_before_reusing_expired_one() -> None:
    channels = Channels()
    for index in range(100):
        bind(channels, index, 0)

    assert bind(channels, 100, 15 * MINUTE) == 0x4000 + 100


def test_uses_next_channel_as_long_as_its_available_before_reusing() -> None:
    channels = filled()

    assert bind(channels, ALL, 15 * MINUTE) == 0x4000
    assert bind(channels, ALL + 1, 15 * MINUTE) == 0x4001


def test_when_just_expired_a_channel_takes_no_other_peer_but_5_minutes_later() -> None:
    channels = filled()

    assert bind(channels, ALL, 10 * MINUTE + SECOND) is None
    assert bind(channels, ALL, 15 * MINUTE) == 0x4000


def test_when_in_cooldown_reuses_same_channel_for_peer() -> None:
    channels = Channels()
    bind(channels, 0, 0)
    list(channels.expire(10 * MINUTE))

    again = channels.bind(peer(0), 12 * MINUTE)

    assert again is not None and again.number == 0x4000
    assert not again.confirmed and again.is_sendable(12 * MINUTE)


def test_after_the_cooldown_a_peer_gets_a_number_never_used() -> None:
    channels = Channels()
    bind(channels, 0, 0)

    assert bind(channels, 0, 15 * MINUTE) == 0x4001
    channels.confirm(0x4001, 15 * MINUTE)
    assert channels.to(peer(0), 16 * MINUTE) is channels.confirmed(0x4001)


def test_data_that_still_comes_in_keeps_a_number_from_being_reused() -> None:
    channels = filled()
    channels.handle_received(0x4000, 9 * MINUTE)

    assert bind(channels, ALL, 15 * MINUTE) == 0x4001
    channels.handle_received(0x4000, 9 * MINUTE)
    list(channels.expire(15 * MINUTE))
    assert bind(channels, 0, 24 * MINUTE) is not None, "the hold ends"


def test_a_peer_is_asked_for_once() -> None:
    channels = Channels()

    assert bind(channels, 0, 0, confirm=False) == 0x4000
    assert bind(channels, 0, 1) is None
    assert bind(channels, 1, 1) == 0x4001
    channels.confirm(0x4000, 1)
    assert bind(channels, 0, 10 * MINUTE) is None
    assert bind(channels, 0, 10 * MINUTE + 1) == 0x4000


def test_sends_on_asked_for_and_bound_channels_receives_on_bound_ones() -> None:
    channels = Channels()
    bind(channels, 0, 0, confirm=False)

    assert channels.to(peer(0), 1) is not None
    assert channels.confirmed(0x4000) is None
    assert channels.confirm(0x4000, 2) is not None
    assert channels.confirmed(0x4000) is not None
    assert channels.to(peer(0), 10 * MINUTE + 1) is not None
    assert channels.to(peer(0), 10 * MINUTE + 2) is None
    assert channels.to(peer(1), 0) is None


def test_channel_with_activity_is_refreshed_from_5_minutes_on() -> None:
    channels = Channels()
    bind(channels, 0, 0)
    channels.handle_received(0x4000, 4 * MINUTE)

    assert channels.deadline == 5 * MINUTE
    assert list(channels.refresh(5 * MINUTE - 1)) == []
    (due,) = channels.refresh(5 * MINUTE)
    assert due.number == 0x4000
    assert list(channels.refresh(5 * MINUTE)) == [], "it is in flight"


def test_channel_without_activity_is_not_refreshed_and_dies() -> None:
    channels = Channels()
    bind(channels, 0, 0)

    assert list(channels.refresh(9 * MINUTE)) == []
    assert channels.deadline == 10 * MINUTE
    (lost,) = channels.expire(10 * MINUTE)
    assert lost.number == 0x4000
    assert channels.confirmed(0x4000) is None
    assert channels.deadline is None
    assert list(channels.expire(11 * MINUTE)) == [], "once"


def test_a_refresh_that_succeeds_resets_age_and_activity() -> None:
    channels = Channels()
    bind(channels, 0, 0)
    channels.handle_received(0x4000, 1 * MINUTE)
    list(channels.refresh(5 * MINUTE))

    assert channels.confirm(0x4000, 5 * MINUTE) is None, "no news"
    channels.handle_received(0x4000, 1 * MINUTE)  # the data plane tells old facts again
    assert list(channels.refresh(10 * MINUTE)) == []
    channels.handle_received(0x4000, 10 * MINUTE)
    assert len(list(channels.refresh(10 * MINUTE))) == 1


def test_activity_on_unconfirmed_or_unknown_numbers_does_not_count() -> None:
    channels = Channels()
    bind(channels, 0, 0, confirm=False)
    channels.handle_received(0x4000, 1)
    channels.handle_received(0x4001, 1)
    channels.confirm(0x4000, 2)

    assert list(channels.refresh(6 * MINUTE)) == []


def test_a_refused_number_is_forgotten() -> None:
    channels = Channels()
    bind(channels, 0, 0, confirm=False)

    lost = channels.fail(0x4000)

    assert lost is not None and lost.peer == peer(0)
    assert channels.to(peer(0), 0) is None
    assert channels.fail(0x4000) is None
    assert bind(channels, 0, 0) == 0x4001, "the relay may have its reasons for 0x4000"


def test_clear_gives_what_was_still_alive() -> None:
    channels = Channels()
    bind(channels, 0, 0)
    bind(channels, 1, 5 * MINUTE)
    list(channels.expire(11 * MINUTE))

    assert [binding.peer for binding in channels.clear()] == [peer(1)]
    assert channels.to(peer(1), 11 * MINUTE) is None
    assert channels.deadline is None
