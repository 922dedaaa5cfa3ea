"""The simulated log: partitions, append time, transactions with epochs and markers, last stable offset, compaction, retention.

It keeps the laws a client can see of Apache Kafka before KIP-890 (tests/simulation/test_laws.py holds both against one suite).
Every method is one request arriving at the broker; clients.py decides which requests and answers get lost on the way.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException

Headers = list[tuple[str, bytes]]
LOG_APPEND_TIME = 2


def failure(code: int, why: str = "", *, fatal: bool = False, retriable: bool = False, abort: bool = False) -> KafkaException:
    """An exception as confluent_kafka raises it."""
    return KafkaException(KafkaError(code, why or None, fatal, retriable, abort))


class Message:
    """A record as a consumer sees it: the shape of confluent_kafka.Message. `txn` is None outside transactions."""

    __slots__ = ("_topic", "_partition", "_offset", "_at_ms", "_key", "_value", "_headers", "_error", "txn")

    def __init__(
        self,
        topic: str,
        partition: int,
        offset: int,
        at_ms: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers | None = None,
        txn: "Txn | None" = None,
        error: KafkaError | None = None,
    ) -> None:
        self._topic, self._partition, self._offset, self._at_ms = topic, partition, offset, at_ms
        self._key, self._value, self._headers, self.txn, self._error = key, value, headers, txn, error

    def topic(self) -> str:
        return self._topic

    def partition(self) -> int:
        return self._partition

    def offset(self) -> int:
        return self._offset

    def timestamp(self) -> tuple[int, int]:
        return LOG_APPEND_TIME, self._at_ms

    def key(self) -> bytes | None:
        return self._key

    def value(self) -> bytes | None:
        return self._value

    def headers(self) -> Headers | None:
        return self._headers

    def error(self) -> KafkaError | None:
        return self._error


class Marker:
    """A control record: it occupies an offset and no consumer ever sees it."""

    __slots__ = ("txn",)

    def __init__(self, txn: "Txn") -> None:
        self.txn = txn


class Txn:
    """One transaction of one producer: what it wrote, and its end once that is decided."""

    __slots__ = ("name", "epoch", "number", "state", "partitions", "unmarked", "offsets", "began_us")

    def __init__(self, name: str, epoch: int, number: int, began_us: int) -> None:
        self.name, self.epoch, self.number, self.began_us = name, epoch, number, began_us
        self.state = "open"
        self.partitions: dict[PartitionLog, int] = {}
        self.unmarked: list[PartitionLog] = []
        self.offsets: dict[tuple[str, str, int], int] = {}


class PartitionLog:
    """One partition: entries by offset, the first offset of each undecided transaction in it, and who waits for its records."""

    def __init__(self, topic: str, number: int) -> None:
        self.topic, self.number = topic, number
        self.entries: list[Message | Marker | None] = []
        self.base = 0
        self.open: dict[Txn, int] = {}
        self.watchers: dict[Any, Callable[[], None]] = {}
        self.last_ms = 0
        self.archive: list[Message] = []
        """What retention deleted and readers had seen, for the judges only."""

    @property
    def end(self) -> int:
        """The high watermark: the next offset."""
        return self.base + len(self.entries)

    @property
    def stable(self) -> int:
        """The last stable offset: where read_committed readers stop."""
        return min(self.open.values()) if self.open else self.base + len(self.entries)

    def read(self, position: int, limit: int, committed: bool) -> tuple[list[Message], int]:
        """At most `limit` visible records from `position`, and the position after what was looked at."""
        end = self.stable if committed else self.end
        found: list[Message] = []
        entries, base = self.entries, self.base
        for index in range(position - base, end - base) if limit > 0 else ():
            entry = entries[index]
            if entry.__class__ is Message:
                txn = entry.txn  # type: ignore[union-attr]
                if txn is None or not committed or txn.state == "committed":
                    found.append(entry)  # type: ignore[arg-type]
                    limit -= 1
                    if not limit:
                        return found, base + index + 1
        return found, max(position, end) if limit > 0 else position

    def committed(self) -> Iterator[Message]:
        """Everything a read_committed reader may see from the beginning."""
        return iter(self.read(self.base, len(self.entries), True)[0])


class TxnState:
    """What the transaction coordinator knows of one transactional id."""

    def __init__(self, name: str) -> None:
        self.name, self.epoch, self.timeout_us, self.number = name, -1, 0, 0
        self.ongoing: Txn | None = None
        self.ending: Txn | None = None


class Broker:
    """All topics and the transaction coordinator. `now_us` is the broker's clock; `marker_delay_us` says how late a marker is."""

    def __init__(self, topics: Mapping[str, int], now_us: Callable[[], int], later: Callable[[int, Callable[[], None]], None]) -> None:
        self.now_us, self.later = now_us, later
        self.topics = dict(topics)
        self.logs = {(topic, number): PartitionLog(topic, number) for topic, count in topics.items() for number in range(count)}
        self.producers: dict[str, TxnState] = {}
        self.offsets: dict[tuple[str, str, int], int] = {}
        self.marker_delay_us: Callable[[], int] = lambda: 0
        self.append_skew_ms = 0
        self.sweep_us = 0
        """How late it notices that a transaction timed out (transaction.abort.timed.out.transaction.cleanup.interval.ms)."""
        self.appended = 0

    # -- records ------------------------------------------------------------------------------------------------------------------
    def append(self, log: PartitionLog, key: bytes | None, value: bytes | None, headers: Headers | None, txn: Txn | None) -> int:
        """Append one record; its offset. Append time is the leader's clock, which may step back when the leader changes."""
        offset = log.base + len(log.entries)
        at_ms = log.last_ms = self.now_us() // 1000 + self.append_skew_ms
        log.entries.append(Message(log.topic, log.number, offset, at_ms, key, value, headers, txn))
        self.appended += 1
        if txn is not None:
            if log not in txn.partitions:
                txn.partitions[log] = offset
                log.open[txn] = offset
        else:
            self._woken(log)
        return offset

    @staticmethod
    def _woken(log: PartitionLog) -> None:
        for wake in list(log.watchers.values()):
            wake()

    # -- transactions -------------------------------------------------------------------------------------------------------------
    def init_producer(self, name: str, timeout_us: int) -> int:
        """InitProducerId: end what the former instance left open, bump the epoch. The epoch of the new instance."""
        state = self.producers.setdefault(name, TxnState(name))
        self.finish(state)
        if state.ongoing is not None:
            self._end(state, False)
            self.finish(state)
        state.epoch += 1
        state.timeout_us = timeout_us
        return state.epoch

    def _of(self, name: str, epoch: int) -> TxnState:
        state = self.producers[name]
        if state.epoch != epoch:
            raise failure(KafkaError._FENCED, f"{name}: epoch {epoch} was fenced by {state.epoch}", fatal=True)
        return state

    def txn_of(self, name: str, epoch: int) -> Txn:
        """AddPartitionsToTxn: the ongoing transaction, begun by its first request. Raises when the epoch is fenced."""
        state = self._of(name, epoch)
        self.finish(state)
        if state.ongoing is None:
            state.number += 1
            txn = state.ongoing = Txn(name, epoch, state.number, self.now_us())
            self.later(state.timeout_us + self.sweep_us, lambda: self._time_out(state, txn))
        return state.ongoing

    def add_offsets(self, name: str, epoch: int, group: str, offsets: Mapping[tuple[str, int], int]) -> None:
        """TxnOffsetCommit, after the group has agreed."""
        txn = self.txn_of(name, epoch)
        txn.offsets.update({(group, topic, number): offset for (topic, number), offset in offsets.items()})

    def end_txn(self, name: str, epoch: int, commit: bool) -> None:
        """EndTxn. Before KIP-890 nothing in it says which transaction of the producer it means: a late one ends the one that is open."""
        state = self._of(name, epoch)
        if state.ongoing is not None:
            self._end(state, commit)

    def _end(self, state: TxnState, commit: bool) -> None:
        """The decision is written; markers reach each partition in their own time."""
        txn = state.ongoing
        assert txn is not None, "only an open transaction ends"
        txn.state = "committed" if commit else "aborted"
        state.ongoing, state.ending = None, txn
        txn.unmarked = list(txn.partitions)
        if commit:
            self.offsets.update(txn.offsets)
        for log in list(txn.unmarked):
            delay = self.marker_delay_us()
            if delay <= 0:
                self._mark(txn, log)
            else:
                self.later(delay, lambda log=log: self._mark(txn, log))  # type: ignore[misc]

    def _mark(self, txn: Txn, log: PartitionLog) -> None:
        if log in txn.unmarked:
            txn.unmarked.remove(log)
            log.entries.append(Marker(txn))
            del log.open[txn]
            self._woken(log)

    def finish(self, state: TxnState) -> None:
        """CONCURRENT_TRANSACTIONS: a client's next request waits until all markers of its last transaction are written."""
        if state.ending is not None:
            for log in list(state.ending.unmarked):
                self._mark(state.ending, log)
            state.ending = None

    def _time_out(self, state: TxnState, txn: Txn) -> None:
        """transaction.timeout.ms is over: abort, and fence the instance."""
        if state.ongoing is txn:
            self._end(state, False)
            state.epoch += 1

    # -- upkeep -------------------------------------------------------------------------------------------------------------------
    def compact(self, topic: str) -> int:
        """Keep the last record of each key below the last stable offset, as the cleaner does; how many went."""
        gone = 0
        for number in range(self.topics[topic]):
            log = self.logs[topic, number]
            latest: dict[bytes | None, int] = {}
            for index in range(log.stable - log.base):
                entry = log.entries[index]
                if entry.__class__ is Message and (entry.txn is None or entry.txn.state == "committed"):  # type: ignore[union-attr]
                    before = latest.get(entry._key)  # type: ignore[union-attr]
                    if before is not None:
                        log.entries[before] = None
                        gone += 1
                    latest[entry._key] = index  # type: ignore[union-attr]
        return gone

    def delete_before(self, topic: str, number: int, offset: int) -> None:
        """Retention: forget everything before `offset`."""
        log = self.logs[topic, number]
        count = min(offset, log.stable) - log.base
        if count > 0:
            gone = (log.entries[index] for index in range(count))
            log.archive += [each for each in gone if isinstance(each, Message) and (each.txn is None or each.txn.state == "committed")]
            del log.entries[:count]
            log.base += count

    def digest(self) -> str:
        """SHA-256 over every entry of every topic: equal for two runs of one seed."""
        hashed = hashlib.sha256()
        for (topic, number), log in sorted(self.logs.items()):
            hashed.update(f"{topic}/{number}/{log.base}/{len(log.entries)}\n".encode())
            for entry in log.entries:
                if entry is None:
                    hashed.update(b"-")
                elif isinstance(entry, Marker):
                    hashed.update(b"C" if entry.txn.state == "committed" else b"A")
                else:
                    hashed.update(repr((entry._at_ms, entry._key, entry._headers)).encode())
                    hashed.update(entry._value if entry._value is not None else b"\x00tombstone")
        return hashed.hexdigest()
