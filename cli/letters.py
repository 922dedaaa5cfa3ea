"""Dead letters as they lie on their topics, and how they get back on the log they came from: each once, with a mark in the same transaction.

A mark is a record beside the letter, on the same partition, so it lives as long as the letter does. Who reads letters skips marks.
"""

import contextlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from orderflow.cli import contracts
from orderflow.cli.terminal import NO, UNAVAILABLE, Failure
from orderflow.schemas.catalog import INPUT_BYTES_MAX, Catalog

if TYPE_CHECKING:
    from confluent_kafka import Producer

TRANSACTION_TIMEOUT_S = 30.0
"""For 10 000 letters with room to spare. Who is killed in between holds up the readers of these logs so long, or until the next redrive."""
LIST_KNOWS = "all of them or none: `orderflow dlq list` shows which are back"
ADDED = ("topic", "partition", "offset", "timestamp", "reason", "cause", "code_version")
"""Headers by which the worker said what it set aside; all others came with the record."""
FROM = "redriven-from"
"""Header of a record that was put back: its letter, as topic[partition]@offset."""
MARK = "redriven"
"""Header of a mark: the offset of the letter that was put back."""


class Letter(Struct, frozen=True):
    """A record that was set aside. Times in milliseconds since 1970 UTC, by the log."""

    space: str
    topic: str
    partition: int
    offset: int
    at_ms: int
    key: bytes
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    redriven_ms: int | None
    """When it was put back; None: it was not."""

    @property
    def place(self) -> str:
        """As `dlq show` takes it."""
        return f"{self.space} {self.partition} {self.offset}"

    def said(self, name: str) -> str:
        """A header as text; empty without one."""
        return dict(self.headers).get(name, b"").decode(errors="backslashreplace")

    def headers_back(self) -> list[tuple[str, bytes]]:
        """What the record came with, and where it comes from this time."""
        kept = [(name, value) for name, value in self.headers if name not in (*ADDED, FROM)]
        return [*kept, (FROM, f"{self.topic}[{self.partition}]@{self.offset}".encode())]


def is_mark(message: Any) -> bool:
    """Is this record of a dead-letter topic a mark? Every letter says its reason."""
    names = {name for name, _ in message.headers() or ()}
    return MARK in names and "reason" not in names


def read(bootstrap: str, catalog: Catalog, spaces: Sequence[str]) -> list[Letter]:
    """The letters of these key spaces, by space, partition and offset. Raises Failure 69 or 78."""
    topics = {space: catalog.dlq_topic(space) for space in spaces}
    return [letter for space, topic in topics.items() for letter in letters_of(space, topic, contracts.read_topic(bootstrap, topic))]


def letters_of(space: str, topic: str, messages: Iterable[Any]) -> list[Letter]:
    """The letters among the records of a dead-letter topic, by partition and offset, each with what its mark says."""
    found = sorted(messages, key=lambda each: (each.partition(), each.offset()))
    marks = {(each.partition(), int(dict(each.headers())[MARK])): each.timestamp()[1] for each in found if is_mark(each)}
    return [
        Letter(
            space,
            topic,
            each.partition(),
            each.offset(),
            each.timestamp()[1],
            each.key() or b"",
            each.value(),
            tuple(each.headers() or ()),
            marks.get((each.partition(), each.offset())),
        )
        for each in found
        if not is_mark(each)
    ]


def origin(letter: Letter, catalog: Catalog) -> tuple[str, int]:
    """Topic and partition of the record that was set aside. Raises Failure when that is none of its key space's log."""
    topic, number = letter.said("topic"), letter.said("partition")
    if topic != catalog.commands_topic(letter.space) or not number.isdecimal() or int(number) >= catalog.partitions:
        raise Failure(
            f"{letter.place} came from {topic or '?'}[{number or '?'}], which is no partition of {catalog.commands_topic(letter.space)}",
            then="nothing was put back; leave it out, or check --prefix and ORDERFLOW_PARTITIONS",
        )
    return topic, int(number)


def redriver(bootstrap: str, catalog: Catalog) -> "Producer":
    """The one producer of a system that puts letters back: a new one fences the one before and ends what it left open.

    So what is read after this call is all that was ever put back, and nobody else puts anything back until the next call. Raises Failure 69.
    """
    from confluent_kafka import KafkaException, Producer

    contracts.connect(bootstrap)
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "transactional.id": f"{catalog.prefix}.dlq.redrive",
            "transaction.timeout.ms": int(TRANSACTION_TIMEOUT_S * 1000),
            "message.max.bytes": 2 * INPUT_BYTES_MAX,
            "log_level": 0,
        }
    )
    try:
        producer.init_transactions(TRANSACTION_TIMEOUT_S)
    except KafkaException as error:
        raise Failure(f"the broker gives no transaction: {error.args[0].str()}", then="try again", code=UNAVAILABLE) from None
    return producer


def put_back(producer: "Producer", letters: Sequence[Letter], catalog: Catalog) -> None:
    """Produce these letters' records and a mark for each, in one transaction: all or none. Raises Failure 1, or 69 when it is not known which."""
    from confluent_kafka import KafkaException

    places = [origin(letter, catalog) for letter in letters]
    refused: list[str] = []
    try:
        producer.begin_transaction()
        for letter, place in zip(letters, places, strict=True):
            _produce(producer, refused, letter, place, letter.value, letter.headers_back())
            _produce(producer, refused, letter, (letter.topic, letter.partition), None, [(MARK, str(letter.offset).encode())])
        producer.commit_transaction(TRANSACTION_TIMEOUT_S)
    except KafkaException as raised:
        error = raised.args[0]
        if error.fatal():
            raise Failure(
                f"somebody else began after this, or it took longer than {TRANSACTION_TIMEOUT_S:.0f} s", then=LIST_KNOWS, code=NO
            ) from None
        if error.retriable():
            raise Failure(f"it is not known whether they were put back: {error.str()}", then=LIST_KNOWS, code=UNAVAILABLE) from None
        with contextlib.suppress(KafkaException):
            producer.abort_transaction(TRANSACTION_TIMEOUT_S)
        raise Failure(refused[:1] or error.str(), then="nothing was put back; leave it out, or mend what refuses it", code=NO) from None


def _produce(
    producer: "Producer", refused: list[str], letter: Letter, to: tuple[str, int], value: bytes | None, headers: list[tuple[str, bytes]]
) -> None:
    topic, partition = to

    def report(error: Any, message: Any) -> None:
        if error is not None:
            refused.append(f"{letter.place} does not go to {topic}[{partition}]: {error.str()}")

    while True:
        try:
            producer.produce(topic, value, letter.key, partition, on_delivery=report, headers=headers)
        except BufferError:
            producer.poll(0.1)
        else:
            return
