"""Prepaid orders on a real system: POST, authorization at a real provider process, capture at hand-over, money back, whatever is killed.

What we believe is compared with the provider's own book: every operation exactly once (bugs 16, 48, 49 of domain.md 5).
"""

import asyncio
import hashlib
import json
import os
import signal
import time
import urllib.request
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import webhook_forger
from integration_harness import PATIENCE_S, Answer, Rig, eventually, started, until
from msgspec.structs import replace

from orderflow.cli import contracts, invariants
from orderflow.connectors.box.box import Servers
from orderflow.connectors.webhooks.sources import standard_keys
from orderflow.connectors.webhooks.standard import signed_headers
from orderflow.streams.domain.channel import PREPAID

pytestmark = pytest.mark.box

ORDERS, PAYMENTS = "/api/v1/orders", "/api/v1/payments"
CURRENCY = "EUR"
LATE_S = 4.0
"""Longer than the local provider answers late."""
COUNTERS = {"authorize": "authorized", "increase": "authorized", "capture": "captured", "void": "voided", "refund": "refunded"}


@pytest.fixture(scope="module")
def rig(box: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with started(box, tmp_path_factory.mktemp("payments"), "payments", payments=True) as running:
        yield running


@pytest.fixture
async def sku(rig: Rig) -> AsyncIterator[str]:
    name = f"SKU-{uuid.uuid4().hex[:10]}"
    await rig.receive(name, 10)
    yield name


def book(rig: Rig, order_id: str) -> list[dict[str, Any]]:
    """What the provider did about an order, by its own account."""
    with urllib.request.urlopen(f"{rig.process('provider').url}/v1/operations?payment_ref={order_id}", timeout=PATIENCE_S) as answer:
        found: list[dict[str, Any]] = json.load(answer)["operations"]
        return found


async def known(rig: Rig, path: str, body: object, key: str, method: str = "POST") -> Answer:
    """The outcome of a command: 202 is asked again under its key, as a caller would on a machine that is slow."""
    answer: Answer = await eventually(lambda: rig.call(method, path, body, key=key), lambda found: found.status != 202)
    return answer


async def place(rig: Rig, sku: str, price: int, quantity: int = 1, *, is_known: bool = True) -> Answer:
    """A prepaid order and its outcome, or the first answer to it."""
    line = {"sku": sku, "qty": quantity, "unit_price": {"amount_minor": price, "currency": CURRENCY}}
    order_id = f"o-{uuid.uuid4().hex[:10]}"
    body = {"order_id": order_id, "channel": "prepaid", "items": [line]}
    return await (known(rig, ORDERS, body, order_id) if is_known else rig.call("POST", ORDERS, body, key=order_id))


async def order(rig: Rig, order_id: str) -> dict[str, Any]:
    return (await rig.call("GET", f"{ORDERS}/{order_id}")).json


async def payment(rig: Rig, order_id: str) -> dict[str, Any]:
    return (await rig.call("GET", f"{PAYMENTS}/{order_id}")).json


async def until_status(rig: Rig, order_id: str, *wanted: str) -> dict[str, Any]:
    found: dict[str, Any] = await eventually(lambda: order(rig, order_id), lambda seen: seen.get("status") in wanted)
    return found


async def ship(rig: Rig, order_id: str) -> None:
    for status in ("picking", "picked", "packed", "shipped"):
        answer = await rig.call("POST", f"/api/v1/fulfillment/{order_id}/status", {"status": status}, key=f"{order_id}-{status}")
        assert answer.status in (200, 202), answer.json


async def agrees(rig: Rig, order_id: str) -> dict[str, int]:
    """Our counters, which must be the sums of the provider's book, every key once and nothing pending."""
    found = await eventually(
        lambda: payment(rig, order_id), lambda seen: not any(seen["ledger"][f"{name}_pending"] for name in COUNTERS.values())
    )
    rows = book(rig, order_id)
    sums = dict.fromkeys(COUNTERS.values(), 0)
    for row in rows:
        if row["outcome"] == "succeeded" and row["operation"] in COUNTERS:
            sums[COUNTERS[row["operation"]]] += row["amount_minor"]
    assert {name: found["ledger"][name] for name in sums} == sums
    assert len({row["key"] for row in rows}) == len(rows) == len({(row["operation"], row["key"].rpartition(":")[2]) for row in rows})
    return sums


def names_of(rig: Rig, order_id: str) -> list[str]:
    """The order's events by name, as the log has them."""
    return [event.name for event in rig.events("orders", order_id)]


def secret_of(rig: Rig) -> bytes:
    """What the edge and the provider of this system share."""
    return standard_keys(rig.system.data / "webhooks.toml", "local")[0]


async def post_webhook(rig: Rig, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, Any]]:
    url = f"{rig.system.url}/api/v1/webhooks/local"
    async with aiohttp.ClientSession() as session, session.post(url, data=body, headers=headers) as answer:
        return answer.status, await answer.json()


async def deliver(rig: Rig, raw: bytes) -> dict[str, Any]:
    """A webhook as the provider would sign it."""
    status, found = await post_webhook(rig, signed_headers((secret_of(rig),), "msg", int(time.time()), raw), raw)
    assert status in (200, 202), found
    return found


async def test_an_order_is_paid_shipped_captured_and_partly_refunded(rig: Rig, sku: str) -> None:
    placed = await place(rig, sku, 1250, 2)
    assert (placed.status, placed.json["financial_status"]) == (201, "authorized"), placed.json
    order_id = placed.json["order_id"]
    await ship(rig, order_id)
    shipped = await until_status(rig, order_id, "shipped")
    assert shipped["financial_status"] == "captured"
    refunded = await known(rig, f"{PAYMENTS}/{order_id}/refund", {"amount": {"amount_minor": 500, "currency": CURRENCY}}, "r")
    assert (refunded.status, refunded.json["status"]) == (201, "partially_refunded"), refunded.json
    again = await rig.call("POST", f"{PAYMENTS}/{order_id}/refund", {"amount": {"amount_minor": 500, "currency": CURRENCY}}, key="r")
    assert again.status == 201
    assert await agrees(rig, order_id) == {"authorized": 2500, "captured": 2500, "voided": 0, "refunded": 500}


async def test_money_is_not_moved_without_a_key(rig: Rig, sku: str) -> None:
    order_id = (await place(rig, sku, 900)).json["order_id"]
    answer = await rig.call("POST", f"{PAYMENTS}/{order_id}/capture", {})
    assert (answer.status, answer.json["errors"][0]["header"]) == (400, "Idempotency-Key")
    refused = await known(rig, f"{PAYMENTS}/{order_id}/refund", {}, "nothing")
    assert (refused.status, refused.json["code"]) == (409, "NOT_AUTHORIZED_STATE")
    assert (await rig.call("GET", f"{PAYMENTS}/nobody")).status == 404


async def test_a_declined_order_is_402_and_gives_its_stock_back(rig: Rig, sku: str) -> None:
    declined = await place(rig, sku, 1002)
    assert (declined.status, declined.json["code"]) == (402, "PAYMENT_DECLINED")
    found = await until_status(rig, declined.json["order_id"], "canceled")
    assert (found["state"], found["reason"], found["financial_status"]) == ("rejected", "PAYMENT_DECLINED", "failed")
    stock = await eventually(lambda: rig.call("GET", f"/api/v1/stock/{sku}"), lambda seen: seen.json["reserved"] == 0)
    assert stock.json["available"] == 10
    assert [row["outcome"] for row in book(rig, declined.json["order_id"])] == ["declined"]


async def test_a_declined_payment_is_tried_again_and_only_the_second_charges(rig: Rig, sku: str) -> None:
    patient = {"patient": replace(PREPAID, payment_attempts=2)}
    contracts.send_channels(rig.bootstrap, rig.records, patient)
    assert contracts.await_channels(rig.bootstrap, rig.records, patient, PATIENCE_S) == []
    order_id = f"o-{uuid.uuid4().hex[:10]}"
    line = {"sku": sku, "qty": 1, "unit_price": {"amount_minor": 1011, "currency": CURRENCY}}
    declined = await known(rig, ORDERS, {"order_id": order_id, "channel": "patient", "items": [line]}, order_id)
    assert (declined.status, declined.json["code"]) == (402, "PAYMENT_DECLINED")
    failed = await order(rig, order_id)
    assert (failed["status"], failed["financial_status"]) == ("failed", "failed")
    await rig.stock_becomes(sku, 10, 9, 1, 0)
    unnamed = await rig.call("POST", f"{ORDERS}/{order_id}/payments", {})
    assert (unnamed.status, unnamed.json["errors"][0]["header"]) == (400, "Idempotency-Key")
    paid = await known(rig, f"{ORDERS}/{order_id}/payments", {"token_ref": "pm_other"}, f"{order_id}-retry")
    assert (paid.status, paid.json["status"], paid.json["financial_status"]) == (200, "processing", "authorized"), paid.json
    again = await rig.call("POST", f"{ORDERS}/{order_id}/payments", {"token_ref": "pm_other"}, key=f"{order_id}-retry")
    assert again.status == 200
    late = await rig.call("POST", f"{ORDERS}/{order_id}/payments", {}, key=f"{order_id}-late")
    assert (late.status, late.json["code"]) == (409, "ILLEGAL_TRANSITION")
    await ship(rig, order_id)
    await until_status(rig, order_id, "shipped")
    assert [(row["operation"], row["outcome"]) for row in book(rig, order_id)] == [
        ("authorize", "declined"),
        ("authorize", "succeeded"),
        ("capture", "succeeded"),
    ]
    assert await agrees(rig, order_id) == {"authorized": 1011, "captured": 1011, "voided": 0, "refunded": 0}


async def test_an_order_that_becomes_more_is_authorized_for_more_or_stays_as_it_was(rig: Rig, sku: str) -> None:
    order_id = (await place(rig, sku, 1100, 2)).json["order_id"]

    async def edit(quantity: int) -> Answer:
        body = {"lines": [{"line_id": "1", "quantity": quantity}]}
        return await known(rig, f"{ORDERS}/{order_id}", body, f"{order_id}-{quantity}", "PUT")

    more = await edit(3)
    assert (more.status, more.json["lines"][0]["quantity"]) == (200, 3), more.json
    assert (await payment(rig, order_id))["ledger"]["authorized"] == 3300
    for target in [each["fulfillment_id"] for each in (await order(rig, order_id))["fulfillments"]]:
        await ship(rig, target)
    await until_status(rig, order_id, "shipped")
    rows = [(row["operation"], row["amount_minor"]) for row in book(rig, order_id)]
    assert rows[:2] == [("authorize", 2200), ("increase", 1100)] and sum(amount for word, amount in rows if word == "capture") == 3300

    order_id = (await place(rig, sku, 34, 2)).json["order_id"]  # three more are 102, which is declined
    refused = await edit(5)
    assert (refused.status, refused.json["code"]) == (402, "PAYMENT_DECLINED"), refused.json
    assert (await order(rig, order_id))["lines"][0]["quantity"] == 2
    await eventually(lambda: rig.call("GET", f"/api/v1/stock/{sku}"), lambda seen: seen.json["reserved"] == 0)


# -- buyers who have to act -----------------------------------------------------------------------------------------------------------
async def acts(url: str, word: str) -> str:
    """What a buyer's browser sends from the provider's page, and the page that it is shown."""
    async with aiohttp.ClientSession(headers={"Accept": "text/html"}) as browser:
        async with browser.get(url) as page:
            text = await page.text()
            assert page.status == 200 and f"/{word}" in text and "script" not in text
        async with browser.post(f"{url}/{word}") as answer:
            assert answer.status == 200
            return await answer.text()


async def test_a_buyer_who_has_to_act_is_sent_to_the_provider_and_the_order_goes_on_when_they_agree(rig: Rig, sku: str) -> None:
    placed = await place(rig, sku, 1012)
    assert placed.status == 201, placed.json
    assert (placed.json["state"], placed.json["financial_status"]) == ("pending", "requires_action")
    order_id, url = placed.json["order_id"], placed.json["action_url"]
    await rig.stock_becomes(sku, 10, 9, 1, 0)
    assert (await payment(rig, order_id))["attempts"][-1]["action_url"] == url
    with rig.worker_down():  # the place was answered, and whoever is at the page does not notice
        pass
    assert "succeeded" in await acts(url, "agree")
    paid = await until_status(rig, order_id, "processing")
    assert (paid["financial_status"], paid["action_url"]) == ("authorized", "")
    await ship(rig, order_id)
    await until_status(rig, order_id, "shipped")
    assert await agrees(rig, order_id) == {"authorized": 1012, "captured": 1012, "voided": 0, "refunded": 0}


async def test_a_buyer_who_refuses_has_declined(rig: Rig, sku: str) -> None:
    placed = await place(rig, sku, 2012)
    assert "declined" in await acts(placed.json["action_url"], "refuse")
    found = await until_status(rig, placed.json["order_id"], "canceled")
    assert (found["state"], found["reason"], found["action_url"]) == ("rejected", "PAYMENT_DECLINED", "")
    await rig.stock_becomes(sku, 10, 10, 0, 0)


async def test_an_order_that_is_canceled_while_its_buyer_is_away_cannot_be_paid_any_more(rig: Rig, sku: str) -> None:
    placed = await place(rig, sku, 3012)
    order_id, url = placed.json["order_id"], placed.json["action_url"]
    canceled = await known(rig, f"{ORDERS}/{order_id}/cancel", {}, "cancel" + order_id)
    assert (canceled.status, canceled.json["state"]) == (200, "canceled"), canceled.json
    async with aiohttp.ClientSession() as browser, browser.post(f"{url}/agree") as late:
        assert late.status == 422
    assert [(row["operation"], row["outcome"]) for row in book(rig, order_id)] == [("authorize", "canceled"), ("cancel", "succeeded")]
    assert await agrees(rig, order_id) == {"authorized": 0, "captured": 0, "voided": 0, "refunded": 0}
    await rig.stock_becomes(sku, 10, 10, 0, 0)


async def test_a_declined_capture_hands_nothing_over(rig: Rig, sku: str) -> None:
    order_id = (await place(rig, sku, 2003)).json["order_id"]
    for status in ("picking", "picked", "packed"):
        await known(rig, f"/api/v1/fulfillment/{order_id}/status", {"status": status}, status + order_id)
    answer = await known(rig, f"/api/v1/fulfillment/{order_id}/status", {"status": "shipped"}, "ship" + order_id)
    assert (answer.status, answer.json["code"]) == (402, "PAYMENT_DECLINED")
    held = await order(rig, order_id)
    assert (held["status"], held["holds"], held["fulfillment_status"]) == ("on_hold", ["PAYMENT"], "packed")


# -- holds ----------------------------------------------------------------------------------------------------------------------------
async def test_a_held_order_is_not_handed_over_and_goes_on_when_it_is_released(rig: Rig, sku: str) -> None:
    order_id = (await place(rig, sku, 1300)).json["order_id"]
    hold, posts = f"{ORDERS}/{order_id}/holds", f"/api/v1/fulfillment/{order_id}/status"
    for _ in range(2):
        held = await known(rig, f"{hold}/fraud_review", {"reason": "two cards in one hour"}, "hold" + order_id)
        assert (held.status, held.json["status"], held.json["holds"]) == (200, "on_hold", ["FRAUD_REVIEW"])
    assert [found["order_id"] for found in (await rig.get(f"{ORDERS}?status=on_hold&sku={sku}")).json["items"]] == [order_id]
    for status in ("picking", "picked", "packed"):
        assert (await known(rig, posts, {"status": status}, status + order_id)).status == 200
    refused = await known(rig, posts, {"status": "shipped"}, "early" + order_id)
    assert (refused.status, refused.json["code"]) == (409, "HOLD_ACTIVE") and "FRAUD_REVIEW" in refused.body.decode()
    money = await known(rig, f"{PAYMENTS}/{order_id}/capture", {}, "capture" + order_id)
    assert (money.status, money.json["code"]) == (409, "HOLD_ACTIVE")
    wrong = await known(rig, f"{hold}/LUNCH", {}, "lunch" + order_id)
    assert (wrong.status, wrong.json["code"]) == (400, "SCHEMA_INVALID") and "MANUAL" in wrong.body.decode()

    free = await known(rig, f"{hold}/fraud_review", {"reason": "the customer called"}, "free" + order_id, "DELETE")
    assert (free.status, free.json["status"], free.json["holds"]) == (200, "packed", [])
    assert (await known(rig, posts, {"status": "shipped"}, "ship" + order_id)).status == 200
    await until_status(rig, order_id, "shipped")
    assert await agrees(rig, order_id) == {"authorized": 1300, "captured": 1300, "voided": 0, "refunded": 0}
    late = await known(rig, f"{hold}/MANUAL", {}, "late" + order_id)
    assert (late.status, late.json["code"]) == (409, "ALREADY_SHIPPED")
    assert [name for name in names_of(rig, order_id) if "Hold" in name] == ["OrderHoldPlaced", "OrderHoldReleased"]


async def test_an_order_that_is_held_while_it_is_paid_goes_to_the_warehouse_when_it_is_released(rig: Rig, sku: str) -> None:
    provider = rig.process("provider").pid
    os.kill(provider, signal.SIGSTOP)  # it answers when the order is held
    try:
        order_id = (await place(rig, sku, 4100, is_known=False)).json["order_id"]
        hold = f"{ORDERS}/{order_id}/holds/MANUAL"
        await eventually(lambda: order(rig, order_id), lambda found: found.get("financial_status") == "pending")
        assert (await known(rig, hold, {}, "hold" + order_id)).json["status"] == "on_hold"
    finally:
        os.kill(provider, signal.SIGCONT)
    held = await eventually(lambda: order(rig, order_id), lambda seen: seen["state"] == "confirmed")
    assert held["fulfillments"] == []
    assert (await known(rig, hold, {}, "free" + order_id, "DELETE")).status == 200
    assert len((await until_status(rig, order_id, "processing"))["fulfillments"]) == 1


@pytest.mark.slow
async def test_an_authorization_that_is_about_to_end_holds_its_order_also_when_the_worker_was_killed(box: Servers, tmp_path: Path) -> None:
    """A clock of 4320: seven days are 140 s, and after half of them people are told."""
    settings = {
        "ORDERFLOW_CLOCK_SPEED": "4320",
        "ORDERFLOW_PAYMENT_WINDOW_S": "86400",
        "ORDERFLOW_AUTHORIZATION_WARNING_S": str(7 * 86_400),
    }
    with started(box, tmp_path, "expiring", payments=True, settings=settings) as rig:
        await rig.receive("SKU", 10)
        order_id = (await place(rig, "SKU", 1400)).json["order_id"]
        await until_status(rig, order_id, "processing")
        with rig.worker_down():
            pass
        held = await eventually(lambda: order(rig, order_id), lambda seen: bool(seen["holds"]))
        assert (held["status"], held["holds"], held["financial_status"]) == ("on_hold", ["PAYMENT_EXPIRING"], "authorized")
        (until,) = [each["valid_until"] for each in (await payment(rig, order_id))["attempts"]]
        assert held["changed_at"] < until, "there is time left"
        assert names_of(rig, order_id).count("OrderHoldPlaced") == 1


async def test_a_lost_answer_is_asked_for_again_and_is_one_charge(rig: Rig, sku: str) -> None:
    placed = await place(rig, sku, 3007)
    assert placed.status in (201, 202)
    order_id = placed.json["order_id"]
    await until_status(rig, order_id, "processing")
    await ship(rig, order_id)
    await until_status(rig, order_id, "shipped")
    assert await agrees(rig, order_id) == {"authorized": 3007, "captured": 3007, "voided": 0, "refunded": 0}
    assert all(row["asked"] >= 2 for row in book(rig, order_id)), "every first answer was lost"


async def test_a_slow_provider_is_202_and_then_paid(rig: Rig, sku: str) -> None:
    provider = rig.process("provider").pid
    os.kill(provider, signal.SIGSTOP)  # slower than whoever looks
    try:
        placed = await place(rig, sku, 4008, is_known=False)
        assert placed.status == 202
        await eventually(lambda: order(rig, placed.json["order_id"]), lambda found: found.get("financial_status") == "pending")
    finally:
        os.kill(provider, signal.SIGCONT)
    await until_status(rig, placed.json["order_id"], "processing")


async def test_a_cancel_gives_the_money_back(rig: Rig, sku: str) -> None:
    order_id = (await place(rig, sku, 1500)).json["order_id"]
    canceled = await rig.call("POST", f"{ORDERS}/{order_id}/cancel", {})
    assert canceled.status in (200, 202)
    assert (await until_status(rig, order_id, "canceled"))["financial_status"] == "voided"
    assert await agrees(rig, order_id) == {"authorized": 1500, "captured": 0, "voided": 1500, "refunded": 0}


async def test_an_operation_that_is_never_answered_is_told_by_the_webhook(rig: Rig, sku: str) -> None:
    """It happens, every answer is lost, and the order goes on all the same: paid, shipped and captured by what the webhooks say."""
    placed = await place(rig, sku, 5009)
    assert placed.status in (201, 202)
    order_id = placed.json["order_id"]
    await until_status(rig, order_id, "processing")
    await ship(rig, order_id)
    await until_status(rig, order_id, "shipped")
    assert await agrees(rig, order_id) == {"authorized": 5009, "captured": 5009, "voided": 0, "refunded": 0}
    assert names_of(rig, order_id).count("WebhookRecorded") == 2


async def test_webhooks_that_come_three_times_before_a_late_answer_have_one_effect(rig: Rig, sku: str) -> None:
    order_id = (await place(rig, sku, 6006)).json["order_id"]
    await until_status(rig, order_id, "processing")
    until(lambda: book(rig, order_id)[0]["outcome"] == "succeeded", "it is in the book")
    until(lambda: "WebhookRecorded" in names_of(rig, order_id), "the first of its webhooks has come")
    await asyncio.sleep(LATE_S)
    events = names_of(rig, order_id)
    assert (events.count("WebhookRecorded"), events.count("PaymentAuthorized")) == (1, 1)
    assert (await agrees(rig, order_id))["authorized"] == 6006


async def test_twenty_deliveries_of_one_event_at_once_have_one_effect(rig: Rig) -> None:
    raw = webhook_forger.local_event("payment.refund.succeeded", f"evt_{uuid.uuid4().hex}", payment_ref="o-nobody")
    answers = await asyncio.gather(*(deliver(rig, raw) for _ in range(20)))
    answers.append(await eventually(lambda: deliver(rig, raw), lambda answer: answer["outcome"] != "pending"))
    assert {answer["outcome"] for answer in answers} <= {"recorded", "pending"}
    assert {answer["reason"] for answer in answers if answer["outcome"] == "recorded"} == {"UNKNOWN_REFERENCE"}
    assert names_of(rig, "o-nobody") == ["Refused"]


async def bank(rig: Rig, path: str, body: object) -> dict[str, Any]:
    """What the buyer's bank does, at the local provider."""
    url = f"{rig.process('provider').url}/v1/disputes{path}"
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as answer:
        found: dict[str, Any] = await answer.json()
        assert answer.status == 200, found
        return found


@pytest.mark.parametrize(("outcome", "left"), [("won", "captured"), ("lost", "refunded")])
async def test_a_dispute_finds_its_order_by_the_providers_reference_alone(rig: Rig, sku: str, outcome: str, left: str) -> None:
    order_id = (await place(rig, sku, 1300)).json["order_id"]
    await ship(rig, order_id)
    await until_status(rig, order_id, "shipped")
    dispute = (await bank(rig, "", {"payment_ref": order_id}))["dispute_ref"]
    opened = await eventually(lambda: payment(rig, order_id), lambda seen: seen["status"] == "disputed")
    assert opened["ledger"]["disputed_pending"] == 1300 and [each["outcome"] for each in opened["disputes"]] == ["opened"]
    refund = await known(rig, f"{PAYMENTS}/{order_id}/refund", {}, f"{order_id}-refund")
    assert (refund.status, refund.json["code"]) == (409, "DISPUTE_OPEN"), refund.json
    await bank(rig, f"/{dispute}/{outcome}", {})
    closed = await eventually(lambda: payment(rig, order_id), lambda seen: seen["status"] == left)
    assert (closed["ledger"]["disputed"], closed["ledger"]["disputed_pending"]) == (1300 if outcome == "lost" else 0, 0)
    assert {"DisputeOpened", "DisputeClosed"} <= set(names_of(rig, order_id))


async def test_what_is_said_of_a_payment_before_its_order_knows_it_waits_for_the_order(rig: Rig, sku: str) -> None:
    """The reference is the provider's to choose, so that it can be spoken of before the order has heard of it."""
    order_id = f"o-{uuid.uuid4().hex[:10]}"
    reference = "pay_" + hashlib.sha256(f"{order_id}~A1:authorize:1".encode()).hexdigest()[:20]
    said = {"dispute_ref": "dp_early", "provider_ref": reference, "amount_minor": 5, "currency": CURRENCY, "code": "early", "at": 1}
    found = await deliver(rig, json.dumps({"id": f"evt {order_id}", "type": "dispute.opened", "data": said}).encode())
    assert found["outcome"] in ("recorded", "pending")
    line = {"sku": sku, "qty": 1, "unit_price": {"amount_minor": 1400, "currency": CURRENCY}}
    await known(rig, ORDERS, {"order_id": order_id, "channel": "prepaid", "items": [line]}, order_id)
    seen = await eventually(lambda: payment(rig, order_id), lambda seen: bool(seen.get("disputes")))
    assert seen["disputes"][0]["dispute_ref"] == "dp_early"


async def test_no_forged_webhook_reaches_any_topic(rig: Rig) -> None:
    """The corpus, against the running edge: 401, and no topic has a record more."""
    forger = webhook_forger.Forger()
    forger.keys["standard"] = secret_of(rig)
    before = rig.quiet_ends()
    statuses = []
    for entry in webhook_forger.CORPUS:
        if entry["scheme"] == "standard":
            headers, body = forger.request("standard", webhook_forger.local_event(), entry)
            statuses.append((await post_webhook(rig, headers, body))[0])
    assert statuses == [401] * len(statuses) and len(statuses) >= 15
    assert rig.quiet_ends() == before


@pytest.mark.parametrize("name", ["provider", "payments"])
async def test_whatever_is_killed_every_order_ends_with_one_charge(rig: Rig, sku: str, name: str) -> None:
    """kill -9 while orders are being paid; the supervisor starts it again, and every order is paid once."""
    placing = [asyncio.create_task(place(rig, sku, 1000 + 100 * number, is_known=False)) for number in range(8)]
    await asyncio.sleep(0.05)
    victim = rig.process(name)
    os.kill(victim.pid, signal.SIGKILL)
    placed = [(await task).json["order_id"] for task in placing]
    for order_id in placed:
        await until_status(rig, order_id, "processing")
    for number, order_id in enumerate(placed):
        assert (await agrees(rig, order_id))["authorized"] == 1000 + 100 * number
    until(lambda: victim.name in {each.name for each in rig.system.state.processes if each.pid != victim.pid}, f"{name} runs again")


async def test_the_history_of_all_of_it_keeps_every_invariant(rig: Rig) -> None:
    """What `orderflow verify invariants` says of everything above, repeated answers and killed connectors included."""
    names = rig.names
    proved = await asyncio.to_thread(invariants.run, rig.bootstrap, rig.system.servers.registry_url, names.prefix, names.partitions)
    assert proved.faults == [] and proved.events > 20
