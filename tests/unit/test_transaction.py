"""The error table: a failed transactional call is retried, aborted, or ends the process; nothing else."""

from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from orderflow.streams.transaction import RETRIES_MAX, Aborted, Fatal, Transaction, outcome
from orderflow.tables.world import World

ERROR = KafkaError


@pytest.mark.parametrize(
    ("call", "error", "expected"),
    [
        # a rebalance between poll and commit: normal, nothing is lost by doing the batch again
        ("send_offsets", ERROR(ERROR.ILLEGAL_GENERATION), "abort"),
        ("send_offsets", ERROR(ERROR.UNKNOWN_MEMBER_ID), "abort"),
        ("send_offsets", ERROR(ERROR.REBALANCE_IN_PROGRESS), "abort"),
        # librdkafka says so itself
        ("commit", ERROR(ERROR._TIMED_OUT, txn_requires_abort=True), "abort"),
        ("commit", ERROR(ERROR.INVALID_TXN_STATE, txn_requires_abort=True), "abort"),
        # would come back with every retry: the sizes of a command's outputs are checked before, so this is a bug
        ("commit", ERROR(ERROR.MSG_SIZE_TOO_LARGE, txn_requires_abort=True), "exit"),
        # the coordinator is moving: the same call again
        ("send_offsets", ERROR(ERROR.COORDINATOR_LOAD_IN_PROGRESS, retriable=True), "retry"),
        ("commit", ERROR(ERROR.COORDINATOR_NOT_AVAILABLE, retriable=True), "retry"),
        # in doubt: nobody knows whether it was committed; only the log can tell, after a restart
        ("commit", ERROR(ERROR._TIMED_OUT, retriable=True), "exit"),
        ("commit", ERROR(ERROR._TRANSPORT), "exit"),
        # another instance of ours has taken over
        ("commit", ERROR(ERROR._FENCED, fatal=True), "exit"),
        ("commit", ERROR(ERROR.INVALID_PRODUCER_EPOCH, fatal=True), "exit"),
        ("send_offsets", ERROR(ERROR.FENCED_INSTANCE_ID, fatal=True), "exit"),
        # the same code at another call is not the rebalance case
        ("commit", ERROR(ERROR.ILLEGAL_GENERATION), "exit"),
        ("commit", ERROR(ERROR.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, fatal=True), "exit"),
    ],
)
def test_what_a_failed_call_leads_to(call: str, error: KafkaError, expected: str) -> None:
    assert outcome(call, error) == expected


class Scripted:
    """A producer whose commit fails as the script says; it records what was asked of it."""

    def __init__(self, *errors: KafkaError) -> None:
        self.errors = list(errors)
        self.calls: list[str] = []

    def begin_transaction(self) -> None:
        self.calls.append("begin")

    def send_offsets_to_transaction(self, offsets: Any, group: Any, timeout: float) -> None:
        self.calls.append("offsets")

    def commit_transaction(self, timeout: float) -> None:
        self.calls.append("commit")
        if self.errors:
            raise KafkaException(self.errors.pop(0))

    def abort_transaction(self, timeout: float) -> None:
        self.calls.append("abort")


def transaction(producer: Scripted) -> Transaction:
    opened = Transaction({}, "t", 1000, World(producer=lambda config: producer, sleep=lambda seconds: None))
    opened.begin()
    return opened


def test_a_retriable_error_is_repeated_and_then_committed() -> None:
    producer = Scripted(*[ERROR(ERROR.COORDINATOR_NOT_AVAILABLE, retriable=True)] * 3)
    opened = transaction(producer)
    opened.commit([], None)
    assert producer.calls == ["begin", "offsets", *["commit"] * 4]
    assert not opened.open


@pytest.mark.parametrize(
    ("errors", "raised"),
    [
        ([ERROR(ERROR._TIMED_OUT, retriable=True)], Fatal),
        ([ERROR(ERROR.COORDINATOR_NOT_AVAILABLE, retriable=True)] * (RETRIES_MAX + 1), Fatal),
        ([ERROR(ERROR.INVALID_TXN_STATE, txn_requires_abort=True)], Aborted),
    ],
)
def test_a_commit_that_fails_is_never_taken_for_done(errors: list[KafkaError], raised: type[Exception]) -> None:
    opened = transaction(Scripted(*errors))
    with pytest.raises(raised):
        opened.commit([], None)
    assert opened.open


def test_an_abort_that_fails_ends_the_process() -> None:
    producer = Scripted()
    opened = transaction(producer)

    def fail(timeout: float) -> None:
        raise KafkaException(ERROR(ERROR._FENCED, fatal=True))

    abort: Callable[[float], None] = fail
    producer.abort_transaction = abort  # type: ignore[method-assign]
    with pytest.raises(Fatal):
        opened.abort()
