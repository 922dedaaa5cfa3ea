"""Which of librdkafka's log lines mean that an end of transaction may still be under way."""

import logging

import pytest

from orderflow.streams.coordinator import CoordinatorWatch

LOST = "[thrd:TxnCoordinator]: TxnCoordinator: 127.0.0.1:9092: Disconnected: connection closed by peer (after 26ms in state UP)"


def heard(level: int, word: str, text: str) -> str:
    watch = CoordinatorWatch()
    watch.config["logger"].log(level, "%s [%s] %s", word, "w-1#producer-2", text)
    return watch.lost


TIMED_OUT = "[thrd:TxnCoordinator]: TxnCoordinator/1: Timed out 1 in-flight, 0 retry-queued, 0 out-queue, 0 partially-sent requests"


def test_a_lost_connection_to_the_coordinator_is_heard() -> None:
    assert LOST in heard(logging.INFO, "FAIL", LOST)


def test_a_request_to_the_coordinator_that_is_given_up_is_heard() -> None:
    """Seen on a busy machine: no connection was lost, the second end of the transaction succeeded, the first one tore the next."""
    assert TIMED_OUT in heard(logging.WARNING, "REQTMOUT", TIMED_OUT)


@pytest.mark.parametrize(
    ("level", "word", "text"),
    [
        (logging.DEBUG, "FAIL", LOST),  # how the end of an idle connection is told: nothing was under way
        (logging.INFO, "FAIL", LOST.replace("thrd:TxnCoordinator", "thrd:127.0.0.1:9092/1")),  # records have sequence numbers of their own
        (logging.INFO, "COORD", LOST.replace("Disconnected", "connected")),
    ],
)
def test_nothing_else_is_taken_for_it(level: int, word: str, text: str) -> None:
    assert heard(level, word, text) == ""
