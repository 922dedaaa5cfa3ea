"""Fulfillment rules: posts in any order, quantities, who is meant by an order's id, what leaves stock, what a delivery ends."""

from itertools import permutations
from typing import Any

import pytest
from domain_harness import NOW, SETTINGS, Log, Outcome, seconds
from test_order import answer, confirmed, in_status, item, place, placed, shipped

from orderflow.streams.domain import orders
from orderflow.streams.domain.contract import Send, Settle, TimerDue
from orderflow.streams.domain.fulfillment_steps import (
    COUNTED,
    OPTIONAL,
    POSTED,
    RANKS,
    TRANSITIONS,
    WAY,
    label,
    status_named,
    steps_to,
)
from orderflow.streams.domain.order_records import (
    CancelOrder,
    DeliveryConfirmed,
    FulfillmentCreated,
    FulfillmentStatus,
    FulfillmentStatusBuffered,
    FulfillmentStatusChanged,
    FulfillmentStatusIgnored,
    LineQuantity,
    OrderStatus,
    PostFulfillmentStatus,
    RecordDelivery,
    RecordStockAnswer,
)
from orderflow.streams.domain.parts import Qty
from orderflow.streams.domain.reasons import Reason
from orderflow.streams.domain.stock_records import ShipStock

F = FulfillmentStatus


def post(status: str, *lines: LineQuantity, target: str = "o1") -> PostFulfillmentStatus:
    return PostFulfillmentStatus(target, status, None, lines)


def at_status(status: FulfillmentStatus, *lines: Any) -> Log:
    """A fulfillment that has come this far."""
    log = confirmed(*lines)
    for step in WAY[WAY.index(F.PICKING) : WAY.index(min(status, F.SHIPPED, key=WAY.index)) + 1]:
        log.when(post(step.lower()), command_id=f"to-{step}")
    if status is F.COMPLETED:
        log.when(RecordDelivery("", "", NOW))
    assert log.rows.fulfillment["o1~F1"].status is status
    return log


def two_locations() -> Log:
    """An order of 5 units, 3 of them in main and 2 in north."""
    log = placed(item(quantity=5))
    log.when(RecordStockAnswer("A~o1~1", "A", "reserved", 5, (Qty("main", "", 3), Qty("north", "", 2))))
    log.when(RecordStockAnswer("A~o1~1", "A", "committed", 5, (Qty("main", "", 3), Qty("north", "", 2))))
    return log


def went(outcome: Outcome) -> list[tuple[str, bool]]:
    return [(event.new_status.lower(), event.implied) for event in outcome.events if isinstance(event, FulfillmentStatusChanged)]


def current(log: Log, name: str = "o1~F1") -> FulfillmentStatus:
    found: FulfillmentStatus = log.rows.fulfillment[name].status
    return found


def progress(log: Log, name: str = "o1~F1") -> list[tuple[str, int, int, int, int]]:
    return [(line.line_id, line.ordered, line.picked, line.packed, line.shipped) for line in log.rows.fulfillment[name].lines]


# -- creating -------------------------------------------------------------------------------------------------------------------------
def test_one_fulfillment_per_location_with_the_lines_units() -> None:
    log = placed(item("1", "A", 2), item("2", "B", 3, location_id="north"), item("3", "B", 2))
    log.when(RecordStockAnswer("A~o1~1", "A", "reserved", 2, (Qty("north", "", 2),)))
    log.when(RecordStockAnswer("B~o1~1", "B", "reserved", 5, (Qty("main", "", 2), Qty("north", "", 3))))
    created = [
        (event.fulfillment_id, event.location_id, [(line.line_id, line.quantity, line.reservation_id) for line in event.lines])
        for event in log.named(FulfillmentCreated)
    ]
    assert created == [
        ("o1~F1", "main", [("3", 2, "B~o1~1")]),
        ("o1~F2", "north", [("1", 2, "A~o1~1"), ("2", 3, "B~o1~1")]),
    ]
    assert [row.status for row in log.rows.fulfillment.values()] == [F.PLANNING, F.PLANNING]
    assert log.snapshot("fulfillment").order_id == "o1"


# -- every pair of status and post ----------------------------------------------------------------------------------------------------
REACHED = (*WAY[1:], F.CANCELED)


@pytest.mark.parametrize("posted", FulfillmentStatus)
@pytest.mark.parametrize("status", REACHED)
def test_every_pair_of_fulfillment_status_and_post(status: FulfillmentStatus, posted: FulfillmentStatus) -> None:
    if status is F.CANCELED:
        log = in_status("CANCELED")
    else:
        log = at_status(status)
    before = log.rows
    outcome = log.when(post(posted.lower(), target="o1~F1"), command_id="step")
    if posted is F.UNKNOWN:
        assert outcome.refused.reason == Reason.UNKNOWN_STATUS
    elif posted is status:
        assert outcome.events == [], "the same status is answered as applied"
    elif posted not in RANKS or status is F.CANCELED:
        assert outcome.refused.reason == Reason.ILLEGAL_TRANSITION
    elif RANKS[posted] < RANKS[status]:
        assert outcome.events == [FulfillmentStatusIgnored("o1~F1", posted.lower(), Reason.STALE_STATUS)]
        assert log.rows == before
    elif posted not in POSTED:
        assert outcome.refused.reason == Reason.ILLEGAL_TRANSITION
    elif all(step in OPTIONAL for step in WAY[WAY.index(status) + 1 : WAY.index(posted)]):
        steps = WAY[WAY.index(status) + 1 : WAY.index(posted) + 1]
        assert went(outcome) == [(step.lower(), step is not posted) for step in steps]
        assert current(log) is posted
    else:
        (event,) = outcome.events
        assert isinstance(event, FulfillmentStatusBuffered) and event.due_at == NOW + seconds(SETTINGS.buffered_post_s)
        assert outcome.waits and current(log) is status


def test_every_step_taken_is_in_the_table() -> None:
    seen = {("", "PENDING"), ("PENDING", "CANCELED")}
    for status in WAY[1:]:
        log = at_status(status)
        if TRANSITIONS.allows(status, F.CANCELED):
            log.when(CancelOrder())
        seen |= {(event.previous_status, event.new_status) for event in log.named(FulfillmentStatusChanged)}
    assert seen == TRANSITIONS.pairs
    assert TRANSITIONS.finals == {"COMPLETED", "CANCELED"}
    assert all(TRANSITIONS.allows(source, target) for source, target in zip(WAY, WAY[1:], strict=False))


def test_steps_nobody_has_to_report_are_implied() -> None:
    assert steps_to(F.PICKED, F.PACKED) == (F.PACKING, F.PACKED)
    assert steps_to(F.PACKED, F.SHIPPED) == (F.READY, F.SHIPPED)
    assert steps_to(F.PENDING, F.PICKING) == (F.PLANNING, F.PICKING)
    assert steps_to(F.PICKING, F.PACKED) is None
    assert {step for step in WAY if step in COUNTED} == {F.PICKED, F.PACKED, F.SHIPPED}


@pytest.mark.parametrize(
    ("word", "status"), [("Picked", F.PICKED), ("cancelled", F.CANCELED), ("unknown", None), ("", None), ("vanished", None)]
)
def test_words_of_callers(word: str, status: FulfillmentStatus | None) -> None:
    assert status_named(word) is status


# -- arrival orders -------------------------------------------------------------------------------------------------------------------
WORDS = ("picking", "picked", "packed", "shipped")


@pytest.mark.parametrize("arrival", list(permutations(WORDS)))
@pytest.mark.parametrize("committed", [True, False])
def test_all_24_arrival_orders_end_shipped(arrival: tuple[str, ...], committed: bool) -> None:
    log = confirmed(item(quantity=2), committed=committed)
    settled, answered = [], []
    for word in arrival:
        outcome = log.when(post(word), command_id=word)
        settled += [settle.command_id for settle in outcome.settles]
        if not outcome.waits:
            answered.append(word)
    if not committed:
        assert current(log) is F.PACKED, "it leaves when the units are the order's for good"
        last = log.when(answer("committed", quantity=2))
        settled += [settle.command_id for settle in last.settles]
    assert current(log) is F.SHIPPED
    assert log.snapshot("order").status is OrderStatus.SHIPPED and log.snapshot("order").label == "shipped"
    assert sorted(settled + answered) == sorted(WORDS), "every post got exactly one final answer"
    assert list(log.timers()) == []
    assert log.named(FulfillmentStatusIgnored) == []


@pytest.mark.parametrize("arrival", list(permutations(WORDS)))
def test_all_arrival_orders_with_every_post_twice_end_shipped(arrival: tuple[str, ...]) -> None:
    log = confirmed()
    sends = []
    for number, word in enumerate(arrival + arrival):
        sends += log.when(post(word), command_id=f"{word}-{number}").sends
    assert current(log) is F.SHIPPED and len(sends) == 1, "shipped once"


# -- the buffer -----------------------------------------------------------------------------------------------------------------------
def test_a_post_whose_predecessor_never_comes_is_given_up() -> None:
    log = confirmed()
    assert log.when(post("shipped"), command_id="p1").waits
    (timer,) = log.timers()
    assert (timer.kind, timer.due_at, timer.entity_id) == ("buffered_post", NOW + seconds(10), "o1~F1")
    outcome = log.when(timer)
    assert outcome.events == [FulfillmentStatusIgnored("o1~F1", "shipped", Reason.PREDECESSOR_MISSING)]
    assert outcome.settles == [Settle("p1", Reason.PREDECESSOR_MISSING)]
    assert list(log.timers()) == [] and not orders.waits(log.rows, post("shipped"), "p1")
    assert log.when(timer).events == [], "a double timer is nothing"


def test_posts_of_one_status_wait_together_and_are_answered_together() -> None:
    log = confirmed()
    log.when(post("picked"), command_id="p1")
    log.when(post("picked"), command_id="p2", at=NOW + seconds(5))
    log.when(post("packed"), command_id="p3", at=NOW + seconds(6))
    assert [timer.due_at for timer in log.timers()] == [NOW + seconds(15)]
    outcome = log.when(post("picking"), command_id="p0")
    assert [settle.command_id for settle in outcome.settles] == ["p1", "p2", "p3"]
    assert went(outcome) == [("picking", False), ("picked", False), ("packing", True), ("packed", False)]


def test_the_buffer_is_bounded() -> None:
    log = confirmed()
    for number in range(SETTINGS.buffered_posts_max):
        assert log.when(post("picked"), command_id=f"p{number}").refused is None
    assert log.when(post("packed"), command_id="full").refused.reason == Reason.PREDECESSOR_MISSING
    log.when(post("picking"), command_id="go")
    log.when(post("shipped"), command_id="again")
    assert len(log.rows.fulfillment["o1~F1"].buffered) == 1, "settled posts are forgotten when the next one waits"


def test_a_timer_gives_up_only_what_is_due() -> None:
    log = confirmed()
    log.when(post("picked"), command_id="p1")
    log.when(post("shipped"), command_id="p2", at=NOW + seconds(4))
    (timer,) = log.timers()
    assert log.when(timer).settles == [Settle("p1", Reason.PREDECESSOR_MISSING)]
    assert [each.due_at for each in log.timers()] == [NOW + seconds(14)]
    assert log.when(TimerDue("t", "buffered_post", NOW + seconds(14), "o1~F9", 1)).events == []


def test_a_post_waits_for_our_own_commit_as_long_as_a_saga_waits() -> None:
    log = confirmed(committed=False)
    for word in ("picking", "picked", "packed"):
        log.when(post(word), command_id=word)
    assert log.when(post("shipped"), command_id="ship").waits
    (timer,) = log.timers()
    assert timer.due_at == NOW + seconds(SETTINGS.give_up_s)
    outcome = log.when(timer)
    assert outcome.settles == [Settle("ship", Reason.STEP_TIMED_OUT)] and current(log) is F.PACKED


def test_a_post_whose_predecessors_come_waits_longer_for_our_own_commit() -> None:
    log = confirmed(committed=False)
    for word in ("shipped", "packed", "picked", "picking"):
        log.when(post(word), command_id=word, at=NOW + seconds(2))
    assert [timer.due_at for timer in log.timers()] == [NOW + seconds(2 + SETTINGS.give_up_s)]
    outcome = log.when(answer("committed"))
    assert outcome.settles == [Settle("shipped")]
    assert [send.command.fulfillment_id for send in outcome.sends] == ["o1~F1"]


def test_a_cancel_ends_waiting_posts() -> None:
    log = confirmed()
    log.when(post("shipped"), command_id="p1")
    outcome = log.when(CancelOrder(), command_id="cancel")
    assert Settle("p1", Reason.ILLEGAL_TRANSITION) in outcome.settles and list(log.timers()) == []


# -- quantities -----------------------------------------------------------------------------------------------------------------------
def test_a_post_without_quantities_means_all_and_with_them_just_those() -> None:
    log = confirmed(item("1", "A", 10), item("2", "B", 4))
    log.when(post("picking"))
    log.when(post("picked", LineQuantity("1", 8), LineQuantity("2", 4)), command_id="1")
    log.when(post("packed"), command_id="2")
    assert progress(log) == [("1", 10, 8, 8, 0), ("2", 4, 4, 4, 0)]
    outcome = log.when(post("shipped", LineQuantity("1", 7)), command_id="3")
    assert progress(log) == [("1", 10, 8, 8, 7), ("2", 4, 4, 4, 0)]
    assert outcome.sends == [
        Send("stock", "A", ShipStock("A~o1~1", "o1~F1", (Qty("main", "", 7),))),
        Send("stock", "B", ShipStock("B~o1~1", "o1~F1", (Qty("main", "", 0),))),
    ]
    lines = log.snapshot("order").lines
    assert [(line.shipped, line.canceled, line.fulfilled) for line in lines] == [(7, 3, 7), (0, 4, 0)]


@pytest.mark.parametrize(
    ("status", "posted", "lines", "reason"),
    [
        (F.PICKING, "picked", [LineQuantity("9", 1)], Reason.LINE_UNKNOWN),
        (F.PICKING, "picked", [LineQuantity("1", -1)], Reason.QUANTITY_INVALID),
        (F.PICKING, "picked", [LineQuantity("1", 1), LineQuantity("1", 1)], Reason.QUANTITY_INVALID),
        (F.PICKED, "packing", [LineQuantity("1", 1)], Reason.QUANTITY_INVALID),
        (F.READY, "shipped", [LineQuantity("1", 0)], Reason.QUANTITY_INVALID),
        (F.PICKING, "picked", [LineQuantity("1", 4)], Reason.QUANTITY_EXCEEDED),
        (F.PLANNING, "shipped", [LineQuantity("1", 4)], Reason.QUANTITY_EXCEEDED),
    ],
)
def test_impossible_quantities_are_refused(status: FulfillmentStatus, posted: str, lines: list[LineQuantity], reason: Reason) -> None:
    log = at_status(status, item(quantity=3))
    before = log.rows
    assert log.when(post(posted, *lines)).refused.reason == reason and log.rows == before


def test_quantities_may_not_exceed_the_step_before() -> None:
    log = at_status(F.PICKING, item(quantity=3))
    log.when(post("picked", LineQuantity("1", 2)), command_id="1")
    assert log.when(post("packed", LineQuantity("1", 3)), command_id="2").refused.reason == Reason.QUANTITY_EXCEEDED
    log.when(post("shipped", LineQuantity("1", 3)), command_id="3")
    outcome = log.when(post("packed"), command_id="4")
    assert outcome.settles == [Settle("3", Reason.QUANTITY_EXCEEDED)], "found out when its turn had come"
    assert current(log) is F.PACKED


def test_a_buffered_post_keeps_its_quantities() -> None:
    log = confirmed(item(quantity=10))
    log.when(post("shipped", LineQuantity("1", 8)), command_id="3")
    for word in ("packed", "picked", "picking"):
        log.when(post(word), command_id=word)
    assert progress(log) == [("1", 10, 10, 10, 8)]


def test_bug_54_five_lines_ship_five_reservations_once() -> None:
    lines = [item(str(number), f"S{number}", number) for number in range(1, 6)]
    log = at_status(F.READY, *lines)
    sends = [send for number in range(3) for send in log.when(post("shipped"), command_id=f"p{number}").sends]
    assert [(send.key, send.command.picked[0].quantity) for send in sends] == [(f"S{number}", number) for number in range(1, 6)]


def test_lines_of_one_sku_ship_as_one() -> None:
    log = at_status(F.READY, item("1", "A", 2), item("2", "A", 3))
    assert [send.command.picked for send in log.when(post("shipped")).sends] == [(Qty("main", "", 5),)]


# -- whom a post means ----------------------------------------------------------------------------------------------------------------
def test_an_order_id_will_do_while_one_fulfillment_is_open() -> None:
    log = two_locations()
    assert log.when(post("picking")).refused.reason == Reason.AMBIGUOUS_FULFILLMENT
    for word in WORDS:
        assert log.when(post(word, target="o1~F1"), command_id=f"1{word}").refused is None
    assert log.when(post("picking")).refused.reason == Reason.AMBIGUOUS_FULFILLMENT, "shipped is still open"
    log.when(RecordDelivery("", "o1~F1", NOW))
    assert log.when(post("picking", target="")).refused is None
    assert current(log, "o1~F2") is F.PICKING


def test_posts_that_mean_no_fulfillment_are_refused() -> None:
    assert Log("orders", "o1").when(post("picking")).refused.reason == Reason.NOT_FOUND
    assert confirmed().when(post("picking", target="o1~F9")).refused.reason == Reason.NOT_FOUND
    assert confirmed().when(post("picking", target="o2")).refused.reason == Reason.NOT_FOUND
    assert placed().when(post("picking")).refused.reason == Reason.PREDECESSOR_MISSING
    assert in_status("REJECTED").when(post("picking")).refused.reason == Reason.ILLEGAL_TRANSITION
    assert in_status("CANCELED").when(post("picking")).refused.reason == Reason.ILLEGAL_TRANSITION
    both = two_locations()
    for name in ("o1~F1", "o1~F2"):
        for word in WORDS:
            both.when(post(word, target=name), command_id=f"{name}{word}")
    both.when(RecordDelivery("", "", NOW))
    assert both.when(post("picking")).refused.reason == Reason.AMBIGUOUS_FULFILLMENT


def test_a_late_post_to_the_only_fulfillment_is_stale_also_when_it_is_completed() -> None:
    assert in_status("DELIVERED").when(post("picked")).events == [FulfillmentStatusIgnored("o1~F1", "picked", Reason.STALE_STATUS)]


def test_a_post_on_another_version_or_after_its_deadline_is_refused() -> None:
    assert confirmed().when(post("picking"), expected_version=1).refused.reason == Reason.VERSION_CONFLICT
    assert confirmed().when(post("picking"), expected_version=2).refused is None
    assert confirmed().when(post("picking"), deadline_at=NOW - 1).refused.reason == Reason.DEADLINE_PASSED


# -- delivery -------------------------------------------------------------------------------------------------------------------------
def test_a_delivery_completes_the_fulfillment_and_delivers_the_order() -> None:
    log = shipped(item(quantity=2))
    outcome = log.when(RecordDelivery("s1", "o1~F1", NOW + 5, "signature"))
    assert outcome.events[0] == DeliveryConfirmed("s1", "o1~F1", NOW + 5)
    assert went(outcome) == [("completed", False)]
    shown = log.snapshot("order")
    assert (shown.status, shown.label, shown.fulfillment_status) == ("DELIVERED", "delivered", "completed")
    assert [(line.shipped, line.delivered) for line in shown.lines] == [(2, 2)] and log.rows.order.delivered_at == NOW + 5
    assert log.when(RecordDelivery("s1", "o1~F1", NOW + 5), command_id="again").events == []


def test_an_order_is_shipped_and_delivered_when_every_fulfillment_is() -> None:
    log = two_locations()
    for word in WORDS:
        log.when(post(word, target="o1~F1"), command_id=f"1{word}")
    assert log.snapshot("order").label == "partially_shipped"
    log.when(RecordDelivery("", "o1~F1", NOW))
    assert log.snapshot("order").status is OrderStatus.PROCESSING
    for word in WORDS:
        log.when(post(word, target="o1~F2"), command_id=f"2{word}")
    assert (log.snapshot("order").status, log.snapshot("order").label) == ("SHIPPED", "partially_delivered")
    log.when(RecordDelivery("", "o1", NOW), command_id="all")
    assert log.snapshot("order").status is OrderStatus.DELIVERED
    assert sum(line.delivered for line in log.snapshot("order").lines) == 5


@pytest.mark.parametrize(
    ("log", "command", "reason"),
    [
        (Log("orders", "o1"), RecordDelivery("", "", NOW), Reason.NOT_FOUND),
        (confirmed(), RecordDelivery("", "o1~F9", NOW), Reason.NOT_FOUND),
        (confirmed(), RecordDelivery("", "o2", NOW), Reason.NOT_FOUND),
        (shipped(), RecordDelivery("", "", 0), Reason.SCHEMA_INVALID),
        (confirmed(), RecordDelivery("", "", NOW), Reason.ILLEGAL_TRANSITION),
        (placed(), RecordDelivery("", "", NOW), Reason.ILLEGAL_TRANSITION),
    ],
)
def test_a_delivery_is_refused_with_its_reason(log: Log, command: RecordDelivery, reason: Reason) -> None:
    assert log.when(command).refused.reason == reason


# -- canceling what is partly gone ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("delivered", [False, True])
def test_a_cancel_stops_what_has_not_left_and_keeps_the_rest(delivered: bool) -> None:
    log = two_locations()
    for word in WORDS:
        log.when(post(word, target="o1~F1"), command_id=f"1{word}")
    left = RecordStockAnswer("A~o1~1", "A", "shipped", 3, (Qty("north", "", 2),))
    log.when(left)
    if delivered:
        log.when(RecordDelivery("", "o1~F1", NOW))
    outcome = log.when(CancelOrder(), command_id="cancel")
    assert [current(log, name) for name in ("o1~F1", "o1~F2")] == [F.COMPLETED if delivered else F.SHIPPED, F.CANCELED]
    assert outcome.waits
    last = log.when(answer("released", quantity=2))
    assert last.settles == [Settle("cancel")]
    shown = log.snapshot("order")
    assert shown.status is (OrderStatus.DELIVERED if delivered else OrderStatus.SHIPPED)
    assert [(line.shipped, line.canceled, line.fulfilled) for line in shown.lines] == [(3, 2, 3)]


def test_a_delivery_while_the_cancel_of_the_rest_is_open_counts() -> None:
    log = two_locations()
    for word in WORDS:
        log.when(post(word, target="o1~F1"), command_id=f"1{word}")
    log.when(CancelOrder(), command_id="cancel")
    log.when(RecordDelivery("", "o1~F1", NOW))
    assert log.snapshot("order").status is OrderStatus.CANCEL_PENDING
    log.when(answer("released", quantity=2))
    assert log.snapshot("order").status is OrderStatus.DELIVERED


# -- labels, strange events -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("statuses", "shown"),
    [
        ([], ""),
        ([F.CANCELED], "canceled"),
        ([F.PLANNING, F.SHIPPED], "partially_shipped"),
        ([F.COMPLETED, F.CANCELED], "completed"),
        ([F.PACKING, F.PACKED], "packing"),
    ],
)
def test_one_word_for_all_fulfillments(statuses: list[FulfillmentStatus], shown: str) -> None:
    assert label(statuses) == shown


def test_events_that_do_not_fit_change_nothing() -> None:
    log = confirmed()
    before = log.rows
    log.given(
        FulfillmentCreated("o1~F1", "north"),
        FulfillmentStatusChanged("o1~F1", "main", F.PACKED, F.READY),
        FulfillmentStatusChanged("o1~F9", "main", F.PACKED, F.READY),
        FulfillmentStatusBuffered("o1~F9", "picked", "c", NOW),
        FulfillmentStatusIgnored("o1~F9", "picked", Reason.PREDECESSOR_MISSING),
        DeliveryConfirmed("", "o1~F1", NOW),
    )
    assert log.rows == before
    event, meta = FulfillmentStatusChanged("o1~F9", "main", F.READY, F.SHIPPED), log.events[-1][1]
    assert orders.react(log.rows, event, meta) == ()


def test_a_post_to_an_order_that_was_only_placed_waits_for_nothing() -> None:
    log = Log("orders", "o1")
    log.when(place(), command_id="place")
    assert not orders.waits(log.rows, post("picking"), "x") and not orders.waits(log.rows, CancelOrder(), "x")
