"""Given, when, then for the rules, and a tiny world in which key spaces talk to each other. Everything in memory, nothing mocked.

`Log` is one key: it reads exactly the rows a command names, decides, folds and reacts as the processor does, follow-ups on the same
key included. After every decision it checks the invariants, and after every command that folding all events gives the same rows.
`World` carries what logs send to each other, in any order in which a real log could carry it, repeats included.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from random import Random
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from orderflow.streams import topology
from orderflow.streams.domain.channel import BOX, ChannelPolicy, ChannelRow
from orderflow.streams.domain.contract import (
    MICROS_PER_S,
    CommandMeta,
    EventMeta,
    Get,
    Range,
    Refused,
    Send,
    Settings,
    Settle,
    TimerDue,
    Turn,
)
from orderflow.streams.domain.ids import timer_id
from orderflow.streams.domain.order_records import PlacedLine, PlaceOrder
from orderflow.streams.domain.stock_records import ReceiveStock, StockRefused

NOW = 1_800_000_000 * MICROS_PER_S
"""2027-01-15 08:00 UTC."""
FOLLOW_UPS_MAX = 32
SETTINGS = Settings(locations=("main", "north", "south"))


class Seeded(Random):
    """A source of chance that says how to repeat it."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.started_with = seed

    def __repr__(self) -> str:
        return f"Seeded({self.started_with})"


def seconds(count: float) -> int:
    return int(count * MICROS_PER_S)


def fields_of(space: topology.KeySpace) -> dict[str, str]:
    """Table name -> field of State."""
    tables = {table.name: table.field for table in space.tables if table.name not in ("head", "answer")}
    return tables | {name: name for name in space.lookups}


def select(space: topology.KeySpace, rows: Any, refs: Iterable[Get | Range]) -> Any:
    """The State that holds exactly the rows these refs name, ranges sorted and bounded as a store would."""
    values: dict[str, Any] = {}
    fields = fields_of(space)
    for ref in refs:
        field = fields[ref.table]
        held = getattr(rows, field)
        if isinstance(ref, Get):
            if isinstance(held, dict):
                found = values.setdefault(field, {})
                if ref.key in held:
                    found[ref.key] = held[ref.key]
            else:
                values[field] = held
            continue
        index = space.table(ref.table).indexes[ref.index] if ref.index else None
        entries = sorted((key if index is None else index(key, row) or "", key) for key, row in held.items())
        keys = [key for entry, key in entries if entry.startswith(ref.prefix)][: ref.limit]
        values.setdefault(field, {}).update({key: held[key] for key in keys})
    return space.rules.State(key=rows.key, **values)


class Outcome(Struct):
    """What one command did."""

    events: list[Any]
    sends: list[Send]
    settles: list[Settle]
    waits: bool = False
    recalled: bool = False

    @property
    def refused(self) -> Any:
        """The first event when it is a refusal."""
        return self.events[0] if self.events and isinstance(self.events[0], Refused | StockRefused) else None


class Log:
    """One key of a key space: its rows, its events, and what it would send."""

    def __init__(self, space: str, key: str, settings: Settings = SETTINGS, channel: ChannelPolicy | None = BOX) -> None:
        self.space, self.key, self.settings = topology.space_named(space), key, settings
        self.rules = self.space.rules
        lookup = {"channel": ChannelRow(7, channel)} if space == "orders" and channel is not None else {}
        empty = {field: {} for field in fields_of(self.space).values() if isinstance(getattr(self.rules.INITIAL, field), dict)}
        self.initial = self.rules.State(key=key, **(empty | lookup))
        self.rows = self.initial
        self.folded = self.initial
        self.events: list[tuple[Any, EventMeta]] = []
        self.at = NOW

    def given(self, *events: Any, at: int = NOW, command_id: str = "given") -> "Log":
        """These events have happened."""
        for event in events:
            self.rows = self.folded = self._fold(self.rows, event, at, command_id)[0]
        return self

    def when(self, command: Any, *, at: int | None = None, command_id: str = "command", **meta: Any) -> Outcome:
        """Decide the command and what it asks of its own key."""
        self.at = max(self.at, at or self.at, command.due_at if isinstance(command, TimerDue) else 0)
        turn = Turn(self.key, self.at, CommandMeta(command_id, self.at, **meta), self.settings)
        state = self._read(command)
        again = self.rules.recall(state, command)
        if again is not None:
            return Outcome([], list(again), [], recalled=True)
        outcome = Outcome([], [], [])
        pending, done = [command], 0
        while pending:
            command_now = pending.pop()
            done += 1
            assert done <= FOLLOW_UPS_MAX, f"{type(command).__name__} asks its own key for too much"
            own = self._decide(command_now, turn, outcome)
            pending.extend(reversed(own))
        outcome.waits = self.rules.waits(self._read(command), command, command_id)
        assert self.folded == self.rows, "folding all events gives other rows than the turns wrote"
        return outcome

    def _decide(self, command: Any, turn: Turn, outcome: Outcome) -> list[Any]:
        before = state = self._read(command)
        own: list[Any] = []
        for event in self.rules.decide(state, command, turn):
            state, meta = self._fold(state, event, turn.at, turn.meta.command_id)
            self.folded = self.rules.evolve(self.folded, event, meta)
            assert meta.refused is False or state == self.rules.evolve(state, event, meta), "a refusal changes nothing"
            outcome.events.append(event)
            for effect in self.rules.react(state, event, meta):
                if isinstance(effect, Settle):
                    outcome.settles.append(effect)
                elif effect.space == self.space.name and effect.key == self.key:
                    own.append(effect.command)
                else:
                    outcome.sends.append(effect)
        assert self.rules.violations(state) == () and self.rules.violations(self.folded) == (), outcome.events
        self._write(before, state)
        return own

    def _read(self, command: Any) -> Any:
        return select(self.space, self.rows, self.rules.reads(self.key, command))

    def _write(self, before: Any, after: Any) -> None:
        changes: dict[str, Any] = {}
        for field in fields_of(self.space).values():
            new = getattr(after, field)
            if isinstance(new, dict):
                changes[field] = {**getattr(self.rows, field), **new}
            elif getattr(before, field) is not new:
                changes[field] = new
        self.rows = replace(self.rows, **changes)

    def _fold(self, state: Any, event: Any, at: int, command_id: str) -> tuple[Any, EventMeta]:
        sequence = len(self.events) + 1
        refused = isinstance(event, Refused | StockRefused)
        meta = EventMeta(f"{self.space.name}:{self.key}:{sequence}", sequence, at, command_id, command_id=command_id, refused=refused)
        self.events.append((event, meta))
        return self.rules.evolve(state, event, meta), meta

    # -- what a test asks ---------------------------------------------------------------------------------------------------------
    def timers(self) -> Iterator[TimerDue]:
        """The deadline of every row that has one."""
        for table in self.space.tables:
            if table.due is None:
                continue
            held = getattr(self.rows, table.field)
            rows = held if isinstance(held, dict) else {self.key: held} if held is not None else {}
            for key, row in rows.items():
                due = table.due(row)
                if due is not None:
                    yield TimerDue(timer_id(key, *due), due[0], due[1], key, getattr(row, "version", 0))

    def named(self, *types: type) -> list[Any]:
        """The events of these types so far."""
        return [event for event, _ in self.events if isinstance(event, types)]

    def snapshot(self, aggregate: str) -> Any:
        """The present snapshot of the key's main entity or, by id, of another."""
        state = select(self.space, self.rows, self.rules.view(self.key))
        shown = self.rules.snapshots(self.rules.INITIAL, state, len(self.events), self.at)
        return next((each.record for each in shown if each.aggregate == aggregate), None)


Channel = tuple[str, str, str]
"""(who sends, key space, key): a log keeps the order of one sender's records."""


class World:
    """Key spaces that talk. `random` chooses what arrives next; records of one sender to one key stay in order."""

    def __init__(self, random: Random, settings: Settings = SETTINGS, channel: ChannelPolicy | None = BOX) -> None:
        self.random, self.settings, self.channel = random, settings, channel
        self.logs: dict[tuple[str, str], Log] = {}
        self.flying: dict[Channel, deque[tuple[str, Any]]] = {}
        self.answers: dict[tuple[str, str, str], Any] = {}
        self.settled: dict[str, list[Settle]] = {}
        self.fired: set[str] = set()
        self.at = NOW
        self.repeat = 0.0
        """How likely it is that a record arrives again, later."""

    def log(self, space: str, key: str) -> Log:
        if (space, key) not in self.logs:
            self.logs[space, key] = Log(space, key, self.settings, self.channel)
        return self.logs[space, key]

    def send(self, space: str, key: str, command: Any, command_id: str, sender: str = "") -> None:
        """Put a command on its way. Commands of callers are senders of their own, so they may arrive in any order."""
        channel = (sender or f"caller {command_id}", space, key)
        self.flying.setdefault(channel, deque()).append((command_id, command))

    def stock(self, sku: str, quantity: int, location_id: str = "main") -> "World":
        """Receive units, at once."""
        command_id = f"receipt-{sku}-{location_id}-{len(self.log('stock', sku).events)}"
        self.send("stock", sku, ReceiveStock(location_id, quantity, reference="test"), command_id)
        self.arrive((f"caller {command_id}", "stock", sku))
        return self

    def place(self, order_id: str, **quantities: int) -> None:
        """Order so many units of each sku."""
        lines = tuple(PlacedLine(str(number), sku, quantity) for number, (sku, quantity) in enumerate(quantities.items(), 1))
        self.send("orders", order_id, PlaceOrder("box", lines=lines), f"place-{order_id}")

    def arrive(self, channel: Channel) -> None:
        """The next record of this channel is processed."""
        command_id, command = self.flying[channel].popleft()
        if not self.flying[channel]:
            del self.flying[channel]
        if self.random.random() < self.repeat:
            self.send(channel[1], channel[2], command, command_id, f"again {self.random.random()}")
        self.process(channel[1], channel[2], command_id, command)

    def process(self, space: str, key: str, command_id: str, command: Any) -> None:
        """One turn, as the processor takes it: a known id gets its first answer again, and tells it to whom it was meant for."""
        log = self.log(space, key)
        name, answer_key = type(command).__name__, (space, key, command_id)
        keeps = name not in log.space.answered_by_rows
        if keeps and answer_key in self.answers:
            refusal = self.answers[answer_key]
            sends = [effect for effect in log.rules.react(log.rules.INITIAL, *refusal) if isinstance(effect, Send)] if refusal else []
            self._carry(space, key, f"again {command_id}", sends)
            return
        start = len(log.events)
        outcome = log.when(command, at=self.at, command_id=command_id)
        self.at = max(self.at, log.at)
        refusal = log.events[start] if outcome.refused is not None else None
        if keeps and not outcome.recalled and not (refusal is None and name in log.space.creates):
            self.answers[answer_key] = refusal
        for settle in outcome.settles:
            self.settled.setdefault(settle.command_id, []).append(settle)
        if isinstance(command, TimerDue) and outcome.events:
            self.fired.add(command.kind)
        self._carry(space, key, f"{command_id} {start}", outcome.sends)

    def _carry(self, space: str, key: str, cause: str, sends: Iterable[Send]) -> None:
        for number, send in enumerate(sends):
            self.send(send.space, send.key, send.command, f"{space}:{key}:{cause}:{number}", f"{space} {key}")

    def drain(self) -> None:
        """Everything that is on its way arrives, in a random order."""
        while self.flying:
            self.arrive(self.random.choice(list(self.flying)))

    def timers(self) -> list[tuple[Log, TimerDue]]:
        return [(log, timer) for log in self.logs.values() for timer in log.timers()]

    def tick(self, until: int | None = None) -> bool:
        """Let time pass to the next deadline (not later than `until`) and send what is due then. False when there is none."""
        due = [timer.due_at for _, timer in self.timers()]
        if not due or (until is not None and min(due) > until):
            return False
        self.at = max(self.at, min(due))
        for log, timer in self.timers():
            if timer.due_at <= self.at:
                self.send(log.space.name, log.key, timer, timer.timer_id, f"timers {log.space.name} {log.key}")
        return True

    def settle(self, until: int | None = None) -> None:
        """Everything arrives and every timer fires, until nothing is left to happen."""
        self.drain()
        while self.tick(until):
            self.drain()
