"""The error table: every error of every call is retried, aborted, or ends the process; nothing else, and none is undecided."""

from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from orderflow.streams.batch import Output
from orderflow.streams.outcomes import ABORT, CALLS, EVERYWHERE, EXIT, IN_DOUBT, RETRY, ROWS, codes, outcome, row
from orderflow.streams.transaction import RETRIES_MAX, Aborted, Fatal, Transaction
from orderflow.tables.world import World

ERROR = KafkaError
NUMBERS = {ERROR(value).name(): value for name, value in vars(ERROR).items() if isinstance(value, int) and not name.startswith("__")}


def of(name: str, **flags: bool) -> KafkaError:
    return ERROR(NUMBERS[name], **flags)


# -- the table ----------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("call", CALLS)
def test_every_error_the_client_knows_is_decided_at_every_call_however_it_is_flagged(call: str) -> None:
    assert len(codes()) > 180, "the client's codes were found"
    rule = CALLS[call]
    for name in codes():
        explicit = row(call, name)
        plain, retriable = outcome(call, of(name)), outcome(call, of(name, retriable=True))
        must_abort, fatal = outcome(call, of(name, txn_requires_abort=True)), outcome(call, of(name, fatal=True))
        assert fatal == EXIT, name
        if explicit is not None:
            assert plain == retriable == must_abort == explicit.outcome, name
            continue
        assert plain == (ABORT if call == "delivery" else EXIT), name
        assert must_abort == (ABORT if rule.may_abort else EXIT), name
        if call != "delivery":
            assert retriable == (RETRY if rule.may_retry and name not in IN_DOUBT else EXIT), name


def test_a_row_names_an_error_that_exists_a_call_that_exists_and_its_reason() -> None:
    known = set(codes())
    assert {name for _, name in ROWS} | set(EVERYWHERE) | IN_DOUBT <= known
    assert {call for call, _ in ROWS} <= set(CALLS)
    assert {each.outcome for each in (*ROWS.values(), *EVERYWHERE.values())} <= {RETRY, ABORT, EXIT}
    assert all(len(each.why) > 20 for each in (*ROWS.values(), *EVERYWHERE.values()))
    assert {each.outcome for each in EVERYWHERE.values()} == {EXIT}, "what is the same everywhere is that nothing can go on"


def test_a_row_differs_from_the_rule_of_its_call() -> None:
    """Else it is not needed; what is only told of by flags is looked at with them."""
    for (call, name), explicit in ROWS.items():
        rule = CALLS[call]
        by_rule = ABORT if call == "delivery" else EXIT
        assert explicit.outcome != by_rule or name in EVERYWHERE, (call, name)
        assert explicit.outcome != ABORT or rule.may_abort, (call, name)


def test_nothing_that_was_sent_is_sent_again_when_its_fate_is_in_doubt() -> None:
    for call in ("init", "begin", "send_offsets", "commit", "abort"):
        assert outcome(call, of("_TIMED_OUT", retriable=True)) == EXIT


def test_a_call_that_is_not_in_the_table_is_a_bug() -> None:
    with pytest.raises(KeyError):
        outcome("close", of("_FAIL"))


@pytest.mark.parametrize(
    ("call", "error", "expected"),
    [
        # a rebalance between poll and commit: normal, nothing is lost by doing the batch again
        ("send_offsets", of("ILLEGAL_GENERATION"), ABORT),
        ("send_offsets", of("UNKNOWN_MEMBER_ID"), ABORT),
        ("send_offsets", of("REBALANCE_IN_PROGRESS"), ABORT),
        # the library, or a newer broker, says so itself
        ("commit", of("_TIMED_OUT", txn_requires_abort=True), ABORT),
        ("commit", of("INVALID_TXN_STATE", txn_requires_abort=True), ABORT),
        ("commit", of("TRANSACTION_ABORTABLE"), ABORT),
        # would come back with every retry: the sizes of a command's outputs are checked before, so this is a bug
        ("commit", of("MSG_SIZE_TOO_LARGE", txn_requires_abort=True), EXIT),
        ("send_offsets", of("GROUP_AUTHORIZATION_FAILED", txn_requires_abort=True), EXIT),
        # the coordinator is moving: the same call again
        ("init", of("COORDINATOR_NOT_AVAILABLE", retriable=True), RETRY),
        ("send_offsets", of("COORDINATOR_LOAD_IN_PROGRESS", retriable=True), RETRY),
        ("commit", of("COORDINATOR_NOT_AVAILABLE", retriable=True), RETRY),
        # an abort is not asked for twice, a begin fails only by a bug
        ("abort", of("COORDINATOR_NOT_AVAILABLE", retriable=True), EXIT),
        ("begin", of("_STATE"), EXIT),
        # the client has failed the open transaction while nobody asked for anything: all that it takes is its end
        ("produce", of("_STATE"), ABORT),
        ("produce", of("_STATE", fatal=True), EXIT),
        # in doubt: nobody knows whether it was committed; only the log can tell, after a restart
        ("commit", of("_TIMED_OUT", retriable=True), EXIT),
        ("commit", of("_TRANSPORT"), EXIT),
        # another instance of ours has taken over, also when the library would only abort
        ("commit", of("_FENCED", fatal=True), EXIT),
        ("commit", of("INVALID_PRODUCER_EPOCH", txn_requires_abort=True), EXIT),
        ("send_offsets", of("FENCED_INSTANCE_ID", txn_requires_abort=True), EXIT),
        # the same code at another call is not the rebalance case
        ("commit", of("ILLEGAL_GENERATION"), EXIT),
        ("commit", of("TRANSACTIONAL_ID_AUTHORIZATION_FAILED", fatal=True), EXIT),
        # a record that was not delivered: the commit will be refused
        ("delivery", of("_MSG_TIMED_OUT"), ABORT),
        ("delivery", of("_PURGE_QUEUE"), ABORT),
        ("delivery", of("INVALID_RECORD"), EXIT),
        # polling goes on through an outage and a rebalance, not past a position outside the log
        ("consume", of("_ALL_BROKERS_DOWN"), RETRY),
        ("consume", of("NOT_COORDINATOR"), RETRY),
        ("consume", of("REBALANCE_IN_PROGRESS"), RETRY),
        ("consume", of("_AUTO_OFFSET_RESET"), EXIT),
        ("consume", of("_MAX_POLL_EXCEEDED"), EXIT),
        ("consume", of("TOPIC_AUTHORIZATION_FAILED"), EXIT),
    ],
)
def test_what_a_failed_call_leads_to(call: str, error: KafkaError, expected: str) -> None:
    assert outcome(call, error) == expected


# -- the calls ----------------------------------------------------------------------------------------------------------------------
class Scripted:
    """A producer whose calls fail as the script says; it records what was asked of it, and how long each call may take."""

    def __init__(self, call: str = "", *errors: KafkaError, takes_s: float = 0.0) -> None:
        self.call, self.errors, self.takes_s = call, list(errors), takes_s
        self.calls: list[str] = []
        self.allowed: list[float] = []
        self.now = 0.0

    def _do(self, call: str, timeout: float = 0.0) -> None:
        self.calls.append(call)
        self.allowed.append(timeout)
        if call == self.call:
            self.now += self.takes_s
            if self.errors:
                raise KafkaException(self.errors.pop(0))

    def init_transactions(self, timeout: float) -> None:
        self._do("init", timeout)

    def begin_transaction(self) -> None:
        self._do("begin")

    def produce(self, *record: Any, **more: Any) -> None:
        self._do("produce")

    def poll(self, timeout: float) -> int:
        return 0

    def flush(self, timeout: float) -> int:
        self._do("flush", timeout)
        return 0

    def send_offsets_to_transaction(self, offsets: Any, group: Any, timeout: float) -> None:
        self._do("send_offsets", timeout)

    def commit_transaction(self, timeout: float) -> None:
        self._do("commit", timeout)

    def abort_transaction(self, timeout: float) -> None:
        self._do("abort", timeout)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def step(producer: Scripted, within_s: float = 30.0) -> Transaction:
    """Everything a worker asks of its producer between a start and a roll-back."""
    world = World(producer=lambda config: producer, sleep=producer.sleep, monotonic=lambda: producer.now)
    opened = Transaction({}, "t", 1000, world)
    opened.start()
    opened.begin()
    try:
        opened.send("topic", b"value", b"key")
        opened.commit([], None, within_s)
    except Aborted:
        opened.abort()
        raise
    return opened


COMMITTED = ["init", "begin", "produce", "flush", "send_offsets", "commit"]


@pytest.mark.parametrize("call", ["init", "send_offsets", "commit"])
def test_a_retriable_error_is_repeated_and_then_committed(call: str) -> None:
    producer = Scripted(call, *[of("COORDINATOR_NOT_AVAILABLE", retriable=True)] * 3)
    assert not step(producer).open
    assert producer.calls == [each for name in COMMITTED for each in [name] * (4 if name == call else 1)]


@pytest.mark.parametrize("call", ["init", "begin", "produce", "send_offsets", "commit"])
@pytest.mark.parametrize("error", [of("_TIMED_OUT", retriable=True), of("_FENCED", fatal=True), of("_TRANSPORT"), of("UNKNOWN")])
def test_what_is_in_doubt_or_fenced_ends_the_process_and_nothing_is_asked_any_more(call: str, error: KafkaError) -> None:
    producer = Scripted(call, error)
    with pytest.raises(Fatal, match=f"^{call}: {error.name()}"):
        step(producer)
    assert producer.calls == COMMITTED[: COMMITTED.index(call) + 1]


@pytest.mark.parametrize("call", ["send_offsets", "commit"])
def test_what_must_be_aborted_is_aborted_and_is_not_fatal(call: str) -> None:
    producer = Scripted(call, of("INVALID_TXN_STATE", txn_requires_abort=True))
    with pytest.raises(Aborted):
        step(producer)
    assert producer.calls == [*COMMITTED[: COMMITTED.index(call) + 1], "abort"]


SENDS: list[Callable[[Transaction], None]] = [
    lambda opened: opened.send("topic", b"value", b"key"),
    lambda opened: opened.send_rows("topic", [(b"key", b"value")], 0),
    lambda opened: opened.send_all([Output("topic", b"key", b"value", 0, None)]),
    lambda opened: opened.send_all([Output("topic", b"key", b"value", 0, [("name", b"value")])]),
]


@pytest.mark.parametrize("sends", SENDS)
@pytest.mark.parametrize(("error", "kind"), [(of("_STATE"), Aborted), (of("_FENCED", fatal=True), Fatal), (of("_TRANSPORT"), Fatal)])
def test_a_record_that_is_not_taken_is_one_of_both_whichever_way_it_is_sent(
    sends: Callable[[Transaction], None], error: KafkaError, kind: type[Exception]
) -> None:
    """A worker that joined under load was ended by this: librdkafka had failed its new transaction in the background."""
    producer = Scripted("produce", error)
    opened = Transaction({}, "t", 1000, World(producer=lambda config: producer))
    opened.begin()
    with pytest.raises(kind, match=f"^produce: {error.name()}"):
        sends(opened)
    if kind is Aborted:
        opened.abort()
        opened.begin()
        sends(opened)
        assert producer.calls == ["begin", "produce", "abort", "begin", "produce"]


def test_retries_end() -> None:
    producer = Scripted("commit", *[of("COORDINATOR_NOT_AVAILABLE", retriable=True)] * (RETRIES_MAX + 1))
    with pytest.raises(Fatal):
        step(producer)
    assert producer.calls.count("commit") == RETRIES_MAX + 1


@pytest.mark.parametrize(("slow", "allowed"), [("flush", [10.0, 3.0, 3.0]), ("send_offsets", [10.0, 10.0, 3.0])])
def test_records_offsets_and_commit_share_one_deadline(slow: str, allowed: list[float]) -> None:
    producer = Scripted(slow, takes_s=7.0)
    step(producer, within_s=10.0)
    assert producer.allowed[-3:] == allowed


@pytest.mark.parametrize(("slow", "follows"), [("flush", "send_offsets"), ("send_offsets", "commit")])
def test_nothing_more_is_asked_for_when_the_time_is_over(slow: str, follows: str) -> None:
    producer = Scripted(slow, takes_s=11.0)
    with pytest.raises(Fatal, match="not done in time"):
        step(producer, within_s=10.0)
    assert follows not in producer.calls


def test_a_time_that_is_over_before_does_not_wait_for_ever() -> None:
    """A negative timeout means for ever."""
    producer = Scripted()
    with pytest.raises(Fatal, match="not done in time"):
        step(producer, within_s=-1.0)
    assert min(producer.allowed) >= 0.0


def test_a_commit_that_fails_is_never_taken_for_done() -> None:
    opened = Transaction({}, "t", 1000, World(producer=lambda config: Scripted("commit", of("_TRANSPORT"))))
    opened.begin()
    with pytest.raises(Fatal):
        opened.commit([], None)
    assert opened.open


def test_an_abort_that_fails_ends_the_process() -> None:
    for error in (of("_FENCED", fatal=True), of("_TIMED_OUT", retriable=True), of("COORDINATOR_NOT_AVAILABLE", retriable=True)):
        opened = Transaction({}, "t", 1000, World(producer=lambda config, error=error: Scripted("abort", error)))
        opened.begin()
        with pytest.raises(Fatal):
            opened.abort()
