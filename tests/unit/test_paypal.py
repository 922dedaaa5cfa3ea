"""The laws of the provider port, kept by the adapter for PayPal against a server that insists on PayPal's documented form."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestServer
from paypal_stand_in import ORDER, PAGE, PayPalStandIn

from orderflow.connectors.payments.paypal import PayPalProvider, amount_here, amount_there
from orderflow.connectors.payments.port import ActionRequired, Inexpressible, Operation, Outcome, Unanswered
from orderflow.connectors.payments.providers import build_provider
from orderflow.connectors.payments.settings import PaymentSettings

CLIENT, SECRET = "A" * 20 + "b1-_" * 10, "E" * 20 + "c2-_" * 10
HELD_UNTIL = 1_798_372_800_000_000


@pytest.fixture
def stand_in() -> PayPalStandIn:
    return PayPalStandIn(CLIENT, SECRET)


@pytest.fixture
async def provider(stand_in: PayPalStandIn) -> AsyncIterator[PayPalProvider]:
    async with TestServer(stand_in.app()) as server:
        adapter = PayPalProvider(CLIENT, SECRET, 5.0, str(server.make_url("/")))
        await adapter.start()
        yield adapter
        await adapter.close()


def operation(
    word: str = "authorize", amount: int = 1000, number: int = 1, ref: str = "", order: str = ORDER, currency: str = "EUR"
) -> Operation:
    return Operation(f"o1~A1:{word}:{number}", word, amount, currency, "o1", ref, order)


async def authorized(provider: PayPalProvider) -> str:
    return (await provider.perform(operation())).provider_ref


async def test_an_approved_order_is_authorized_and_its_repeat_says_the_same(provider: PayPalProvider, stand_in: PayPalStandIn) -> None:
    assert await provider.perform(operation()) == Outcome(True, "AUTH1", 1000, "EUR", HELD_UNTIL)
    stand_in.answers.clear()  # PayPal has forgotten the request id, after six hours
    answers = await asyncio.gather(*(provider.perform(operation()) for _ in range(10)))
    assert set(map(repr, answers)) == {repr(Outcome(True, "AUTH1", 1000, "EUR", HELD_UNTIL))}
    assert len(stand_in.payments["authorizations"]) == 1 and len(stand_in.tokens) == 1


@pytest.mark.parametrize(("amount", "currency"), [(999, "EUR"), (1000, "USD")])
async def test_an_order_that_was_approved_for_something_else_is_not_authorized(
    provider: PayPalProvider, stand_in: PayPalStandIn, amount: int, currency: str
) -> None:
    found = await provider.perform(operation(amount=amount, currency=currency))
    assert (found.succeeded, found.code, stand_in.payments["authorizations"]) == (False, "amount_differs", [])


@pytest.mark.parametrize(
    ("order", "issue", "code"), [("NOWHERE", "", "INVALID_RESOURCE_ID"), (ORDER, "INSTRUMENT_DECLINED", "INSTRUMENT_DECLINED")]
)
async def test_what_paypal_declines_is_declined_with_its_word(
    provider: PayPalProvider, stand_in: PayPalStandIn, order: str, issue: str, code: str
) -> None:
    stand_in.issue = issue
    answers = [await provider.perform(operation(order=order)) for _ in range(2)]
    assert answers[0] == answers[1] == Outcome(False, "", 1000, "EUR", None, code)


# -- a buyer who has yet to approve ---------------------------------------------------------------------------------------------------
CANCELED = Outcome(True, ORDER, 1000, "EUR")


def cancel() -> Operation:
    """It names no method of the buyer's: the order is what the provider calls the payment."""
    return operation("cancel", 1000, 2, ORDER, "")


@pytest.mark.parametrize(("status", "rel"), [("CREATED", "approve"), ("PAYER_ACTION_REQUIRED", "payer-action")])
async def test_a_buyer_who_has_not_approved_is_sent_to_paypal_and_the_order_authorized_once_they_have(
    provider: PayPalProvider, stand_in: PayPalStandIn, status: str, rel: str
) -> None:
    stand_in.ask_buyer(status, rel)
    for ref in ("", ORDER):
        with pytest.raises(ActionRequired) as raised:
            await provider.perform(operation(ref=ref))
        assert (raised.value.action_url, raised.value.provider_ref) == (PAGE, ORDER)
    assert stand_in.posts == []
    stand_in.approve()
    answers = [await provider.perform(operation(ref=ORDER)) for _ in range(2)]
    assert answers[0] == answers[1] == Outcome(True, "AUTH1", 1000, "EUR", HELD_UNTIL)
    assert stand_in.posts == [f"checkout/orders/{ORDER}/authorize"]


async def test_the_page_for_what_the_buyer_has_to_do_goes_before_the_one_for_approval(
    provider: PayPalProvider, stand_in: PayPalStandIn
) -> None:
    stand_in.ask_buyer("PAYER_ACTION_REQUIRED", "payer-action")
    stand_in.order["links"].append({"href": "https://www.paypal.com/other", "rel": "approve", "method": "GET"})
    with pytest.raises(ActionRequired) as raised:
        await provider.perform(operation())
    assert raised.value.action_url == PAGE


async def test_an_order_that_names_no_page_for_its_buyer_is_not_answered_yet(provider: PayPalProvider, stand_in: PayPalStandIn) -> None:
    stand_in.ask_buyer(rel="update")
    with pytest.raises(Unanswered, match="no link for its buyer"):
        await provider.perform(operation())


async def test_a_buyer_is_not_sent_to_approve_another_amount(provider: PayPalProvider, stand_in: PayPalStandIn) -> None:
    stand_in.ask_buyer()
    assert (await provider.perform(operation(amount=999))).code == "amount_differs"


async def test_an_order_that_its_buyer_left_alone_until_it_is_gone_is_declined(provider: PayPalProvider, stand_in: PayPalStandIn) -> None:
    stand_in.order["id"] = "ANOTHER"
    assert await provider.perform(operation(ref=ORDER)) == Outcome(False, ORDER, 1000, "EUR", None, "INVALID_RESOURCE_ID")


@pytest.mark.parametrize("status", ["CREATED", "PAYER_ACTION_REQUIRED", "VOIDED"])
async def test_a_cancel_of_an_order_that_nobody_approved_has_nothing_to_do(
    provider: PayPalProvider, stand_in: PayPalStandIn, status: str
) -> None:
    stand_in.ask_buyer(status)
    assert [await provider.perform(cancel()) for _ in range(2)] == [CANCELED, CANCELED]
    assert stand_in.posts == []


async def test_a_cancel_of_an_order_that_paypal_has_forgotten_is_done(provider: PayPalProvider, stand_in: PayPalStandIn) -> None:
    """An address that is none of PayPal's says nothing of the order."""
    stand_in.order["id"] = "ANOTHER"
    assert await provider.perform(cancel()) == CANCELED
    stand_in.not_found = {"name": "NOT_FOUND"}
    assert await provider.perform(cancel()) == Outcome(False, ORDER, 1000, "EUR", None, "NOT_FOUND")
    assert stand_in.posts == []


@pytest.mark.parametrize("status", ["APPROVED", "SAVED"])
async def test_a_cancel_of_an_approved_order_uses_its_one_authorization_up(
    provider: PayPalProvider, stand_in: PayPalStandIn, status: str
) -> None:
    """So that a call of ours that is still under way has nothing to authorize."""
    stand_in.order["status"] = status
    assert [await provider.perform(cancel()) for _ in range(2)] == [CANCELED, CANCELED]
    assert [each["status"] for each in stand_in.payments["authorizations"]] == ["VOIDED"]
    assert stand_in.posts == [f"checkout/orders/{ORDER}/authorize", "payments/authorizations/AUTH1/void"]
    stand_in.lags = 1  # that call looked at the order before
    assert (await provider.perform(operation(ref=ORDER))).code == "ORDER_ALREADY_AUTHORIZED"
    assert [each["status"] for each in stand_in.payments["authorizations"]] == ["VOIDED"]


async def test_a_cancel_of_an_authorized_order_voids_it_once(provider: PayPalProvider, stand_in: PayPalStandIn) -> None:
    await authorized(provider)
    stand_in.posts.clear()
    assert [await provider.perform(cancel()) for _ in range(2)] == [CANCELED, CANCELED]
    assert stand_in.payments["authorizations"][0]["status"] == "VOIDED"
    assert stand_in.posts == ["payments/authorizations/AUTH1/void"]


async def test_a_cancel_voids_what_was_authorized_while_it_looked(provider: PayPalProvider, stand_in: PayPalStandIn) -> None:
    await authorized(provider)
    stand_in.lags = 2
    with pytest.raises(Unanswered, match="does not show it yet"):
        await provider.perform(cancel())
    stand_in.lags = 1
    assert await provider.perform(cancel()) == CANCELED
    assert [each["status"] for each in stand_in.payments["authorizations"]] == ["VOIDED"]


async def test_a_cancel_does_not_take_an_order_for_canceled_that_is_completed_and_does_not_show_by_what(
    provider: PayPalProvider, stand_in: PayPalStandIn
) -> None:
    stand_in.order["status"] = "COMPLETED"
    with pytest.raises(Unanswered, match="shows no authorization"):
        await provider.perform(cancel())


@pytest.mark.parametrize("status", ["DENIED", "VOIDED"])
async def test_a_cancel_leaves_an_authorization_alone_that_holds_nothing(
    provider: PayPalProvider, stand_in: PayPalStandIn, status: str
) -> None:
    await authorized(provider)
    stand_in.payments["authorizations"][0]["status"] = status
    stand_in.posts.clear()
    assert await provider.perform(cancel()) == CANCELED
    assert stand_in.posts == []


async def test_a_cancel_is_declined_when_paypal_will_not_void_and_done_when_it_will_not_authorize(
    provider: PayPalProvider, stand_in: PayPalStandIn
) -> None:
    stand_in.issue = "INSTRUMENT_DECLINED"
    assert await provider.perform(cancel()) == CANCELED
    stand_in.issue, stand_in.answers = "", {}
    await authorized(provider)
    stand_in.issue = "PREVIOUSLY_CAPTURED"
    assert await provider.perform(cancel()) == Outcome(False, ORDER, 1000, "EUR", None, "PREVIOUSLY_CAPTURED")


@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize("is_authorized", [False, True])
async def test_a_cancel_without_an_answer_is_asked_again_and_leaves_nothing_authorized(
    provider: PayPalProvider, stand_in: PayPalStandIn, is_authorized: bool, is_done: bool
) -> None:
    """Without the answer to the authorization, or to the void."""
    if is_authorized:
        await authorized(provider)
    stand_in.fail = [(500, is_done)]
    with pytest.raises(Unanswered):
        await provider.perform(cancel())
    assert await provider.perform(cancel()) == CANCELED
    assert [each["status"] for each in stand_in.payments["authorizations"]] == ["VOIDED"]


# -- captures, voids, refunds ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("before", "word", "amount", "succeeds"),
    [
        ([("capture", 600)], "capture", 400, True),
        ([("capture", 600)], "capture", 401, False),
        ([("capture", 600)], "void", 400, True),
        ([("void", 1000)], "void", 1000, True),
        ([("void", 1000)], "capture", 1, False),
        ([("capture", 600)], "refund", 600, True),
        ([("capture", 600), ("refund", 500)], "refund", 101, False),
        ([("capture", 300), ("capture", 600)], "refund", 600, True),
        ([("capture", 300), ("capture", 600)], "refund", 601, False),
        ([], "refund", 1, False),
    ],
)
async def test_no_money_from_nowhere(
    provider: PayPalProvider, before: list[tuple[str, int]], word: str, amount: int, succeeds: bool
) -> None:
    ref = await authorized(provider)
    for number, (earlier, units) in enumerate(before, 2):
        assert (await provider.perform(operation(earlier, units, number, ref))).succeeded
    answer = await provider.perform(operation(word, amount, 9, ref))
    assert (answer.succeeded, answer.amount_minor, answer.currency, answer.provider_ref) == (succeeds, amount, "EUR", ref)
    assert bool(answer.code) is not succeeds


@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize("status", [500, 503, 429, 409, 403, None])
async def test_what_says_nothing_of_the_operation_is_asked_again_and_happens_once(
    provider: PayPalProvider, stand_in: PayPalStandIn, status: int | None, is_done: bool
) -> None:
    ref = await authorized(provider)
    for number, word in enumerate(("capture", "refund"), 2):
        stand_in.fail = [(status, is_done)]
        with pytest.raises(Unanswered):
            await provider.perform(operation(word, 400, number, ref))
        assert (await provider.perform(operation(word, 400, number, ref))).succeeded
    assert [[each["amount"]["value"] for each in stand_in.payments[kind]] for kind in ("captures", "refunds")] == [["4.00"], ["4.00"]]


async def test_what_is_not_final_is_looked_at_again(provider: PayPalProvider, stand_in: PayPalStandIn) -> None:
    ref = await authorized(provider)
    stand_in.pending = True
    with pytest.raises(Unanswered, match="PENDING"):
        await provider.perform(operation("capture", 400, 2, ref))
    stand_in.payments["captures"][0]["status"] = "COMPLETED"
    assert (await provider.perform(operation("capture", 400, 2, ref))).succeeded
    with pytest.raises(Unanswered, match="PENDING"):
        await provider.perform(operation("refund", 100, 3, ref))
    stand_in.answers.clear()
    stand_in.payments["refunds"][0].update(status="FAILED", status_details={"reason": "ECHECK"})
    assert await provider.perform(operation("refund", 100, 3, ref)) == Outcome(False, ref, 100, "EUR", None, "echeck")
    assert len(stand_in.payments["refunds"]) == 1


async def test_a_token_that_is_refused_is_renewed_once(provider: PayPalProvider, stand_in: PayPalStandIn) -> None:
    ref = await authorized(provider)
    stand_in.valid.clear()
    assert (await provider.perform(operation("capture", 100, 2, ref))).succeeded
    assert len(stand_in.tokens) == 2


async def test_a_wrong_secret_is_no_decline_and_is_not_told(stand_in: PayPalStandIn) -> None:
    async with TestServer(stand_in.app()) as server:
        adapter = PayPalProvider(CLIENT, SECRET + "x", 5.0, str(server.make_url("/")))
        await adapter.start()
        with pytest.raises(Unanswered) as raised:
            await adapter.perform(operation())
        await adapter.close()
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    ("ours", "currency", "theirs"),
    [(1250, "EUR", "12.50"), (5, "USD", "0.05"), (1250, "JPY", "1250"), (50_000, "HUF", "500"), (50_000, "TWD", "500")],
)
def test_amounts_are_written_as_paypal_documents(ours: int, currency: str, theirs: str) -> None:
    assert amount_there(ours, currency) == theirs and amount_here(theirs, currency) == ours


async def test_an_amount_that_paypal_cannot_write_is_declined(provider: PayPalProvider, stand_in: PayPalStandIn) -> None:
    with pytest.raises(Inexpressible):
        amount_there(50_001, "HUF")
    assert (await provider.perform(operation(amount=50_001, currency="HUF"))).code == "amount_not_expressible"
    with pytest.raises(ValueError, match="no whole minor units"):
        amount_here("1.234", "EUR")
    with pytest.raises(ValueError, match="no amount"):
        amount_here("x", "EUR")


@pytest.mark.parametrize(("text", "is_good"), [(f"{CLIENT}\n{SECRET}\n", True), (CLIENT, False), ("id\nsecret\n", False), ("", False)])
def test_the_client_comes_from_a_file(tmp_path: Path, text: str, is_good: bool) -> None:
    file = tmp_path / "paypal"
    file.write_text(text)
    more: dict[str, Any] = {"provider": "paypal", "paypal_client_file": file}
    found = PaymentSettings(**more)
    assert [("ORDERFLOW_PAYPAL_CLIENT_FILE" in each) for each in found.refusals()] == ([] if is_good else [True])
    assert SECRET not in repr(found)
    if is_good:
        assert isinstance(build_provider(found), PayPalProvider)


async def test_more_of_an_authorization_is_declined(provider: PayPalProvider) -> None:
    answer = await provider.perform(operation("increase", 500, 2, "AUTH-1"))
    assert (answer.succeeded, answer.code) == (False, "increase_unsupported")
