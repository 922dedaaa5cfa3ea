"""Fulfillment rules: posts in any order, steps that are implied, posts that wait for their predecessor or for our own commit."""

from itertools import permutations

import pytest
from domain_fulfillment import WORDS, F, at_status, current, post, went
from domain_harness import NOW, SETTINGS, Log, seconds
from domain_orders import answer, confirmed, in_status, item, place, placed

from orderflow.streams.domain import orders
from orderflow.streams.domain.contract import Settle, TimerDue
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
    OrderStatus,
    RecordStockAnswer,
    RecordUndelivered,
)
from orderflow.streams.domain.parts import Qty
from orderflow.streams.domain.reasons import Reason


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
        if TRANSITIONS.allows(status, F.COMPENSATED):
            log.when(RecordUndelivered("lost", "", "", NOW))
        seen |= {(event.previous_status, event.new_status) for event in log.named(FulfillmentStatusChanged)}
    assert seen == TRANSITIONS.pairs
    assert TRANSITIONS.finals == {"COMPLETED", "CANCELED", "COMPENSATED"}
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
