"""One batch of one partition: decode, known?, read rows, decide, fold, react, collect. Knows neither Kafka nor Faust.

A command is decided whole or not at all: its rows are staged and its outputs collected and size-checked before the first of them
leaves; an exception drops both and parks the record with its bytes, and the next record goes on.
"""

from collections import Counter
from collections.abc import Hashable, Iterable
from typing import Any

from orderflow.schemas.registry import RegistryUnavailable
from orderflow.streams.batch import Batch, Headers, Output, Parked, Record, Result
from orderflow.streams.domain.contract import CommandMeta, Get, ReplyTo, Settings
from orderflow.streams.domain.sagas import End
from orderflow.streams.records import Records, SpaceRecords
from orderflow.streams.topology import KeySpace
from orderflow.streams.turn import ANSWER_KEPT_US, RECORD_BYTES_MAX, CommandTurn, size_of
from orderflow.streams.wire import Reply

CAUSE_BYTES_MAX = 4096
CRASHES = (OSError, MemoryError, RegistryUnavailable)
"""What the machine did: never parked, the process ends and restarts."""


class Processor:
    """The turn of one key space. `lookups` maps an aggregate to a mapping from key to its present value."""

    def __init__(self, space: KeySpace, records: Records, settings: Settings, lookups: Any, code_version: str) -> None:
        self.space = space
        self.rules = space.rules
        self.records: SpaceRecords = records.of(space.name)
        self.wire = records
        self.settings = settings
        self.lookups = lookups
        self.code_version = code_version
        initial = self.rules.INITIAL
        self.tables = {spec.name: spec.field for spec in space.tables if spec.name not in ("head", "answer")}
        self.fields = self.tables | {name: name for name in space.lookups}
        self._oldest_answer: dict[int, int] = {}
        """Partition -> turn time of the oldest answer that was kept when it was last looked for."""
        self.single = {name for name, field in self.fields.items() if getattr(initial, field) is None}

    def run(self, batch: Batch) -> Result:
        """Decide every record of the batch in order."""
        rows = batch.rows
        decoded: list[Any] = []
        wanted: list[tuple[str, str]] = []
        for record in batch.records:
            command: Any
            try:
                command = self._decode(record)
                wanted.extend(self._wants(*command))
            except CRASHES:
                raise
            except Exception as error:  # any input may be wrong in any way: it is parked, its neighbours go on
                command = error
            decoded.append(command)
        rows.prefetch(wanted)
        outputs: list[Output] = []
        snapshots: dict[tuple[str, bytes], Output] = {}
        counts: Counter[tuple[str, str]] = Counter()
        parked: list[Hashable] = []
        ended: list[End] = []
        turn_time = batch.turn_time
        prunes = self._has_old_answers(batch)
        for record, command in zip(batch.records, decoded, strict=True):
            turn_time = max(turn_time, record.timestamp()[1] * 1000)
            try:
                if isinstance(command, Exception):
                    raise command
                work = CommandTurn(self, batch, record, *command, at=turn_time, prunes=prunes)
                work.run()
                work.check_sizes()
            except CRASHES:
                raise
            except Exception as error:  # a rule or a codec failed on this command: nothing of it may remain
                rows.drop()
                outputs.extend(self._park(record, error, command))
                parked.append(command[0].command_id if isinstance(command, tuple) else record.offset())
                counts["parked", getattr(error, "reason", type(error).__name__)] += 1
                continue
            rows.accept()
            outputs.extend(work.outputs)
            snapshots.update(work.snapshots)
            for what, count in work.counts.items():
                counts[what] += count
            ended.extend(work.ended)
            turn_time = max(turn_time, work.at)
        outputs.extend(snapshots.values())
        return Result(outputs, turn_time, counts, parked, ended)

    def _has_old_answers(self, batch: Batch) -> bool:
        """Is there an answer older than seven days? Then each insert removes the two oldest. The oldest only ever gets younger, so it is
        looked for again when the one that was found is old enough.
        """
        latest = max(batch.turn_time, *(record.timestamp()[1] * 1000 for record in batch.records))
        if self._oldest_answer.get(batch.partition, 0) >= latest - ANSWER_KEPT_US:
            return False
        oldest = batch.rows.range("answer", "", 1, "age")
        self._oldest_answer[batch.partition] = at = oldest[0][1].at if oldest else batch.turn_time
        return bool(oldest) and at < latest - ANSWER_KEPT_US

    def _decode(self, record: Record) -> tuple[CommandMeta, str, Any]:
        value, key = record.value(), record.key()
        if not value:
            raise Parked("EMPTY", "the record has no value")
        try:
            meta, name, command = self.records.decode_command(value)
        except CRASHES:
            raise
        except Exception as error:
            raise Parked("UNDECODABLE", f"the value cannot be decoded: {error}") from error
        expected = name if meta.tenant == "main" else f"{meta.tenant}/{name}"
        if not name or not meta.command_id:
            raise Parked("EMPTY_ID", "the key field and the command id must not be empty")
        if key != expected.encode():
            raise Parked("WRONG_KEY", f"the record's key is {key!r}, its value says {expected!r}")
        return meta, name, command

    def _wants(self, meta: CommandMeta, key: str, command: Any) -> Iterable[tuple[str, str]]:
        prefix = "" if meta.tenant == "main" else f"{meta.tenant}/"
        yield "head", prefix + key
        if type(command).__name__ not in self.space.answered_by_rows:
            yield "answer", f"{prefix}{key}/{meta.command_id}"
        for ref in self.rules.reads(key, command):
            if isinstance(ref, Get) and ref.table not in self.space.lookups:
                yield ref.table, prefix + ref.key

    def _park(self, record: Record, error: Exception, command: Any) -> list[Output]:
        """The dead letter, and the reply where somebody waits."""
        cause = f"{type(error).__name__}: {error}".encode()[:CAUSE_BYTES_MAX]
        reason = getattr(error, "reason", "FAILED")
        headers: Headers = [
            ("topic", record.topic().encode()),
            ("partition", str(record.partition()).encode()),
            ("offset", str(record.offset()).encode()),
            ("timestamp", str(record.timestamp()[1]).encode()),
            ("reason", reason.encode()),
            ("cause", cause),
            ("code_version", self.code_version.encode()),
        ]
        have = {name for name, _ in headers}
        headers.extend((name, value) for name, value in record.headers() or () if name not in have)
        letters = [Output(self.records.dlq, record.key() or b"", record.value(), record.partition(), headers)]
        if isinstance(command, tuple) and command[0].reply_to is not None:
            meta, key, _ = command
            reply = Reply(meta.reply_to.request_id, meta.command_id, key, 0, "refused", "PARKED")
            answer = self.reply_output(meta.reply_to, reply)
            if size_of(answer) <= RECORD_BYTES_MAX:
                letters.append(answer)
        return letters

    def reply_output(self, to: ReplyTo, reply: Reply) -> Output:
        return Output(self.wire.replies_topic, to.edge_id.encode(), self.wire.encode_reply(reply), to.partition)
