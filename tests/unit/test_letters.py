"""Dead letters: what a record of their topic is, what goes back, and what an end of the transaction means. No Kafka needed."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from flow_harness import Flow
from msgspec import Struct

from orderflow.cli import letters
from orderflow.cli.letters import ADDED, Letter
from orderflow.cli.main import main
from orderflow.cli.terminal import Failure
from orderflow.schemas.catalog import Catalog

NAMES = Catalog("shop")
DLQ, LOG = NAMES.dlq_topic("stock"), NAMES.commands_topic("stock")
TRACE = ("traceparent", b"00-1-2-01")


class Record(Struct):
    """A record as a consumer gives it."""

    number: int
    place: int
    named: Sequence[tuple[str, bytes]] | None
    data: bytes | None = b"bytes"

    def partition(self) -> int:
        return self.number

    def offset(self) -> int:
        return self.place

    def timestamp(self) -> tuple[int, int]:
        return 2, 1000 + self.place

    def key(self) -> bytes | None:
        return b"SKU"

    def value(self) -> bytes | None:
        return self.data

    def headers(self) -> Sequence[tuple[str, bytes]] | None:
        return self.named


def headers(partition: int = 2, *more: tuple[str, bytes], topic: str = LOG) -> list[tuple[str, bytes]]:
    said = dict.fromkeys(ADDED, b"x") | {"topic": topic.encode(), "partition": str(partition).encode(), "reason": b"FAILED"}
    return [*said.items(), *more]


def mark(partition: int, place: int, offset: int) -> Record:
    return Record(partition, place, [("redriven", str(offset).encode())], None)


def letter(offset: int = 5, *more: tuple[str, bytes], topic: str = LOG, partition: int = 2) -> Letter:
    return Letter("stock", DLQ, 2, offset, 1, b"SKU", b"bytes", tuple(headers(partition, *more, topic=topic)), None)


# -- what is on the topic -----------------------------------------------------------------------------------------------------------
def test_a_mark_is_no_letter_and_tells_of_its_own_only() -> None:
    found = letters.letters_of("stock", DLQ, [Record(1, 0, headers()), mark(0, 2, 0), Record(0, 1, headers()), Record(0, 0, headers())])
    assert [(each.partition, each.offset, each.redriven_ms) for each in found] == [(0, 0, 1002), (0, 1, None), (1, 0, None)]
    assert found[0].place == "stock 0 0"


def test_a_letter_whose_record_had_a_header_like_a_mark_is_a_letter() -> None:
    found = letters.letters_of("stock", DLQ, [Record(0, 0, headers(0, ("redriven", b"0"))), Record(0, 1, None)])
    assert [each.redriven_ms for each in found] == [None, None], "and what has no headers at all is shown too"


# -- what goes back -----------------------------------------------------------------------------------------------------------------
def test_what_the_worker_added_is_taken_away_and_nothing_else(tmp_path: Path) -> None:
    flow = Flow(tmp_path)
    flow.append("stock", b"SKU", b"not a command", [TRACE, ("note", b"")])
    flow.run()
    (parked,) = flow.parked("stock")
    assert parked.headers is not None
    (found,) = letters.letters_of("stock", DLQ, [Record(2, 5, parked.headers, parked.value)])
    assert found.headers_back() == [TRACE, ("note", b""), ("redriven-from", f"{DLQ}[2]@5".encode())]
    assert (found.value, {name for name, _ in parked.headers} - {"traceparent", "note"}) == (b"not a command", set(ADDED))


def test_what_was_put_back_and_set_aside_again_names_its_last_letter_only() -> None:
    assert letter(9, ("redriven-from", b"earlier"), TRACE).headers_back() == [TRACE, ("redriven-from", f"{DLQ}[2]@9".encode())]


@pytest.mark.parametrize(
    "wrong",
    [letter(topic="shop.orders.commands.v1"), letter(topic=""), letter(partition=4), letter(partition=-1)],
    ids=lambda each: each.place,
)
def test_a_letter_of_somebody_else_goes_nowhere(wrong: Letter) -> None:
    producer = Producer()
    with pytest.raises(Failure, match="no partition of shop.stock.commands.v1"):
        letters.put_back(producer, [letter(), wrong], NAMES)  # type: ignore[arg-type]
    assert producer.calls == []


# -- the transaction ----------------------------------------------------------------------------------------------------------------
class Producer:
    """Notes what is asked of it; the commit fails as told, and reports what it refused."""

    def __init__(self, failure: KafkaError | None = None, refusal: KafkaError | None = None, full: int = 0) -> None:
        self.failure, self.refusal, self.full = failure, refusal, full
        self.calls: list[Any] = []
        self._reports: list[Callable[[Any, Any], None]] = []

    def begin_transaction(self) -> None:
        self.calls.append("begin")

    def produce(self, topic: str, value: Any, key: bytes, partition: int, on_delivery: Any, headers: Any) -> None:
        if self.full:
            self.full -= 1
            raise BufferError
        self.calls.append((topic, partition, key, value, headers))
        self._reports.append(on_delivery)

    def poll(self, timeout: float) -> None: ...

    def commit_transaction(self, timeout: float) -> None:
        for report in self._reports:
            report(self.refusal, None)
        if self.failure is not None:
            raise KafkaException(self.failure)
        self.calls.append("commit")

    def abort_transaction(self, timeout: float) -> None:
        self.calls.append("abort")


def test_a_record_and_its_mark_are_in_one_transaction_however_full_the_queue_is() -> None:
    producer = Producer(full=1)
    letters.put_back(producer, [letter(5, TRACE), letter(6)], NAMES)  # type: ignore[arg-type]
    back = [
        (LOG, 2, b"SKU", b"bytes", [*more, ("redriven-from", f"{DLQ}[2]@{offset}".encode())]) for offset, more in ((5, [TRACE]), (6, []))
    ]
    marks = [(DLQ, 2, b"SKU", None, [("redriven", str(offset).encode())]) for offset in (5, 6)]
    assert producer.calls == ["begin", back[0], marks[0], back[1], marks[1], "commit"]


@pytest.mark.parametrize(
    ("error", "told", "code"),
    [
        (KafkaError(KafkaError._FENCED, "fenced", True), "somebody else began", 1),
        (KafkaError(KafkaError._TIMED_OUT, "no answer", False, True), "not known whether", 69),
        (
            KafkaError(KafkaError._INCONSISTENT, "abort", False, False, True),
            "stock 2 5 does not go to shop.stock.commands.v1.2.: too large",
            1,
        ),
    ],
)
def test_a_commit_that_fails_says_what_became_of_the_letters(error: KafkaError, told: str, code: int) -> None:
    producer = Producer(error, KafkaError(KafkaError.MSG_SIZE_TOO_LARGE, "too large"))
    with pytest.raises(Failure, match=told) as failed:
        letters.put_back(producer, [letter()], NAMES)  # type: ignore[arg-type]
    assert failed.value.code == code
    assert ("abort" in producer.calls) == (not error.fatal() and not error.retriable())


# -- the command line ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("", "not said which"),
        ("--dry-run --yes", "not said which"),
        ("--all --reason FAILED", "--all leaves no choice"),
        ("--all --partition 0", "--all leaves no choice"),
        ("--offset 0", "no place"),
        ("--offset 0 --partition 0", "no place"),
        ("--offset 0 --space stock", "no place"),
        ("--space nowhere", "no key space 'nowhere'"),
        ("--topic nowhere", "no command log 'nowhere'"),
        ("--topic orderflow.stock.commands.v1 --space orders", "not the log of orders"),
        ("--partition -1", "Invalid value for '--partition'"),
    ],
)
def test_options_that_do_not_say_which_are_refused_before_anything_is_asked(
    options: str, told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORDERFLOW_BOOTSTRAP", "127.0.0.1:9")
    with pytest.raises(SystemExit) as ended:
        main(["dlq", "redrive", *options.split()])
    assert ended.value.code == 2
    assert told in capsys.readouterr().err
