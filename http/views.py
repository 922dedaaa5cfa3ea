"""What callers see: snapshots of the status topics as JSON, with lower-case symbols and RFC 3339 times.

A view adds no knowledge: everything in it is in the snapshot, and `version` is the entity's (the ETag).
"""

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from orderflow.http.timeline import Scan
from orderflow.streams.domain.order_records import OrderSnapshot
from orderflow.streams.domain.payment_records import PaymentSnapshot
from orderflow.streams.domain.stock_records import StockSnapshot


class View(BaseModel):
    model_config = ConfigDict(frozen=True)


class OrderLineView(View):
    line_id: str
    sku: str
    quantity: int
    fulfilled: int
    shipped: int
    delivered: int
    canceled: int
    returned: int


class FulfillmentView(View):
    fulfillment_id: str
    status: str
    location_id: str


class OrderView(View):
    """`status` is the one label for people, `state` the precise status: a rejected order shows as canceled, with its reason. While
    `action_url` is not empty the order waits for its buyer, who is to be sent there: 3-D Secure, or an approval.
    """

    order_id: str
    order_number: str
    status: str
    state: str
    reason: str
    financial_status: str
    fulfillment_status: str
    channel: str
    customer_ref: str
    holds: list[str]
    lines: list[OrderLineView]
    fulfillments: list[FulfillmentView]
    version: int
    sequence: int
    placed_at: str | None
    changed_at: str
    action_url: str


class OrderListView(View):
    """`total` and `by_label` count all that match, `items` are the newest of them. What `partitions_missing` hold is not counted."""

    total: int
    by_label: dict[str, int]
    items: list[OrderView]
    complete: bool
    partitions_missing: list[int]


class AcceptedView(View):
    """The command is in the log and its outcome is not known yet: read `location`, or repeat with the same Idempotency-Key."""

    accepted: bool = True
    location: str
    command_id: str
    order_id: str | None = None
    sku: str | None = None


class WebhookView(View):
    """The event is recorded (`reason`: why it moved nothing), or in the log and `pending`; either way it need not be sent again."""

    event_id: str
    outcome: Literal["recorded", "pending"]
    reason: str = ""


class MoneyView(View):
    """Minor units of an ISO 4217 currency."""

    amount_minor: int
    currency: str


class LedgerView(View):
    """What the provider confirmed of each kind, and what it was asked for and has not answered, in minor units; `disputed` is what buyers'
    banks took back, `disputed_pending` what they keep until a dispute is decided.
    """

    currency: str
    authorized: int
    captured: int
    refunded: int
    voided: int
    authorized_pending: int
    captured_pending: int
    refunded_pending: int
    voided_pending: int
    disputed: int
    disputed_pending: int


class AttemptView(View):
    """One try at the payment with its latest operation; `code` is the provider's word for why not, `action_url` where its buyer has to act."""

    attempt_id: str
    operation: str
    operation_no: int
    outcome: str
    amount: MoneyView
    provider: str
    provider_ref: str
    valid_until: str | None
    code: str
    action_url: str


class DisputeView(View):
    """A buyer disputes the payment; `outcome` is opened, won or lost. While one is open nothing of the payment is refunded."""

    dispute_ref: str
    outcome: str
    amount: MoneyView
    provider: str
    code: str
    opened_at: str
    closed_at: str | None


class PaymentView(View):
    """`status` is derived from the counters of `ledger`."""

    payment_id: str
    order_id: str
    status: str
    method: str
    ledger: LedgerView
    attempts: list[AttemptView]
    disputes: list[DisputeView]
    version: int
    sequence: int
    changed_at: str


class CellView(View):
    location_id: str
    on_hand: int
    available: int
    reserved: int
    allocated: int
    incoming: int
    damaged: int
    quality_control: int
    safety_stock: int
    backordered: int


class StockView(View):
    """The sums over all locations, and each of them. `quantity_*` repeat the names of the origin."""

    sku: str
    on_hand: int
    available: int
    reserved: int
    allocated: int
    quantity_available: int
    quantity_reserved: int
    cells: list[CellView]
    version: int
    sequence: int
    changed_at: str


class ReservationView(View):
    reservation_id: str
    sku: str
    order_id: str
    status: str
    quantity: int
    due_at: str | None
    overdue_s: float


class ReservationListView(View):
    """`caught_up` says whether every partition asked had consumed its backlog: only then does overdue mean late."""

    total: int
    items: list[ReservationView]
    caught_up: bool
    complete: bool
    partitions_missing: list[int]


class SagaView(View):
    """`stuck` says why people are needed: overdue, unanswered, declined, by_hand; empty where they are not. `waited_s` counts from `since`."""

    saga_id: str
    type: str
    order_id: str
    step: str
    since: str
    waited_s: float
    due_at: str | None
    waits_for: list[str]
    compensating: bool
    stuck: str


class SagaListView(View):
    """`total` and `by_type` count all that match, `items` are those that wait longest. Nothing is called stuck where `caught_up` is false."""

    total: int
    by_type: dict[str, int]
    items: list[SagaView]
    caught_up: bool
    complete: bool
    partitions_missing: list[int]


class OrderSagasView(View):
    """What is under way for one order; no items: nothing is."""

    order_id: str
    state: str
    reason: str
    caught_up: bool
    items: list[SagaView]


class TimelineEntryView(View):
    sequence: int
    event_id: str
    event: str
    at: str
    refused: bool
    actor: str
    command_id: str
    caused_by: str
    data: dict[str, Any]


class TimelineView(View):
    """One key's events, oldest first. `complete` is false when the scan stopped at its bound."""

    order_id: str
    events: list[TimelineEntryView]
    complete: bool


class ReadyView(View):
    ready: bool
    log: bool
    owners_read: bool
    draining: bool
    partitions_missing: dict[str, list[int]]


class AliveView(View):
    alive: bool = True


class FaultView(View):
    """One wrong part of the request: a body field by JSON Pointer, a parameter or a header by name."""

    code: str
    detail: str
    pointer: str | None = None
    parameter: str | None = None
    header: str | None = None


class ShortageView(View):
    sku: str
    requested: int
    available: int


class ProblemView(View):
    """RFC 9457. `code` is the reason; `errors` every wrong part of the request; `shortages` what stock could not give."""

    type: str
    title: str
    status: int
    code: str
    detail: str | None = None
    errors: list[FaultView] | None = None
    shortages: list[ShortageView] | None = None
    order_id: str | None = None
    request_id: str | None = None


class PlacedView(View):
    """What became of one order of several: 201 with the order, 202 without an outcome yet, or the status of its problem."""

    index: int
    status: int
    order_id: str | None = None
    location: str | None = None
    command_id: str | None = None
    order: OrderView | None = None
    problem: ProblemView | None = None


class PlacedListView(View):
    """`items` are in the order of the request, the counts add up to their number. What was not taken (503) may be sent again."""

    placed: int
    pending: int
    refused: int
    not_taken: int
    items: list[PlacedView]


def rfc3339(micros: int) -> str:
    """A UTC time with microseconds, such as 2026-01-23T10:00:00.000000Z."""
    at = datetime.fromtimestamp(micros // 1_000_000, UTC).replace(microsecond=micros % 1_000_000)
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


def micros(at: datetime) -> int:
    """Microseconds since 1970 UTC of an aware time, exact."""
    past = at - datetime(1970, 1, 1, tzinfo=UTC)
    return (past.days * 86_400 + past.seconds) * 1_000_000 + past.microseconds


def order_view(order: OrderSnapshot) -> OrderView:
    rejected = order.status == "REJECTED"
    return OrderView(
        order_id=order.order_id,
        order_number=order.order_number,
        status="canceled" if rejected else order.label.lower(),
        state=order.status.lower(),
        reason=order.reason,
        financial_status=order.financial_status.lower(),
        fulfillment_status=order.fulfillment_status.lower(),
        channel=order.channel,
        customer_ref=order.customer_ref,
        holds=list(order.holds),
        lines=[OrderLineView.model_validate(line, from_attributes=True) for line in order.lines],
        fulfillments=[
            FulfillmentView(fulfillment_id=each.fulfillment_id, status=each.status.lower(), location_id=each.location_id)
            for each in order.fulfillments
        ],
        version=order.version,
        sequence=order.sequence,
        placed_at=None if order.placed_at is None else rfc3339(order.placed_at),
        changed_at=rfc3339(order.at),
        action_url=order.action_url,
    )


def payment_view(payment: PaymentSnapshot) -> PaymentView:
    return PaymentView(
        payment_id=payment.payment_id,
        order_id=payment.payment_id,
        status=payment.label,
        method=payment.method,
        ledger=LedgerView.model_validate(payment.ledger, from_attributes=True),
        attempts=[
            AttemptView(
                attempt_id=each.attempt_id,
                operation=each.operation,
                operation_no=each.operation_no,
                outcome=each.outcome,
                amount=MoneyView.model_validate(each.amount, from_attributes=True),
                provider=each.provider,
                provider_ref=each.provider_ref,
                valid_until=None if each.valid_until is None else rfc3339(each.valid_until),
                code=each.code,
                action_url=each.action_url,
            )
            for each in payment.attempts
        ],
        disputes=[
            DisputeView(
                dispute_ref=each.dispute_ref,
                outcome=each.outcome,
                amount=MoneyView.model_validate(each.amount, from_attributes=True),
                provider=each.provider,
                code=each.code,
                opened_at=rfc3339(each.opened_at),
                closed_at=None if each.closed_at is None else rfc3339(each.closed_at),
            )
            for each in payment.disputes
        ],
        version=payment.version,
        sequence=payment.sequence,
        changed_at=rfc3339(payment.at),
    )


def timeline_view(order_id: str, scan: Scan) -> TimelineView:
    entries = [
        TimelineEntryView(
            sequence=entry.meta.sequence,
            event_id=entry.meta.event_id,
            event=entry.event,
            at=rfc3339(entry.meta.occurred_at),
            refused=entry.meta.refused,
            actor=entry.meta.actor,
            command_id=entry.meta.command_id,
            caused_by=entry.meta.caused_by,
            data=dict(entry.data),
        )
        for entry in scan.entries
    ]
    return TimelineView(order_id=order_id, events=entries, complete=scan.complete)


def stock_view(stock: StockSnapshot) -> StockView:
    cells = [CellView.model_validate(cell, from_attributes=True) for cell in stock.cells]
    available, reserved = sum(cell.available for cell in cells), sum(cell.reserved for cell in cells)
    return StockView(
        sku=stock.sku,
        on_hand=sum(cell.on_hand for cell in cells),
        available=available,
        reserved=reserved,
        allocated=sum(cell.allocated for cell in cells),
        quantity_available=available,
        quantity_reserved=reserved,
        cells=cells,
        version=stock.version,
        sequence=stock.sequence,
        changed_at=rfc3339(stock.at),
    )
