"""What the orders key space remembers: the order, its stock answers, its fulfillments, its payment (contracts.md 6, Rows)."""

from collections.abc import Mapping

from msgspec import Struct

from orderflow.streams.domain.channel import ChannelRow
from orderflow.streams.domain.order_records import FulfillmentStatus, LineQuantity, OrderStatus, ShipTo
from orderflow.streams.domain.parts import Money, Qty
from orderflow.streams.domain.payment_rows import PaymentRow


class OrderLine(Struct, frozen=True, gc=False):
    """A placed line and its counters in units. `fulfilled` are assigned to a fulfillment that was not canceled."""

    line_id: str
    sku: str
    quantity: int
    kind: str = "item"
    unit_price: Money | None = None
    discount: Money | None = None
    tax: Money | None = None
    price_version: int = 0
    location_id: str = ""
    fulfilled: int = 0
    shipped: int = 0
    delivered: int = 0
    canceled: int = 0
    return_requested: int = 0
    returned: int = 0
    written_off: int = 0
    refunded: int = 0


class Hold(Struct, frozen=True, gc=False):
    """A reason why the order may not go on, since `at`."""

    hold: str
    reason: str
    at: int


class Edit(Struct, frozen=True, gc=False):
    """What an order is to become, and the command that waits for it."""

    command_id: str
    lines: tuple[LineQuantity, ...] = ()


class OrderRow(Struct, frozen=True, gc=False):
    """An order. `attempt`, `step`, `answers_open` and `due_at` are where its talk with the owners of stock, or with a payment
    provider, stands, `asked_at` when it last asked one. It is `unsettled` while something that was to be paid on delivery is to be collected,
    or to be given back; `waiting` are the commands whose answer was still open when they were decided: the
    place first, then a cancel. At `expiring_at` its authorization is about to end.
    """

    version: int
    status: OrderStatus
    reason: str = ""
    placed_at: int = 0
    channel: str = ""
    currency: str = ""
    time_zone: str = ""
    payment_terms: str = ""
    partial_policy: str = ""
    customer_ref: str = ""
    subject_id: str = ""
    external_ref: str = ""
    policy_version: int = 0
    must_accept: bool = False
    ship_to: ShipTo | None = None
    lines: tuple[OrderLine, ...] = ()
    attempt: int = 0
    answers_open: int = 0
    holds: tuple[Hold, ...] = ()
    fulfillment_count: int = 0
    confirmed_at: int | None = None
    canceled_at: int | None = None
    delivered_at: int | None = None
    created_by: str = ""
    waiting: tuple[str, ...] = ()
    order_number: str = ""
    attributes: Mapping[str, str] = {}
    step: str = ""
    due_at: int | None = None
    financial_status: str = ""
    payment_provider: str = "local"
    token_ref: str = ""
    asked_at: int | None = None
    expiring_at: int | None = None
    edit: Edit | None = None
    payment_attempts: int = 1
    unsettled: bool = False
    payment_method: str = ""

    @property
    def held_by(self) -> str:
        """The names of its holds, as a refusal tells them."""
        return ", ".join(hold.hold for hold in self.holds)


class StockAnswerRow(Struct, frozen=True, gc=False):
    """What an order knows of one of its reservations; key `{order_id}~G{attempt}~{sku}`.

    `outcome` is the last answer, or what was asked and is not answered yet: asked, committing, releasing.
    `quantity` was asked, `allocations` are kept.
    """

    reservation_id: str
    sku: str
    outcome: str
    quantity: int
    allocations: tuple[Qty, ...] = ()
    due_at: int | None = None
    available_after: int = 0
    contended: bool = False
    reason: str = ""


class FulfillmentLine(Struct, frozen=True, gc=False):
    """Units of an order line at this location, and how far they have come."""

    line_id: str
    sku: str
    reservation_id: str
    ordered: int
    picked: int = 0
    packed: int = 0
    shipped: int = 0


class BufferedPost(Struct, frozen=True, gc=False):
    """A post that waits until `at`. Once it is settled `at` is minus the sequence of the event that did it; such entries are
    dropped when the next post is buffered.
    """

    status: str
    command_id: str
    at: int
    lines: tuple[LineQuantity, ...] = ()


class FulfillmentRow(Struct, frozen=True, gc=False):
    """What one location is to send for an order; key `{order_id}~F{n}`."""

    fulfillment_id: str
    version: int
    location_id: str
    status: FulfillmentStatus
    lines: tuple[FulfillmentLine, ...] = ()
    buffered: tuple[BufferedPost, ...] = ()
    due_at: int | None = None


class State(Struct, frozen=True, gc=False):
    """The rows of one order that a decision reads. `channel` is a lookup and never changed here."""

    key: str = ""
    order: OrderRow | None = None
    stock_answer: Mapping[str, StockAnswerRow] = {}
    fulfillment: Mapping[str, FulfillmentRow] = {}
    channel: ChannelRow | None = None
    payment: PaymentRow | None = None
