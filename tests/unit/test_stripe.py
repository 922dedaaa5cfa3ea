"""The laws of the provider port, kept by the adapter for Stripe against a server that insists on Stripe's documented wire format."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestServer
from msgspec.structs import replace
from stripe_stand_in import PAGE, VERSION, StripeStandIn

from orderflow.connectors.payments import stripe
from orderflow.connectors.payments.local import LocalProvider
from orderflow.connectors.payments.port import ActionRequired, Inexpressible, Operation, Outcome, Unanswered
from orderflow.connectors.payments.providers import build_provider
from orderflow.connectors.payments.settings import PaymentSettings
from orderflow.connectors.payments.stripe import StripeProvider, amount_here, amount_there

KEY = "sk_" + "test_" + "A1b2C3d4E5f6G7h8"
RETURN_URL = "https://shop.example/paid/{payment}?by=stripe"
CODES = [
    (500, {}),
    (503, {}),
    (429, {"error": {"type": "rate_limit_error"}}),
    (409, {"error": {"code": "lock_timeout"}}),
    (401, {}),
    (None, {}),
]


@pytest.fixture
def stand_in() -> StripeStandIn:
    return StripeStandIn(KEY)


@pytest.fixture
async def provider(stand_in: StripeStandIn) -> AsyncIterator[StripeProvider]:
    async with TestServer(stand_in.app()) as server:
        adapter = StripeProvider(KEY, 5.0, str(server.make_url("/")))
        await adapter.start()
        yield adapter
        await adapter.close()


@pytest.fixture
async def asking(stand_in: StripeStandIn) -> AsyncIterator[StripeProvider]:
    """A client that sends buyers who have to authenticate to Stripe's page."""
    async with TestServer(stand_in.app()) as server:
        adapter = StripeProvider(KEY, 5.0, str(server.make_url("/")), return_url=RETURN_URL)
        await adapter.start()
        yield adapter
        await adapter.close()


def operation(
    word: str = "authorize", amount: int = 1000, number: int = 1, ref: str = "", method: str = "pm_card", currency: str = "EUR"
) -> Operation:
    return Operation(f"o1~A1:{word}:{number}", word, amount, currency, "o1", ref, method)


async def authorized(provider: StripeProvider, amount: int = 1000) -> str:
    return (await provider.perform(operation(amount=amount))).provider_ref


async def test_an_authorization_says_what_is_held_and_until_when(provider: StripeProvider, stand_in: StripeStandIn) -> None:
    found = await provider.perform(operation())
    assert found == Outcome(True, "pi_1", 1000, "EUR", 1_800_000_000_000_000)
    assert stand_in.intents["pi_1"]["metadata"] == {"orderflow_key": "o1~A1:authorize:1", "orderflow_payment": "o1"}
    assert stripe.VERSION == VERSION


async def test_the_same_key_is_one_effect_and_one_answer(provider: StripeProvider, stand_in: StripeStandIn) -> None:
    answers = await asyncio.gather(*(provider.perform(operation()) for _ in range(20)))
    assert len(set(map(repr, answers))) == 1 and len(stand_in.intents) == 1


@pytest.mark.parametrize(
    ("before", "word", "amount", "succeeds"),
    [
        ([("capture", 600)], "capture", 400, True),
        ([("capture", 600)], "capture", 401, False),
        ([("capture", 600)], "void", 400, True),
        ([("capture", 600)], "refund", 600, True),
        ([("capture", 600), ("refund", 500)], "refund", 101, False),
        ([("void", 1000)], "capture", 1, False),
        ([], "refund", 1, False),
    ],
)
async def test_no_money_from_nowhere(
    provider: StripeProvider, before: list[tuple[str, int]], word: str, amount: int, succeeds: bool
) -> None:
    ref = await authorized(provider)
    for number, (earlier, units) in enumerate(before, 2):
        assert (await provider.perform(operation(earlier, units, number, ref))).succeeded
    answer = await provider.perform(operation(word, amount, 9, ref))
    assert (answer.succeeded, answer.amount_minor, answer.currency) == (succeeds, amount, "EUR")
    assert bool(answer.code) is not succeeds


async def test_a_card_that_is_captured_once_releases_the_rest_and_its_void_is_done(
    provider: StripeProvider, stand_in: StripeStandIn
) -> None:
    stand_in.multicapture = False
    ref = await authorized(provider)
    assert (await provider.perform(operation("capture", 600, 2, ref))).succeeded
    again = await provider.perform(operation("capture", 400, 3, ref))
    assert (again.succeeded, again.code) == (False, "payment_intent_unexpected_state")
    assert (await provider.perform(operation("void", 400, 4, ref))).succeeded
    assert stand_in.intents[ref]["amount_received"] == 600


@pytest.mark.parametrize(("method", "code"), [("pm_lost", "lost_card"), ("pm_3ds", "authentication_required")])
async def test_a_declined_card_is_an_answer_and_repeats(provider: StripeProvider, method: str, code: str) -> None:
    answers = [await provider.perform(operation(method=method)) for _ in range(2)]
    assert answers[0] == answers[1] == Outcome(False, "pi_1", 1000, "EUR", None, code)


# -- a buyer who has to act -----------------------------------------------------------------------------------------------------------
async def sent_to_act(provider: StripeProvider) -> ActionRequired:
    with pytest.raises(ActionRequired) as raised:
        await provider.perform(operation(method="pm_3ds"))
    return raised.value


def looking(ref: str) -> Operation:
    return operation(ref=ref, method="pm_3ds")


async def test_a_buyer_who_has_to_authenticate_is_sent_to_stripes_page_and_back_to_the_shops(
    asking: StripeProvider, stand_in: StripeStandIn
) -> None:
    action = await sent_to_act(asking)
    assert (action.action_url, action.provider_ref) == (f"{PAGE}?intent=pi_1", "pi_1")
    assert stand_in.intents["pi_1"]["next_action"]["redirect_to_url"]["return_url"] == "https://shop.example/paid/o1?by=stripe"
    with pytest.raises(ActionRequired):
        await asking.perform(Operation("t1/o2~A1:authorize:1", "authorize", 1000, "EUR", "t1/o 2&x=", "", "pm_3ds"))
    assert (
        stand_in.intents["pi_2"]["next_action"]["redirect_to_url"]["return_url"] == "https://shop.example/paid/t1%2Fo%202%26x%3D?by=stripe"
    )


async def test_a_buyer_who_has_nothing_to_do_is_not_sent_anywhere(asking: StripeProvider) -> None:
    assert await asking.perform(operation()) == Outcome(True, "pi_1", 1000, "EUR", 1_800_000_000_000_000)
    assert await asking.perform(operation(number=2, method="pm_lost")) == Outcome(False, "pi_2", 1000, "EUR", None, "lost_card")


async def test_a_repeat_of_the_request_is_stripes_first_answer_and_looking_again_asks_for_no_more(
    asking: StripeProvider, stand_in: StripeStandIn
) -> None:
    first = await sent_to_act(asking)
    stand_in.agree("pi_1")
    again = await sent_to_act(asking)
    assert (again.action_url, again.provider_ref) == (first.action_url, first.provider_ref)
    stand_in.calls.clear()
    assert (await asking.perform(looking("pi_1"))).succeeded
    assert stand_in.calls == ["GET payment_intents/pi_1"] and len(stand_in.intents) == 1


async def test_what_the_buyer_decides_is_the_answer(asking: StripeProvider, stand_in: StripeStandIn) -> None:
    """Also when Stripe has forgotten the key, which it does after a day."""
    await sent_to_act(asking)
    stand_in.answers.clear()
    with pytest.raises(ActionRequired) as raised:
        await asking.perform(looking("pi_1"))
    assert (raised.value.action_url, raised.value.provider_ref) == (f"{PAGE}?intent=pi_1", "pi_1")
    stand_in.agree("pi_1")
    answers = [await asking.perform(looking("pi_1")) for _ in range(2)]
    assert answers[0] == answers[1] == Outcome(True, "pi_1", 1000, "EUR", 1_800_000_000_000_000)
    assert len(stand_in.intents) == 1


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (("payment_intent_authentication_failure", None), "payment_intent_authentication_failure"),
        (("card_declined", "insufficient_funds"), "insufficient_funds"),
        (("", None), "authentication_failed"),
    ],
)
async def test_a_buyer_who_fails_is_declined_with_stripes_word(
    asking: StripeProvider, stand_in: StripeStandIn, said: tuple[str, str | None], code: str
) -> None:
    await sent_to_act(asking)
    stand_in.refuse("pi_1", *said)
    answers = [await asking.perform(looking("pi_1")) for _ in range(2)]
    assert answers[0] == answers[1] == Outcome(False, "pi_1", 1000, "EUR", None, code)
    assert stand_in.intents["pi_1"]["status"] == "canceled", "nobody can confirm it once more"


async def test_an_intent_that_was_canceled_elsewhere_is_declined_and_one_that_is_processed_is_not_answered_yet(
    asking: StripeProvider, stand_in: StripeStandIn
) -> None:
    await sent_to_act(asking)
    stand_in.intents["pi_1"]["status"] = "processing"
    with pytest.raises(Unanswered, match="processing"):
        await asking.perform(looking("pi_1"))
    stand_in.intents["pi_1"]["status"] = "canceled"
    assert await asking.perform(looking("pi_1")) == Outcome(False, "pi_1", 1000, "EUR", None, "canceled")


async def test_an_action_that_no_page_asks_for_is_not_taken_for_an_answer(asking: StripeProvider, stand_in: StripeStandIn) -> None:
    with pytest.raises(Unanswered, match="use_stripe_sdk"):
        await asking.perform(operation(method="pm_sdk"))
    stand_in.intents["pi_1"]["next_action"] = None
    with pytest.raises(Unanswered, match="no page"):
        await asking.perform(looking("pi_1"))


@pytest.mark.parametrize("decides", ["", "agree", "refuse"])
async def test_a_cancel_releases_whatever_the_buyer_has_done_and_its_repeat_does_nothing_more(
    asking: StripeProvider, stand_in: StripeStandIn, decides: str
) -> None:
    await sent_to_act(asking)
    if decides == "agree":
        stand_in.agree("pi_1")
    if decides == "refuse":
        stand_in.refuse("pi_1", "payment_intent_authentication_failure")
    assert await asking.perform(operation("cancel", 1000, 2, "pi_1", "")) == Outcome(True, "pi_1", 1000, "EUR")
    intent = stand_in.intents["pi_1"]
    assert (intent["status"], intent["amount_capturable"], intent["amount_received"]) == ("canceled", 0, 0)
    stand_in.answers.clear()
    assert await asking.perform(operation("cancel", 1000, 2, "pi_1", "")) == Outcome(True, "pi_1", 1000, "EUR")
    assert stand_in.calls.count("POST payment_intents/pi_1/cancel") == 1


@pytest.mark.parametrize("is_done", [False, True])
async def test_a_cancel_that_stripe_refuses_is_declined_unless_the_intent_is_canceled_by_now(
    asking: StripeProvider, stand_in: StripeStandIn, is_done: bool
) -> None:
    await sent_to_act(asking)
    code = "payment_intent_unexpected_state"
    stand_in.fail = [(400, {"error": {"type": "invalid_request_error", "code": code}}, is_done)]
    found = await asking.perform(operation("cancel", 1000, 2, "pi_1", ""))
    assert found == Outcome(is_done, "pi_1", 1000, "EUR", None, "" if is_done else code)


async def test_any_other_refusal_of_a_cancel_is_declined_with_stripes_word(asking: StripeProvider, stand_in: StripeStandIn) -> None:
    await sent_to_act(asking)
    stand_in.fail = [(400, {"error": {"type": "invalid_request_error", "code": "platform_api_key_expired"}}, False)]
    found = await asking.perform(operation("cancel", 1000, 2, "pi_1", ""))
    assert found == Outcome(False, "pi_1", 1000, "EUR", None, "platform_api_key_expired")
    unknown = await asking.perform(operation("cancel", 1000, 2, "pi_9", ""))
    assert unknown == Outcome(False, "pi_9", 1000, "EUR", None, "resource_missing")


@pytest.mark.parametrize("is_done", [False, True])
async def test_a_cancel_without_an_answer_is_asked_again(asking: StripeProvider, stand_in: StripeStandIn, is_done: bool) -> None:
    await sent_to_act(asking)
    stand_in.fail = [(None, {}, is_done)]
    with pytest.raises(Unanswered):
        await asking.perform(operation("cancel", 1000, 2, "pi_1", ""))
    assert (await asking.perform(operation("cancel", 1000, 2, "pi_1", ""))).succeeded
    assert stand_in.intents["pi_1"]["status"] == "canceled"


# -- what is no answer ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize(("status", "body"), CODES)
async def test_what_says_nothing_of_the_operation_is_asked_again_and_is_one_charge(
    provider: StripeProvider, stand_in: StripeStandIn, status: int | None, body: dict[str, Any], is_done: bool
) -> None:
    ref = await authorized(provider)
    for number, word in enumerate(("capture", "refund"), 2):
        stand_in.fail = [(status, body, is_done)]
        with pytest.raises(Unanswered):
            await provider.perform(operation(word, 400, number, ref))
        assert (await provider.perform(operation(word, 400, number, ref))).succeeded
    assert stand_in.intents[ref]["amount_received"] == 400 and [each["amount"] for each in stand_in.refunds] == [400]


async def test_a_refund_that_is_not_final_is_looked_for_again_and_never_made_twice(
    provider: StripeProvider, stand_in: StripeStandIn
) -> None:
    """Also when Stripe has forgotten the key, which it does after a day."""
    ref = await authorized(provider)
    await provider.perform(operation("capture", 1000, 2, ref))
    stand_in.refund_status = "pending"
    with pytest.raises(Unanswered):
        await provider.perform(operation("refund", 300, 3, ref))
    stand_in.answers.clear()
    stand_in.refunds[0].update(status="failed", failure_reason="expired_or_canceled_card")
    assert await provider.perform(operation("refund", 300, 3, ref)) == Outcome(False, ref, 300, "EUR", None, "expired_or_canceled_card")
    assert len(stand_in.refunds) == 1


async def test_a_key_that_was_used_for_something_else_is_nobodys_decline(provider: StripeProvider) -> None:
    await provider.perform(operation())
    with pytest.raises(Unanswered, match="idempotency_error"):
        await provider.perform(operation(amount=2000))


async def test_a_call_ends_within_its_deadline_and_a_wrong_key_is_no_decline(stand_in: StripeStandIn) -> None:
    async with TestServer(stand_in.app()) as server:
        for key, timeout_s in ((KEY, 0.2), (KEY + "x", 60.0)):
            stand_in.delay_s = 1.0 if key == KEY else 0.0
            adapter = StripeProvider(key, timeout_s, str(server.make_url("/")))
            await adapter.start()
            with pytest.raises(Unanswered) as raised:
                await adapter.perform(operation())
            assert key not in str(raised.value)
            await adapter.close()


@pytest.mark.parametrize(
    ("ours", "currency", "theirs"),
    [(1250, "EUR", 1250), (1250, "JPY", 1250), (500, "ISK", 50_000), (500, "UGX", 50_000), (500, "MGA", 5), (1250, "KWD", 1250)],
)
def test_amounts_are_written_as_stripe_documents(ours: int, currency: str, theirs: int) -> None:
    assert amount_there(ours, currency) == theirs and amount_here(theirs, currency) == ours


@pytest.mark.parametrize(("amount", "currency"), [(1251, "KWD"), (501, "MGA")])
async def test_an_amount_that_stripe_cannot_write_is_declined_and_nothing_is_asked(
    provider: StripeProvider, stand_in: StripeStandIn, amount: int, currency: str
) -> None:
    with pytest.raises(Inexpressible):
        amount_there(amount, currency)
    found = await provider.perform(operation(amount=amount, currency=currency))
    assert (found.succeeded, found.code, stand_in.calls) == (False, "amount_not_expressible", [])


# -- settings -------------------------------------------------------------------------------------------------------------------------
def settings(tmp_path: Path, key: str, **more: Any) -> PaymentSettings:
    file = tmp_path / "key"
    file.write_text(key + "\n")
    return PaymentSettings(**{"provider": "stripe", "stripe_key_file": file, **more})


def test_the_settings_choose_the_adapter(tmp_path: Path) -> None:
    assert isinstance(build_provider(PaymentSettings()), LocalProvider)
    found = settings(tmp_path, KEY)
    assert found.refusals() == [] and isinstance(build_provider(found), StripeProvider)
    assert KEY not in repr(found)


@pytest.mark.parametrize(
    ("key", "more", "fault"),
    [
        ("", {}, "ORDERFLOW_STRIPE_KEY_FILE"),
        ("changeme", {}, "ORDERFLOW_STRIPE_KEY_FILE"),
        (KEY, {"stripe_key_file": None}, "ORDERFLOW_STRIPE_KEY_FILE"),
        (KEY, {"stripe_key_file": Path("/nowhere/key")}, "ORDERFLOW_STRIPE_KEY_FILE"),
        (KEY, {"provider_url": "http://stripe.example"}, "https only"),
        (KEY, {"provider_url": "ftp://x"}, "no http address"),
    ],
)
def test_a_connector_without_a_usable_key_does_not_start(tmp_path: Path, key: str, more: dict[str, Any], fault: str) -> None:
    (refusal,) = settings(tmp_path, key, **more).refusals()
    assert fault in refusal and KEY not in refusal


# -- more of an authorization ---------------------------------------------------------------------------------------------------------
async def test_more_is_authorized_once_however_often_it_is_asked_for_and_captured_with_the_rest(
    provider: StripeProvider, stand_in: StripeStandIn
) -> None:
    ref = await authorized(provider)
    more = operation("increase", 500, 2, ref)
    answers = [await provider.perform(more) for _ in range(2)]
    stand_in.answers.clear()  # a day later
    answers.append(await provider.perform(more))
    assert answers == [Outcome(True, ref, 500, "EUR")] * 3 and stand_in.intents[ref]["amount_capturable"] == 1500
    assert (await provider.perform(operation("increase", 500, 3, ref))).succeeded and stand_in.intents[ref]["amount_capturable"] == 2000
    assert (await provider.perform(operation("capture", 2000, 4, ref))).succeeded


async def test_a_card_that_declines_more_keeps_what_was_authorized(provider: StripeProvider, stand_in: StripeStandIn) -> None:
    ref = await authorized(provider)
    stand_in.declines_more = "insufficient_funds"
    answer = await provider.perform(operation("increase", 500, 2, ref))
    assert (answer.succeeded, answer.code) == (False, "insufficient_funds")
    assert (await provider.perform(operation("capture", 1000, 3, ref))).succeeded


async def test_what_cannot_be_authorized_now_and_captured_later_is_declined(provider: StripeProvider) -> None:
    for method, succeeds in (("card", True), ("wallet", True), ("installment", False), ("bank_transfer", False)):
        answer = await provider.perform(replace(operation(number=9 + succeeds), key=f"o1~A1:authorize:{method}", method=method))
        assert (answer.succeeded, answer.code) == (succeeds, "" if succeeds else "method_unsupported")
