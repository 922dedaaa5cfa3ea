"""The whole system as one readable value: key spaces, their rules and tables, their lookups. `orderflow topology` prints it."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from msgspec import Struct

from orderflow.streams.domain import channel, claims, orders, sagas, stock
from orderflow.streams.domain.channel import ChannelRow
from orderflow.streams.domain.claims import ClaimRow
from orderflow.streams.domain.contract import AnswerRow, CommandMeta, EventMeta, Get, HeadRow, Range, Send, Settle, Snapshot, Turn
from orderflow.streams.domain.order_rows import FulfillmentRow, OrderRow, StockAnswerRow
from orderflow.streams.domain.payment_records import DisputeClosed, DisputeOpened
from orderflow.streams.domain.payment_rows import PaymentRow
from orderflow.streams.domain.stock_rows import ReservationRow, StockRow


class Rules(Protocol):
    """What a key space's module offers; streams/domain/contract.py says what each function means."""

    State: type[Any]

    def reads(self, key: str, command: Any) -> tuple[Get | Range, ...]: ...
    def recall(self, state: Any, command: Any) -> tuple[Send, ...] | None: ...
    def decide(self, state: Any, command: Any, turn: Turn) -> tuple[Any, ...]: ...
    def evolve(self, state: Any, event: Any, meta: EventMeta) -> Any: ...
    def react(self, state: Any, event: Any, meta: EventMeta) -> tuple[Send | Settle, ...]: ...
    def waits(self, state: Any, command: Any, command_id: str) -> bool: ...
    def violations(self, state: Any) -> tuple[str, ...]: ...
    def snapshots(self, before: Any, after: Any, head_sequence: int, at: int) -> tuple[Snapshot, ...]: ...


class TableSpec(Struct, frozen=True):
    """A table of a key space. `number` is its place on disk: never reuse or change one."""

    name: str
    number: int
    row: type
    due: Callable[[Any], tuple[str, int] | None] | None = None
    indexes: Mapping[str, Callable[[str, Any], str | None]] = {}
    """Name -> (row key, row) -> sort key."""

    @property
    def field(self) -> str:
        """The field of the space's State that holds these rows."""
        return self.name.replace("-", "_")


class KeySpace(Struct, frozen=True):
    """One key, one command log, one writer. `answered_by_rows`: commands whose repeat a row they made answers, so no answer row is kept."""

    name: str
    rules: Any
    tables: tuple[TableSpec, ...]
    main: str
    """The aggregate whose snapshot answers a command."""
    answered_by_rows: frozenset[str]
    version: Callable[[Any, Any], int]
    """(state, event) -> the version of the entity the event is about: the ETag."""
    creates: frozenset[str] = frozenset()
    """Commands that are answered by the row they make when applied, by an answer row when refused."""
    may_wait: frozenset[str] = frozenset()
    """Commands whose answer may come in a later turn."""
    shown: tuple[str, ...] = ()
    """Other aggregates with the key of the space, which are read like the main one."""
    ends: Mapping[type, Callable[[Any, Any, int], sagas.End | None]] = {}
    """Event -> the saga that it ends, from the state before it and the turn's time."""
    lookups: tuple[str, ...] = ()
    """Aggregates of other key spaces read as lookups."""

    def table(self, name: str) -> TableSpec:
        return next(table for table in self.tables if table.name == name)


HEAD = TableSpec("head", 0, HeadRow)


def _answer_age(key: str, row: AnswerRow) -> str | None:
    return None if row.outcome == "pending" else f"{row.at:020d}"


ANSWER = TableSpec("answer", 1, AnswerRow, indexes={"age": _answer_age})


def _within_tenant(order_of: Callable[[ReservationRow], str | None]) -> Callable[[str, ReservationRow], str | None]:
    """The index whose entries are in this order within each tenant."""

    def entry(key: str, row: ReservationRow) -> str | None:
        order = order_of(row)
        return None if order is None else key[: key.find("/") + 1] + order

    return entry


RESERVATIONS = {name: _within_tenant(order_of) for name, order_of in stock.INDEXES["reservation"].items()}
"""Open ones, in the order in which a shrinking count takes units; those that wait for units, in the order in which they get them."""


def _order_version(state: Any, event: Any) -> int:
    fulfillment = state.fulfillment.get(getattr(event, "fulfillment_id", ""))
    is_money = hasattr(event, "attempt_id") or isinstance(event, DisputeOpened | DisputeClosed)
    entity = fulfillment or (state.payment if is_money else state.order)
    return entity.version if entity else 0


STOCK = KeySpace(
    name="stock",
    rules=stock,
    tables=(
        HEAD,
        ANSWER,
        TableSpec("stock", 2, StockRow),
        TableSpec("reservation", 3, ReservationRow, due=stock.DUE["reservation"], indexes=RESERVATIONS),
    ),
    main="stock",
    answered_by_rows=frozenset({"CommitReservation", "ReleaseReservation", "ExtendReservation", "TimerDue"}),
    creates=frozenset({"ReserveStock"}),
    version=lambda state, event: state.stock.version if state.stock else 0,
)
ORDERS = KeySpace(
    name="orders",
    rules=orders,
    tables=(
        HEAD,
        ANSWER,
        TableSpec("order", 2, OrderRow, due=orders.DUE["order"], indexes={"open": sagas.open_order}),
        TableSpec("stock-answer", 3, StockAnswerRow),
        TableSpec("fulfillment", 4, FulfillmentRow, due=orders.DUE["fulfillment"]),
        TableSpec("payment", 5, PaymentRow, indexes={"open": sagas.open_payment}),
    ),
    main="order",
    shown=("payment",),
    answered_by_rows=frozenset({"RecordStockAnswer", "RecordProviderResult", "TimerDue"}),
    version=_order_version,
    may_wait=frozenset(
        {
            "PlaceOrder",
            "CancelOrder",
            "EditOrder",
            "AnswerShortage",
            "PostFulfillmentStatus",
            "RetryPayment",
            "CapturePayment",
            "VoidPayment",
            "RefundPayment",
        }
    ),
    ends=sagas.ENDS,
    lookups=("channel",),
)
CATALOG = KeySpace(
    name="catalog",
    rules=channel,
    tables=(HEAD, ANSWER, TableSpec("channel", 2, ChannelRow)),
    main="channel",
    answered_by_rows=frozenset({"TimerDue"}),
    version=lambda state, event: state.channel.version if state.channel else 0,
)
# Named so that its log comes between those of orders and stock: of the logs in the order of their names the group gives a second worker
# the first half.
REFERENCES = KeySpace(
    name="references",
    rules=claims,
    tables=(HEAD, ANSWER, TableSpec("claim", 2, ClaimRow, due=claims.DUE["claim"])),
    main="claim",
    answered_by_rows=frozenset({"ClaimValue", "TimerDue"}),
    version=lambda state, event: state.claim.version if state.claim else 0,
)
SPACES = (ORDERS, STOCK, CATALOG, REFERENCES)


def space_named(name: str) -> KeySpace:
    """The key space of that name; KeyError names the ones there are."""
    for space in SPACES:
        if space.name == name:
            return space
    raise KeyError(f"no key space {name!r}; there are {', '.join(space.name for space in SPACES)}")


__all__ = [
    "ANSWER",
    "CATALOG",
    "HEAD",
    "ORDERS",
    "REFERENCES",
    "SPACES",
    "STOCK",
    "CommandMeta",
    "KeySpace",
    "Rules",
    "TableSpec",
    "space_named",
]
