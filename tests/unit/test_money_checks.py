"""The checker of money (I8): the history of a sound order passes, and each way of being wrong is told."""

from collections.abc import Callable
from typing import Any

import pytest
from domain_harness import Log
from domain_orders import answer
from domain_payments import authorized, priced, said
from msgspec.structs import replace

from orderflow.streams.checkers import Seen, check_events, money, money_at_rest
from orderflow.streams.domain.contract import EventMeta
from orderflow.streams.domain.order_records import CancelOrder, OrderStatusChanged, PostFulfillmentStatus
from orderflow.streams.domain.parts import Money
from orderflow.streams.domain.payment_records import PaymentCaptured, PaymentRequested, PaymentVoided, RefundPayment

Events = list[tuple[Any, EventMeta]]


def seen(events: Events) -> list[Seen]:
    return [Seen("orders", 0, number, meta, "o1", event) for number, (event, meta) in enumerate(events)]


def shipped() -> Log:
    """Two shipments, captured one after the other, and a refund of a part."""
    log = authorized(priced("1", "A", price=1000), priced("2", "B", price=501), location_ids=("main", "north"))
    for target in ("o1~F1", "o1~F2"):
        for status in ("picking", "picked", "packed", "shipped"):
            log.when(PostFulfillmentStatus(target, status), command_id=f"{target} {status}")
        log.when(said(log.named(PaymentRequested)[-1]))
    log.when(RefundPayment(Money(100, "EUR")), command_id="refund")
    log.when(said(log.named(PaymentRequested)[-1]))
    return log


def canceled() -> Log:
    log = authorized()
    log.when(CancelOrder("staff"), command_id="cancel")
    log.when(said(log.named(PaymentRequested)[-1]))
    log.when(answer("released"))
    return log


@pytest.mark.parametrize("history", [shipped, canceled])
def test_a_sound_history_passes(history: Callable[[], Log]) -> None:
    events = seen(history().events)
    assert list(money(events)) == [] and list(money_at_rest(events)) == []
    assert [violation for violation in check_events(events) if violation.invariant == "I8"] == []


def without(kind: type, nth: int = 0) -> Callable[[Events], Events]:
    """The history without the n-th event of a kind."""

    def change(events: Events) -> Events:
        at = [number for number, (event, _) in enumerate(events) if isinstance(event, kind)][nth]
        return events[:at] + events[at + 1 :]

    return change


def changed(kind: type, nth: int = 0, **fields: Any) -> Callable[[Events], Events]:
    """The history with another n-th event of a kind."""

    def change(events: Events) -> Events:
        at = [number for number, (event, _) in enumerate(events) if isinstance(event, kind)][nth]
        return [*events[:at], (replace(events[at][0], **fields), events[at][1]), *events[at + 1 :]]

    return change


EUR = "EUR"
WRONG: list[tuple[Callable[[], Log], Callable[[Events], Events], str]] = [
    (shipped, without(PaymentCaptured), "0 was captured when goods worth 1000 left"),
    (shipped, without(PaymentCaptured, 1), "1000 was captured when goods worth 1501 left"),
    (shipped, without(PaymentCaptured), "capture is asked while capture has no answer"),
    (shipped, without(PaymentRequested, 1), "which was not asked"),
    (shipped, changed(PaymentRequested, 1, idempotency_key="o1~A1:capture:7"), "is not that of operation 2"),
    (shipped, changed(PaymentRequested, 1, operation_no=1), "is not that of operation 2"),
    (shipped, changed(PaymentRequested, 0, amount=Money(1500, EUR)), "authorize of 1500 where 1501 is possible"),
    (shipped, changed(PaymentRequested, 1, amount=Money(1502, EUR)), "capture of 1502 where 1501 is possible"),
    (shipped, changed(PaymentRequested, 3, amount=Money(1502, EUR)), "refund of 1502 where 1501 is possible"),
    (shipped, changed(PaymentRequested, 3, amount=Money(0, EUR)), "refund of 0"),
    (shipped, changed(PaymentCaptured, 0, amount=Money(999, EUR)), "which was not asked"),
    (shipped, changed(PaymentCaptured, 0, operation="refund"), "which was not asked"),
    (canceled, without(PaymentVoided), "CANCELED and 0 kept, 1000 still authorized"),
]


@pytest.mark.parametrize(("history", "change", "what"), WRONG)
def test_each_way_of_being_wrong_is_told(history: Callable[[], Log], change: Callable[[Events], Events], what: str) -> None:
    told = [violation.what for violation in money(seen(change(history().events)))]
    assert any(what in each for each in told), told


def test_counters_that_are_told_wrong_are_found() -> None:
    events = shipped().events
    totals = next(event.totals for event, _ in events if isinstance(event, PaymentCaptured))
    told = money(seen(changed(PaymentCaptured, 0, totals=replace(totals, captured=1))(events)))
    assert any("PaymentCaptured says" in violation.what for violation in told)


def test_at_rest_an_open_request_and_kept_money_are_found() -> None:
    events = canceled().events
    cut = next(number for number, (event, _) in enumerate(events) if isinstance(event, PaymentVoided))
    assert [violation.what for violation in money_at_rest(seen(events[:cut]))] == ["void has no answer"]
    ended = next(pair for pair in events if isinstance(pair[0], OrderStatusChanged) and pair[0].new_status == "CANCELED")
    forgotten = authorized().events
    assert any("CANCELED and 0 kept, 1000 still" in violation.what for violation in money_at_rest(seen([*forgotten, ended])))
