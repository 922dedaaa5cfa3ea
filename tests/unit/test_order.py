"""Order rules: what is refused at the door and why, what is accepted, which status may follow which."""

from typing import Any

import pytest
from domain_harness import NOW, Log
from domain_orders import GIVE_UP, REACHED, UNTIL, answer, confirmed, in_status, item, place, placed, refused, shipped
from msgspec.structs import replace

from orderflow.streams.domain import money, orders
from orderflow.streams.domain.channel import BOX, ChannelPolicy
from orderflow.streams.domain.contract import Send, Settle, Shortage
from orderflow.streams.domain.order_records import (
    AnswerShortage,
    CancelOrder,
    FulfillmentStatus,
    OrderCreated,
    OrderRejected,
    OrderStatus,
    OrderStatusChanged,
    PlacedLine,
    PlaceHold,
    PlaceOrder,
    RecordDelivery,
    RecordUndelivered,
    ReleaseHold,
    ShipTo,
    StockAsked,
)
from orderflow.streams.domain.order_status import TRANSITIONS, label, status_changed
from orderflow.streams.domain.parts import Holder, Money
from orderflow.streams.domain.payment_records import RetryPayment
from orderflow.streams.domain.reasons import Reason
from orderflow.streams.domain.stock_records import CommitReservation, ReleaseReservation, ReserveStock
from orderflow.streams.domain.transitions import mermaid


# -- placing --------------------------------------------------------------------------------------------------------------------------
def test_an_order_is_accepted_and_asks_every_sku_once_with_its_lines_summed() -> None:
    log = Log("orders", "o1")
    outcome = log.when(place(item("1", "B", 2), item("2", "A", 1), item("3", "B", 3)), command_id="place", principal="shop")
    created, asked = outcome.events
    assert isinstance(created, OrderCreated)
    assert (created.channel, created.policy_version, created.payment_terms, created.partial_policy) == ("box", 7, "invoice", "reject")
    assert (created.time_zone, created.created_by) == ("UTC", "shop")
    assert asked == StockAsked("reserve", 1, ("A~o1~1", "B~o1~1"), GIVE_UP, UNTIL)
    assert outcome.sends == [
        Send("stock", "A", ReserveStock("A~o1~1", Holder("o1", 1), 1, UNTIL, line_ids=("2",))),
        Send("stock", "B", ReserveStock("B~o1~1", Holder("o1", 1), 5, UNTIL, line_ids=("1", "3"))),
    ]
    assert outcome.waits and log.snapshot("order").status is OrderStatus.PENDING


def test_lines_that_name_a_location_are_served_from_there() -> None:
    lines = (item("1", "A", 1, location_id="north"), item("2", "B", 1, location_id="south"), item("3", "B", 1))
    outcome = Log("orders", "o1").when(place(*lines))
    assert [(send.command.preferred, send.command.allow_other) for send in outcome.sends] == [(("north",), False), (("south",), True)]
    by_channel = Log("orders", "o1", channel=replace(BOX, default_location="main")).when(place(*lines))
    assert [(send.command.preferred, send.command.allow_other) for send in by_channel.sends] == [
        (("north",), False),
        (("south", "main"), False),
    ]


def test_only_items_need_stock() -> None:
    outcome = Log("orders", "o1").when(place(item("1", "A", 2), PlacedLine("2", "", 1, "shipping"), PlacedLine("3", "", 1, "fee")))
    assert [send.key for send in outcome.sends] == ["A"]


EUR = "EUR"
PRICED = item(unit_price=Money(500, EUR))
MANY = tuple(item(str(number), f"S{number}") for number in range(101))
REFUSED_PLACES: list[tuple[Reason, PlaceOrder, ChannelPolicy | None]] = [
    (Reason.SCHEMA_INVALID, place(customer_ref="a person"), BOX),
    (Reason.SCHEMA_INVALID, place(subject_id="a/b"), BOX),
    (Reason.SCHEMA_INVALID, place(time_zone="Mars/Olympus"), BOX),
    (Reason.SCHEMA_INVALID, place(payment_terms="gold"), BOX),
    (Reason.SCHEMA_INVALID, place(partial_policy="maybe"), BOX),
    (Reason.SCHEMA_INVALID, place(attributes={str(number): "" for number in range(33)}), BOX),
    (Reason.SCHEMA_INVALID, place(item(""), item("2")), BOX),
    (Reason.SCHEMA_INVALID, place(item("1"), item("1")), BOX),
    (Reason.SCHEMA_INVALID, place(item(kind="gift")), BOX),
    (Reason.SCHEMA_INVALID, place(item(sku="no sku")), BOX),
    (Reason.SCHEMA_INVALID, place(item(sku="")), BOX),
    (Reason.EMPTY_LINES, PlaceOrder("box"), BOX),
    (Reason.EMPTY_LINES, place(PlacedLine("1", "", 1, "fee")), BOX),
    (Reason.LINE_LIMIT, place(*MANY), BOX),
    (Reason.QUANTITY_INVALID, place(item(quantity=0)), BOX),
    (Reason.QUANTITY_INVALID, place(item(quantity=-1)), BOX),
    (Reason.QUANTITY_LIMIT, place(item(quantity=1000)), BOX),
    (Reason.QUANTITY_LIMIT, place(item("1", quantity=26), item("2", quantity=25)), BOX),
    (Reason.UNKNOWN_CHANNEL, place(channel="nowhere"), None),
    (Reason.UNKNOWN_CHANNEL, place(channel=""), None),
    (Reason.UNKNOWN_LOCATION, place(item(location_id="default")), BOX),
    (Reason.PAYMENT_METHOD_INELIGIBLE, place(PRICED, payment_terms="cod"), replace(BOX, cod_maximum={EUR: 499})),
    (Reason.PAYMENT_METHOD_INELIGIBLE, place(PRICED), replace(BOX, payment_terms="cod", cod_maximum={EUR: 499})),
    (Reason.PAYMENT_METHOD_INELIGIBLE, place(PRICED, payment_terms="prepaid", payment_method="wallet"), BOX),
    (
        Reason.PAYMENT_METHOD_INELIGIBLE,
        place(PRICED, payment_terms="prepaid", payment_method="card"),
        replace(BOX, payment_methods=("wallet",)),
    ),
    (Reason.PAYMENT_METHOD_INELIGIBLE, place(PRICED, payment_method="card"), BOX),
    (Reason.SCHEMA_INVALID, place(PRICED, payment_terms="prepaid", payment_method="shells"), BOX),
    (Reason.POLICY_UNSUPPORTED, place(), replace(BOX, capacity="slots")),
    (Reason.POLICY_UNSUPPORTED, place(), replace(BOX, fraud=True)),
    (Reason.POLICY_UNSUPPORTED, place(), replace(BOX, qc=True)),
    (Reason.POLICY_UNSUPPORTED, place(), replace(BOX, stock_buffer=3)),
    (Reason.CURRENCY_UNSUPPORTED, place(PRICED), replace(BOX, currency="VND")),
    (Reason.CURRENCY_UNSUPPORTED, place(currency="USD"), replace(BOX, currency="VND")),
    (Reason.CURRENCY_UNSUPPORTED, place(PRICED, item("2", unit_price=Money(5, "VND"))), BOX),
    (Reason.PRICE_MISSING, place(PRICED, item("2")), replace(BOX, price_required=True)),
    (Reason.PRICE_MISSING, place(payment_terms="cod"), BOX),
    (Reason.PRICE_MISSING, place(payment_terms="prepaid"), BOX),
    (Reason.PRICE_INVALID, place(item(unit_price=Money(-5, EUR))), BOX),
    (Reason.PRICE_INVALID, place(item(unit_price=Money(5, EUR), discount=Money(6, EUR))), BOX),
    (Reason.AMOUNT_OVERFLOW, place(item(quantity=2, unit_price=Money(2**53, EUR))), BOX),
    (Reason.ADDRESS_INCOMPLETE, place(), replace(BOX, address_required=True)),
    (Reason.ADDRESS_INCOMPLETE, place(ship_to=ShipTo("s1")), replace(BOX, address_required=True)),
]


@pytest.mark.parametrize(("reason", "command", "channel"), REFUSED_PLACES)
def test_an_order_is_refused_with_its_reason_and_asks_nobody(reason: Reason, command: PlaceOrder, channel: ChannelPolicy | None) -> None:
    log = Log("orders", "o1", channel=channel)
    outcome = log.when(command, command_id="place")
    assert len(outcome.events) == 1 and outcome.refused.reason == reason
    assert outcome.sends == [] and log.rows.order is None and not outcome.waits


def test_of_several_reasons_the_first_of_the_list_is_named() -> None:
    """Everything wrong at once, then one thing less each time: the reasons come in the order of the enum."""
    wrong = PlaceOrder(
        "box",
        customer_ref="a person",
        payment_terms="cod",
        lines=(item("1", quantity=0, location_id="moon", unit_price=Money(-1, EUR)), item("2", quantity=1000), *MANY),
    )
    policy = replace(BOX, address_required=True, currency="VND", price_required=True, cod_maximum={"VND": 1}, stock_buffer=1)
    seen = []
    repairs: dict[Reason, dict[str, Any]] = {
        Reason.SCHEMA_INVALID: {"customer_ref": "c1", "lines": tuple(replace(line, line_id=f"l{n}") for n, line in enumerate(wrong.lines))},
        Reason.LINE_LIMIT: {"lines": wrong.lines[:2]},
        Reason.QUANTITY_INVALID: {"lines": (replace(wrong.lines[0], quantity=1), wrong.lines[1])},
        Reason.QUANTITY_LIMIT: {"lines": (replace(wrong.lines[0], quantity=1), replace(wrong.lines[1], quantity=1))},
        Reason.UNKNOWN_LOCATION: {"lines": (item("1", unit_price=Money(-1, EUR)), item("2"))},
        Reason.PAYMENT_METHOD_INELIGIBLE: {"payment_terms": "invoice"},
        Reason.POLICY_UNSUPPORTED: {},
        Reason.CURRENCY_UNSUPPORTED: {"currency": "VND", "lines": (item("1", unit_price=Money(-1, "VND")), item("2"))},
        Reason.PRICE_MISSING: {"lines": (item("1", unit_price=Money(-1, "VND")), item("2", unit_price=Money(1, "VND")))},
        Reason.PRICE_INVALID: {"lines": (item("1", unit_price=Money(1, "VND")), item("2", unit_price=Money(1, "VND")))},
        Reason.ADDRESS_INCOMPLETE: {"ship_to": ShipTo("s1", country="VN")},
    }
    while (refusal := Log("orders", "o1", channel=policy).when(wrong).refused) is not None:
        seen.append(refusal.reason)
        wrong = replace(wrong, **repairs[refusal.reason])
        policy = replace(policy, stock_buffer=0) if refusal.reason is Reason.POLICY_UNSUPPORTED else policy
    assert seen == sorted(repairs, key=list(Reason).index)


def test_an_impossible_order_id_is_refused() -> None:
    assert Log("orders", "o~1").when(place()).refused.reason == Reason.SCHEMA_INVALID


def test_an_order_exists_once() -> None:
    log = placed()
    assert log.when(place(), command_id="another").refused.reason == Reason.ALREADY_PLACED
    repeat = log.when(place(), command_id="place")
    assert repeat.events == [] and repeat.waits, "the same command waits for the same answer"


def test_a_place_after_its_deadline_is_refused() -> None:
    assert Log("orders", "o1").when(place(), deadline_at=NOW - 1).refused.reason == Reason.DEADLINE_PASSED
    assert Log("orders", "o1").when(place(), expected_version=1).refused.reason == Reason.VERSION_CONFLICT


def test_totals_are_sums_of_the_lines() -> None:
    lines = (
        item("1", "A", 3, unit_price=Money(1000, EUR), discount=Money(500, EUR), tax=Money(475, EUR)),
        PlacedLine("2", "", 1, "shipping", unit_price=Money(490, EUR), tax=Money(93, EUR)),
    )
    created = Log("orders", "o1").when(place(*lines)).events[0]
    sums = created.totals
    amounts = [each.amount_minor for each in (sums.items, sums.discount, sums.shipping, sums.tax, sums.total)]
    assert amounts == [3000, 500, 490, 568, 3558] and sums.total.currency == created.currency == EUR
    assert Log("orders", "o1").when(place(item(unit_price=Money(1, EUR)), item("2"))).events[0].totals is None
    assert money.totals((), EUR) is None


# -- confirming and rejecting ---------------------------------------------------------------------------------------------------------
def test_invoice_terms_confirm_commit_and_plan_on_the_last_yes() -> None:
    log = placed(item("1", "A", 2), item("2", "B", 1))
    first = log.when(answer("reserved", "B"))
    assert [type(event).__name__ for event in first.events] == ["StockAnswerRecorded"]
    outcome = log.when(answer("reserved", "A", 2))
    assert [(event.previous_status, event.new_status) for event in outcome.events if isinstance(event, OrderStatusChanged)] == [
        ("PENDING", "CONFIRMED"),
        ("CONFIRMED", "PROCESSING"),
    ]
    assert outcome.sends == [Send("stock", "A", CommitReservation("A~o1~1")), Send("stock", "B", CommitReservation("B~o1~1"))]
    assert outcome.settles == [Settle("place")]
    shown = log.snapshot("order")
    assert (shown.status, shown.label, shown.fulfillment_status) == ("PROCESSING", "processing", "planning")
    assert [(line.line_id, line.quantity, line.fulfilled) for line in shown.lines] == [("1", 2, 2), ("2", 1, 1)]
    assert list(log.timers()) == [], "a confirmed order waits for nobody"


def test_a_refusal_rejects_the_order_with_every_shortage_and_gives_the_rest_back() -> None:
    log = placed(item("1", "A", 2), item("2", "B", 3), item("3", "C", 4))
    log.when(refused("C", 4, 1))
    log.when(answer("reserved", "A", 2))
    outcome = log.when(refused("B", 3, 0))
    shortages = (Shortage("B", 3, 0), Shortage("C", 4, 1))
    assert OrderRejected(Reason.INSUFFICIENT_STOCK, shortages) in outcome.events
    (changed,) = [event for event in outcome.events if isinstance(event, OrderStatusChanged)]
    assert (changed.new_status, changed.label, changed.reason) == ("REJECTED", "canceled", "INSUFFICIENT_STOCK")
    assert outcome.sends == [Send("stock", "A", ReleaseReservation("A~o1~1"))]
    assert outcome.settles == [Settle("place", Reason.INSUFFICIENT_STOCK, shortages)]
    assert log.rows.stock_answer["o1~G1~A"].outcome == "releasing", "kept until the owner has said that it is released"
    assert log.when(answer("released", "A", 2)).sends == []
    assert log.snapshot("order").label == "canceled"


def test_the_first_reason_in_the_order_of_reasons_rejects() -> None:
    log = placed(item("1", "A"), item("2", "B"))
    log.when(refused("A"))
    outcome = log.when(refused("B", reason=Reason.UNKNOWN_SKU))
    assert outcome.settles[0].reason == Reason.UNKNOWN_SKU
    log = placed()
    assert log.when(refused(reason="OF_A_LATER_VERSION")).settles[0].reason == "OF_A_LATER_VERSION"


# -- transitions, all pairs -----------------------------------------------------------------------------------------------------------
COMMITTED = ("CONFIRMED", "PROCESSING", "CANCEL_PENDING")
STEPS: dict[str, tuple[Any, dict[str, str]]] = {
    "place": (place(), {}),
    "reserved": (answer("reserved"), {"PENDING": "PROCESSING"}),
    "refused": (refused(), {"PENDING": "REJECTED"}),
    "committed": (answer("committed"), {"FAILED": "REJECTED"}),  # nobody asked for it: not what was promised
    "released": (answer("released"), {"PENDING": "REJECTED", "FAILED": "REJECTED", **dict.fromkeys(COMMITTED, "CANCELED")}),
    "expired": (answer("expired"), {"PENDING": "EXPIRED", "FAILED": "EXPIRED", **dict.fromkeys(COMMITTED, "CANCELED")}),
    "cancel": (CancelOrder(), dict.fromkeys(("PENDING", "FAILED", "CONFIRMED", "PROCESSING"), "CANCEL_PENDING")),
    "retry": (RetryPayment(), {"FAILED": "PENDING"}),
    "shortage": (AnswerShortage("ship_available"), {}),
    "hold": (PlaceHold("CAPACITY"), {}),
    "release": (ReleaseHold("MANUAL"), {"CONFIRMED": "PROCESSING"}),
    "deliver": (RecordDelivery("", "", NOW), {"SHIPPED": "DELIVERED"}),
    "undelivered": (RecordUndelivered("lost", "", "", NOW), {"SHIPPED": "CANCELED"}),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("status", REACHED)
def test_every_pair_of_order_status_and_step(status: str, step: str) -> None:
    log = in_status(status)
    assert log.snapshot("order").status == status
    command, targets = STEPS[step]
    log.when(command, command_id="step")
    assert log.snapshot("order").status == targets.get(status, status)


def test_every_change_that_ever_happens_is_in_the_table_and_the_table_is_reached() -> None:
    seen = {("", "PENDING")}
    for status in REACHED:
        for command, _ in STEPS.values():
            log = in_status(status)
            log.when(command, command_id="step")
            seen |= {(event.previous_status, event.new_status) for event in log.named(OrderStatusChanged)}
    split = {("CANCEL_PENDING", "SHIPPED")}
    """A part was shipped (test_fulfillment)."""
    assert seen == TRANSITIONS.pairs - split


@pytest.mark.parametrize("source", OrderStatus)
@pytest.mark.parametrize("target", OrderStatus)
def test_a_change_that_no_rule_allows_cannot_be_written(source: OrderStatus, target: OrderStatus) -> None:
    order = placed().rows.order
    if TRANSITIONS.allows(source, target):
        assert status_changed(order, source, target).new_status is target
    else:
        with pytest.raises(AssertionError):
            status_changed(order, source, target)


def test_every_status_leads_somewhere_or_is_final() -> None:
    reachable = {"PENDING"}
    for _ in TRANSITIONS.states:
        reachable |= {target for source, target in TRANSITIONS.pairs if source in reachable}
    assert reachable == set(TRANSITIONS.states)
    assert TRANSITIONS.finals == {"REJECTED", "EXPIRED", "CANCELED", "COMPLETED"}


def test_the_table_is_drawn() -> None:
    drawn = mermaid(TRANSITIONS)
    assert drawn.startswith("stateDiagram-v2\n    [*] --> pending: PlaceOrder\n")
    assert "    completed --> [*]\n" in drawn and "    pending --> [*]" not in drawn


# -- labels and versions --------------------------------------------------------------------------------------------------------------
F = FulfillmentStatus


@pytest.mark.parametrize(
    ("status", "fulfillments", "shown"),
    [
        (OrderStatus.PENDING, [], "pending"),
        (OrderStatus.REJECTED, [], "canceled"),
        (OrderStatus.CANCEL_PENDING, [F.CANCELED], "cancel_pending"),
        (OrderStatus.PROCESSING, [F.PLANNING], "processing"),
        (OrderStatus.PROCESSING, [F.PICKING], "picking"),
        (OrderStatus.PROCESSING, [F.PICKED, F.PACKED], "picked"),
        (OrderStatus.PROCESSING, [F.READY], "ready"),
        (OrderStatus.PROCESSING, [F.SHIPPED, F.PACKED], "partially_shipped"),
        (OrderStatus.PROCESSING, [F.COMPLETED, F.PLANNING], "partially_shipped"),
        (OrderStatus.SHIPPED, [F.SHIPPED, F.CANCELED], "shipped"),
        (OrderStatus.SHIPPED, [F.SHIPPED, F.COMPLETED], "partially_delivered"),
        (OrderStatus.DELIVERED, [F.COMPLETED], "delivered"),
        (OrderStatus.COMPLETED, [F.COMPLETED], "completed"),
    ],
)
def test_the_label_people_see(status: OrderStatus, fulfillments: list[FulfillmentStatus], shown: str) -> None:
    assert label(status, fulfillments) == shown


def test_versions_count_what_is_seen_and_sequences_everything() -> None:
    log = placed()
    assert log.snapshot("order").version == 1
    log.when(CancelOrder("system"))
    assert (log.snapshot("order").version, log.snapshot("order").sequence) == (1, 3)
    log.when(answer("reserved"))
    shown = log.snapshot("order")
    assert (shown.version, shown.sequence) == (5, 9)


def test_snapshots_show_what_changed_only() -> None:
    log = confirmed()
    after = orders.State("o1", log.rows.order, {}, log.rows.fulfillment)
    assert orders.snapshots(after, after, 1, NOW) == ()
    assert orders.snapshots(orders.INITIAL, orders.INITIAL, 0, NOW) == ()
    assert [each.key for each in orders.snapshots(orders.INITIAL, after, 1, NOW)] == ["o1", "o1~F1"]


def test_events_before_an_order_exists_change_nothing() -> None:
    log = Log("orders", "o1")
    log.given(StockAsked("reserve", 1, ("A~o1~1",)))
    assert log.rows == log.initial
    log = placed()
    before = log.rows
    event = OrderStatusChanged("", OrderStatus.SHIPPED, OrderStatus.DELIVERED, "")
    assert log.given(OrderCreated("ORD-1"), event).rows == before
    assert orders.react(orders.INITIAL, event, log.events[-1][1]) == ()


def test_violations_name_what_is_wrong() -> None:
    log = shipped(item(quantity=2))
    assert orders.violations(log.rows) == () == orders.violations(orders.INITIAL)
    line, part = log.rows.order.lines[0], log.rows.fulfillment["o1~F1"]
    broken = orders.State(
        "o1",
        replace(log.rows.order, answers_open=-1, lines=(replace(line, delivered=3, canceled=1),)),
        {},
        {"o1~F1": replace(part, lines=(replace(part.lines[0], picked=1),))},
    )
    assert len(orders.violations(broken)) == 4
