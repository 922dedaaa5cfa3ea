"""Orders: what is refused at the door, what is accepted, what a cancel does (domain.md 2.2). Stock itself is asked in sourcing.py."""

from collections.abc import Iterator

from orderflow.streams.domain import fulfillment, money, order_edits, order_lines, payment, shortages
from orderflow.streams.domain.channel import PARTIAL_POLICIES, PAYMENT_METHODS, PAYMENT_TERMS, ChannelPolicy
from orderflow.streams.domain.contract import MICROS_PER_S, Refused, Settings, Turn
from orderflow.streams.domain.fulfillment_steps import CANCELED as FULFILLMENT_CANCELED
from orderflow.streams.domain.fulfillment_steps import COMPENSATED, FINISHED, PICKING, RANKS
from orderflow.streams.domain.fulfillment_steps import COMPLETED as FULFILLMENT_COMPLETED
from orderflow.streams.domain.fulfillment_steps import SHIPPED as FULFILLMENT_SHIPPED
from orderflow.streams.domain.ids import is_id, order_number, reservation_id
from orderflow.streams.domain.order_records import (
    CancelOrder,
    FulfillmentStatus,
    FulfillmentStatusChanged,
    OrderCreated,
    OrderEditFailed,
    OrderStatusChanged,
    PlacedLine,
    PlaceOrder,
    StockAsked,
)
from orderflow.streams.domain.order_rows import OrderRow, State
from orderflow.streams.domain.order_status import (
    CANCEL_PENDING,
    CANCELED,
    COMPLETED,
    DELIVERED,
    SHIPPED,
    SYSTEM,
    TRANSITIONS,
    delivered,
    status_changed,
)
from orderflow.streams.domain.reasons import Reason
from orderflow.streams.domain.refusals import refusal, untimely
from orderflow.streams.domain.stock_answers import demand, live
from orderflow.streams.domain.zones import is_zone

LINE_KINDS = ("item", "shipping", "fee")
ATTRIBUTES_MAX = 20
TOKEN_LENGTH_MAX = 128
"""As many as the edge takes."""
Fault = tuple[Reason, dict[str, str]]


def place(state: State, command: PlaceOrder, turn: Turn) -> tuple[OrderCreated | StockAsked | Refused, ...]:
    """Accept the order with the channel's values of this moment, and ask every sku for its units at once."""
    order = state.order
    if order is not None:
        if order.waiting[:1] == (turn.meta.command_id,):
            return ()
        return refusal(command, Reason.ALREADY_PLACED, order_number=order.order_number)
    reason = untimely(turn, 0)
    if reason is not None:
        return refusal(command, reason)
    policy = state.channel.policy if state.channel else None
    for reason, detail in _faults(command, policy, turn):
        return refusal(command, reason, **detail)
    assert policy is not None and state.channel is not None, "an unknown channel is a fault"
    time_zone = command.time_zone or policy.time_zone
    currency = _currency(command, policy)
    terms = command.payment_terms or policy.payment_terms
    created = OrderCreated(
        order_number(turn.key, turn.at, time_zone),
        command.channel,
        state.channel.version,
        terms,
        command.customer_ref,
        command.subject_id,
        currency,
        time_zone,
        tuple(_placed(line, policy) for line in command.lines),
        money.totals(command.lines, currency),
        command.ship_to,
        command.external_ref,
        command.partial_policy or policy.partial_policy,
        command.must_accept or policy.must_accept,
        command.attributes,
        turn.meta.principal,
        payment.COD if terms == payment.COD else policy.payment_provider,
        command.token_ref,
        policy.payment_attempts,
        (command.payment_method or policy.methods[0]) if terms == payment.PREPAID else "",
    )
    ids = tuple(reservation_id(sku, turn.key, 1) for sku in demand(command.lines))
    return created, asked_to_reserve(turn, 1, ids, created)


def asked_to_reserve(turn: Turn, attempt: int, reservation_ids: tuple[str, ...], order: OrderCreated | OrderRow) -> StockAsked:
    """Ask for units; they stay reserved for longer than the order waits, also for its payment and its customer, so that a yes is still
    true when read.
    """
    settings = turn.settings
    due_at = turn.at + settings.give_up_s * MICROS_PER_S
    more_s = settings.reservation_margin_s
    more_s += payment.window_s(settings, order)
    more_s += shortages.kept_s(settings, order)
    return StockAsked("reserve", attempt, reservation_ids, due_at, due_at + more_s * MICROS_PER_S)


def _placed(line: PlacedLine, policy: ChannelPolicy) -> PlacedLine:
    """The line, from the channel's default location unless it names one."""
    if line.location_id or not policy.default_location or line.kind != "item":
        return line
    return PlacedLine(
        line.line_id,
        line.sku,
        line.quantity,
        line.kind,
        line.unit_price,
        line.discount,
        line.tax,
        line.price_version,
        policy.default_location,
    )


def _currency(command: PlaceOrder, policy: ChannelPolicy) -> str:
    """The order's currency: its own, else the channel's, else that of its prices; none when nothing has a price."""
    prices = (each.currency for line in command.lines for each in money.moneys(line))
    return command.currency or policy.currency or next(prices, "")


def _faults(command: PlaceOrder, policy: ChannelPolicy | None, turn: Turn) -> Iterator[Fault]:
    """Everything that is wrong with it, in the order of the reasons."""
    yield from _faults_of_form(command, turn)
    yield from _faults_of_lines(command, turn.settings)
    if policy is None:
        yield Reason.UNKNOWN_CHANNEL, {"channel": command.channel}
    for line in command.lines:
        if line.location_id and line.location_id not in turn.settings.locations:
            yield Reason.UNKNOWN_LOCATION, {"line_id": line.line_id, "location_id": line.location_id}
    if policy is not None:
        yield from _faults_of_policy(command, policy)
        yield from _faults_of_money(command, policy)
        if policy.address_required and (command.ship_to is None or not command.ship_to.country):
            yield Reason.ADDRESS_INCOMPLETE, {"field": "ship_to"}


def _faults_of_form(command: PlaceOrder, turn: Turn) -> Iterator[Fault]:
    """What cannot be meant, whatever the channel."""
    if not is_id(turn.key):
        yield Reason.SCHEMA_INVALID, {"field": "order_id"}
    for field, value in (("customer_ref", command.customer_ref), ("subject_id", command.subject_id)):
        if value and not is_id(value):
            yield Reason.SCHEMA_INVALID, {"field": field}
    if command.time_zone and not is_zone(command.time_zone):
        yield Reason.SCHEMA_INVALID, {"field": "time_zone"}
    if command.payment_terms and command.payment_terms not in PAYMENT_TERMS:
        yield Reason.SCHEMA_INVALID, {"field": "payment_terms"}
    if command.partial_policy and command.partial_policy not in PARTIAL_POLICIES:
        yield Reason.SCHEMA_INVALID, {"field": "partial_policy"}
    if command.payment_method and command.payment_method not in PAYMENT_METHODS:
        yield Reason.SCHEMA_INVALID, {"field": "payment_method"}
    if len(command.attributes) > ATTRIBUTES_MAX:
        yield Reason.SCHEMA_INVALID, {"field": "attributes"}
    if len(command.token_ref) > TOKEN_LENGTH_MAX:
        yield Reason.SCHEMA_INVALID, {"field": "token_ref"}
    seen = set()
    for line in command.lines:
        if not is_id(line.line_id) or line.line_id in seen:
            yield Reason.SCHEMA_INVALID, {"field": "line_id", "line_id": line.line_id}
        if line.kind not in LINE_KINDS:
            yield Reason.SCHEMA_INVALID, {"field": "kind", "line_id": line.line_id}
        if line.kind == "item" and not is_id(line.sku):
            yield Reason.SCHEMA_INVALID, {"field": "sku", "line_id": line.line_id}
        seen.add(line.line_id)


def _faults_of_lines(command: PlaceOrder, settings: Settings) -> Iterator[Fault]:
    """Too few lines, too many, or quantities nobody may order (domain.md 2.1)."""
    if not any(line.kind == "item" for line in command.lines):
        yield Reason.EMPTY_LINES, {}
    if len(command.lines) > settings.lines_max:
        yield Reason.LINE_LIMIT, {"lines": str(len(command.lines)), "most": str(settings.lines_max)}
    for line in command.lines:
        if line.quantity < 1:
            yield Reason.QUANTITY_INVALID, {"line_id": line.line_id, "quantity": str(line.quantity)}
    for line in command.lines:
        if line.quantity > settings.quantity_per_line_max:
            yield Reason.QUANTITY_LIMIT, {"line_id": line.line_id, "most": str(settings.quantity_per_line_max)}
    for sku, quantity in demand(command.lines).items():
        if quantity > settings.quantity_per_sku_max:
            yield Reason.QUANTITY_LIMIT, {"sku": sku, "most": str(settings.quantity_per_sku_max)}


def _faults_of_policy(command: PlaceOrder, policy: ChannelPolicy) -> Iterator[Fault]:
    """What the channel wants and these rules cannot keep: refused loudly rather than half done."""
    if policy.capacity != "unlimited":
        yield Reason.POLICY_UNSUPPORTED, {"capacity": policy.capacity, "possible": "unlimited"}
    for name, wanted in (("fraud", policy.fraud), ("qc", policy.qc), ("stock_buffer", policy.stock_buffer)):
        if wanted:
            yield Reason.POLICY_UNSUPPORTED, {name: str(wanted).lower(), "possible": "off"}


def _faults_of_money(command: PlaceOrder, policy: ChannelPolicy) -> Iterator[Fault]:
    """Prices of another currency, missing, below zero, or larger than a number can say exactly."""
    currency = _currency(command, policy)
    if policy.currency and currency != policy.currency:
        yield Reason.CURRENCY_UNSUPPORTED, {"currency": currency, "possible": policy.currency}
    for line in command.lines:
        if any(each.currency != currency for each in money.moneys(line)):
            yield Reason.CURRENCY_UNSUPPORTED, {"line_id": line.line_id, "possible": currency}
    terms = command.payment_terms or policy.payment_terms
    required = policy.price_required or terms in payment.TERMS
    for line in command.lines:
        if required and line.unit_price is None:
            yield Reason.PRICE_MISSING, {"line_id": line.line_id}
    for line in command.lines:
        amount = line.unit_price.amount_minor * line.quantity if line.unit_price else 0
        discount = line.discount.amount_minor if line.discount else 0
        if any(each.amount_minor < 0 for each in money.moneys(line)) or discount > amount:
            yield Reason.PRICE_INVALID, {"line_id": line.line_id}
    sums = money.totals(command.lines, currency)
    if sums is not None and max(sums.items.amount_minor, sums.total.amount_minor) > money.AMOUNT_MINOR_MAX:
        yield Reason.AMOUNT_OVERFLOW, {"total": str(sums.total.amount_minor)}
    possible = policy.methods if terms == payment.PREPAID else ()
    if command.payment_method and command.payment_method not in possible:
        yield Reason.PAYMENT_METHOD_INELIGIBLE, {"payment_method": command.payment_method, "possible": ", ".join(possible)}
    most = policy.cod_maximum.get(currency) if terms == payment.COD else None
    if sums is not None and most is not None and sums.total.amount_minor > most:
        yield Reason.PAYMENT_METHOD_INELIGIBLE, {"payment_terms": terms, "most": str(most)}


# -- canceling ------------------------------------------------------------------------------------------------------------------------

CancelEvent = OrderStatusChanged | OrderEditFailed | FulfillmentStatusChanged | StockAsked


def cancel(state: State, command: CancelOrder, turn: Turn) -> tuple[CancelEvent | order_lines.Event | Refused, ...]:
    """Cancel the order while something of it has not left, or some of its units. A cancel of a canceled order is answered as done."""
    order = state.order
    if order is None:
        return refusal(command, Reason.NOT_FOUND)
    if order.status in (CANCELED, CANCEL_PENDING):
        return ()
    reason = untimely(turn, order.version) or _cancel_reason(order, command)
    if reason is not None:
        return refusal(command, reason, status=order.status.lower())
    if command.by == "customer" and not _in_window(state, order, turn):
        return refusal(command, Reason.CANCEL_WINDOW_CLOSED, window_s=str(turn.settings.cancel_window_s))
    if not order_lines.is_whole(order, command):
        for reason, detail in order_lines.faults(state, order, command):
            return refusal(command, reason, **detail)
        return order_lines.cancel(state, order, command)
    return canceling(state, order, command.reason, command.by, turn)


def _cancel_reason(order: OrderRow, command: CancelOrder) -> Reason | None:
    if command.by == SYSTEM:
        return Reason.SCHEMA_INVALID
    if not {line.line_id for line in command.lines} <= {line.line_id for line in order.lines}:
        return Reason.LINE_UNKNOWN
    if not TRANSITIONS.allows(order.status, CANCEL_PENDING):
        return Reason.ALREADY_SHIPPED if order.status in (SHIPPED, DELIVERED, COMPLETED) else Reason.ALREADY_FINAL
    return None


def _in_window(state: State, order: OrderRow, turn: Turn) -> bool:
    """A customer may cancel for an hour, and before picking."""
    if turn.at > order.placed_at + turn.settings.cancel_window_s * MICROS_PER_S:
        return False
    return all(RANKS.get(row.status, 0) < RANKS[PICKING] for row in state.fulfillment.values())


def canceling(state: State, order: OrderRow, reason: str, by: str, turn: Turn) -> tuple[CancelEvent, ...]:
    """Stop what has not left, ask every owner to release, and be canceled when all have answered and no money is kept."""
    rows = state.fulfillment.values()
    events: list[CancelEvent] = [*order_edits.ended(order, Reason.ALREADY_FINAL)]
    events += [status_changed(order, order.status, CANCEL_PENDING, [row.status for row in rows], reason, by)]
    stopped = [row for row in rows if row.status not in FINISHED and row.status is not FULFILLMENT_SHIPPED]
    events += (fulfillment.canceled(row) for row in stopped)
    ids = live(state.stock_answer.values())
    if ids:
        return (*events, StockAsked("release", order.attempt, ids))
    if not payment.is_undone(state, order):
        return tuple(events)
    left = [FULFILLMENT_CANCELED if row in stopped else row.status for row in rows]
    return (*events, *cancel_ended(order, left, reason, turn))


def cancel_ended(order: OrderRow, statuses: list[FulfillmentStatus], reason: str, turn: Turn) -> tuple[OrderStatusChanged, ...]:
    """Every owner has answered: the order is canceled, or what the fulfillments that left say."""
    left = [status for status in statuses if status not in (FULFILLMENT_CANCELED, COMPENSATED)]
    if not left:
        return (status_changed(order, CANCEL_PENDING, CANCELED, statuses, reason),)
    shipped = status_changed(order, CANCEL_PENDING, SHIPPED, statuses, reason)
    if any(status is not FULFILLMENT_COMPLETED for status in left):
        return (shipped,)
    return (shipped, delivered(order, statuses, turn))
