"""What a failed call to the Kafka client leads to: the error table, (call, librdkafka's name of the error) -> outcome.

librdkafka speaks the transaction protocol before KIP-890, in which a late end of transaction can hit the next one. So there are two
outcomes only: *abort* (positions go back, work goes on) where the library or the broker says that nothing was committed, and *exit* for
everything else, whatever in doubt included: the process that comes next reads from the log what was committed. *retry*, the same call
again, is for answers that say "not yet". A code without a row follows its call's rule, so none is undecided.
"""

from collections.abc import Mapping

from confluent_kafka import KafkaError
from msgspec import Struct

RETRY, ABORT, EXIT = "retry", "abort", "exit"

NOT_YET = "the coordinator or leader is moving or busy: the client finds the new one by itself"
NOT_ALLOWED = "doing the batch again would meet it again"
REPLACED = "another process has taken this one's place: it may write nothing more"
MOVED_ON = "a rebalance moved the group on between our poll and our commit: normal at every cooperative join, nothing was committed"


IN_DOUBT = frozenset({"_TIMED_OUT"})
"""Never asked again although the client would: nobody knows whether it was done, and a late request could end the next transaction."""


class Call(Struct, frozen=True):
    """A call to the client and the rule for codes without a row."""

    name: str
    what: str
    may_retry: bool
    """Is the same call made again when the client marks its error as retriable?"""
    may_abort: bool
    """Is the transaction aborted when the client says that it must be?"""


class Row(Struct, frozen=True):
    """A code whose outcome at a call is not what the call's rule says, and why."""

    outcome: str
    why: str


CALLS: Mapping[str, Call] = {
    call.name: call
    for call in (
        Call("init", "init_transactions: fence the predecessor, end what it left open", True, False),
        Call("begin", "begin_transaction: local, fails only out of order", False, False),
        Call("produce", "produce: into the client's queue", False, True),
        Call("delivery", "a delivery report: the record did not reach the log, so the commit will be refused", False, True),
        Call("send_offsets", "send_offsets_to_transaction: the source's positions, checked by generation", True, True),
        Call("commit", "commit_transaction", True, True),
        Call("abort", "abort_transaction: what cannot be aborted is ended by the next process", False, False),
        Call("consume", "an error among polled records; retry: it is logged and polled on", True, False),
    )
}

EVERYWHERE: Mapping[str, Row] = {
    "_FATAL": Row(EXIT, "the client says that it cannot go on"),
    "_FENCED": Row(EXIT, REPLACED),
    "PRODUCER_FENCED": Row(EXIT, REPLACED),
    "INVALID_PRODUCER_EPOCH": Row(EXIT, REPLACED),
    "FENCED_INSTANCE_ID": Row(EXIT, REPLACED),
    "MSG_SIZE_TOO_LARGE": Row(EXIT, f"{NOT_ALLOWED}; sizes are checked before a record is produced, so it is a bug or a changed limit"),
    "RECORD_LIST_TOO_LARGE": Row(EXIT, NOT_ALLOWED),
    "INVALID_RECORD": Row(EXIT, NOT_ALLOWED),
    "INVALID_TIMESTAMP": Row(EXIT, NOT_ALLOWED),
    "POLICY_VIOLATION": Row(EXIT, NOT_ALLOWED),
    "TOPIC_EXCEPTION": Row(EXIT, NOT_ALLOWED),
    "UNKNOWN_TOPIC_OR_PART": Row(EXIT, f"a topic is gone, {NOT_ALLOWED}; the next start names it"),
    "_UNKNOWN_TOPIC": Row(EXIT, f"a topic is gone, {NOT_ALLOWED}; the next start names it"),
    "_UNKNOWN_PARTITION": Row(EXIT, f"a partition is gone, {NOT_ALLOWED}; the next start names it"),
    "TOPIC_AUTHORIZATION_FAILED": Row(EXIT, NOT_ALLOWED),
    "GROUP_AUTHORIZATION_FAILED": Row(EXIT, NOT_ALLOWED),
    "CLUSTER_AUTHORIZATION_FAILED": Row(EXIT, NOT_ALLOWED),
    "TRANSACTIONAL_ID_AUTHORIZATION_FAILED": Row(EXIT, NOT_ALLOWED),
    "UNSUPPORTED_VERSION": Row(EXIT, NOT_ALLOWED),
    "OFFSET_METADATA_TOO_LARGE": Row(EXIT, NOT_ALLOWED),
    "INVALID_COMMIT_OFFSET_SIZE": Row(EXIT, NOT_ALLOWED),
}
"""Codes that end the process at every call, also where the client would allow an abort or a retry."""

ROWS: Mapping[tuple[str, str], Row] = {
    ("send_offsets", "ILLEGAL_GENERATION"): Row(ABORT, MOVED_ON),
    ("send_offsets", "UNKNOWN_MEMBER_ID"): Row(ABORT, MOVED_ON),
    ("send_offsets", "REBALANCE_IN_PROGRESS"): Row(ABORT, MOVED_ON),
    ("send_offsets", "TRANSACTION_ABORTABLE"): Row(ABORT, "the broker itself says that nothing was committed and an abort is enough"),
    ("commit", "TRANSACTION_ABORTABLE"): Row(ABORT, "the broker itself says that nothing was committed and an abort is enough"),
    ("produce", "_STATE"): Row(
        ABORT, "the client has failed the open transaction meanwhile, as after a rebalance under load: it wants its end"
    ),
    ("produce", "_QUEUE_FULL"): Row(RETRY, "the client's queue is full: wait until it has sent some; nothing was queued"),
    ("consume", "_PARTITION_EOF"): Row(RETRY, "no error: the end of a partition for now"),
    ("consume", "_TIMED_OUT"): Row(RETRY, "a poll has nothing in doubt: the client asks again"),
    **{
        ("consume", code): Row(RETRY, "the broker is away: the client connects again by itself, and nothing was lost")
        for code in (
            "_TRANSPORT",
            "_RESOLVE",
            "_ALL_BROKERS_DOWN",
            "_NODE_UPDATE",
            "_INTR",
            "_RETRY",
            "NETWORK_EXCEPTION",
            "REQUEST_TIMED_OUT",
        )
    },
    **{
        ("consume", code): Row(RETRY, NOT_YET)
        for code in (
            *("_WAIT_COORD", "_WAIT_CACHE", "_IN_PROGRESS", "_PREV_IN_PROGRESS"),
            *("COORDINATOR_LOAD_IN_PROGRESS", "COORDINATOR_NOT_AVAILABLE", "NOT_COORDINATOR", "BROKER_NOT_AVAILABLE"),
            *("LEADER_NOT_AVAILABLE", "NOT_LEADER_FOR_PARTITION", "REPLICA_NOT_AVAILABLE", "PREFERRED_LEADER_NOT_AVAILABLE"),
            *("FENCED_LEADER_EPOCH", "UNKNOWN_LEADER_EPOCH", "OFFSET_NOT_AVAILABLE", "UNSTABLE_OFFSET_COMMIT", "KAFKA_STORAGE_ERROR"),
            *("FETCH_SESSION_ID_NOT_FOUND", "INVALID_FETCH_SESSION_EPOCH", "THROTTLING_QUOTA_EXCEEDED", "REBOOTSTRAP_REQUIRED"),
        )
    },
    **{
        ("consume", code): Row(RETRY, "the client joins again; what it loses by that is told by on_lost, which exits")
        for code in ("REBALANCE_IN_PROGRESS", "ILLEGAL_GENERATION", "UNKNOWN_MEMBER_ID", "MEMBER_ID_REQUIRED")
    },
}
"""What differs from the rule of its call."""


def row(call: str, name: str) -> Row | None:
    """The explicit row of a code at a call; None when the call's rule decides."""
    return ROWS.get((call, name)) or EVERYWHERE.get(name)


def outcome(call: str, error: KafkaError) -> str:
    """`retry`, `abort` or `exit`: what this error of this call leads to. Raises KeyError for a call that is not in the table."""
    rule, name = CALLS[call], error.name()
    if error.fatal():
        return EXIT
    explicit = row(call, name)
    if explicit is not None:
        return explicit.outcome
    if rule.may_abort and (error.txn_requires_abort() or call == "delivery"):
        return ABORT
    return RETRY if rule.may_retry and error.retriable() and name not in IN_DOUBT else EXIT


def codes() -> list[str]:
    """The name of every error the installed client knows, in the order of their numbers."""
    numbers = {value for name, value in vars(KafkaError).items() if isinstance(value, int) and not name.startswith("__")}
    return [KafkaError(number).name() for number in sorted(numbers) if number != KafkaError.NO_ERROR]
