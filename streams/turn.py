"""One root command and what it asks of its own key: read, decide, evolve, react, answer. One sequence of events, one write set."""

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from msgspec import structs

from orderflow.streams.batch import Batch, Headers, Output, Parked, Record
from orderflow.streams.domain.contract import (
    AnswerRow,
    CommandMeta,
    EventMeta,
    Get,
    HeadRow,
    Range,
    Refused,
    ReplyTo,
    Send,
    Settle,
    TimerDue,
    Turn,
)
from orderflow.streams.domain.sagas import End
from orderflow.streams.wire import Reply

if TYPE_CHECKING:
    from orderflow.streams.processor import Processor

FOLLOW_UPS_MAX = 32
REPLIES_MAX = 8
RECORD_BYTES_MAX = 1_000_000
HEADER_OVERHEAD_BYTES = 10
SURELY_SMALL = 8
"""Headers hold little more than the key, but for a trace: a record whose key and value are below this part of the limit is below the limit."""
ANSWER_KEPT_US = 7 * 24 * 3600 * 1_000_000
ANSWERS_PRUNED_PER_INSERT = 2


class CommandTurn:
    """One root command and its follow-ups on the same key: one sequence of events, one write set."""

    def __init__(
        self, processor: "Processor", batch: Batch, record: Record, meta: CommandMeta, key: str, command: Any, *, at: int, prunes: bool
    ) -> None:
        self.processor = processor
        self.space, self.rules, self.records = processor.space, processor.rules, processor.records
        self.rows, self.partition = batch.rows, batch.partition
        self.meta, self.key, self.command = meta, key, command
        self.at = max(at, command.due_at) if isinstance(command, TimerDue) else at
        self.prefix = "" if meta.tenant == "main" else f"{meta.tenant}/"
        self.trace: Headers = [h for h in record.headers() or () if h[0] in ("traceparent", "tracestate")]
        self.shown: bytes | None = None
        self.outputs: list[Output] = []
        self.snapshots: dict[tuple[str, bytes], Output] = {}
        self.counts: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.ended: list[End] = []
        self.settled: list[tuple[Settle, EventMeta]] = []
        self.changed: set[str] = set()
        self.prunes = prunes
        self.state: Any = None
        """What the last decision left, which is what the rows of `read` hold now."""
        self.read: tuple[Get | Range, ...] = ()
        self.correlation_id = meta.correlation_id or meta.command_id
        head: HeadRow | None = self.rows.get("head", self.prefix + key)
        self.sequence = head.sequence if head else 0
        self.name = type(command).__name__

    def run(self) -> None:
        self.counts["command", self.name] += 1
        keeps_answer = self.name not in self.space.answered_by_rows
        if keeps_answer:
            stored: AnswerRow | None = self.rows.get("answer", self._answer_key(self.meta.command_id))
            if stored is not None:
                self._answer_again(stored)
                return
        state = self.load(self.command)
        again = self.rules.recall(state, self.command)
        if again is not None:
            self._recall(again, state)
            return
        start = self.sequence
        turn = Turn(self.key, self.at, self.meta, self.processor.settings)
        refusal, waits = self._decide(turn, state)
        if self.sequence != start:
            self.rows.put("head", self.prefix + self.key, HeadRow(self.sequence))
        if self.changed:
            self._snapshots()
        self._answer(refusal, waits, keeps_answer)

    # -- rows ---------------------------------------------------------------------------------------------------------------------
    def load(self, command: Any) -> Any:
        """The space's State with the rows that the command's decision reads."""
        self.read = self.rules.reads(self.key, command)
        return self.load_rows(self.read)

    def rows_now(self, refs: tuple[Get | Range, ...]) -> Any:
        """The State as the turn leaves these rows, which are read again only where the last decision did not have them."""
        if self.state is not None and all(ref in self.read for ref in refs):
            return self.state
        return self.load_rows(refs)

    def load_rows(self, refs: Iterable[Get | Range]) -> Any:
        processor, prefix = self.processor, self.prefix
        values: dict[str, Any] = {}
        for ref in refs:
            field = processor.fields[ref.table]
            if isinstance(ref, Get):
                if ref.table in self.space.lookups:
                    values[field] = processor.lookups[ref.table].get(prefix + ref.key)
                    continue
                row = self.rows.get(ref.table, prefix + ref.key)
                if ref.table in processor.single:
                    values[field] = row
                else:
                    found = values.setdefault(field, {})
                    if row is not None:
                        found[ref.key] = row
            else:
                found = values.setdefault(field, {})
                for key, row in self.rows.range(ref.table, prefix + ref.prefix, ref.limit, ref.index):
                    found[key.removeprefix(prefix)] = row
        return self.rules.State(key=self.key, **values)

    def _save(self, before: Any, after: Any) -> None:
        for table, field in self.processor.tables.items():
            old, new = getattr(before, field), getattr(after, field)
            if old is new:
                continue
            if table in self.processor.single:
                self.rows.put(table, self.prefix + self.key, new)
                self.changed.add(self.key)
                continue
            for key, row in new.items():
                if old.get(key) is not row:
                    self.changed.add(key)
                    self.rows.put(table, self.prefix + key, row)

    # -- the turn -----------------------------------------------------------------------------------------------------------------
    def _decide(self, turn: Turn, state: Any) -> tuple[tuple[Any, EventMeta] | None, bool]:
        """Decide the command and, depth first, what it asks of its own key. Returns the root's refusal, and whether it still waits."""
        refusal: tuple[Any, EventMeta] | None = None
        pending: list[tuple[Any, str]] = [(self.command, self.meta.command_id)]
        done = 0
        while pending:
            command, caused_by = pending.pop()
            done += 1
            if done > FOLLOW_UPS_MAX:
                raise Parked("TOO_MANY_FOLLOW_UPS", f"{self.name} asked its own key for more than {FOLLOW_UPS_MAX} things")
            if done > 1:
                state = self.load(command)
            before = state
            asked: list[tuple[Any, str]] = []
            for event in self.rules.decide(state, command, turn):
                state, meta = self._fold(state, event, caused_by)
                if meta.refused and done == 1 and refusal is None:
                    refusal = (event, meta)
                asked.extend((own, meta.event_id) for own in self._react(state, event, meta))
            broken = self.rules.violations(state)
            if broken:
                raise Parked("INVARIANT", f"{type(command).__name__} would break: {'; '.join(broken)}")
            self._save(before, state)
            pending.extend(reversed(asked))
        self.state = state
        if self.name not in self.space.may_wait:
            return refusal, False
        return refusal, self.rules.waits(self.rows_now(self.rules.reads(self.key, self.command)), self.command, self.meta.command_id)

    def _fold(self, state: Any, event: Any, caused_by: str) -> tuple[Any, EventMeta]:
        self.sequence += 1
        refused = isinstance(event, self.records.refusals)
        meta = EventMeta(
            f"{self.space.name}:{self.prefix}{self.key}:{self.sequence}",
            self.sequence,
            self.at,
            caused_by,
            self.meta.tenant,
            0,
            self.meta.command_id,
            self.correlation_id,
            self.meta.actor,
            refused,
        )
        ends = self.space.ends.get(type(event))
        if ends is not None and (end := ends(state, event, self.at)) is not None:
            self.ended.append(end)
        state = self.rules.evolve(state, event, meta)
        meta = structs.replace(meta, version=self.space.version(state, event))
        event_type = type(event).__name__
        value = self.records.encode_event(meta, self.key, event)
        key = (self.prefix + self.key).encode()
        self.outputs.append(Output(self.records.events, key, value, self.partition, self._headers(event_type, meta)))
        self.counts["refused" if refused else "event", event.reason if refused else event_type] += 1
        return state, meta

    def _react(self, state: Any, event: Any, meta: EventMeta) -> list[Any]:
        """Send what the event asks of others; return what it asks of its own key."""
        own = []
        for number, effect in enumerate(self.rules.react(state, event, meta)):
            if isinstance(effect, Settle):
                self.settled.append((effect, meta))
            elif effect.space == self.space.name and effect.key == self.key:
                own.append(effect.command)
            else:
                self._send(effect, f"{meta.event_id}:{number}", meta.event_id)
        return own

    def _send(self, send: Send, command_id: str, causation_id: str) -> None:
        meta = CommandMeta(command_id, self.at, self.meta.tenant, self.meta.actor, self.meta.principal, self.correlation_id, causation_id)
        target = self.processor.wire.of(send.space)
        value = target.encode_command(meta, send.key, send.command)
        self.outputs.append(Output(target.commands, (self.prefix + send.key).encode(), value, -1, self.trace or None))

    def _snapshots(self) -> None:
        """The present value of what this turn changed, for the compacted status topics."""
        state = self.rows_now(self.rules.view(self.key))
        for snapshot in self.rules.snapshots(self.rules.INITIAL, state, self.sequence, self.at):
            if snapshot.key != self.key and snapshot.key not in self.changed:
                continue
            topic, encode = self.records.status[snapshot.aggregate]
            key = (self.prefix + snapshot.key).encode()
            headers: Headers = [
                ("ce_type", f"{snapshot.aggregate}.status".encode()),
                ("ce_id", f"{snapshot.key}:{self.sequence}".encode()),
                ("ce_source", self.records.source),
                *self.trace,
            ]
            value = encode(self._owned(snapshot.record))
            self.snapshots[topic, key] = Output(topic, key, value, self.partition, headers)
            if snapshot.aggregate == self.space.main and snapshot.key == self.key:
                self.shown = value

    def _owned(self, record: Any) -> Any:
        """A snapshot under its tenant's name; rules do not know tenants."""
        return record if self.meta.tenant == "main" else structs.replace(record, tenant=self.meta.tenant)

    # -- answers ------------------------------------------------------------------------------------------------------------------
    def _answer_key(self, command_id: str) -> str:
        return f"{self.prefix}{self.key}/{command_id}"

    def _answer(self, refusal: tuple[Any, EventMeta] | None, waits: bool, keeps: bool) -> None:
        """Give the commands that this turn ended, the root's or earlier ones, their answers."""
        for settle, cause in self.settled:
            self._settle(settle, cause)
        if any(settle.command_id == self.meta.command_id for settle, _ in self.settled):
            return
        meta, to = self.meta, self.meta.reply_to
        outcome, reason, body = "applied", "", b""
        if refusal is not None:
            event, event_meta = refusal
            outcome, reason = "refused", event.reason
            body = self.records.encode_event(event_meta, self.key, event)
        elif waits:
            outcome = "pending"
        elif to is not None:
            body = self._body()
        if keeps and not (outcome == "applied" and self.name in self.space.creates) and reason != "DEADLINE_PASSED":
            waiting = (to,) if to is not None and outcome == "pending" else ()
            self._keep(AnswerRow(meta.command_id, meta.principal, meta.body_hash, outcome, reason, body, self.at, self.name, waiting))
        if to is not None and outcome != "pending":
            self._reply(to, meta.command_id, outcome, reason, body)

    def _settle(self, settle: Settle, meta: EventMeta) -> None:
        """A waiting command has its final outcome: keep it and answer everybody who waits."""
        answer: AnswerRow | None = self.rows.get("answer", self._answer_key(settle.command_id))
        if answer is None and settle.command_id == self.meta.command_id:  # decided within the turn it arrived in
            root = self.meta
            waiting = (root.reply_to,) if root.reply_to is not None else ()
            answer = AnswerRow(root.command_id, root.principal, root.body_hash, "pending", "", b"", self.at, self.name, waiting)
        if answer is None or answer.outcome != "pending":
            return
        outcome = "refused" if settle.reason else "applied"
        if settle.reason:
            body = self.records.encode_event(meta, self.key, Refused(answer.command_type, settle.reason, {}, settle.shortages))
        else:
            body = self._body() if answer.reply_to else b""
        self._keep(structs.replace(answer, outcome=outcome, reason=settle.reason, body=body, at=self.at, reply_to=()))
        for to in answer.reply_to:
            self._reply(to, answer.command_id, outcome, settle.reason, body)

    def _keep(self, answer: AnswerRow) -> None:
        """Write an answer row, and forget the two oldest of the partition that are past their seven days."""
        self.rows.put("answer", self._answer_key(answer.command_id), answer)
        oldest = self.at - ANSWER_KEPT_US
        for key, old in self.rows.range("answer", "", ANSWERS_PRUNED_PER_INSERT, "age") if self.prunes else ():
            if old.at < oldest:
                self.rows.put("answer", key, None)

    def _answer_again(self, stored: AnswerRow) -> None:
        """A known command id: the stored first answer, to the one who asks now, and to the owners it was meant for."""
        root, to = self.meta, self.meta.reply_to
        self.counts["repeated", self.name] += 1
        if stored.body_hash != root.body_hash or stored.principal != root.principal:
            event = Refused(self.name, "KEY_REUSED", {"first": stored.command_type})
            _, event_meta = self._fold(self.load(self.command), event, root.command_id)
            self.rows.put("head", self.prefix + self.key, HeadRow(self.sequence))
            if to is not None:
                body = self.records.encode_event(event_meta, self.key, event)
                self._reply(to, root.command_id, "refused", "KEY_REUSED", body)
        elif stored.outcome == "pending":
            if to is not None and to not in stored.reply_to:
                waiting = (*stored.reply_to, to)[-REPLIES_MAX:]
                self.rows.put("answer", self._answer_key(root.command_id), structs.replace(stored, reply_to=waiting))
        else:
            if to is not None:
                body = stored.body or self._body()
                self._reply(to, root.command_id, stored.outcome, stored.reason, body)
            if stored.outcome == "refused" and stored.body:
                event_meta, _, event = self.records.decode_event(stored.body)
                for number, effect in enumerate(self.rules.react(self.rules.State(key=self.key), event, event_meta)):
                    if isinstance(effect, Send):
                        self._send(effect, f"{event_meta.event_id}:{number}", event_meta.event_id)

    def _recall(self, again: tuple[Send, ...], state: Any) -> None:
        """The row this command made answers its repeat."""
        self.counts["repeated", self.name] += 1
        for number, send in enumerate(again):
            self._send(send, f"{self.meta.command_id}:{number}", self.meta.command_id)
        if self.meta.reply_to is not None:
            self._reply(self.meta.reply_to, self.meta.command_id, "applied", "", self._body())

    def _body(self) -> bytes:
        """The key's main snapshot as it stands now, framed."""
        if self.shown is not None:
            return self.shown
        state = self.rows_now(self.rules.view(self.key))
        topic, encode = self.records.status[self.space.main]
        for snapshot in self.rules.snapshots(self.rules.INITIAL, state, self.sequence, self.at):
            if snapshot.aggregate == self.space.main:
                body: bytes = encode(self._owned(snapshot.record))
                return body
        return b""

    def _reply(self, to: ReplyTo, command_id: str, outcome: str, reason: str, body: bytes) -> None:
        reply = Reply(to.request_id, command_id, self.key, self.sequence, outcome, reason, body)
        self.outputs.append(self.processor.reply_output(to, reply))

    # -- outputs ------------------------------------------------------------------------------------------------------------------
    def _headers(self, event_type: str, meta: EventMeta) -> Headers:
        return [
            ("ce_type", self.records.ce_type(event_type)),
            ("ce_id", meta.event_id.encode()),
            ("ce_source", self.records.source),
            *self.trace,
        ]

    def check_sizes(self) -> None:
        """Refuse the whole command when one of its outputs could not be written: key, value and headers count."""
        outputs = (*self.outputs, *self.snapshots.values())
        together = sum([len(output.key) + len(output.value or b"") for output in outputs]) + sum(self.rows.staged_bytes())
        if not self.trace and together < RECORD_BYTES_MAX // SURELY_SMALL:
            return
        largest = max((*map(size_of, outputs), *self.rows.staged_bytes()), default=0)
        if largest > RECORD_BYTES_MAX:
            raise Parked("TOO_LARGE", f"{self.name} would write a record of {largest} bytes; the limit is {RECORD_BYTES_MAX}")


def size_of(output: Output) -> int:
    """Bytes of a record as the broker counts them, a little generously."""
    headers = sum(len(name) + len(value) + HEADER_OVERHEAD_BYTES for name, value in output.headers or ())
    return len(output.key) + len(output.value or b"") + headers
