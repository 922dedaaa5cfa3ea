"""What a log hands to a processor and what it gets back. Knows neither Kafka nor Faust nor any rule."""

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Protocol

from msgspec import Struct

from orderflow.streams.domain.sagas import End
from orderflow.tables.rows import Rows

Headers = list[tuple[str, bytes]]


class Record(Protocol):
    """What a log hands over: confluent_kafka.Message has this shape."""

    def topic(self) -> str: ...
    def partition(self) -> int: ...
    def offset(self) -> int: ...
    def timestamp(self) -> tuple[int, int]: ...
    def key(self) -> bytes | None: ...
    def value(self) -> bytes | None: ...
    def headers(self) -> Headers | None: ...


class Output(Struct, gc=False):
    """A record to produce; partition -1 leaves the choice to the key's hash."""

    topic: str
    key: bytes
    value: bytes | None
    partition: int = -1
    headers: Headers | None = None


class Batch(Struct):
    """Records of one partition in offset order, its rows, and the turn time it stands at (microseconds)."""

    partition: int
    records: Sequence[Record]
    rows: Rows
    turn_time: int


class Result(Struct):
    """What a batch asks the log to do. Rows are accepted into the open transaction already. `parked`: what tells its
    parked commands apart; `ended`: the sagas that its events end."""

    outputs: list[Output]
    turn_time: int
    counts: Counter[tuple[str, str]]
    parked: Sequence[Hashable] = ()
    ended: Sequence[End] = ()


class Parked(Exception):
    """This record cannot be processed: it goes to the dead-letter topic with its bytes."""

    def __init__(self, reason: str, cause: str) -> None:
        super().__init__(cause)
        self.reason = reason
