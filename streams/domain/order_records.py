"""What the orders key space hears, says and shows: commands, events and snapshots, keyed by order_id (contracts.md 6).

Fields are in the order of the Avro records, without `meta` and the key.
"""

from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct

from orderflow.streams.domain.contract import Shortage
from orderflow.streams.domain.parts import Money, Qty


class OrderStatus(StrEnum):
    """Where an order stands; all symbols from the start, also those a later context will use."""

    UNKNOWN = "UNKNOWN"
    PENDING = "PENDING"
    CONFIRMED = "CONFIRMED"
    PROCESSING = "PROCESSING"
    SHIPPED = "SHIPPED"
    DELIVERED = "DELIVERED"
    COMPLETED = "COMPLETED"
    REJECTED = "REJECTED"
    CANCEL_PENDING = "CANCEL_PENDING"
    CANCELED = "CANCELED"
    EXPIRED = "EXPIRED"
    FAILED = "FAILED"


class FulfillmentStatus(StrEnum):
    """Where a fulfillment stands; all symbols from the start."""

    UNKNOWN = "UNKNOWN"
    PENDING = "PENDING"
    PLANNING = "PLANNING"
    PICKING = "PICKING"
    PICKED = "PICKED"
    PICK_FAILED = "PICK_FAILED"
    PACKING = "PACKING"
    PACKED = "PACKED"
    PACK_FAILED = "PACK_FAILED"
    QC_PENDING = "QC_PENDING"
    QC_FAILED = "QC_FAILED"
    READY = "READY"
    SHIPPED = "SHIPPED"
    COMPLETED = "COMPLETED"
    CANCELED = "CANCELED"
    COMPENSATION_PENDING = "COMPENSATION_PENDING"
    COMPENSATED = "COMPENSATED"


class PlacedLine(Struct, frozen=True, gc=False):
    """A line as it was ordered. Only the kind `item` needs stock; shipping and fees are lines too, so that sums use one rule."""

    line_id: str
    sku: str
    quantity: int
    kind: str = "item"
    unit_price: Money | None = None
    discount: Money | None = None
    tax: Money | None = None
    price_version: int = 0
    location_id: str = ""


class ShipTo(Struct, frozen=True, gc=False):
    """Where to, without personal data: the address itself is a version of the subject's."""

    subject_id: str = ""
    address_version: int = 0
    country: str = ""
    region: str = ""
    postal_code: str = ""


class LineQuantity(Struct, frozen=True, gc=False):
    """Units of one line."""

    line_id: str
    quantity: int


class PlaceOrder(Struct, frozen=True, gc=False):
    """Order these lines: all of them or none, unless `partial_policy` takes less."""

    channel: str = ""
    customer_ref: str = ""
    subject_id: str = ""
    currency: str = ""
    time_zone: str = ""
    payment_terms: str = ""
    partial_policy: str = ""
    external_ref: str = ""
    must_accept: bool = False
    ship_to: ShipTo | None = None
    lines: tuple[PlacedLine, ...] = ()
    attributes: Mapping[str, str] = {}
    token_ref: str = ""
    payment_method: str = ""


class RecordStockAnswer(Struct, frozen=True, gc=False):
    """What a sku answers: reserved, refused, committed, released, expired, shipped or lost.

    `quantity` is what the answer is about, `allocations` what the reservation keeps from now on, so a repeat changes nothing.
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


class CancelOrder(Struct, frozen=True, gc=False):
    """Cancel the whole order, or so many units of the lines named. `by`: customer (within the window) or staff."""

    by: str = ""
    reason: str = ""
    lines: tuple[LineQuantity, ...] = ()


class EditOrder(Struct, frozen=True, gc=False):
    """These lines are to have these quantities; lines that are not named stay as they are."""

    lines: tuple[LineQuantity, ...] = ()
    reason: str = ""


class AnswerShortage(Struct, frozen=True, gc=False):
    """What the customer wants of an order that cannot be served whole: `ship_available` or `cancel`."""

    choice: str


class PlaceHold(Struct, frozen=True, gc=False):
    """Stop an order for this reason; `hold` is one of holds.HOLDS."""

    hold: str
    reason: str = ""


class ReleaseHold(Struct, frozen=True, gc=False):
    """This reason is over."""

    hold: str
    reason: str = ""


class PostFulfillmentStatus(Struct, frozen=True, gc=False):
    """What a warehouse says about a fulfillment; `target_id` is its id or the order's. No lines means full quantities."""

    target_id: str
    status: str
    caller_seq: int | None = None
    lines: tuple[LineQuantity, ...] = ()


class RecordDelivery(Struct, frozen=True, gc=False):
    """A carrier handed a fulfillment over."""

    shipment_id: str = ""
    fulfillment_id: str = ""
    delivered_at: int = 0
    proof_ref: str = ""


class RecordUndelivered(Struct, frozen=True, gc=False):
    """A carrier will not hand a fulfillment over any more: it was returned to the sender, lost, or refused by its receiver."""

    reason: str
    shipment_id: str = ""
    fulfillment_id: str = ""
    failed_at: int = 0


class Totals(Struct, frozen=True, gc=False):
    """Sums over the lines; one currency."""

    items: Money
    discount: Money
    shipping: Money
    tax: Money
    total: Money


class OrderCreated(Struct, frozen=True, gc=False):
    """An order was accepted with these values, the channel's at that moment included. It is pending."""

    order_number: str
    channel: str = ""
    policy_version: int = 0
    payment_terms: str = ""
    customer_ref: str = ""
    subject_id: str = ""
    currency: str = ""
    time_zone: str = ""
    lines: tuple[PlacedLine, ...] = ()
    totals: Totals | None = None
    ship_to: ShipTo | None = None
    external_ref: str = ""
    partial_policy: str = ""
    must_accept: bool = False
    attributes: Mapping[str, str] = {}
    created_by: str = ""
    payment_provider: str = "local"
    token_ref: str = ""
    payment_attempts: int = 1
    payment_method: str = ""


class OrderStatusChanged(Struct, frozen=True, gc=False):
    """The one lifecycle event: exactly one per change. `label` is what people see, in lower case; at `due_at` it goes on by itself."""

    order_number: str
    previous_status: OrderStatus
    new_status: OrderStatus
    label: str
    reason: str = ""
    changed_by: str = ""
    financial_status: str = ""
    fulfillment_status: str = ""
    total: Money | None = None
    due_at: int | None = None


class OrderRejected(Struct, frozen=True, gc=False):
    """Why an order could not be served, with the shortage of each sku."""

    reason: str
    shortages: tuple[Shortage, ...] = ()


class LineDelta(Struct, frozen=True, gc=False):
    """A line has so many units more, or fewer below zero."""

    line_id: str
    sku: str
    quantity_delta: int


class OrderEditRequested(Struct, frozen=True, gc=False):
    """The order is to have these quantities; `command_id` waits for what becomes of it."""

    lines: tuple[LineQuantity, ...] = ()
    command_id: str = ""
    reason: str = ""


class OrderEdited(Struct, frozen=True, gc=False):
    """The order has other quantities, in one step with its stock. `money_delta`: what it costs more, where it has prices."""

    order_version: int
    delta: tuple[LineDelta, ...] = ()
    money_delta: Money | None = None
    command_id: str = ""


class OrderEditFailed(Struct, frozen=True, gc=False):
    """The order stays as it was, with the shortage of each sku."""

    reason: str
    shortages: tuple[Shortage, ...] = ()
    command_id: str = ""


class OrderLineCanceled(Struct, frozen=True, gc=False):
    """These units of a line will not be sent; the rest of the order goes on."""

    line_id: str
    sku: str
    quantity: int
    reason: str = ""


class ShortageAsked(Struct, frozen=True, gc=False):
    """The customer is asked what to do about this shortage; without an answer the order ends at `due_at`."""

    shortages: tuple[Shortage, ...] = ()
    due_at: int | None = None


class OrderBackordered(Struct, frozen=True, gc=False):
    """The order waits for these units; without them it ends at `due_at`."""

    shortages: tuple[Shortage, ...] = ()
    due_at: int | None = None


class OrderHoldPlaced(Struct, frozen=True, gc=False):
    """The order is stopped for this reason."""

    hold: str
    reason: str = ""


class OrderHoldReleased(Struct, frozen=True, gc=False):
    """This reason is over; without the last one the order goes on."""

    hold: str
    reason: str = ""


class StockAsked(Struct, frozen=True, gc=False):
    """The order asked the owners of these reservations to `reserve`, `commit` or `release`, for `more` (an edit), or will reserve `later`.

    `due_at` is when it stops waiting for their answers (None: it waits), `reserved_until` the due time it asks for.
    """

    ask: str
    attempt: int
    reservation_ids: tuple[str, ...] = ()
    due_at: int | None = None
    reserved_until: int | None = None


class StockAnswerRecorded(Struct, frozen=True, gc=False):
    """An owner's answer as a fact of the order, so that its fold needs no foreign log. Fields of RecordStockAnswer."""

    reservation_id: str
    sku: str
    outcome: str
    quantity: int
    allocations: tuple[Qty, ...] = ()
    due_at: int | None = None
    available_after: int = 0
    contended: bool = False
    reason: str = ""


class AssignedLine(Struct, frozen=True, gc=False):
    """Units of an order line that one location is to send, and the reservation that keeps them."""

    line_id: str
    sku: str
    quantity: int
    reservation_id: str


class LineProgress(Struct, frozen=True, gc=False):
    """How far a line of a fulfillment has come, in units."""

    line_id: str
    ordered: int
    picked: int = 0
    packed: int = 0
    shipped: int = 0


class FulfillmentCreated(Struct, frozen=True, gc=False):
    """One location is to send these units."""

    fulfillment_id: str
    location_id: str
    lines: tuple[AssignedLine, ...] = ()
    due_at: int | None = None


class FulfillmentStatusChanged(Struct, frozen=True, gc=False):
    """A fulfillment moved one step. `implied`: nobody posted it, a later post shows that it happened."""

    fulfillment_id: str
    location_id: str
    previous_status: FulfillmentStatus
    new_status: FulfillmentStatus
    implied: bool = False
    lines: tuple[LineProgress, ...] = ()


class FulfillmentReduced(Struct, frozen=True, gc=False):
    """A fulfillment is to send less: the lines that changed, as they are now."""

    fulfillment_id: str
    location_id: str
    lines: tuple[LineProgress, ...] = ()


class FulfillmentStatusIgnored(Struct, frozen=True, gc=False):
    """A post that changes nothing: stale, or waited for its predecessor for too long."""

    fulfillment_id: str
    posted: str
    reason: str


class FulfillmentStatusBuffered(Struct, frozen=True, gc=False):
    """A post ahead of its predecessor, or of our own commit, waits until `due_at`."""

    fulfillment_id: str
    posted: str
    command_id: str
    due_at: int
    lines: tuple[LineQuantity, ...] = ()


class DeliveryConfirmed(Struct, frozen=True, gc=False):
    """A fulfillment has reached its receiver."""

    shipment_id: str = ""
    fulfillment_id: str = ""
    delivered_at: int = 0


class DeliveryFailed(Struct, frozen=True, gc=False):
    """A fulfillment will not reach its receiver: its units count as canceled."""

    reason: str
    shipment_id: str = ""
    fulfillment_id: str = ""
    failed_at: int = 0


class OrderSnapshotLine(Struct, frozen=True, gc=False):
    """A line and its counters in units."""

    line_id: str
    sku: str
    quantity: int
    fulfilled: int = 0
    shipped: int = 0
    delivered: int = 0
    canceled: int = 0
    return_requested: int = 0
    returned: int = 0
    written_off: int = 0
    refunded: int = 0


class OrderSnapshotFulfillment(Struct, frozen=True, gc=False):
    """A fulfillment in one line; `status` in lower case."""

    fulfillment_id: str
    status: str
    location_id: str


class OrderSnapshot(Struct, frozen=True, gc=False):
    """An order with its lines' counters and its fulfillments. Its buyer is to be sent to `action_url`, if there is one, before it goes on."""

    order_id: str
    tenant: str = "main"
    sequence: int = 0
    version: int = 0
    at: int = 0
    status: OrderStatus = OrderStatus.UNKNOWN
    label: str = ""
    reason: str = ""
    order_number: str = ""
    customer_ref: str = ""
    channel: str = ""
    financial_status: str = ""
    fulfillment_status: str = ""
    holds: tuple[str, ...] = ()
    lines: tuple[OrderSnapshotLine, ...] = ()
    fulfillments: tuple[OrderSnapshotFulfillment, ...] = ()
    totals: Totals | None = None
    placed_at: int | None = None
    action_url: str = ""


class FulfillmentSnapshotLine(Struct, frozen=True, gc=False):
    """How far a line has come, in units."""

    line_id: str
    sku: str
    ordered: int
    picked: int = 0
    packed: int = 0
    shipped: int = 0


class FulfillmentSnapshot(Struct, frozen=True, gc=False):
    """A fulfillment with its lines' progress."""

    fulfillment_id: str
    order_id: str
    tenant: str = "main"
    sequence: int = 0
    version: int = 0
    at: int = 0
    status: FulfillmentStatus = FulfillmentStatus.UNKNOWN
    location_id: str = ""
    lines: tuple[FulfillmentSnapshotLine, ...] = ()
    due_at: int | None = None
