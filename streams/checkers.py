"""What must be true of any history, as pure functions over an iterator of events: one pass, no state of the system, no clock.

They know the records and nothing of the rules: cells, reservations and statuses are counted again here from the events alone, so that
a wrong rule and its fold cannot agree with each other. The simulator, the tests on a real log and `orderflow verify invariants` use
them unchanged. Numbers of invariants: docs/proof.md.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from orderflow.streams.domain import fulfillment_steps, order_status, stock
from orderflow.streams.domain.contract import CommandMeta, EventMeta, TimerDue
from orderflow.streams.money_checks import Payment
from orderflow.streams.replay import Tables, fold
from orderflow.streams.topology import KeySpace

TERMINAL = frozenset({"REJECTED", "CANCELED", "EXPIRED", "COMPLETED"})
"""Statuses of an order after which nothing happens to it."""


class Seen(Struct, frozen=True):
    """An event where a read_committed reader sees it."""

    space: str
    partition: int
    offset: int
    meta: EventMeta
    key: str
    value: Any

    @property
    def owner(self) -> tuple[str, str, str]:
        return self.space, self.meta.tenant, self.key


class Asked(Struct, frozen=True):
    """A command as it stands in its log."""

    space: str
    partition: int
    offset: int
    meta: CommandMeta
    key: str
    value: Any


class Violation(Struct, frozen=True):
    """What is not true, and where."""

    invariant: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.invariant} {self.where}: {self.what}"


Check = Callable[[Iterable[Seen]], Iterator[Violation]]


# -- one writer, one effect -----------------------------------------------------------------------------------------------------------
def one_writer(events: Iterable[Seen]) -> Iterator[Violation]:
    """I14: a key's events count up without gap or repeat, on one partition; two writers at once would count twice."""
    last: dict[tuple[str, str, str], tuple[int, int]] = {}
    for seen in events:
        sequence, partition = last.get(seen.owner, (0, seen.partition))
        prefix = "" if seen.meta.tenant == "main" else f"{seen.meta.tenant}/"
        if seen.meta.sequence != sequence + 1:
            yield Violation("I14", seen.meta.event_id, f"sequence {seen.meta.sequence} after {sequence}")
        if seen.partition != partition:
            yield Violation("I14", seen.meta.event_id, f"on partition {seen.partition}, the key lives on {partition}")
        if seen.meta.event_id != f"{seen.space}:{prefix}{seen.key}:{seen.meta.sequence}":
            yield Violation("I14", seen.meta.event_id, f"is the id of event {seen.meta.sequence} of {prefix}{seen.key}")
        last[seen.owner] = (seen.meta.sequence, partition)


def one_effect(events: Iterable[Seen]) -> Iterator[Violation]:
    """I9: what a command changed it changed in one turn of one key; a repeat changes nothing (refusals change nothing either)."""
    turns: dict[tuple[str, str], tuple[tuple[str, str, str], int]] = {}
    for seen in events:
        meta = seen.meta
        if meta.refused or not meta.command_id:
            continue
        name = (seen.space, meta.command_id)
        owner, sequence = turns.get(name, (seen.owner, meta.sequence - 1))
        if owner != seen.owner:
            yield Violation("I9", meta.event_id, f"command {meta.command_id} also changed {owner[2]}")
        elif meta.sequence != sequence + 1:
            yield Violation("I9", meta.event_id, f"command {meta.command_id} took effect again, {meta.sequence - sequence} events later")
        turns[name] = (seen.owner, meta.sequence)


# -- stock ----------------------------------------------------------------------------------------------------------------------------
class _Cell:
    """One location's units, counted from movements and reservations."""

    __slots__ = ("on_hand", "reserved", "allocated", "damaged", "quality_control")

    def __init__(self) -> None:
        self.on_hand = self.reserved = self.allocated = self.damaged = self.quality_control = 0

    @property
    def available(self) -> int:
        return self.on_hand - self.reserved - self.allocated - self.damaged - self.quality_control


class _Reservation:
    """One reservation: what it still keeps, by location, and how many units it waits for. Status: active, committed, ended."""

    __slots__ = ("status", "kept", "due_at", "order", "wanted")

    def __init__(self, order: str, due_at: int | None, wanted: int = 0) -> None:
        self.status, self.order, self.due_at, self.wanted = "active", order, due_at, wanted
        self.kept: dict[str, int] = {}


class Ledger:
    """Stock counted again. `violations` grow as events are taken: I1 conservation, I2 nothing below zero, I3 sums, I4 ends once."""

    def __init__(self) -> None:
        self.cells: dict[tuple[str, str, str], _Cell] = {}
        self.reservations: dict[str, _Reservation] = {}
        self.waited_for: dict[tuple[str, str], int] = {}
        """Units of a sku that reservations wait for."""

    def cell(self, seen: Seen, location: str) -> _Cell:
        return self.cells.setdefault((seen.meta.tenant, seen.key, location), _Cell())

    def take(self, seen: Seen) -> Iterator[Violation]:
        """One event of the stock space."""
        event, where = seen.value, seen.meta.event_id
        name = type(event).__name__
        if name == "MovementRecorded":
            yield from self._moved(seen, event)
        elif name == "StockChanged":
            cell = self.cell(seen, event.location_id)
            if (event.available, event.on_hand) != (cell.available, cell.on_hand):
                told = f"available {event.available}, on hand {event.on_hand}"
                yield Violation("I3", where, f"{told}; the events add up to {cell.available} and {cell.on_hand}")
        elif name == "BackorderQueued":
            self._wait(seen, event.quantity)
            if event.reservation_id in self.reservations:
                yield Violation("I4", where, f"{event.reservation_id} is made again")
            self.reservations[event.reservation_id] = _Reservation(event.holder.order_id, event.due_at, event.quantity)
        elif name in ("StockReserved", "BackorderAllocated"):
            yield from self._reserved(seen, event, name)
        elif hasattr(event, "reservation_id") and hasattr(event, "allocations"):
            yield from self._reservation_moved(seen, event, name)

    def _moved(self, seen: Seen, event: Any) -> Iterator[Violation]:
        cell, where = self.cell(seen, event.location_id), seen.meta.event_id
        if event.before != cell.on_hand or event.after != event.before + event.quantity:
            told = f"{event.kind} of {event.quantity} from {event.before} to {event.after}"
            yield Violation("I1", where, f"{told}; {cell.on_hand} were on hand")
        received = event.quantity if event.kind == "receive" else 0
        room = max(0, event.after - cell.allocated - cell.reserved)
        cell.damaged = min(cell.damaged + (received if event.reason == "damaged" else 0), room)
        checking = cell.quality_control + (received if event.reason == "quality_control" else 0)
        cell.quality_control = min(checking, room - cell.damaged)
        cell.on_hand = event.after
        if event.after < 0 or cell.available < 0:
            yield Violation("I2", where, f"{event.after} on hand, {cell.available} available at {event.location_id}")

    def _wait(self, seen: Seen, units: int) -> None:
        sku = seen.meta.tenant, seen.key
        self.waited_for[sku] = self.waited_for.get(sku, 0) + units

    def _reserved(self, seen: Seen, event: Any, name: str) -> Iterator[Violation]:
        where, before = seen.meta.event_id, self.reservations.get(event.reservation_id)
        waited = before is not None and before.status == "active" and before.wanted == event.quantity
        if waited is not (name == "BackorderAllocated") or (before is not None and not waited):
            yield Violation("I4", where, f"{event.reservation_id} is made again, or did not wait for these units")
        self._wait(seen, -event.quantity if waited else 0)
        made = self.reservations[event.reservation_id] = _Reservation(event.holder.order_id, event.due_at)
        for qty in event.allocations:
            cell = self.cell(seen, qty.location_id)
            if qty.quantity <= 0 or cell.available < qty.quantity:
                yield Violation("I2", where, f"{qty.quantity} reserved where {cell.available} are available")
            cell.reserved += qty.quantity
            made.kept[qty.location_id] = made.kept.get(qty.location_id, 0) + qty.quantity
        if sum(made.kept.values()) != event.quantity:
            yield Violation("I3", where, f"{sum(made.kept.values())} units kept, {event.quantity} reserved")

    def _reservation_moved(self, seen: Seen, event: Any, name: str) -> Iterator[Violation]:
        where, found = seen.meta.event_id, self.reservations.get(event.reservation_id)
        if found is None:
            if name != "ReservationReleased" or event.allocations:
                yield Violation("I4", where, f"{name} of {event.reservation_id}, which was never made")
            self.reservations[event.reservation_id] = ended = _Reservation(event.holder.order_id, None)
            ended.status = "ended"
            return
        taken = sum(qty.quantity for qty in event.allocations)
        if found.status == "ended":
            if taken or name != "StockShipped":  # units found at the shelf after the reservation's end are booked as a count
                yield Violation("I4", where, f"{name} of {event.reservation_id} after its end")
            return
        if name == "ReservationCommitted" and found.wanted:
            yield Violation("I3", where, f"{event.reservation_id} is committed and waits for its units")
        if name in ("ReservationExtended", "ReservationCommitted", "ReservationExpired") and found.status != "active":
            yield Violation("I4", where, f"{name} of {event.reservation_id}, which is {found.status}")
        if name == "ReservationExtended":
            found.due_at = event.due_at
            return
        if name == "ReservationExpired" and (found.due_at is None or seen.meta.occurred_at < found.due_at):
            yield Violation("I16", where, f"{event.reservation_id} expired before {found.due_at}")
        for qty in event.allocations:
            cell = self.cell(seen, qty.location_id)
            if qty.quantity > found.kept.get(qty.location_id, 0):
                yield Violation("I3", where, f"{name} of {qty.quantity} where {found.kept.get(qty.location_id, 0)} are kept")
            if found.status == "active":
                cell.reserved -= qty.quantity
            else:
                cell.allocated -= qty.quantity
            if name == "ReservationCommitted":
                cell.allocated += qty.quantity
            else:
                found.kept[qty.location_id] = found.kept.get(qty.location_id, 0) - qty.quantity
        if name == "ReservationCommitted":
            found.status, found.due_at = "committed", None
        elif not any(found.kept.values()):
            self._wait(seen, -found.wanted)
            found.status, found.due_at, found.wanted = "ended", None, 0

    def differs(self, tenant: str, sku: str, cells: Sequence[Any]) -> Iterator[Violation]:
        """I3: the columns of a sku's row or snapshot are the sums of its live reservations and its movements."""
        waited_for = sum(shown.backordered for shown in cells)
        if waited_for != self.waited_for.get((tenant, sku), 0):
            yield Violation("I3", sku, f"the row says {waited_for} are waited for, the events {self.waited_for.get((tenant, sku), 0)}")
        for shown in cells:
            cell = self.cells.get((tenant, sku, shown.location_id)) or _Cell()
            told = (shown.on_hand, shown.reserved, shown.allocated, shown.damaged, shown.quality_control)
            counted = (cell.on_hand, cell.reserved, cell.allocated, cell.damaged, cell.quality_control)
            if told != counted:
                yield Violation("I3", f"{sku} at {shown.location_id}", f"the row says {told}, the events {counted}")

    def overdue(self, at: int) -> Iterator[Violation]:
        """I16: no reservation is still open past its due time. Ask once every log is consumed; `at` in microseconds."""
        for name, found in self.reservations.items():
            if found.status == "active" and found.due_at is not None and found.due_at <= at:
                yield Violation("I16", name, f"is {(at - found.due_at) / 1e6:.3f} s overdue")


def stock_counts(events: Iterable[Seen]) -> Iterator[Violation]:
    """I1 to I4, and that nothing expires early (I16)."""
    ledger = Ledger()
    for seen in events:
        if seen.space == "stock":
            yield from ledger.take(seen)


# -- orders ---------------------------------------------------------------------------------------------------------------------------
DISPUTES = ("DisputeOpened", "DisputeClosed")


class _Order:
    __slots__ = ("status", "version", "payment_version", "fulfillments", "reservations")

    def __init__(self) -> None:
        self.status, self.version, self.payment_version = "", 0, 0
        self.fulfillments: dict[str, tuple[str, int]] = {}
        self.reservations: dict[str, str] = {}


def transitions(events: Iterable[Seen]) -> Iterator[Violation]:
    """I6, I7: every status follows the one before it as the table allows, versions count up by one, and an end is the end."""
    orders: dict[tuple[str, str, str], _Order] = {}
    for seen in events:
        if seen.space != "orders":
            continue
        order, event, where = orders.setdefault(seen.owner, _Order()), seen.value, seen.meta.event_id
        name = type(event).__name__
        if name == "OrderCreated":
            if order.status:
                yield Violation("I9", where, "the order is created again")
            order.status, order.version = "PENDING", 1
        elif name == "OrderStatusChanged":
            order.version += 1
            if order.status in TERMINAL:
                yield Violation("I6", where, f"{event.new_status} after {order.status}")
            elif event.previous_status != order.status or not order_status.TRANSITIONS.allows(event.previous_status, event.new_status):
                yield Violation("I7", where, f"{event.previous_status} to {event.new_status}; the order is {order.status or 'unknown'}")
            order.status = event.new_status
        elif name in ("FulfillmentCreated", "FulfillmentStatusChanged", "FulfillmentReduced"):
            order.version += 1
            yield from _fulfillment_moved(seen, order, event, name)
            continue
        elif hasattr(event, "attempt_id") or name in DISPUTES:  # an event of the payment, which shows in the order
            order.version, order.payment_version = order.version + 1, order.payment_version + 1
            if seen.meta.version != order.payment_version:
                yield Violation("I7", where, f"version {seen.meta.version} of the payment after {order.payment_version - 1}")
            continue
        elif name in ("DeliveryConfirmed", "DeliveryFailed", "OrderEdited", "OrderLineCanceled", "OrderHoldPlaced", "OrderHoldReleased"):
            order.version += 1
        if not getattr(event, "fulfillment_id", "") and seen.meta.version != order.version:
            yield Violation("I7", where, f"version {seen.meta.version}; {order.version} facts were seen")


def _fulfillment_moved(seen: Seen, order: _Order, event: Any, name: str) -> Iterator[Violation]:
    where = seen.meta.event_id
    status, version = order.fulfillments.get(event.fulfillment_id, ("", 0))
    if name == "FulfillmentCreated":
        if status:
            yield Violation("I9", where, f"{event.fulfillment_id} is created again")
        status = "PENDING"
    elif name == "FulfillmentStatusChanged":
        if event.previous_status != status or not fulfillment_steps.TRANSITIONS.allows(event.previous_status, event.new_status):
            yield Violation("I7", where, f"{event.previous_status} to {event.new_status}; {event.fulfillment_id} is {status or 'unknown'}")
        status = event.new_status
    if seen.meta.version != version + 1:
        yield Violation("I7", where, f"version {seen.meta.version} of {event.fulfillment_id} after {version}")
    order.fulfillments[event.fulfillment_id] = (status, seen.meta.version)


def given_back(events: Iterable[Seen]) -> Iterator[Violation]:
    """I15: an order that ends without its units has asked every owner it had asked for units to release them."""
    orders: dict[tuple[str, str, str], dict[str, str]] = {}
    for seen in events:
        if seen.space != "orders":
            continue
        held, event = orders.setdefault(seen.owner, {}), seen.value
        name = type(event).__name__
        if name == "StockAsked" and event.ask in ("reserve", "more", "release"):
            held.update(dict.fromkeys(event.reservation_ids, "releasing" if event.ask == "release" else "held"))
        elif name == "StockAnswerRecorded":
            gone = event.outcome in ("refused", "released", "expired", "shipped", "lost") and not event.allocations
            if gone:
                held[event.reservation_id] = "gone"
        elif (
            name == "OrderStatusChanged" and event.new_status in ("REJECTED", "EXPIRED", "CANCELED") and event.previous_status != "SHIPPED"
        ):
            for reservation, state in held.items():
                if state == "held":
                    yield Violation("I15", seen.meta.event_id, f"{event.new_status} while it keeps {reservation}")


def money(events: Iterable[Seen]) -> Iterator[Violation]:
    """I8: no money from nowhere, none kept of a canceled order, no goods before theirs is captured, one operation at a time."""
    return _counted(events, {})


def money_at_rest(events: Iterable[Seen]) -> Iterator[Violation]:
    """I8 at the end of a history in which everything has come to rest and no compensation was declined."""
    payments: dict[tuple[str, str, str], Payment] = {}
    for _ in _counted(events, payments):
        pass  # told by `money`
    for (_, _, key), payment in payments.items():
        for what in payment.rest():
            yield Violation("I8", key, what)


def _counted(events: Iterable[Seen], payments: dict[tuple[str, str, str], Payment]) -> Iterator[Violation]:
    """Count the money of each order into `payments`."""
    for seen in events:
        if seen.space == "orders":
            for what in payments.setdefault(seen.owner, Payment()).take(seen.value):
                yield Violation("I8", seen.meta.event_id, what)


EVENT_CHECKS: Mapping[str, Check] = {
    "I1 I2 I3 I4": stock_counts,
    "I6 I7": transitions,
    "I8": money,
    "I9": one_effect,
    "I14": one_writer,
    "I15": given_back,
}


def check_events(events: Iterable[Seen]) -> Iterator[Violation]:
    """Every check that needs events only. Events of a key in their order; keys may be mixed."""
    history = list(events)
    for check in EVENT_CHECKS.values():
        yield from check(history)


# -- events and commands together -----------------------------------------------------------------------------------------------------
FOLLOW_UPS = {"reserve": "ReserveStock", "more": "ReserveStock", "commit": "CommitReservation", "release": "ReleaseReservation"}
ANSWERED = frozenset({"StockReserved", "StockRefused", "ReservationCommitted", "ReservationReleased", "ReservationExpired"})


def together(events: Iterable[Seen], commands: Iterable[Asked], since: int = 0) -> Iterator[Violation]:
    """I11: an event and the commands it asks of others are visible together or not at all; I9: one id, one command.

    Events before `since` (microseconds) may have lost their commands to retention.
    """
    by_cause: dict[str, set[tuple[str, str]]] = {}
    meant: dict[tuple[str, str], tuple[str, Any]] = {}
    for asked in commands:
        cause, name = asked.meta.causation_id, asked.meta.command_id
        named = getattr(asked.value, "reservation_id", "")
        by_cause.setdefault(cause, set()).add((type(asked.value).__name__, named))
        before = meant.setdefault((asked.space, name), (asked.key, asked.value))
        if cause and before != (asked.key, asked.value):
            yield Violation("I9", name, f"is the id of two commands: {before[1]} and {asked.value}")
    ids = set()
    for seen in events:
        event, meta = seen.value, seen.meta
        ids.add(meta.event_id)
        name = type(event).__name__
        sent = by_cause.get(meta.event_id, set())
        wanted: list[tuple[str, str]] = []
        if meta.occurred_at < since:
            continue
        if name == "StockAsked" and event.ask in FOLLOW_UPS:
            wanted = [(FOLLOW_UPS[event.ask], reservation) for reservation in event.reservation_ids]
        elif name in ANSWERED:
            wanted = [("RecordStockAnswer", event.reservation_id)]
        elif name == "EarlyFactForwarded":
            wanted = [("RecordWebhook", "")]
        elif name == "PaymentAuthorized" and event.provider_ref:
            wanted = [("ClaimValue", "")]
        for missing in [each for each in wanted if each not in sent]:
            yield Violation("I11", meta.event_id, f"{name} without its {' '.join(missing)}")
    for cause in by_cause:
        space, _, rest = cause.partition(":")
        key, _, sequence = rest.rpartition(":")
        if space in ("orders", "stock") and key and ":" not in key and sequence.isdigit() and cause not in ids:
            yield Violation("I11", cause, f"a command is there, its event is not: {sorted(by_cause[cause])}")


def timers(events: Iterable[Seen], commands: Iterable[Asked]) -> Iterator[Violation]:
    """I16: what a timer changed it changed when it was due, not before."""
    due = {asked.meta.command_id: asked.value.due_at for asked in commands if isinstance(asked.value, TimerDue)}
    for seen in events:
        at = due.get(seen.meta.command_id)
        if at is not None and seen.meta.occurred_at < at:
            yield Violation("I16", seen.meta.event_id, f"{(at - seen.meta.occurred_at) / 1e6:.3f} s before it was due")


SILENT = frozenset(
    {
        "RecordStockAnswer",
        "RecordProviderResult",
        "TimerDue",
        "PostFulfillmentStatus",
        "CancelOrder",
        "RecordDelivery",
        "RecordUndelivered",
        "ConfirmCod",
        "SetChannel",
        "ClaimValue",
    }
)
"""Commands that may find everything done already and say nothing."""


def accounted(
    events: Iterable[Seen], commands: Sequence[Asked], parked: Mapping[tuple[str, int, int], str], answered: set[str]
) -> Iterator[Violation]:
    """I17: every command was decided, answered, repeated or parked. `parked`: (space, partition, offset) -> reason.

    What was parked may have been sent again under its id, or put back, and decided then.
    """
    again = {(each.space, each.meta.command_id) for each in commands if (each.space, each.partition, each.offset) not in parked}
    decided: set[tuple[str, str]] = set()
    about: set[str] = set()
    for seen in events:
        decided.add((seen.space, seen.meta.command_id))
        about.add(getattr(seen.value, "reservation_id", ""))
    for asked in commands:
        where = f"{asked.space}[{asked.partition}]@{asked.offset} {type(asked.value).__name__} {asked.meta.command_id}"
        is_parked = (asked.space, asked.partition, asked.offset) in parked
        known = (asked.space, asked.meta.command_id) in decided
        if is_parked and known and (asked.space, asked.meta.command_id) not in again:
            yield Violation("I17", where, "was parked, and some of it happened")
        if is_parked or known or asked.meta.command_id in answered or type(asked.value).__name__ in SILENT:
            continue
        if getattr(asked.value, "reservation_id", None) not in about:
            yield Violation("I17", where, "was skipped: no event, no answer, no dead letter")


def answers(replies: Iterable[Any]) -> Iterator[Violation]:
    """I9: everybody who asks about a command hears its first answer. What was parked is not answered yet: it may be put back."""
    first: dict[str, tuple[str, str]] = {}
    for reply in replies:
        if reply.reason in ("KEY_REUSED", "DEADLINE_PASSED", "PARKED"):
            continue
        told = (reply.outcome, reply.reason)
        before = first.setdefault(reply.command_id, told)
        if before != told:
            yield Violation("I9", reply.command_id, f"was answered {before}, then {told}")


# -- events and rows ------------------------------------------------------------------------------------------------------------------
def rebuilt(space: KeySpace, events: Iterable[Seen], tables: Tables, named: str) -> Iterator[Violation]:
    """I12, I13: folding the events gives these rows (of the changelogs, of a store)."""
    mine = [(seen.meta, seen.key, seen.value) for seen in events if seen.space == space.name]
    try:
        folded = fold(space, mine)
    except ValueError as error:
        yield Violation("I14", space.name, str(error))
        return
    for table, rows in folded.items():
        there = tables.get(table, {})
        for key in rows.keys() | there.keys():
            if rows.get(key) != there.get(key):
                yield Violation("I12", f"{space.name}.{table} {key}", f"{named}: {there.get(key)}; fold of the events: {rows.get(key)}")


def owners(rows: Mapping[str, Any], orders: Mapping[str, Any]) -> Iterator[Violation]:
    """I3: every reservation that keeps units belongs to one living order."""
    for name, row in rows.items():
        tenant, slash, _ = name.rpartition("/")
        order = orders.get(tenant + slash + row.holder.order_id)
        if row.status in (stock.ACTIVE, stock.COMMITTED) and (order is None or order.status in TERMINAL):
            yield Violation("I3", name, f"is {row.status} for an order that is {order.status if order else 'unknown'}")
