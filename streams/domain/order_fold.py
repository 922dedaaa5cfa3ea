"""How events change an order's rows: the fold. It never refuses; an event that does not fit the rows leaves them as they are."""

from collections.abc import Callable, Mapping

from msgspec.structs import replace

from orderflow.streams.domain.contract import EventMeta, Refused
from orderflow.streams.domain.fulfillment_steps import RANKS, moved, reduced, status_named
from orderflow.streams.domain.holds import PAYMENT_EXPIRING
from orderflow.streams.domain.ids import answer_key, parse_reservation
from orderflow.streams.domain.order_records import (
    DeliveryConfirmed,
    DeliveryFailed,
    FulfillmentCreated,
    FulfillmentReduced,
    FulfillmentStatus,
    FulfillmentStatusBuffered,
    FulfillmentStatusChanged,
    FulfillmentStatusIgnored,
    OrderBackordered,
    OrderCreated,
    OrderEdited,
    OrderEditFailed,
    OrderEditRequested,
    OrderHoldPlaced,
    OrderHoldReleased,
    OrderLineCanceled,
    OrderRejected,
    OrderStatus,
    OrderStatusChanged,
    ShortageAsked,
    StockAnswerRecorded,
    StockAsked,
)
from orderflow.streams.domain.order_rows import (
    BufferedPost,
    Edit,
    FulfillmentLine,
    FulfillmentRow,
    Hold,
    OrderLine,
    OrderRow,
    State,
    StockAnswerRow,
)
from orderflow.streams.domain.order_status import COMPLETE, SYSTEM
from orderflow.streams.domain.payment import is_settled
from orderflow.streams.domain.payment_fold import MORE_MONEY, PaymentEvent, disputed, requested, resulted
from orderflow.streams.domain.payment_records import (
    DisputeClosed,
    DisputeOpened,
    PaymentActionRequired,
    PaymentAuthorized,
    PaymentCanceled,
    PaymentCaptured,
    PaymentFailed,
    PaymentRefunded,
    PaymentRequested,
    PaymentUnknown,
    PaymentVoided,
    WebhookRecorded,
)
from orderflow.streams.domain.reasons import Reason
from orderflow.streams.domain.shortages import ASKED as SHORTAGE_ASKED
from orderflow.streams.domain.shortages import BACKORDERED
from orderflow.streams.domain.stock_answers import AWAITED, MORE, demand, latest, outcome_after

Event = (
    OrderCreated
    | OrderStatusChanged
    | OrderRejected
    | OrderEditRequested
    | OrderEdited
    | OrderEditFailed
    | OrderLineCanceled
    | ShortageAsked
    | OrderBackordered
    | OrderHoldPlaced
    | OrderHoldReleased
    | StockAsked
    | StockAnswerRecorded
    | FulfillmentCreated
    | FulfillmentStatusChanged
    | FulfillmentReduced
    | FulfillmentStatusIgnored
    | FulfillmentStatusBuffered
    | DeliveryConfirmed
    | DeliveryFailed
    | PaymentEvent
    | WebhookRecorded
    | DisputeOpened
    | DisputeClosed
    | Refused
)


def evolve(state: State, event: Event, meta: EventMeta) -> State:
    """The rows after the event."""
    if isinstance(event, OrderCreated):
        return _created(state, event, meta) if state.order is None else state
    order = state.order
    if order is None:
        return state
    match event:
        case OrderStatusChanged():
            return _status_changed(state, order, event, meta)
        case OrderHoldPlaced():
            return _held(state, order, event, meta)
        case OrderHoldReleased():
            kept = tuple(hold for hold in order.holds if hold.hold != event.hold)
            return replace(state, order=replace(order, version=order.version + 1, holds=kept))
        case StockAsked():
            return _asked(state, order, event, meta)
        case StockAnswerRecorded():
            return _answered(state, order, event)
        case FulfillmentCreated():
            return _fulfillment_created(state, order, event)
        case FulfillmentStatusChanged():
            return _fulfillment_moved(state, order, event, meta)
        case OrderEditRequested():
            return replace(state, order=replace(order, edit=Edit(event.command_id, event.lines)))
        case OrderEdited():
            return _edited(state, order, event)
        case OrderEditFailed():
            return replace(state, order=_rested(order))
        case OrderLineCanceled():
            return _line_canceled(state, order, event)
        case ShortageAsked():
            return replace(state, order=replace(order, step=SHORTAGE_ASKED, due_at=event.due_at, asked_at=meta.occurred_at))
        case OrderBackordered():
            return replace(state, order=replace(order, step=BACKORDERED, due_at=event.due_at, asked_at=meta.occurred_at))
        case FulfillmentReduced():
            return _reduced(state, order, event)
        case FulfillmentStatusBuffered():
            return _buffered(state, event)
        case FulfillmentStatusIgnored():
            return _ignored(state, event, meta)
        case DeliveryConfirmed():
            return _delivered(state, order, event)
        case DeliveryFailed():
            return _undelivered(state, order, event)
        case PaymentRequested():
            return requested(state, replace(order, asked_at=meta.occurred_at), event)
        case PaymentAuthorized() | PaymentCaptured() | PaymentVoided() | PaymentRefunded() | PaymentCanceled():
            return resulted(state, order, event, meta.occurred_at)
        case PaymentFailed() | PaymentUnknown() | PaymentActionRequired():
            return resulted(state, order, event, meta.occurred_at)
        case DisputeOpened() | DisputeClosed():
            return disputed(state, order, event, meta.occurred_at)
        case OrderRejected() | WebhookRecorded() | Refused():
            return state


def _created(state: State, event: OrderCreated, meta: EventMeta) -> State:
    order = OrderRow(
        1,
        OrderStatus.PENDING,
        placed_at=meta.occurred_at,
        channel=event.channel,
        currency=event.currency,
        time_zone=event.time_zone,
        payment_terms=event.payment_terms,
        partial_policy=event.partial_policy,
        customer_ref=event.customer_ref,
        subject_id=event.subject_id,
        external_ref=event.external_ref,
        policy_version=event.policy_version,
        must_accept=event.must_accept,
        ship_to=event.ship_to,
        lines=tuple(
            OrderLine(
                line.line_id,
                line.sku,
                line.quantity,
                line.kind,
                line.unit_price,
                line.discount,
                line.tax,
                line.price_version,
                line.location_id,
            )
            for line in event.lines
        ),
        created_by=event.created_by,
        waiting=(meta.command_id,),
        order_number=event.order_number,
        attributes=event.attributes,
        payment_provider=event.payment_provider,
        token_ref=event.token_ref,
        payment_attempts=event.payment_attempts,
        payment_method=event.payment_method,
    )
    return replace(state, order=order)


def _status_changed(state: State, order: OrderRow, event: OrderStatusChanged, meta: EventMeta) -> State:
    if order.status != event.previous_status:
        return state
    changed = replace(order, version=order.version + 1, status=event.new_status, reason=event.reason or order.reason)
    if event.new_status is OrderStatus.PENDING:
        changed = replace(changed, reason="")  # another try
    elif event.new_status is OrderStatus.CONFIRMED:
        changed = replace(changed, confirmed_at=meta.occurred_at, expiring_at=event.due_at)
    elif event.new_status is OrderStatus.CANCEL_PENDING and event.changed_by != SYSTEM:
        changed = replace(changed, waiting=(*order.waiting, meta.command_id))
    elif event.new_status is OrderStatus.DELIVERED and event.due_at is not None:
        changed = replace(changed, step=COMPLETE, due_at=event.due_at, unsettled=not is_settled(order, state.payment))
    elif event.new_status is OrderStatus.CANCELED:
        lines = tuple(replace(line, canceled=line.quantity - line.shipped, fulfilled=line.shipped) for line in order.lines)
        changed = replace(changed, canceled_at=meta.occurred_at, lines=lines)
    return replace(state, order=changed)


def _held(state: State, order: OrderRow, event: OrderHoldPlaced, meta: EventMeta) -> State:
    """One more hold; that the authorization is about to end is said once."""
    held = (*(hold for hold in order.holds if hold.hold != event.hold), Hold(event.hold, event.reason, meta.occurred_at))
    expiring_at = None if event.hold == PAYMENT_EXPIRING else order.expiring_at
    return replace(state, order=replace(order, version=order.version + 1, holds=held, expiring_at=expiring_at))


# -- stock ----------------------------------------------------------------------------------------------------------------------------


def _asked(state: State, order: OrderRow, event: StockAsked, meta: EventMeta) -> State:
    """The rows of what was asked say so until the owners answer; the order counts the answers it waits for."""
    answers = dict(state.stock_answer)
    wanted = _grown(order) if event.ask == MORE else demand(order.lines)
    counted = 0
    for reservation_id in event.reservation_ids:
        key = answer_key(state.key, reservation_id)
        row = answers.get(key)
        if event.ask in ("reserve", MORE):
            parsed = parse_reservation(reservation_id)
            sku = parsed[0] if parsed else ""
            answers[key] = StockAnswerRow(reservation_id, sku, AWAITED["reserve"], wanted.get(sku, 0), due_at=event.reserved_until)
            counted += 1
        elif event.ask in AWAITED and row is not None:
            answers[key] = replace(row, outcome=AWAITED[event.ask])
            counted += 1
    asked = replace(order, attempt=event.attempt, step=event.ask, answers_open=counted, due_at=event.due_at, asked_at=meta.occurred_at)
    return replace(state, order=asked, stock_answer=answers)


def _grown(order: OrderRow) -> Mapping[str, int]:
    """Units that an edit wants more, by sku."""
    named = {line.line_id: line.quantity for line in order.edit.lines} if order.edit else {}
    more = (replace(line, quantity=max(0, named.get(line.line_id, 0) - line.quantity), canceled=0) for line in order.lines)
    return demand(more)


def _edited(state: State, order: OrderRow, event: OrderEdited) -> State:
    """Fewer units are assigned to nobody any more; more are, as soon as their fulfillment is made."""
    changes = {line.line_id: line.quantity_delta for line in event.delta}
    lines = tuple(
        replace(line, quantity=line.quantity + changes[line.line_id], fulfilled=line.fulfilled + min(0, changes[line.line_id]))
        if line.line_id in changes
        else line
        for line in order.lines
    )
    return replace(state, order=replace(_rested(order), version=order.version + 1, lines=lines))


def _rested(order: OrderRow) -> OrderRow:
    """Without its edit, for which it waits no more."""
    return replace(order, edit=None, step="", due_at=None) if order.step in (MORE, MORE_MONEY) else replace(order, edit=None)


def _answered(state: State, order: OrderRow, event: StockAnswerRecorded) -> State:
    key = answer_key(state.key, event.reservation_id)
    row = state.stock_answer.get(key)
    outcome = outcome_after(row, event)
    if row is None or outcome is None:
        return state
    changed = replace(
        row,
        outcome=outcome,
        allocations=event.allocations,
        due_at=event.due_at,
        available_after=event.available_after,
        contended=event.contended,
        reason=event.reason,
    )
    if row.outcome == AWAITED.get(order.step) and outcome != row.outcome:
        order = replace(order, answers_open=order.answers_open - 1)
    return replace(state, order=order, stock_answer={**state.stock_answer, key: changed})


def _line_canceled(state: State, order: OrderRow, event: OrderLineCanceled) -> State:
    """Fewer units are wanted. Those of a pending order are assigned to nobody yet: it wants no more of their owner than it was given."""
    if order.status is not OrderStatus.PENDING:
        lines = tuple(_less(line, event.quantity) if line.line_id == event.line_id else line for line in order.lines)
        return replace(state, order=replace(order, version=order.version + 1, lines=lines))
    lines = tuple(replace(line, canceled=line.canceled + event.quantity) if line.line_id == event.line_id else line for line in order.lines)
    answers = dict(state.stock_answer)
    row = latest(answers.values(), order.attempt).get(event.sku)
    if row is not None:
        answers[answer_key(state.key, row.reservation_id)] = replace(row, quantity=row.quantity - event.quantity)
    return replace(state, order=replace(order, version=order.version + 1, lines=lines), stock_answer=answers)


# -- fulfillments ---------------------------------------------------------------------------------------------------------------------


def _fulfillment_created(state: State, order: OrderRow, event: FulfillmentCreated) -> State:
    if event.fulfillment_id in state.fulfillment:
        return state
    lines = tuple(FulfillmentLine(line.line_id, line.sku, line.reservation_id, line.quantity) for line in event.lines)
    row = FulfillmentRow(event.fulfillment_id, 1, event.location_id, FulfillmentStatus.PENDING, lines, due_at=event.due_at)
    assigned = _by_line(lines, "ordered")
    counted = tuple(replace(line, fulfilled=line.fulfilled + assigned.get(line.line_id, 0)) for line in order.lines)
    order = replace(order, version=order.version + 1, fulfillment_count=order.fulfillment_count + 1, lines=counted)
    return replace(state, order=order, fulfillment={**state.fulfillment, row.fulfillment_id: row})


def _fulfillment_moved(state: State, order: OrderRow, event: FulfillmentStatusChanged, meta: EventMeta) -> State:
    row = state.fulfillment.get(event.fulfillment_id)
    if row is None or row.status != event.previous_status:
        return state
    changed = moved(row, event)
    ends = event.new_status is FulfillmentStatus.CANCELED
    reached = RANKS.get(event.new_status, 0)
    changed = _settled(changed, meta, lambda post: ends or _rank(post) <= reached)
    counted = order.lines
    if ends or event.new_status is FulfillmentStatus.SHIPPED:
        ordered = _by_line(changed.lines, "ordered")
        shipped = {} if ends else _by_line(changed.lines, "shipped")
        counted = tuple(_sent(line, ordered.get(line.line_id, 0), shipped.get(line.line_id, 0)) for line in order.lines)
    order = replace(order, version=order.version + 1, lines=counted)
    return replace(state, order=order, fulfillment={**state.fulfillment, row.fulfillment_id: changed})


def _reduced(state: State, order: OrderRow, event: FulfillmentReduced) -> State:
    row = state.fulfillment.get(event.fulfillment_id)
    if row is None:
        return state
    order = replace(order, version=order.version + 1)
    return replace(state, order=order, fulfillment={**state.fulfillment, row.fulfillment_id: reduced(row, event)})


def _less(line: OrderLine, quantity: int) -> OrderLine:
    return replace(line, canceled=line.canceled + quantity, fulfilled=line.fulfilled - quantity)


def _rank(post: BufferedPost) -> int:
    status = status_named(post.status)
    return RANKS.get(status, 0) if status else 0


def _settled(row: FulfillmentRow, meta: EventMeta, settles: Callable[[BufferedPost], bool]) -> FulfillmentRow:
    """The fulfillment with these of its open posts marked as settled by this event; `react` answers those who sent them."""
    posts = tuple(replace(post, at=-meta.sequence) if post.at > 0 and settles(post) else post for post in row.buffered)
    return replace(row, buffered=posts)


def _sent(line: OrderLine, ordered: int, shipped: int) -> OrderLine:
    """Of `ordered` units assigned to a fulfillment `shipped` left; the others never will."""
    short = ordered - shipped
    return replace(line, shipped=line.shipped + shipped, canceled=line.canceled + short, fulfilled=line.fulfilled - short)


def _by_line(lines: tuple[FulfillmentLine, ...], counter: str) -> Mapping[str, int]:
    found: dict[str, int] = {}
    for line in lines:
        found[line.line_id] = found.get(line.line_id, 0) + getattr(line, counter)
    return found


def _buffered(state: State, event: FulfillmentStatusBuffered) -> State:
    """One more post waits, or waits longer; posts of one status wait together. Settled ones are forgotten here."""
    row = state.fulfillment.get(event.fulfillment_id)
    if row is None:
        return state
    kept = []
    for post in row.buffered:
        if post.at > 0 and post.command_id != event.command_id:
            kept.append(replace(post, at=max(post.at, event.due_at)) if post.status == event.posted else post)
    kept.append(BufferedPost(event.posted, event.command_id, event.due_at, event.lines))
    changed = replace(row, buffered=tuple(kept))
    return replace(state, fulfillment={**state.fulfillment, row.fulfillment_id: changed})


def _ignored(state: State, event: FulfillmentStatusIgnored, meta: EventMeta) -> State:
    row = state.fulfillment.get(event.fulfillment_id)
    if row is None or event.reason == Reason.STALE_STATUS:
        return state
    changed = _settled(row, meta, lambda post: post.status == event.posted)
    return replace(state, fulfillment={**state.fulfillment, row.fulfillment_id: changed})


def _delivered(state: State, order: OrderRow, event: DeliveryConfirmed) -> State:
    row = state.fulfillment.get(event.fulfillment_id)
    if row is None or row.status is not FulfillmentStatus.SHIPPED:
        return state
    shipped = _by_line(row.lines, "shipped")
    lines = tuple(replace(line, delivered=line.delivered + shipped.get(line.line_id, 0)) for line in order.lines)
    return replace(state, order=replace(order, version=order.version + 1, delivered_at=event.delivered_at, lines=lines))


def _undelivered(state: State, order: OrderRow, event: DeliveryFailed) -> State:
    """Units that did not arrive are neither shipped nor to be shipped again."""
    row = state.fulfillment.get(event.fulfillment_id)
    if row is None or row.status is not FulfillmentStatus.SHIPPED:
        return state
    failed = _by_line(row.lines, "shipped")
    lines = tuple(_unsent(line, failed.get(line.line_id, 0)) for line in order.lines)
    return replace(state, order=replace(order, version=order.version + 1, lines=lines))


def _unsent(line: OrderLine, units: int) -> OrderLine:
    return replace(line, shipped=line.shipped - units, canceled=line.canceled + units, fulfilled=line.fulfilled - units)
