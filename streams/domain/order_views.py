"""What status topics and GET show of an order, its fulfillments and its payment."""

from orderflow.streams.domain import fulfillment_steps, money, payment
from orderflow.streams.domain.order_records import (
    FulfillmentSnapshot,
    FulfillmentSnapshotLine,
    OrderSnapshot,
    OrderSnapshotFulfillment,
    OrderSnapshotLine,
)
from orderflow.streams.domain.order_rows import FulfillmentRow, OrderRow, State
from orderflow.streams.domain.order_status import label
from orderflow.streams.domain.payment_records import PaymentSnapshot, PaymentSnapshotAttempt, PaymentSnapshotDispute
from orderflow.streams.domain.payment_rows import PaymentRow


def order_snapshot(state: State, order: OrderRow, sequence: int, at: int) -> OrderSnapshot:
    """The order with its lines' counters; `state` must hold all its fulfillments."""
    rows = state.fulfillment.values()
    statuses = [row.status for row in rows]
    return OrderSnapshot(
        state.key,
        sequence=sequence,
        version=order.version,
        at=at,
        status=order.status,
        label=label(order.status, statuses, order.holds, order.lines),
        reason=order.reason,
        order_number=order.order_number,
        customer_ref=order.customer_ref,
        channel=order.channel,
        financial_status=order.financial_status,
        fulfillment_status=fulfillment_steps.label(statuses),
        holds=tuple(hold.hold for hold in order.holds),
        lines=tuple(
            OrderSnapshotLine(
                line.line_id,
                line.sku,
                line.quantity,
                line.fulfilled,
                line.shipped,
                line.delivered,
                line.canceled,
                line.return_requested,
                line.returned,
                line.written_off,
                line.refunded,
            )
            for line in order.lines
        ),
        fulfillments=tuple(OrderSnapshotFulfillment(row.fulfillment_id, row.status.lower(), row.location_id) for row in rows),
        totals=money.totals(order.lines, order.currency),
        placed_at=order.placed_at,
        action_url=state.payment.attempts[-1].action_url if state.payment is not None else "",
    )


def fulfillment_snapshot(order_id: str, row: FulfillmentRow, sequence: int, at: int) -> FulfillmentSnapshot:
    """A fulfillment with its lines' progress."""
    return FulfillmentSnapshot(
        row.fulfillment_id,
        order_id,
        sequence=sequence,
        version=row.version,
        at=at,
        status=row.status,
        location_id=row.location_id,
        lines=tuple(
            FulfillmentSnapshotLine(line.line_id, line.sku, line.ordered, line.picked, line.packed, line.shipped) for line in row.lines
        ),
        due_at=row.due_at,
    )


def payment_snapshot(payment_id: str, row: PaymentRow, sequence: int, at: int) -> PaymentSnapshot:
    """A payment with its counters, attempts and disputes."""
    return PaymentSnapshot(
        payment_id,
        sequence=sequence,
        version=row.version,
        at=at,
        label=payment.label(row),
        method=row.method,
        ledger=row.ledger,
        attempts=tuple(
            PaymentSnapshotAttempt(
                each.attempt_id,
                each.operation,
                each.operation_no,
                each.outcome,
                each.amount,
                each.provider,
                each.provider_ref,
                each.valid_until,
                each.code,
                each.action_url,
            )
            for each in row.attempts
        ),
        disputes=tuple(
            PaymentSnapshotDispute(each.dispute_ref, each.outcome, each.amount, each.provider, each.code, each.opened_at, each.closed_at)
            for each in row.disputes
        ),
    )
