"""Sagas read off an order's rows: what is under way, whom it waits for, when it is stuck, how it ended (slots D17, INT-P1-03)."""

from random import Random
from typing import Any

import pytest
from domain_harness import NOW, Log, seconds
from domain_orders import answer, confirmed, in_status, item, placed
from domain_payments import asked, authorized, priced, reserved, said
from hypothesis import given
from hypothesis import strategies as st

from orderflow.streams.domain import sagas
from orderflow.streams.domain.order_records import CancelOrder, PostFulfillmentStatus
from orderflow.streams.domain.payment_records import PaymentRequested, RefundPayment, VoidPayment
from orderflow.streams.domain.sagas import End, Patience, Saga

PATIENCE = Patience(30, 300)


def under_way(log: Log) -> list[tuple[str, str, tuple[str, ...], bool]]:
    return [(each.saga_type, each.step, each.waits_for, each.compensating) for each in sagas.sagas(log.rows)]


def why(log: Log, after_s: float) -> list[str]:
    return [sagas.stuck(each, NOW + seconds(after_s), PATIENCE) for each in sagas.sagas(log.rows)]


def ends(log: Log) -> list[tuple[str, str]]:
    """The sagas that the log's events ended, told as a worker tells them: from the rows before each event."""
    found, state = [], log.initial
    for event, meta in log.events:
        end = sagas.ENDS[type(event)](state, event, meta.occurred_at) if type(event) in sagas.ENDS else None
        found += [(end.saga_type, end.outcome)] if end else []
        state = log.rules.evolve(state, event, meta)
    return found


def packed(log: Log) -> Log:
    for status in ("picking", "picked", "packed"):
        log.when(PostFulfillmentStatus("o1", status), command_id=status)
    return log


# -- under way ------------------------------------------------------------------------------------------------------------------------
def test_a_place_waits_for_every_sku_that_has_not_answered() -> None:
    log = placed(item(), item("2", "B"))
    log.when(answer("reserved"))
    (saga,) = sagas.sagas(log.rows)
    assert saga == Saga("o1~place", "place", "reserve", NOW, NOW + seconds(120), ("stock B",), False)


def test_a_place_waits_for_its_commit() -> None:
    assert under_way(confirmed(committed=False)) == [("place", "commit", ("stock A",), False)]
    assert under_way(confirmed()) == [], "an order with its warehouse owes nobody an answer"


def test_what_a_refused_place_reserved_is_given_back() -> None:
    log = placed(item(), item("2", "B"))
    log.when(answer("reserved"))
    log.when(answer("refused", "B"))
    assert (log.rows.order.status, under_way(log)) == ("REJECTED", [("place", "release", ("stock A",), True)])
    log.when(answer("released"))
    assert under_way(log) == []


def test_a_prepaid_place_waits_for_its_provider() -> None:
    log = reserved()
    assert under_way(log) == [("place", "authorize", ("provider local",), False)]
    log.when(said(asked(log), "unknown"))
    assert under_way(log) == [("place", "authorize", ("provider local",), False)]


def test_a_cancel_waits_for_stock_and_money_together() -> None:
    log = authorized()
    log.when(CancelOrder(), command_id="cancel")
    assert under_way(log) == [("cancel", "release", ("stock A", "provider local"), True)]
    log.when(answer("released"))
    assert under_way(log) == [("cancel", "void", ("provider local",), True)]
    log.when(said(asked(log)))
    assert under_way(log) == []


def test_a_cancel_of_an_unanswered_authorization_waits_for_it() -> None:
    log = reserved()
    log.when(CancelOrder(), command_id="cancel")
    log.when(answer("released"))
    assert under_way(log) == [("cancel", "authorize", ("provider local",), True)]


def test_goods_wait_for_their_capture() -> None:
    log = packed(authorized())
    log.when(PostFulfillmentStatus("o1", "shipped"), command_id="shipped")
    assert under_way(log) == [("handover", "capture", ("provider local",), False)]
    log.when(said(asked(log)))
    assert (log.rows.order.status, under_way(log)) == ("SHIPPED", [])


def test_what_people_ask_is_a_payment() -> None:
    log = packed(authorized())
    log.when(PostFulfillmentStatus("o1", "shipped"), command_id="shipped")
    log.when(said(asked(log)))
    log.when(RefundPayment(), command_id="refund")
    assert under_way(log) == [("payment", "refund", ("provider local",), True)]
    log.when(said(asked(log), "declined"))
    assert under_way(log) == [], "nothing was owed: whoever asked has heard no"


def test_an_authorization_after_the_window_is_compensated() -> None:
    log = reserved()
    (timer,) = log.timers()
    log.when(timer)
    log.when(answer("released"))
    assert (log.rows.order.status, under_way(log)) == ("EXPIRED", [("payment", "authorize", ("provider local",), True)])
    log.when(said(asked(log)))
    assert under_way(log) == [("payment", "void", ("provider local",), True)]


@pytest.mark.parametrize("status", ["REJECTED", "PROCESSING", "CANCELED", "SHIPPED", "DELIVERED"])
def test_nothing_is_under_way_for_an_order_at_rest(status: str) -> None:
    assert under_way(in_status(status)) == []


def test_a_saga_counts_from_the_moment_when_the_order_last_asked_somebody() -> None:
    log = packed(authorized())
    log.when(PostFulfillmentStatus("o1", "shipped"), at=NOW + seconds(50), command_id="shipped")
    (saga,) = sagas.sagas(log.rows)
    assert saga.since == NOW + seconds(50)
    late = placed()
    late.when(CancelOrder(), at=NOW + seconds(70), command_id="cancel")
    (saga,) = sagas.sagas(late.rows)
    assert saga.since == NOW + seconds(70)


# -- stuck ----------------------------------------------------------------------------------------------------------------------------
def test_a_step_whose_time_is_over_is_stuck_after_a_margin() -> None:
    log = placed()
    assert [why(log, after) for after in (1, 149, 151)] == [[""], [""], ["overdue"]]


def test_an_operation_without_answer_is_stuck_before_its_window_is_over() -> None:
    assert [why(reserved(), after) for after in (299, 301)] == [[""], ["unanswered"]]


def test_an_ask_without_an_end_of_its_own_is_stuck_when_nobody_answers() -> None:
    log = in_status("CANCEL_PENDING")
    assert [why(log, after) for after in (299, 301)] == [[""], ["unanswered"]]


def test_a_declined_compensation_is_stuck_at_once_and_resumed_by_people() -> None:
    log = authorized()
    log.when(CancelOrder(), command_id="cancel")
    log.when(answer("released"))
    log.when(said(asked(log), "declined"))
    assert (under_way(log), why(log, 0)) == ([("cancel", "void", ("people",), True)], ["declined"])
    log.when(VoidPayment(), command_id="again")
    assert (under_way(log), why(log, 0)) == ([("cancel", "void", ("provider local",), True)], [""])
    log.when(said(asked(log)))
    assert (log.rows.order.status, under_way(log)) == ("CANCELED", [])


# -- ended ----------------------------------------------------------------------------------------------------------------------------
def test_every_end_has_its_outcome() -> None:
    assert ends(confirmed()) == [("place", "completed")]
    assert ends(in_status("REJECTED")) == [("place", "refused")]
    assert ends(in_status("EXPIRED")) == [("place", "compensated")]
    assert ends(in_status("CANCELED")) == [("place", "completed"), ("cancel", "completed")]
    early = placed()
    early.when(CancelOrder(), command_id="cancel")
    early.when(answer("released"))
    assert ends(early) == [("place", "compensated"), ("cancel", "completed")]


def test_money_beside_place_and_cancel_ends_on_its_own() -> None:
    log = packed(authorized())
    log.when(PostFulfillmentStatus("o1", "shipped"), command_id="shipped")
    log.when(said(asked(log)))
    log.when(RefundPayment(), command_id="refund")
    log.when(said(asked(log)))
    assert ends(log) == [("place", "completed"), ("handover", "completed"), ("payment", "compensated")]
    declined = packed(authorized())
    declined.when(PostFulfillmentStatus("o1", "shipped"), command_id="shipped")
    declined.when(said(asked(declined), "declined"))
    assert ends(declined) == [("place", "completed"), ("handover", "refused")]


def test_an_end_knows_how_long_its_last_step_took() -> None:
    log = placed()
    log.when(answer("refused"), at=NOW + seconds(2))
    (event, meta) = next((event, meta) for event, meta in log.events if type(event) in sagas.ENDS)
    before = placed().rows
    assert sagas.ENDS[type(event)](before, event, meta.occurred_at) == End("place", "refused", seconds(2))


# -- laws -----------------------------------------------------------------------------------------------------------------------------
@given(st.integers(0, 2**32), st.floats(0, 0.5))
def test_a_saga_is_open_exactly_while_somebody_owes_an_answer(seed: int, declines: float) -> None:
    """Of any history: the indexes find every open saga, each waits for somebody or for its own timer, and a quiet world has none but
    those that wait for people."""
    random = Random(seed)
    log = reserved(priced(), priced("2", "B"))
    moves: list[Any] = [CancelOrder(), *(PostFulfillmentStatus("o1", word) for word in ("picking", "picked", "packed", "shipped"))]
    for number in range(12):
        _found(log)
        if random.random() < 0.5:
            log.when(random.choice(moves), command_id=f"move {number}")
        else:
            _owed(log, random, declines)
    for _ in range(20):
        _owed(log, random, declines)
    left = _found(log)
    assert all(each.waits_for == ("people",) for each in left), left


def _found(log: Log) -> tuple[Saga, ...]:
    found = sagas.sagas(log.rows)
    order, money = log.rows.order, log.rows.payment
    indexed = sagas.open_order("o1", order) is not None or (money is not None and sagas.open_payment("o1", money) is not None)
    assert indexed or not found
    assert all(each.waits_for or each.due_at is not None for each in found)
    assert len({each.saga_id for each in found}) == len(found)
    return found


def _owed(log: Log, random: Random, declines: float) -> None:
    """Somebody who owes an answer gives it."""
    owed = [row for row in log.rows.stock_answer.values() if row.outcome in ("asked", "committing", "releasing")]
    requests = [event for event in log.named(PaymentRequested)]
    attempt = log.rows.payment.attempts[-1] if log.rows.payment else None
    if owed and random.random() < 0.7:
        row = random.choice(owed)
        outcome = {"asked": "reserved", "committing": "committed", "releasing": "released"}[row.outcome]
        log.when(answer(outcome, row.sku, row.quantity, **({} if outcome == "released" else {"allocations": row.allocations or ()})))
    elif attempt is not None and attempt.outcome in ("requested", "unknown") and requests:
        log.when(said(requests[-1], "declined" if random.random() < declines else "succeeded"))
