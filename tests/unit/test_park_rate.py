"""More than twenty commands parked in a minute of log time and more than one in a hundred stop a partition; less of either does not."""

from itertools import count, islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orderflow.streams.parking import MINUTE_US, ParkRate

START_US = 1_800_000_000_000_000


def is_over(*batches: tuple[float, int, int]) -> list[bool]:
    """For batches of (seconds, records, parked): after which of them is the rate over the limits?"""
    rate, ids = ParkRate(), count()
    return [rate.is_over(START_US + int(seconds * 1e6), records, islice(ids, parked)) for seconds, records, parked in batches]


@pytest.mark.parametrize(
    ("records", "parked", "expected"),
    [
        (1, 1, False),  # a poison record alone
        (20, 20, False),  # all of few
        (21, 21, True),  # all of more
        (2000, 20, False),  # not more than twenty
        (2100, 21, False),  # not more than one in a hundred
        (2099, 21, True),
        (100_000, 1000, False),
        (100_000, 1001, True),
    ],
)
def test_both_limits_have_to_be_passed(records: int, parked: int, expected: bool) -> None:
    assert is_over((0, records, parked)) == [expected]


def test_batches_of_a_minute_add_up() -> None:
    assert is_over(*((second, 10, 7) for second in (0, 20, 40))) == [False, False, True]


def test_a_poison_record_now_and_then_never_stops() -> None:
    assert not any(is_over(*((10 * number, 1, 1) for number in range(1000))))


def test_what_is_a_minute_old_counts_no_more() -> None:
    assert is_over((0, 20, 20), (59.9, 1, 1)) == [False, True]
    assert is_over((0, 20, 20), (60, 1, 1)) == [False, False]


def test_many_good_records_make_up_for_bad_ones_only_within_the_minute() -> None:
    assert is_over((0, 10_000, 0), (30, 50, 50), (61, 1, 0)) == [False, False, True]


def test_limits_that_cannot_be_passed_switch_it_off() -> None:
    rate = ParkRate(percent_max=100.0)
    assert not rate.is_over(START_US, 1000, range(1000))


def test_a_batch_that_is_done_again_is_counted_once() -> None:
    rate = ParkRate()
    assert not rate.is_over(START_US, 15, range(15))
    rate.clear()
    assert not rate.is_over(START_US, 15, range(15))


def test_a_bad_command_that_is_sent_again_and_again_counts_once() -> None:
    rate = ParkRate()
    for second in range(100):
        assert not rate.is_over(START_US + second * 1_000_000, 5, ["C1"])
        assert rate.parked == 1
    assert not rate.is_over(START_US + 200_000_000, 5, [])
    assert rate.parked == 0


@given(st.lists(st.tuples(st.integers(0, 90), st.integers(1, 300), st.integers(0, 30)), max_size=60))
def test_it_holds_what_a_window_over_all_batches_would_hold(steps: list[tuple[int, int, int]]) -> None:
    rate, ids, now, seen = ParkRate(), count(), 0, list[tuple[int, int, int]]()
    for wait_s, records, parked in steps:
        parked = min(parked, records)
        now += wait_s * 1_000_000
        seen.append((now, records, parked))
        rate.is_over(now, records, islice(ids, parked))
        window = [each for each in seen if each[0] > now - MINUTE_US]
        assert (rate.records, rate.parked) == (sum(each[1] for each in window), sum(each[2] for each in window))
