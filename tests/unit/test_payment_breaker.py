"""The circuit breaker: opens at half of at least 20 calls within 10 s, then one probe (slots GW-P0-01, D12)."""

import asyncio

import pytest

from orderflow.connectors.payments.breaker import CLOSED, HALF_OPEN, OPEN, Breaker


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(clock=clock)


def calls(breaker: Breaker, *answered: bool) -> None:
    for each in answered:
        breaker.record(each)


@pytest.mark.parametrize(("good", "bad", "state"), [(0, 19, CLOSED), (11, 9, CLOSED), (10, 10, OPEN), (0, 20, OPEN), (30, 29, CLOSED)])
def test_it_opens_at_half_of_twenty(breaker: Breaker, good: int, bad: int, state: str) -> None:
    calls(breaker, *[True] * good, *[False] * bad)
    assert breaker.state == state


def test_failures_older_than_the_window_do_not_count(breaker: Breaker, clock: Clock) -> None:
    calls(breaker, *[False] * 19)
    clock.now += 10
    calls(breaker, False)
    assert breaker.state == CLOSED


async def test_one_call_probes_and_the_others_wait_for_what_comes_of_it(breaker: Breaker, clock: Clock) -> None:
    calls(breaker, *[False] * 20)
    clock.now += 30
    await breaker.admit()
    assert breaker.state == HALF_OPEN
    waiting = [asyncio.create_task(breaker.admit()) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    breaker.record(True)
    await asyncio.gather(*waiting)
    assert breaker.state == CLOSED
    calls(breaker, *[False] * 19)
    assert breaker.state == CLOSED, "it begins anew"


async def test_a_probe_that_fails_opens_it_again(breaker: Breaker, clock: Clock) -> None:
    calls(breaker, *[False] * 20)
    clock.now += 30
    await breaker.admit()
    breaker.record(False)
    assert breaker.state == OPEN
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(breaker.admit(), 0.02)


async def test_a_probe_that_is_given_up_leaves_the_next_call_to_probe(breaker: Breaker, clock: Clock) -> None:
    calls(breaker, *[False] * 20)
    clock.now += 30
    await breaker.admit()
    breaker.withdraw()
    await asyncio.wait_for(breaker.admit(), 1)
    assert breaker.state == HALF_OPEN


async def test_calls_that_are_given_up_say_nothing_of_the_provider(breaker: Breaker) -> None:
    for _ in range(40):
        await breaker.admit()
        breaker.withdraw()
    assert breaker.state == CLOSED


async def test_calls_that_end_while_it_is_open_change_nothing(breaker: Breaker) -> None:
    calls(breaker, *[False] * 20, True, False)
    assert breaker.state == OPEN


async def test_closed_it_lets_everybody_through(breaker: Breaker) -> None:
    await asyncio.wait_for(asyncio.gather(*(breaker.admit() for _ in range(100))), 1)
    assert breaker.state == CLOSED
