"""The watchdog fires when nothing moves while it looks, and never because nobody looked."""

import threading

from orderflow.streams.watchdog import POLL_S, Watchdog, stacks

BOUND_S = 60.0


class Worker:
    """A worker's clock and its last step."""

    def __init__(self) -> None:
        self.now = self.step = 100.0
        self.told: list[str] = []
        self.dog = Watchdog(lambda: self.step, BOUND_S, lambda why, where: self.told.append(why), lambda: self.now)

    def pass_time(self, seconds: float, *, every: float = POLL_S, working: bool = False) -> bool:
        """Let the watchdog look once every so often; did it find a hung worker?"""
        end = self.now + seconds
        while self.now < end:
            self.now += every
            if working:
                self.step = self.now
            if self.dog.look():
                return True
        return False


def test_a_worker_that_steps_is_left_alone() -> None:
    assert not Worker().pass_time(100 * BOUND_S, working=True)


def test_a_worker_without_a_step_is_found_at_the_bound_and_not_before() -> None:
    worker = Worker()
    assert not worker.pass_time(BOUND_S - POLL_S)
    assert worker.pass_time(POLL_S)


def test_a_step_starts_the_count_anew() -> None:
    worker = Worker()
    assert not worker.pass_time(BOUND_S - 2 * POLL_S)
    assert not worker.pass_time(POLL_S, working=True)
    assert not worker.pass_time(BOUND_S - POLL_S)


def test_a_call_that_takes_its_whole_timeout_is_no_hang() -> None:
    """A broker outage: offsets and commit 30 s, the abort 20 s, a step between them."""
    worker = Worker()
    for _ in range(5):
        assert not worker.pass_time(50.0)
        worker.step = worker.now


def test_a_process_that_was_stopped_and_continued_is_not_hung() -> None:
    worker = Worker()
    assert not worker.pass_time(BOUND_S / 2)
    assert not worker.pass_time(3600.0, every=3600.0), "one look after an hour"
    assert not worker.pass_time(POLL_S, working=True)
    assert not worker.pass_time(BOUND_S - POLL_S)


def test_a_worker_that_hangs_after_it_was_continued_is_found() -> None:
    worker = Worker()
    assert not worker.pass_time(3600.0, every=3600.0)
    assert worker.pass_time(BOUND_S)


def test_the_thread_tells_once_with_the_stacks_and_ends() -> None:
    told: list[dict[str, str]] = []
    done = threading.Event()

    def hung(why: str, where: dict[str, str]) -> None:
        told.append(where)
        done.set()

    Watchdog(lambda: 1.0, 0.2, hung).start()
    assert done.wait(30)
    assert "test_the_thread_tells_once" in told[0]["MainThread"]
    assert len(told) == 1


def test_a_stopped_watchdog_tells_nothing() -> None:
    told: list[str] = []
    dog = Watchdog(lambda: 1.0, 0.2, lambda why, where: told.append(why))
    dog.stop()
    dog._run()
    assert told == []


def test_stacks_name_the_threads() -> None:
    assert {"MainThread"} <= set(stacks())
