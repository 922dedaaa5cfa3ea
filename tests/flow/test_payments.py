"""A prepaid order through the real processors and rows: who waits is answered when the provider is, and folding the events gives the rows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flow_harness import RECORDS, Flow

from orderflow.streams.domain.order_records import CancelOrder, PlacedLine, PlaceOrder, PostFulfillmentStatus
from orderflow.streams.domain.parts import Money
from orderflow.streams.domain.payment_records import PaymentRequested, RecordProviderResult, RefundPayment
from orderflow.streams.domain.stock_records import ReceiveStock


@pytest.fixture
def flow(tmp_path: Path) -> Iterator[Flow]:
    flow = Flow(tmp_path)
    flow.send("stock", "A", ReceiveStock("main", 5, reference="r"), "receive")
    line = PlacedLine("1", "A", 2, unit_price=Money(500, "EUR"))
    flow.send("orders", "o1", PlaceOrder("box", payment_terms="prepaid", lines=(line,)), "place")
    flow.run()
    yield flow
    flow.check_fold()
    assert not flow.parked("orders") and not flow.parked("stock")
    flow.store.close()


def say(flow: Flow, outcome: str = "succeeded") -> None:
    """The provider answers the latest request; twice, as a connector that was killed in between would."""
    request = [event for _, _, event in flow.events("orders") if isinstance(event, PaymentRequested)][-1]
    result = RecordProviderResult(request.attempt_id, request.operation, request.operation_no, outcome, request.amount, "local", "ref")
    for _ in range(2):
        flow.send("orders", "o1", result, f"{request.idempotency_key}:{outcome}", reply_to=None)
    flow.run()


def reply(flow: Flow, command_id: str) -> tuple[str, str]:
    (found,) = flow.replies(command_id)
    return found.outcome, found.reason


def payment(flow: Flow) -> Any:
    return flow.snapshots("payment")["o1"]


def test_place_ship_and_refund_are_answered_by_the_provider(flow: Flow) -> None:
    assert flow.replies("place") == []
    say(flow)
    assert reply(flow, "place") == ("applied", "")
    for status in ("picking", "picked", "packed", "shipped"):
        flow.send("orders", "o1", PostFulfillmentStatus("o1", status), status)
    flow.run()
    assert flow.replies("shipped") == []
    say(flow)
    assert reply(flow, "shipped") == ("applied", "") and flow.snapshots("order")["o1"].financial_status == "captured"
    flow.send("orders", "o1", RefundPayment(Money(1, "EUR")), "refund")
    flow.run()
    assert flow.replies("refund") == []
    say(flow)
    assert reply(flow, "refund") == ("applied", "") and payment(flow).label == "partially_refunded"
    flow.send("orders", "o1", RefundPayment(Money(1, "EUR")), "refund")
    flow.run()
    assert [found.outcome for found in flow.replies("refund")] == ["applied", "applied"] and payment(flow).ledger.refunded_pending == 0


def test_a_decline_answers_with_its_reason_and_the_units_are_free(flow: Flow) -> None:
    say(flow, "declined")
    assert reply(flow, "place") == ("refused", "PAYMENT_DECLINED")
    assert flow.snapshots("stock")["A"].cells[0].available == 5


def test_a_cancel_is_answered_when_the_money_is_back(flow: Flow) -> None:
    say(flow)
    flow.send("orders", "o1", CancelOrder("staff"), "cancel")
    flow.run()
    assert flow.replies("cancel") == [] and flow.snapshots("order")["o1"].status == "CANCEL_PENDING"
    say(flow)
    assert reply(flow, "cancel") == ("applied", "")
    assert (flow.snapshots("order")["o1"].status, payment(flow).label) == ("CANCELED", "voided")


def test_the_window_closes_by_the_clock_and_a_late_yes_is_voided(flow: Flow) -> None:
    flow.pass_time(1799)
    assert flow.replies("place") == []
    flow.pass_time(2)
    assert reply(flow, "place") == ("refused", "METHOD_EXPIRED") and flow.snapshots("stock")["A"].cells[0].available == 5
    say(flow)
    say(flow)
    assert payment(flow).label == "voided"


def test_events_name_the_version_of_the_payment(flow: Flow) -> None:
    say(flow)
    versions = [meta.version for meta, _, event in flow.events("orders") if hasattr(event, "attempt_id")]
    assert versions == [1, 2] and RECORDS.of("orders").ce_type("PaymentAuthorized") == b"payment.payment.processed"
