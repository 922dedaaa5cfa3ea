"""A buyer who has to act before their payment is authorized: 3-D Secure, an approval (domain.md 2.3; slot D100)."""

import pytest
from domain_harness import Log
from domain_orders import answer
from domain_payments import CURRENCY, PREPAID, asked, net, priced, reserved, said, told
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from orderflow.streams.domain import payment, sagas
from orderflow.streams.domain.claims import ClaimValue
from orderflow.streams.domain.contract import Settle
from orderflow.streams.domain.order_records import CancelOrder, OrderStatus
from orderflow.streams.domain.payment_records import (
    Ledger,
    PaymentActionRequired,
    PaymentAuthorized,
    PaymentCanceled,
    PaymentRequested,
    RecordProviderResult,
    RetryPayment,
    WebhookRecorded,
)
from orderflow.streams.domain.reasons import Reason
from orderflow.streams.domain.refusals import UnknownValue
from orderflow.streams.domain.stock_records import CommitReservation, ReleaseReservation

S = OrderStatus
PAGE = "https://bank.example/3ds/17"


def acting(request: PaymentRequested) -> RecordProviderResult:
    """The provider says that the buyer has to act."""
    return said(request, "requires_action", amount=None, action_url=PAGE)


def waiting(**more: object) -> Log:
    """An order whose buyer was sent to act."""
    log = reserved(priced("1", "A", 2, 500), **more)
    log.when(acting(asked(log)))
    return log


def test_whoever_placed_it_hears_at_once_where_to_send_the_buyer() -> None:
    log = reserved()
    outcome = log.when(acting(asked(log)))
    assert outcome.settles == [Settle("place")] and log.rows.order.status is S.PENDING
    assert [type(send.command) for send in outcome.sends] == [ClaimValue], "the provider's webhook finds the order from now on"
    order, money = log.snapshot("order"), log.snapshot("payment")
    assert (order.status, order.financial_status, order.action_url) == (S.PENDING, "requires_action", PAGE)
    assert (money.label, money.attempts[-1].outcome, money.attempts[-1].action_url) == ("requires_action", "requires_action", PAGE)
    assert [saga.waits_for for saga in sagas.sagas(log.rows)] == [("customer",)]
    assert log.rows.payment.ledger == Ledger(authorized_pending=1000, currency=CURRENCY), "nothing is held yet"


@pytest.mark.parametrize("speaks", [said, told])
def test_the_buyer_agrees_and_the_order_goes_on(speaks: object) -> None:
    log = waiting()
    outcome = log.when(speaks(asked(log)))  # type: ignore[operator]
    assert log.rows.order.status is S.PROCESSING and CommitReservation in [type(send.command) for send in outcome.sends]
    assert len(log.named(PaymentAuthorized)) == 1 and log.snapshot("order").action_url == ""
    assert log.snapshot("payment").attempts[-1].action_url == "" and sagas.sagas(log.rows)[0].saga_type == "place"


def test_the_buyer_refuses_and_gets_another_try_where_the_channel_allows_one() -> None:
    log = waiting()
    log.when(said(asked(log), "declined", code="authentication_failed"))
    assert log.rows.order.status is S.REJECTED and log.rows.order.reason == Reason.PAYMENT_DECLINED
    log = waiting(channel=replace(PREPAID, payment_attempts=2))
    log.when(said(asked(log), "declined", code="authentication_failed"))
    assert log.rows.order.status is S.FAILED
    assert log.when(RetryPayment("pm_other"), command_id="retry").waits
    outcome = log.when(acting(asked(log)))
    assert Settle("retry") in outcome.settles, "also of the second try it is said at once"
    log.when(said(asked(log)))
    assert log.rows.order.status is S.PROCESSING


def test_a_buyer_who_never_acts_loses_the_units_and_cannot_pay_any_more() -> None:
    log = waiting()
    (timer,) = log.timers()
    outcome = log.when(timer)
    assert log.rows.order.status is S.EXPIRED and ReleaseReservation in [type(send.command) for send in outcome.sends]
    request = asked(log)
    assert (request.operation, request.idempotency_key, request.provider_ref) == ("cancel", "o1~A1:cancel:2", "ref-1")
    assert log.snapshot("order").action_url == "", "nobody is sent there any more"
    log.when(said(request))
    assert log.named(PaymentCanceled)[0].totals == Ledger(currency=CURRENCY) and log.rows.order.financial_status == "failed"
    log.when(answer("released", "A", 0))
    assert not sagas.sagas(log.rows)


def test_a_cancel_waits_until_the_provider_has_given_the_attempt_up() -> None:
    log = waiting()
    assert log.when(CancelOrder(by="customer"), command_id="cancel").waits
    log.when(answer("released", "A", 0))
    assert log.rows.order.status is S.CANCEL_PENDING and asked(log).operation == "cancel"
    outcome = log.when(said(asked(log)))
    assert log.rows.order.status is S.CANCELED and Settle("cancel") in outcome.settles


@pytest.mark.parametrize("speaks", [said, told])
def test_a_yes_that_comes_after_the_attempt_was_canceled_changes_nothing(speaks: object) -> None:
    log = waiting()
    first = asked(log)
    log.when(next(iter(log.timers())))
    log.when(speaks(first))  # type: ignore[operator]
    assert log.rows.order.status is S.EXPIRED and asked(log).operation == "cancel" and not log.named(PaymentAuthorized)
    assert not [event for event in log.named(WebhookRecorded) if event.moved]
    log.when(said(asked(log)))
    assert net(log) == 0 and not payment.is_open(log.rows.payment)


def test_an_action_that_is_asked_for_after_the_order_ended_is_canceled_at_once() -> None:
    log = reserved()
    first = asked(log)
    log.when(said(first, "unknown", amount=None))
    log.when(next(iter(log.timers())))
    assert log.rows.order.status is S.EXPIRED and asked(log) is first, "nobody knows what became of it: it is asked for again"
    outcome = log.when(acting(first))
    assert asked(log).operation == "cancel" and not outcome.settles


@pytest.mark.parametrize("earlier", ["succeeded", "declined"])
def test_an_action_after_the_answer_is_nothing(earlier: str) -> None:
    log = reserved()
    first = asked(log)
    log.when(said(first, earlier))
    assert not log.when(acting(first)).events


def test_only_an_authorization_can_wait_for_its_buyer() -> None:
    log = waiting()
    with pytest.raises(UnknownValue, match="a capture for which the buyer has to act"):
        log.when(replace(acting(asked(log)), operation="capture"))


def test_a_repeat_of_what_waits_says_nothing_new() -> None:
    log = waiting()
    assert not log.when(acting(asked(log))).events and not log.when(said(asked(log), "unknown", amount=None)).events
    assert len(log.named(PaymentActionRequired)) == 1


WORDS = st.lists(st.sampled_from(["act", "yes", "no", "unknown", "webhook yes", "webhook no", "window", "cancel", "second"]), max_size=14)


@settings(max_examples=300, deadline=None)
@given(WORDS)
def test_whatever_is_said_in_whatever_order_the_money_is_held_or_it_is_not(words: list[str]) -> None:
    """First answers count; an order that ended holds nothing once its provider has answered what is still open."""
    log = reserved(priced("1", "A", 1, 700))
    first = asked(log)
    for word in words:
        if word == "window":
            for timer in list(log.timers()):
                if timer.kind == payment.WINDOW:
                    log.when(timer)
        elif word == "cancel":
            log.when(CancelOrder(by="staff"))
        elif word == "second":
            log.when(said(asked(log))) if asked(log) is not first else None
        else:
            _say(log, first, word)
    for _ in range(4):
        if payment.is_open(log.rows.payment) and log.rows.order.status is not S.PENDING:
            log.when(said(asked(log)))
    order, row = log.rows.order, log.rows.payment
    if order.status in (S.EXPIRED, S.REJECTED, S.CANCELED):
        assert net(log) == 0 and row.ledger.authorized_pending == 0
    if order.status in (S.CONFIRMED, S.PROCESSING):
        assert row.ledger.authorized == 700


def _say(log: Log, request: PaymentRequested, word: str) -> None:
    speaks = told if word.startswith("webhook") else said
    match word.split()[-1]:
        case "act":
            log.when(acting(request))
        case "yes":
            log.when(speaks(request))
        case "no":
            log.when(speaks(request, "declined"))
        case "unknown":
            log.when(said(request, "unknown", amount=None))
