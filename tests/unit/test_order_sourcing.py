"""How an order gets its units: all or none, one contended retry in sorted order, giving up, losses, answers that come twice or late."""

from typing import Any

import pytest
from domain_harness import NOW, SETTINGS, Log, Outcome, seconds
from domain_orders import answer, confirmed, in_status, item, placed, refused
from msgspec.structs import replace

from orderflow.streams.domain import orders
from orderflow.streams.domain.contract import Send, Settle, TimerDue
from orderflow.streams.domain.order_records import (
    OrderStatus,
    OrderStatusChanged,
    PostFulfillmentStatus,
    RecordStockAnswer,
    StockAnswerRecorded,
    StockAsked,
)
from orderflow.streams.domain.order_rows import StockAnswerRow
from orderflow.streams.domain.parts import Qty
from orderflow.streams.domain.reasons import Reason
from orderflow.streams.domain.refusals import UnknownValue
from orderflow.streams.domain.stock_answers import ENDED, OUTCOMES, outcome_after
from orderflow.streams.domain.stock_records import ReleaseReservation, ReserveStock


def contended(sku: str = "A", attempt: int = 1) -> RecordStockAnswer:
    return answer("refused", sku, 1, attempt, contended=True, reason=Reason.INSUFFICIENT_STOCK)


def reserves(outcome: Outcome) -> list[str]:
    return [send.command.reservation_id for send in outcome.sends if isinstance(send.command, ReserveStock)]


def releases(outcome: Outcome) -> list[str]:
    return [send.command.reservation_id for send in outcome.sends if isinstance(send.command, ReleaseReservation)]


def status(log: Log) -> OrderStatus:
    found: OrderStatus = log.snapshot("order").status
    return found


def fire(log: Log, kind: str) -> Outcome:
    (timer,) = [each for each in log.timers() if each.kind == kind]
    return log.when(timer, command_id=timer.timer_id)


def retried() -> Log:
    """An order of A and B that was refused A by open orders of others, and asks again."""
    log = placed(item("1", "B"), item("2", "A"))
    log.when(answer("reserved", "B"))
    outcome = log.when(contended("A"))
    assert releases(outcome) == ["B~o1~1"] and reserves(outcome) == ["A~o1~2"]
    return log


# -- the contended retry --------------------------------------------------------------------------------------------------------------
def test_a_contended_order_gives_back_and_asks_again_one_sku_after_the_other() -> None:
    log = retried()
    assert reserves(log.when(answer("reserved", "A", attempt=2))) == ["B~o1~2"]
    assert log.when(answer("released", "B")).events != [], "the answer about the first round is recorded and changes nothing else"
    assert status(log) is OrderStatus.PENDING
    log.when(answer("reserved", "B", attempt=2))
    assert status(log) is OrderStatus.PROCESSING


def test_an_order_that_nothing_was_granted_to_asks_again_without_giving_back() -> None:
    log = placed(item("1", "A"), item("2", "B"))
    log.when(contended("A"))
    outcome = log.when(contended("B"))
    assert releases(outcome) == [] and reserves(outcome) == ["A~o1~2"]


def test_an_order_of_one_sku_or_a_shortage_nobody_holds_is_not_retried() -> None:
    log = placed()
    log.when(contended("A"))
    assert status(log) is OrderStatus.REJECTED
    log = placed(item("1", "A"), item("2", "B"))
    log.when(contended("A"))
    log.when(refused("B"))
    assert status(log) is OrderStatus.REJECTED


def test_the_retry_waits_for_units_that_may_come_free_and_keeps_lower_skus_only() -> None:
    log = retried()
    log.when(answer("reserved", "A", attempt=2))
    outcome = log.when(contended("B", attempt=2))
    assert outcome.sends == [] and outcome.settles == []
    assert log.named(StockAsked)[-1] == StockAsked("later", 3, ("B~o1~3",), NOW + seconds(SETTINGS.contended_wait_s))
    assert reserves(fire(log, "contended_retry")) == ["B~o1~3"]
    log.when(answer("reserved", "B", attempt=3))
    assert status(log) is OrderStatus.PROCESSING


def test_the_retry_waits_a_few_times_only() -> None:
    log = retried()
    log.when(answer("reserved", "A", attempt=2))
    for attempt in range(2, 2 + SETTINGS.contended_waits_max):
        log.when(contended("B", attempt))
        assert reserves(fire(log, "contended_retry")) == [f"B~o1~{attempt + 1}"]
    outcome = log.when(contended("B", 2 + SETTINGS.contended_waits_max))
    assert releases(outcome) == ["B~o1~1", "A~o1~2"] or releases(outcome) == ["A~o1~2", "B~o1~1"]
    assert status(log) is OrderStatus.REJECTED


def test_a_refusal_in_the_retry_that_nobody_can_undo_rejects() -> None:
    log = retried()
    outcome = log.when(answer("refused", "A", attempt=2, reason=Reason.INSUFFICIENT_STOCK))
    assert status(log) is OrderStatus.REJECTED and outcome.settles[0].reason == Reason.INSUFFICIENT_STOCK


@pytest.mark.parametrize(("outcome", "ends"), [("expired", OrderStatus.EXPIRED), ("lost", OrderStatus.REJECTED)])
def test_units_lost_while_the_retry_waits_end_it(outcome: str, ends: OrderStatus) -> None:
    log = retried()
    log.when(answer("reserved", "A", attempt=2))
    log.when(contended("B", attempt=2))
    assert log.when(answer(outcome, "A", attempt=2)).sends == []
    fire(log, "contended_retry")
    assert status(log) is ends


# -- giving up ------------------------------------------------------------------------------------------------------------------------
def test_give_up_asks_the_owners_to_release_and_waits_for_their_answers() -> None:
    log = placed(item("1", "A"), item("2", "B"))
    log.when(answer("reserved", "A"))
    outcome = fire(log, "give_up")
    assert releases(outcome) == ["A~o1~1", "B~o1~1"] and outcome.settles == []
    assert status(log) is OrderStatus.PENDING, "never decided alone"
    log.when(answer("reserved", "B"))
    log.when(answer("released", "A"))
    assert status(log) is OrderStatus.PENDING
    last = log.when(answer("released", "B"))
    assert status(log) is OrderStatus.REJECTED and last.settles == [Settle("place", Reason.STEP_TIMED_OUT)]
    assert list(log.timers()) == []


def test_give_up_when_the_release_overtakes_the_reserve() -> None:
    log = placed()
    fire(log, "give_up")
    log.when(answer("released"))
    assert status(log) is OrderStatus.REJECTED
    assert log.when(answer("refused", reason=Reason.RESERVATION_FINAL)).events == []


def test_an_answer_in_time_leaves_nothing_to_give_up() -> None:
    log = placed()
    (timer,) = log.timers()
    log.when(answer("reserved"))
    assert log.when(timer).events == [] and status(log) is OrderStatus.PROCESSING
    assert Log("orders", "o1").when(timer).events == []
    log = placed()
    assert log.when(TimerDue("t", "unheard_of", timer.due_at, "o1", 1)).events == []


def test_give_up_with_nothing_left_to_release_rejects_at_once() -> None:
    log = placed()
    row = StockAnswerRow("A~o1~1", "A", "released", 1)
    log.rows = log.folded = orders.State("o1", log.rows.order, {"o1~G1~A": row}, {}, log.rows.channel)
    assert fire(log, "give_up").settles == [Settle("place", Reason.STEP_TIMED_OUT)]


# -- answers that come late, twice, or about nothing ----------------------------------------------------------------------------------
def test_bug_3_a_grant_after_the_refusal_is_given_back() -> None:
    log = placed(item("1", "A"), item("2", "B"))
    log.when(refused("A"))
    log.when(answer("reserved", "B"))
    assert status(log) is OrderStatus.REJECTED
    assert log.rows.stock_answer["o1~G1~B"].outcome == "releasing"


@pytest.mark.parametrize("state", ["PENDING", "REJECTED", "CANCELED", "PROCESSING"])
def test_units_nobody_asked_for_are_given_back(state: str) -> None:
    log = in_status(state)
    before = log.rows
    outcome = log.when(answer("reserved", attempt=9))
    assert outcome.sends == [Send("stock", "A", ReleaseReservation("A~o1~9", reason="UNWANTED"))]
    assert log.rows == before
    assert log.when(answer("released", attempt=9)).events == []
    strange = RecordStockAnswer("gibberish", "A", "reserved", 1, (Qty("main", "", 1),))
    assert releases(log.when(strange)) == ["gibberish"]


def test_a_grant_that_reaches_an_order_that_has_ended_is_given_back() -> None:
    """It cannot happen by the order's own doing; a row as an older version might have left it."""
    log = in_status("REJECTED")
    row, order = StockAnswerRow("B~o1~1", "B", "asked", 1), replace(log.rows.order, answers_open=1)
    log.rows = log.folded = orders.State("o1", order, {"o1~G1~B": row}, {}, log.rows.channel)
    assert releases(log.when(answer("reserved", "B"))) == ["B~o1~1"]


@pytest.mark.parametrize("outcome", ["reserved", "refused"])
def test_a_repeated_answer_is_nothing(outcome: str) -> None:
    log = placed(item("1", "A"), item("2", "B"))
    log.when(answer(outcome))
    before = log.rows
    assert log.when(answer(outcome)).events == [] and log.rows == before
    assert log.rows.order.answers_open == 1


def test_an_answer_without_an_order_is_refused() -> None:
    assert Log("orders", "o1").when(answer("reserved")).refused.reason == Reason.NOT_FOUND


def test_an_answer_about_the_reservation_of_another_order_is_nothing() -> None:
    """Somebody asked for units under this order's name: its own reservation stands."""
    log = placed()
    other = replace(answer("refused", "A"), reservation_id="A~o2~1")
    assert not log.when(other).events and log.rows.order.answers_open == 1
    log.when(answer("reserved", "A"))
    assert log.rows.order.status == "PROCESSING"


def test_an_outcome_of_a_later_version_is_parked() -> None:
    with pytest.raises(UnknownValue):
        placed().when(answer("teleported"))


KEPT, LESS = (Qty("main", "", 5),), (Qty("main", "", 3),)
AFTER: dict[tuple[str, str], str] = {
    ("asked", "reserved"): "reserved",
    ("asked", "queued"): "queued",
    ("queued", "reserved"): "reserved",
    ("asked", "refused"): "refused",
    ("committing", "committed"): "committed",
    ("reserved", "committed"): "committed",
}
"""(row, answer that keeps all) -> row. Answers that keep nothing end every open row; ones that keep less leave its outcome."""


@pytest.mark.parametrize("row", ["asked", "queued", "reserved", "committing", "committed", "releasing", *sorted(ENDED)])
@pytest.mark.parametrize("outcome", OUTCOMES)
def test_every_pair_of_stock_answer_row_and_answer(row: str, outcome: str) -> None:
    known = StockAnswerRow("A~o1~1", "A", row, 5, () if row in ("asked", "queued", *ENDED) else KEPT)
    whole, less, none = (outcome_after(known, RecordStockAnswer("A~o1~1", "A", outcome, 5, left)) for left in (KEPT, LESS, ()))
    if row in ENDED:
        assert (whole, less, none) == (None, None, None)
        return
    assert whole == AFTER.get((row, outcome))
    if outcome in ("released", "expired", "shipped", "lost"):
        assert none == outcome
        assert less == (row if row not in ("asked", "queued") and outcome != "expired" else None)


def test_a_grant_while_the_release_is_on_its_way_is_noted() -> None:
    row = StockAnswerRow("A~o1~1", "A", "releasing", 5)
    assert outcome_after(row, RecordStockAnswer("A~o1~1", "A", "reserved", 5, KEPT)) == "releasing"
    assert outcome_after(None, RecordStockAnswer("A~o1~1", "A", "reserved", 5, KEPT)) is None


def test_bug_12_a_reservation_is_remembered_until_its_owner_has_said_that_it_is_released() -> None:
    log = placed(item("1", "A"), item("2", "B"))
    log.when(refused("A"))
    log.when(answer("reserved", "B"))
    row = log.rows.stock_answer["o1~G1~B"]
    assert (row.reservation_id, row.outcome, row.allocations) == ("B~o1~1", "releasing", (Qty("main", "", 1),))
    log.when(answer("released", "B"))
    assert log.rows.stock_answer["o1~G1~B"].outcome == "released"


# -- losses after the grant -----------------------------------------------------------------------------------------------------------
def test_a_loss_before_confirmation_is_a_shortage() -> None:
    log = placed(item("1", "A", 2), item("2", "B"))
    log.when(answer("reserved", "A", 2))
    log.when(answer("lost", "A", 1, allocations=(Qty("main", "", 1),)))
    outcome = log.when(answer("reserved", "B"))
    assert status(log) is OrderStatus.REJECTED
    assert outcome.settles[0].reason == Reason.INSUFFICIENT_STOCK
    assert sorted(releases(outcome)) == ["A~o1~1", "B~o1~1"]


def test_bug_11_an_expiry_is_heard_and_ends_the_order() -> None:
    log = placed(item("1", "A"), item("2", "B"))
    log.when(answer("reserved", "A"))
    log.when(answer("expired", "A"))
    outcome = log.when(answer("reserved", "B"))
    assert status(log) is OrderStatus.EXPIRED
    assert outcome.settles == [Settle("place", Reason.RESERVATION_EXPIRED)]
    assert releases(outcome) == ["B~o1~1"]


def test_a_reservation_that_expired_before_its_commit_cancels_the_order() -> None:
    log = confirmed(item("1", "A"), item("2", "B"), committed=False)
    log.when(answer("committed", "B"))
    log.when(PostFulfillmentStatus("o1", "picking"))
    outcome = log.when(answer("expired", "A"))
    assert releases(outcome) == ["B~o1~1"]
    changed = log.named(OrderStatusChanged)[-1]
    assert (changed.new_status, changed.reason, changed.changed_by) == ("CANCEL_PENDING", "RESERVATION_EXPIRED", "system")
    assert log.when(answer("released", "B")).settles == []
    assert status(log) is OrderStatus.CANCELED


def test_a_loss_before_picking_cancels_and_after_it_the_pick_tells() -> None:
    lost: Any = answer("lost", quantity=1, allocations=(Qty("main", "", 2),))
    log = confirmed(item(quantity=3))
    assert releases(log.when(lost)) == ["A~o1~1"]
    assert log.named(OrderStatusChanged)[-1].reason == Reason.INSUFFICIENT_STOCK
    log = confirmed(item(quantity=3))
    log.when(PostFulfillmentStatus("o1", "picking"))
    outcome = log.when(lost)
    assert [type(event) for event in outcome.events] == [StockAnswerRecorded] and outcome.sends == []
    assert status(log) is OrderStatus.PROCESSING


def test_conclude_is_only_for_open_orders_without_open_answers() -> None:
    for log in (Log("orders", "o1"), placed(), in_status("REJECTED")):
        assert log.when(orders.ConcludeAnswers()).events == []


def test_an_unreadable_reservation_id_in_a_foreign_event_asks_nobody() -> None:
    log = placed()
    event = StockAsked("release", 1, ("gibberish",))
    log.given(event)
    assert orders.react(log.rows, event, log.events[-1][1]) == ()
    log.given(StockAsked("reserve", 1, ("gibberish",)))
    assert log.rows.stock_answer["o1~G~gibberish"].quantity == 0
