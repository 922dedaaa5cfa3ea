"""Another try to pay after a decline, where the channel allows one (domain.md 2.2 and 2.3)."""

from random import Random

import pytest
from domain_fulfillment import ship
from domain_harness import Log, Seeded, World, seconds
from domain_orders import answer
from domain_payments import PREPAID, Bank, asked, net, place, priced, said, told
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from orderflow.streams.domain import sagas
from orderflow.streams.domain.contract import Send, Settle
from orderflow.streams.domain.order_records import CancelOrder, EditOrder, LineQuantity, OrderStatus, PlaceHold
from orderflow.streams.domain.payment_records import PaymentRequested, RetryPayment
from orderflow.streams.domain.reasons import Reason
from orderflow.streams.domain.stock_records import ReleaseReservation

S = OrderStatus
THREE = replace(PREPAID, payment_attempts=3)
RETRY = RetryPayment("pm_other")
FIRST = "pm_first"


def declined(attempts: int = 3) -> Log:
    """An order whose first payment was declined."""
    log = Log("orders", "o1", channel=replace(PREPAID, payment_attempts=attempts))
    log.when(place(priced("1", "A", 2, 500)), command_id="place")
    log.when(answer("reserved", "A", 2, due_at=next(log.timers()).due_at + seconds(3000)))
    log.when(said(asked(log), "declined", code="insufficient_funds"))
    return log


def test_a_declined_payment_keeps_the_units_for_another_try() -> None:
    log = declined()
    assert log.events[-1][0].new_status == S.FAILED and log.rows.order.reason == Reason.PAYMENT_DECLINED
    shown = log.snapshot("order")
    assert (shown.status, shown.label, shown.financial_status) == (S.FAILED, "failed", "failed")
    assert [timer.kind for timer in log.timers()] == ["payment_window"], "the window of the first try runs on"
    under_way = sagas.sagas(log.rows)
    assert [(saga.saga_type, saga.waits_for) for saga in under_way] == [("place", ("customer",))]


def test_whoever_placed_it_hears_of_the_decline_at_once() -> None:
    log = Log("orders", "o1", channel=THREE)
    log.when(place(priced("1", "A", 2, 500)), command_id="place")
    log.when(answer("reserved", "A", 2))
    outcome = log.when(said(asked(log), "declined"))
    assert outcome.settles == [Settle("place", Reason.PAYMENT_DECLINED)] and not outcome.sends


def test_the_second_try_has_its_own_key_and_confirms_the_order() -> None:
    log = declined()
    first = asked(log)
    outcome = log.when(RETRY, command_id="retry")
    second = asked(log)
    assert [event.new_status for event in outcome.events[:1]] == [S.PENDING] and outcome.waits
    assert second.idempotency_key != first.idempotency_key and second.attempt_id != first.attempt_id
    assert (second.operation, second.amount, second.due_at) == ("authorize", first.amount, first.due_at)
    assert (second.token_ref, second.command_id) == ("pm_other", "retry")
    assert log.rows.order.reason == "", "the order is not what its last try was"
    outcome = log.when(said(second))
    assert Settle("retry") in outcome.settles and log.rows.order.status is S.PROCESSING
    log.when(answer("committed", "A", 2))
    ship(log)
    assert asked(log).operation == "capture" and asked(log).attempt_id == second.attempt_id
    log.when(said(asked(log)))
    assert log.rows.order.status is S.SHIPPED and net(log) == 1000


def test_without_a_method_of_its_own_a_try_takes_that_of_the_order() -> None:
    log = Log("orders", "o1", channel=THREE)
    log.when(replace(place(priced()), token_ref=FIRST), command_id="place")
    log.when(answer("reserved"))
    log.when(said(asked(log), "declined"))
    log.when(RetryPayment(), command_id="retry")
    assert asked(log).token_ref == FIRST


@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_the_last_decline_ends_the_order_and_gives_its_units_back(attempts: int) -> None:
    log = declined(attempts)
    for number in range(2, attempts + 1):
        assert log.rows.order.status is S.FAILED
        log.when(RETRY, command_id=f"retry {number}")
        outcome = log.when(said(asked(log), "declined"))
        assert Settle(f"retry {number}", Reason.PAYMENT_DECLINED) in outcome.settles
    assert log.rows.order.status is S.REJECTED and len(log.named(PaymentRequested)) == attempts
    assert len(log.rows.payment.attempts) == attempts and list(log.timers()) == []
    assert [row.outcome for row in log.rows.stock_answer.values()] == ["releasing"]


def test_nobody_tries_again_within_the_window_and_the_units_go_back() -> None:
    log = declined()
    outcome = log.when(next(log.timers()))
    assert outcome.sends == [Send("stock", "A", ReleaseReservation("A~o1~1", reason=Reason.PAYMENT_DECLINED))]
    assert log.rows.order.status is S.EXPIRED and log.rows.order.reason == Reason.METHOD_EXPIRED
    late = log.when(RETRY, command_id="late")
    assert late.refused.reason == Reason.ILLEGAL_TRANSITION


def test_a_try_that_is_still_open_when_the_window_ends_is_answered_and_a_late_yes_goes_back() -> None:
    log = declined()
    log.when(RETRY, command_id="retry")
    outcome = log.when(next(log.timers()))
    assert Settle("retry", Reason.METHOD_EXPIRED) in outcome.settles and log.rows.order.status is S.EXPIRED
    log.when(said(asked(log)))
    assert asked(log).operation == "void"
    log.when(said(asked(log)))
    assert net(log) == 0


def test_units_that_are_lost_meanwhile_end_the_order() -> None:
    log = declined()
    log.when(answer("expired", "A", 2))
    assert log.rows.order.status is S.EXPIRED and log.rows.order.reason == Reason.RESERVATION_EXPIRED


def test_a_declined_order_can_be_canceled_and_is_not_edited() -> None:
    log = declined()
    edit = log.when(EditOrder((LineQuantity("1", 1),)), command_id="edit")
    assert edit.refused.reason == Reason.EDIT_NOT_ALLOWED
    log.when(CancelOrder("customer", "enough"), command_id="cancel")
    assert log.rows.order.status is S.CANCEL_PENDING
    log.when(answer("released", "A", 2))
    assert log.rows.order.status is S.CANCELED


def test_what_the_first_try_says_late_is_nothing_to_the_second() -> None:
    log = declined()
    first = asked(log)
    log.when(RETRY, command_id="retry")
    log.when(said(first, "declined"))
    log.when(told(first, "succeeded"))
    assert log.rows.order.status is S.PENDING and log.rows.payment.ledger.authorized == 0
    log.when(said(asked(log)))
    assert log.rows.order.status is S.PROCESSING and log.rows.payment.ledger.authorized == 1000


def test_a_held_order_may_still_be_paid_for() -> None:
    log = declined()
    log.when(PlaceHold("MANUAL"), command_id="hold")
    log.when(RETRY, command_id="retry")
    log.when(said(asked(log)))
    assert log.rows.order.status is S.CONFIRMED


def test_a_try_that_nobody_may_make_changes_nothing() -> None:
    assert Log("orders", "o1").when(RETRY).refused.reason == Reason.NOT_FOUND
    log = declined()
    log.when(RETRY, command_id="retry")
    second = log.when(RETRY, command_id="another")
    assert second.refused.reason == Reason.ILLEGAL_TRANSITION and second.refused.detail["status"] == "pending"
    log.when(said(asked(log)))
    assert log.when(RETRY, command_id="third").refused.reason == Reason.ILLEGAL_TRANSITION


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000_000).map(Seeded))
def test_whatever_arrives_when_an_order_is_paid_once_or_not_at_all(random: Random) -> None:
    world = World(random, channel=THREE)
    world.repeat = 0.2
    bank = Bank(world, random, declines=0.5)
    world.stock("A", 6)
    for number in range(3):
        world.send("orders", f"o{number}", place(priced("1", "A", random.randint(1, 3), 700)), f"place-{number}")
    tries = 0
    while world.flying or world.timers():
        if world.flying:
            world.arrive(random.choice(list(world.flying)))
        else:
            world.tick()
        bank.listen()
        if tries < 12 and random.random() < 0.1:
            tries += 1
            world.send("orders", f"o{random.randrange(3)}", RETRY, f"retry-{tries}")
    for number in range(3):
        name = f"o{number}"
        row, paid = world.log("orders", name).rows.order, world.log("orders", name).rows.payment
        assert row.status in (S.PROCESSING, S.REJECTED, S.EXPIRED)
        authorized = bank.moved(name, "authorize") - bank.moved(name, "void")
        wanted = row.lines[0].quantity * 700 if row.status is S.PROCESSING else 0
        assert authorized == wanted, f"{name} is {row.status}"
        assert paid is None or len(paid.attempts) <= 3
