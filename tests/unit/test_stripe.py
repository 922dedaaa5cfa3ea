"""The laws of the provider port, kept by the adapter for Stripe against a server that insists on Stripe's documented wire format."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestServer
from stripe_stand_in import VERSION, StripeStandIn

from orderflow.connectors.payments import stripe
from orderflow.connectors.payments.local import LocalProvider
from orderflow.connectors.payments.port import Inexpressible, Operation, Outcome, Unanswered
from orderflow.connectors.payments.providers import build_provider
from orderflow.connectors.payments.settings import PaymentSettings
from orderflow.connectors.payments.stripe import StripeProvider, amount_here, amount_there

KEY = "sk_" + "test_" + "A1b2C3d4E5f6G7h8"
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
