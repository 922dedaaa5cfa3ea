"""Claims, the key space `references`: whose a value is that others know something of ours by. Key `provider_ref:<provider>:<reference>`.

An order claims the provider's references of its payments when it learns them. What a provider says that names only a reference, as Stripe
does of a dispute, is passed on to the owner; said before anybody claimed it, it waits, ten minutes at most (domain.md 2.3).
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias, assert_never

from msgspec import Struct, structs

from orderflow.streams.domain.contract import MICROS_PER_S, EventMeta, Get, Range, Refused, Send, Settle, Snapshot, TimerDue, Turn
from orderflow.streams.domain.payment_records import RecordWebhook
from orderflow.streams.domain.reasons import Reason
from orderflow.streams.domain.refusals import refusal

WAIT = "early_fact"
"""Kind of the timer that ends the wait for an owner."""
WAITING_MAX = 16
"""So much waits for the owner of one value; a provider says a handful of things about a payment."""


class EarlyFact(RecordWebhook, frozen=True, gc=False):
    """A verified webhook that names no order of ours, only the provider's own reference."""


class ClaimValue(Struct, frozen=True, gc=False):
    """This value is mine: what is said about it is for me."""

    owner: str


class RecordEarlyFact(Struct, frozen=True, gc=False):
    """Somebody said something about this value, and not whose it is."""

    fact: EarlyFact


class ValueClaimed(Struct, frozen=True, gc=False):
    """The value has an owner."""

    owner: str


class EarlyFactKept(Struct, frozen=True, gc=False):
    """What was said waits for an owner of the value, until `due_at`."""

    fact: EarlyFact
    due_at: int


class EarlyFactForwarded(Struct, frozen=True, gc=False):
    """What was said is passed on to the owner of the value."""

    owner: str
    fact: EarlyFact


class EarlyFactForgotten(Struct, frozen=True, gc=False):
    """Nobody claimed the value in time: what was said is about nothing of ours."""

    fact: EarlyFact


class Waiting(Struct, frozen=True, gc=False):
    """Something that waits for an owner of the value."""

    fact: EarlyFact
    due_at: int


class ClaimRow(Struct, frozen=True, gc=False):
    """A value; the owner is empty while nobody has claimed it."""

    version: int
    owner: str = ""
    waiting: tuple[Waiting, ...] = ()


class ClaimSnapshot(Struct, frozen=True, gc=False):
    """Whose a value is."""

    key: str
    tenant: str = "main"
    sequence: int = 0
    version: int = 0
    at: int = 0
    owner: str = ""


class State(Struct, frozen=True, gc=False):
    """The row of one value."""

    key: str = ""
    claim: ClaimRow | None = None


Command: TypeAlias = ClaimValue | RecordEarlyFact | TimerDue
Event: TypeAlias = ValueClaimed | EarlyFactKept | EarlyFactForwarded | EarlyFactForgotten | Refused
COMMANDS = (ClaimValue, RecordEarlyFact, TimerDue)
EVENTS = (ValueClaimed, EarlyFactKept, EarlyFactForwarded, EarlyFactForgotten, Refused)
INITIAL = State()
UNCLAIMED = ClaimRow(0)


def due(row: ClaimRow) -> tuple[str, int] | None:
    """When the first of what waits is given up."""
    return (WAIT, min(each.due_at for each in row.waiting)) if row.waiting else None


DUE: Mapping[str, Callable[[ClaimRow], tuple[str, int] | None]] = {"claim": due}


def reads(key: str, command: Command) -> tuple[Get | Range, ...]:
    """The value itself."""
    return (Get("claim", key),)


def recall(state: State, command: Command) -> tuple[Send, ...] | None:
    """A claim is answered by the row it made."""
    is_owner = isinstance(command, ClaimValue) and state.claim is not None and state.claim.owner == command.owner
    return () if is_owner else None


def decide(state: State, command: Command, turn: Turn) -> tuple[Event, ...]:
    """The first claim wins; what waits goes to its owner."""
    row = state.claim or UNCLAIMED
    match command:
        case ClaimValue():
            return claim(row, command)
        case RecordEarlyFact():
            return record_fact(row, command, turn)
        case TimerDue():
            return forget(row, command)
        case _:
            assert_never(command)


def claim(row: ClaimRow, command: ClaimValue) -> tuple[Event, ...]:
    """A value has one owner for ever: two orders with one reference would be one's money told to the other."""
    if row.owner:
        return refusal(command, Reason.REFERENCE_TAKEN, owner=row.owner, claimed_by=command.owner)
    return (ValueClaimed(command.owner), *(EarlyFactForwarded(command.owner, each.fact) for each in row.waiting))


def record_fact(row: ClaimRow, command: RecordEarlyFact, turn: Turn) -> tuple[Event, ...]:
    """Pass it on, or keep it until somebody claims the value."""
    if row.owner:
        return (EarlyFactForwarded(row.owner, command.fact),)
    if len(row.waiting) >= WAITING_MAX:
        return refusal(command, Reason.UNKNOWN_REFERENCE, event=command.fact.provider_event_id, waiting=str(WAITING_MAX))
    return (EarlyFactKept(command.fact, turn.at + turn.settings.claim_wait_s * MICROS_PER_S),)


def forget(row: ClaimRow, command: TimerDue) -> tuple[Event, ...]:
    """Nobody has claimed the value. An outdated timer changes nothing."""
    if due(row) != (command.kind, command.due_at):
        return ()
    return tuple(EarlyFactForgotten(each.fact) for each in row.waiting if each.due_at <= command.due_at)


def evolve(state: State, event: Event, meta: EventMeta) -> State:
    """The row after the event; a value that nobody owns and nothing waits for has none."""
    row = state.claim or UNCLAIMED
    version = row.version + 1
    match event:
        case ValueClaimed():
            return State(state.key, ClaimRow(version, event.owner, row.waiting))
        case EarlyFactKept():
            return State(state.key, ClaimRow(version, row.owner, (*row.waiting, Waiting(event.fact, event.due_at))))
        case EarlyFactForwarded() | EarlyFactForgotten():
            waiting = tuple(each for each in row.waiting if each.fact.provider_event_id != event.fact.provider_event_id)
            if waiting == row.waiting:
                return state
            return State(state.key, ClaimRow(version, row.owner, waiting) if row.owner or waiting else None)
        case Refused():
            return state
        case _:
            assert_never(event)


def react(state: State, event: Event, meta: EventMeta) -> tuple[Send | Settle, ...]:
    """The owner hears what was said as if it had been named."""
    if isinstance(event, EarlyFactForwarded):
        return (Send("orders", event.owner, RecordWebhook(**structs.asdict(event.fact))),)
    return ()


def waits(state: State, command: Command, command_id: str) -> bool:
    """Nobody waits for an owner: that something was kept is the answer."""
    return False


def violations(state: State) -> tuple[str, ...]:
    """What has an owner waits for none."""
    row = state.claim
    return (f"{len(row.waiting)} wait for {row.owner}, who is there",) if row is not None and row.owner and row.waiting else ()


def view(key: str) -> tuple[Get | Range, ...]:
    """The value itself."""
    return (Get("claim", key),)


def snapshots(before: State, after: State, head_sequence: int, at: int) -> tuple[Snapshot, ...]:
    """Whose it is, once it is somebody's."""
    row = after.claim
    if row is None or row is before.claim or not row.owner:
        return ()
    return (Snapshot("claim", after.key, ClaimSnapshot(after.key, "main", head_sequence, row.version, at, row.owner)),)
