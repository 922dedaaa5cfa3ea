"""Consumer, Producer and AdminClient over the simulated log: the part of confluent_kafka that the engine and the restore use.

They raise what librdkafka raises, at the calls where it surfaces. Every call is a pause point of its process; `process.fate(call)`
says whether a request or its answer is lost, late, or refused.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition
from msgspec import Struct

from orderflow.schemas.partitioner import partition_of
from simulation.groups import Group, Member
from simulation.log import Broker, Message, PartitionLog, failure

partition_of_key = lru_cache(200_000)(partition_of)
Key = tuple[str, int]
TIMEOUT_US = 30_000_000
RETRY_AFTER_US = 50_000


class GroupMetadata(Struct, frozen=True):
    """What ConsumerGroupMetadata carries."""

    member_id: str
    generation: int
    instance: str


class Producer:
    """A transactional producer. Records wait in its queue; they reach the log at poll, at offsets, at commit, or never."""

    def __init__(self, process: Any, broker: Broker, groups: Mapping[str, Group], config: Mapping[str, Any]) -> None:
        self._process, self._broker, self._groups = process, broker, groups
        self._name = config.get("transactional.id", "")
        self._timeout_us = int(config.get("transaction.timeout.ms", 60_000)) * 1000
        self._epoch = -1
        self._queue: list[tuple[PartitionLog, bytes, bytes | None, Any, Callable[[Any, Any], None] | None]] = []
        self._reports: list[tuple[Callable[[Any, Any], None], Any, Any]] = []
        self._broken: KafkaException | None = None
        self._failed = False
        """The client has failed the open transaction by itself, and takes nothing until its end is asked for."""
        self._logs, self._topics = broker.logs, broker.topics

    def init_transactions(self, timeout: float = 0) -> None:
        self._process.point("init_transactions")
        self._epoch = self._broker.init_producer(self._name, self._timeout_us)
        self._process.answered("init_transactions")

    def begin_transaction(self) -> None:
        self._process.point("begin_transaction")
        self._failed = self._process.fate("begin_transaction") == "failed"

    def produce(
        self,
        topic: str,
        value: bytes | None = None,
        key: bytes | None = None,
        partition: int = -1,
        on_delivery: Callable[[Any, Any], None] | None = None,
        headers: Any = None,
    ) -> None:
        if self._failed:
            raise failure(KafkaError._STATE, "erroneous state")
        if partition < 0:
            partition = partition_of_key(key or b"", self._topics[topic])
        self._queue.append((self._logs[topic, partition], key or b"", value, headers, on_delivery))
        self._process.produced(topic, partition, key, value)

    def poll(self, timeout: float = 0) -> int:
        self._process.point("producer_poll")
        if self._queue and self._process.chance(0.3):
            self._send(self._process.part(len(self._queue)))
        count = 0
        while self._reports:
            report, error, message = self._reports.pop(0)
            report(error, message)
            count += 1
        return count

    def flush(self, timeout: float = 0) -> int:
        self._send(len(self._queue))
        return self.poll(0)

    def _send(self, count: int) -> None:
        """The first `count` queued records reach the log. An error stays until the application asks for the transaction's end."""
        if self._broken is not None:
            return
        queue, self._queue = self._queue[:count], self._queue[count:]
        try:
            txn = self._broker.txn_of(self._name, self._epoch) if queue and self._name else None
        except KafkaException as error:
            self._broken = error
            return
        append = self._broker.append
        for log, key, value, headers, report in queue:
            append(log, key, value, headers, txn)
            if report is not None:
                self._reports.append((report, None, log.entries[-1]))

    def send_offsets_to_transaction(self, positions: Sequence[TopicPartition], group: GroupMetadata, timeout: float = 0) -> None:
        process = self._process
        process.point("send_offsets")
        self._send(len(self._queue))
        self._raise_broken()
        fate = process.fate("send_offsets")
        self._refused(fate)
        if fate != "lost":
            offsets = {(tp.topic, tp.partition): tp.offset for tp in positions}
            try:
                for coordinator in self._groups.values():
                    coordinator.validate(group.member_id, group.generation, group.instance)
                    self._broker.add_offsets(self._name, self._epoch, coordinator.name, offsets)
            except KafkaException as error:
                self._broken = error if error.args[0].fatal() else None
                raise
        self._timed_out(fate)
        process.answered("send_offsets")

    def commit_transaction(self, timeout: float = 0) -> None:
        process = self._process
        process.point("commit")
        self._send(len(self._queue))
        self._raise_broken()
        fate = process.fate("commit")
        self._refused(fate)
        if fate == "late":
            name, epoch, broker = self._name, self._epoch, self._broker
            process.sim.later(process.late_us(), lambda: _in_vain(lambda: broker.end_txn(name, epoch, True)))
        elif fate != "lost":
            self._broker.end_txn(self._name, self._epoch, True)
        self._timed_out(fate)
        process.answered("commit")

    def abort_transaction(self, timeout: float = 0) -> None:
        process = self._process
        process.point("abort")
        self._raise_broken()
        fate = process.fate("abort")
        for _, _, _, _, report in self._queue:
            if report is not None:
                self._reports.append((report, KafkaError(KafkaError._PURGE_QUEUE), None))
        self._queue = []
        if fate != "lost":
            self._broker.end_txn(self._name, self._epoch, False)
        self._timed_out(fate)
        process.answered("abort")

    def _raise_broken(self) -> None:
        if self._broken is not None:
            raise self._broken

    def _refused(self, fate: str) -> None:
        if fate == "retriable":
            self._process.sim.others(RETRY_AFTER_US)
            raise failure(KafkaError.COORDINATOR_LOAD_IN_PROGRESS, "coordinator moves", retriable=True)
        if fate == "abortable":
            raise failure(KafkaError._INCONSISTENT, "transaction must be aborted", abort=True)

    def _timed_out(self, fate: str) -> None:
        if fate in ("lost", "ack_lost", "late"):
            self._process.stand_still(TIMEOUT_US)
            raise failure(KafkaError._TIMED_OUT, "no answer", retriable=True)


def _in_vain(function: Callable[[], None]) -> None:
    """A request that arrives late and is refused by its epoch."""
    try:
        function()
    except KafkaException:
        return


class Consumer:
    """A consumer with or without a group; reads committed records, tells of ends, calls back on rebalance from inside poll."""

    def __init__(self, process: Any, broker: Broker, groups: Mapping[str, Group], config: Mapping[str, Any]) -> None:
        self._process, self._broker = process, broker
        self._config = config
        self._group = groups.get(config["group.id"])
        self._committed = config.get("isolation.level", "read_committed") == "read_committed"
        self._reset = config.get("auto.offset.reset", "latest")
        self._positions: dict[Key, int] = {}
        self._paused: set[Key] = set()
        self._ends: dict[Key, int] = {}
        self._fresh: set[Key] = set()
        self.member: Member | None = None
        self._lost = self._closed = False
        self._fatal: KafkaError | None = None
        self._callbacks: dict[str, Callable[..., None]] = {}

    # -- group --------------------------------------------------------------------------------------------------------------------
    def subscribe(self, topics: list[str], **callbacks: Callable[..., None]) -> None:
        self._process.point("subscribe")
        assert self._group is not None, "this group is not simulated"
        self._callbacks = callbacks
        if self.member is not None and self._group.members.get(self.member.member_id) is self.member:
            self._group.rebalance()
            return
        config, process = self._config, self._process
        session_us = int(config["session.timeout.ms"]) * 1000
        self.member = Member("", config.get("group.instance.id", ""), config["client.id"], topics, session_us, process.wake)
        incarnation = process.starts
        self.member.alive = lambda: process.heartbeats and process.starts == incarnation and not self._closed
        self._group.join(self.member)

    def unsubscribe(self) -> None:
        """Let everything go; who subscribes again joins the group anew."""
        member, group = self.member, self._group
        if member is None or group is None:
            return
        if group.members.get(member.member_id) is member:
            if member.owned:
                self._callbacks["on_revoke"](self, _partitions(sorted(member.owned)))
            del group.members[member.member_id]
            group.rebalance()
        member.owned.clear()
        self.member = None

    def heartbeat(self) -> None:
        """What the client's own thread does: learn that the group has gone on without this member."""
        member = self.member
        if member is None or self._lost or self._group is None or self._group.members.get(member.member_id) is member:
            return
        if member.instance and any(each.instance == member.instance for each in self._group.members.values()):
            self._fatal = KafkaError(KafkaError.FENCED_INSTANCE_ID, "another process has this instance id", True)
        self._lost = True
        member.member_id = ""  # librdkafka 2.16 keeps the generation, so that the broker refuses offsets of a member that was removed

    def consumer_group_metadata(self) -> GroupMetadata:
        if self.member is None:
            return GroupMetadata("", -1, "")
        return GroupMetadata(self.member.member_id, self.member.generation, self.member.instance)

    def memberid(self) -> str:
        return self.member.member_id if self.member is not None else ""

    def _rebalance(self) -> None:
        member, group = self.member, self._group
        if member is None or group is None:
            return
        self.heartbeat()
        if self._lost:
            self._lost = False
            lost = sorted(member.owned)
            if lost:
                self._callbacks["on_lost"](self, _partitions(lost))
            member.owned.clear()
            group.join(member)
            return
        if member.told == member.generation:
            return
        member.told = member.generation
        revoked = member.owned - member.given
        if revoked:
            self._callbacks["on_revoke"](self, _partitions(sorted(revoked)))
            group.gave_up(member, revoked)
        if group.members.get(member.member_id) is member:
            assigned = member.given - member.owned
            member.owned |= assigned
            self._callbacks["on_assign"](self, _partitions(sorted(assigned)))

    # -- assignment ---------------------------------------------------------------------------------------------------------------
    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        self._process.point("assign")
        self._positions.clear()
        self._ends.clear()
        self.incremental_assign(partitions)

    def incremental_assign(self, partitions: Iterable[TopicPartition]) -> None:
        for tp in partitions:
            key = (tp.topic, tp.partition)
            self._positions[key] = self._start(key, tp.offset)
            self._fresh.add(key)
            self._process.watch(self._broker.logs[key], self)
            self._process.assigned(key)

    def incremental_unassign(self, partitions: Iterable[TopicPartition]) -> None:
        for tp in partitions:
            key = (tp.topic, tp.partition)
            self._positions.pop(key, None)
            self._paused.discard(key)
            self._ends.pop(key, None)
            self._broker.logs[key].watchers.pop(self, None)

    def _start(self, key: Key, offset: int) -> int:
        return self._broker.logs[key].base if offset == OFFSET_BEGINNING else offset

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        self._paused.update((tp.topic, tp.partition) for tp in partitions)

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        self._paused.difference_update((tp.topic, tp.partition) for tp in partitions)

    def seek(self, tp: TopicPartition) -> None:
        key = (tp.topic, tp.partition)
        if key not in self._positions or (key in self._fresh and self._process.chance(0.2)):
            raise failure(KafkaError._STATE, "not fetching yet")
        self._fresh.discard(key)
        self._positions[key] = self._start(key, tp.offset)
        self._ends.pop(key, None)

    def position_of(self, key: Key) -> int:
        return self._positions.get(key, -1)

    def list_topics(self, topic: str | None = None, timeout: float = -1) -> None:
        """The simulated client knows every leader."""

    # -- reading ------------------------------------------------------------------------------------------------------------------
    def consume(self, num_messages: int = 1, timeout: float = -1) -> list[Message]:
        process = self._process
        process.point("consume")
        self._rebalance()
        found = self._fetch(num_messages)
        if not found and timeout > 0:
            process.stand_still(int(timeout * 1e6))
            found = self._fetch(num_messages)
        return found

    def poll(self, timeout: float = -1) -> Message | None:
        self._process.point("poll")
        self._rebalance()
        found = self._fetch(1)
        if not found:
            self._process.idles(timeout)
            return None
        return found[0]

    def _fetch(self, most: int) -> list[Message]:
        if self._fatal is not None:
            error, self._fatal = self._fatal, None
            return [Message("", -1, -1, 0, None, None, error=error)]
        found: list[Message] = []
        process, logs = self._process, self._broker.logs
        for key, position in process.shuffled(self._positions):
            if key in self._paused:
                continue
            log = logs[key]
            if not log.base <= position <= log.end:
                if self._reset == "earliest":
                    position = log.base
                else:
                    error = KafkaError(KafkaError._AUTO_OFFSET_RESET, f"{position} is not in {log.base}..{log.end}")
                    return [*found, Message(*key, position, 0, None, None, error=error)]
            room = most - len(found)
            if room <= 0:
                break
            if process.chance(0.15):
                room = min(room, 1 + process.part(15))
            end = log.stable if self._committed else log.end
            after = position
            if position < end:
                records, after = log.read(position, room, self._committed)
                self._positions[key] = after
                found += records
            if after >= end and self._ends.get(key) != after and len(found) < most:
                self._ends[key] = after
                found.append(Message(*key, after, 0, None, None, error=_END))
        return found

    def close(self) -> None:
        if self._closed or not self._process.alive:
            return
        self._process.point("close")
        member, group = self.member, self._group
        if member is not None and group is not None:
            owned = sorted(member.owned)
            if owned and group.members.get(member.member_id) is member:
                self._callbacks["on_revoke"](self, _partitions(owned))
            group.leave(member)
            member.owned.clear()
        self._closed = True
        self.incremental_unassign([TopicPartition(*key) for key in list(self._positions)])


_END = KafkaError(KafkaError._PARTITION_EOF)


def _partitions(keys: Iterable[Key]) -> list[TopicPartition]:
    return [TopicPartition(topic, number) for topic, number in keys]


class _Answer:
    """A future that is done."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def result(self, timeout: float | None = None) -> Any:
        return self._value


class Offset(Struct, frozen=True):
    offset: int


class Described(Struct, frozen=True):
    members: list[Any]
    state: Any


class AdminClient:
    """Ends of partitions, members of groups."""

    def __init__(self, process: Any, broker: Broker, groups: Mapping[str, Group], config: Mapping[str, Any]) -> None:
        self._process, self._broker, self._groups = process, broker, groups

    def list_offsets(self, wanted: Mapping[TopicPartition, Any], **options: Any) -> dict[TopicPartition, _Answer]:
        self._process.point("list_offsets")
        committed = str(options.get("isolation_level", "")).endswith("READ_COMMITTED") and "UN" not in str(options["isolation_level"])
        logs = self._broker.logs
        found = {}
        for tp in wanted:
            log = logs[tp.topic, tp.partition]
            found[tp] = _Answer(Offset(log.stable if committed else log.end))
        return found

    def describe_consumer_groups(self, names: Iterable[str], **options: Any) -> dict[str, _Answer]:
        self._process.point("describe_groups")
        return {name: _Answer(Described(*self._groups[name].describe())) for name in names}
