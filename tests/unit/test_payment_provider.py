"""The laws of the provider port, kept by the adapter of the local provider against the real server and its book on disk (slot D49)."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import TestServer
from msgspec.structs import replace

from orderflow.connectors.payments import provider as program
from orderflow.connectors.payments.book import BEHAVIOUR, LATE_S, Book, Refusal, behaviour_of
from orderflow.connectors.payments.local import LocalProvider
from orderflow.connectors.payments.port import ActionRequired, Operation, Outcome, Provider, Unanswered
from orderflow.connectors.payments.provider import build_app


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "provider" / "book.db"


@pytest.fixture
def book(file: Path) -> Iterator[Book]:
    found = Book(file)
    yield found
    found.close()


@pytest.fixture
async def server(book: Book) -> AsyncIterator[TestServer]:
    async with TestServer(build_app(book)) as running:
        yield running


@pytest.fixture
async def provider(server: TestServer) -> AsyncIterator[Provider]:
    adapter = LocalProvider(str(server.make_url("/")), 5.0)
    await adapter.start()
    yield adapter
    await adapter.close()


def operation(word: str = "authorize", amount: int = 1000, number: int = 1, ref: str = "") -> Operation:
    return Operation(f"o1~A1:{word}:{number}", word, amount, "EUR", "o1", ref)


async def authorized(provider: Provider, amount: int = 1000) -> str:
    return (await provider.perform(operation(amount=amount))).provider_ref


# -- laws -----------------------------------------------------------------------------------------------------------------------------
async def test_the_same_key_is_one_effect_and_one_answer(provider: Provider, book: Book) -> None:
    first, *others = await asyncio.gather(*(provider.perform(operation()) for _ in range(20)))
    assert first.succeeded and first.amount_minor == 1000 and first.currency == "EUR" and first.valid_until
    assert all(other == first for other in others)
    assert [row["asked"] for row in book.of("o1")] == [20]


async def test_two_keys_are_two_effects(provider: Provider, book: Book) -> None:
    ref = await authorized(provider)
    for number in (2, 3):
        assert (await provider.perform(operation("capture", 300, number, ref))).succeeded
    assert [row["amount_minor"] for row in book.of("o1") if row["operation"] == "capture"] == [300, 300]


@pytest.mark.parametrize(
    ("before", "word", "amount", "succeeds"),
    [
        ([("capture", 600)], "capture", 400, True),
        ([("capture", 600)], "capture", 401, False),
        ([("capture", 600)], "void", 400, True),
        ([("capture", 600)], "void", 401, False),
        ([("void", 600)], "capture", 401, False),
        ([("capture", 600)], "refund", 600, True),
        ([("capture", 600), ("refund", 500)], "refund", 101, False),
        ([], "refund", 1, False),
    ],
)
async def test_no_money_from_nowhere(provider: Provider, before: list[tuple[str, int]], word: str, amount: int, succeeds: bool) -> None:
    ref = await authorized(provider)
    for number, (earlier, units) in enumerate(before, 2):
        assert (await provider.perform(operation(earlier, units, number, ref))).succeeded
    answer = await provider.perform(operation(word, amount, 9, ref))
    assert answer.succeeded is succeeds and answer.code == ("" if succeeds else "amount_exceeds")


async def test_a_decline_is_an_answer_and_repeats(provider: Provider) -> None:
    answers = [await provider.perform(operation(amount=1002)) for _ in range(2)]
    assert answers[0] == answers[1] == Outcome(False, answers[0].provider_ref, 1002, "EUR", None, "insufficient_funds")


async def test_a_lost_answer_is_unanswered_once_and_then_told(provider: Provider, book: Book) -> None:
    with pytest.raises(Unanswered):
        await provider.perform(operation(amount=1007))
    assert book.of("o1")[0]["outcome"] == "succeeded", "it was done"
    assert (await provider.perform(operation(amount=1007))).succeeded


async def test_a_call_ends_within_its_deadline(server: TestServer) -> None:
    adapter = LocalProvider(str(server.make_url("/")), 0.2)
    await adapter.start()
    with pytest.raises(Unanswered):
        await adapter.perform(operation(amount=1008))
    await adapter.close()


async def test_nobody_there_and_nonsense_are_unanswered(server: TestServer, provider: Provider) -> None:
    with pytest.raises(Unanswered):  # refused as a request: 422 says nothing of the operation
        await provider.perform(replace(operation("capture"), provider_ref=""))
    await server.close()
    with pytest.raises(Unanswered):
        await provider.perform(operation())


async def test_more_is_authorized_of_what_is_and_declined_by_its_amount(provider: Provider, book: Book) -> None:
    ref = await authorized(provider)
    assert (await provider.perform(operation("increase", 500, 2, ref))).succeeded
    assert (await provider.perform(operation("increase", 502, 3, ref))).code == "insufficient_funds"
    assert (await provider.perform(operation("capture", 1500, 4, ref))).succeeded
    other = (await provider.perform(replace(operation(amount=1002), key="o2~A1:authorize:1"))).provider_ref
    assert (await provider.perform(operation("increase", 500, 5, other))).code == "nothing_authorized"


# -- buyers who have to act -----------------------------------------------------------------------------------------------------------
async def sent(provider: Provider, amount: int = 1012) -> ActionRequired:
    """Where the buyer of this payment is to act."""
    with pytest.raises(ActionRequired) as found:
        await provider.perform(operation(amount=amount))
    return found.value


@pytest.mark.parametrize(("agrees", "code"), [(True, ""), (False, "authentication_failed")])
async def test_a_buyer_is_sent_to_act_and_the_same_key_then_has_the_answer(provider: Provider, book: Book, agrees: bool, code: str) -> None:
    first, again = await sent(provider), await sent(provider)
    assert first.action_url == again.action_url and first.action_url.endswith(f"/pay/{first.provider_ref}")
    book.act("o1", agrees)
    answer = await provider.perform(replace(operation(amount=1012), provider_ref=first.provider_ref))
    assert (answer.succeeded, answer.code, answer.provider_ref) == (agrees, code, first.provider_ref)
    assert bool(answer.valid_until) is agrees
    with pytest.raises(Refusal, match="waits for its buyer"):
        book.act("o1", True)


@pytest.mark.parametrize("acts", ["before", "never"])
async def test_a_canceled_authorization_is_worth_nothing_whatever_its_buyer_did(provider: Provider, book: Book, acts: str) -> None:
    ref = (await sent(provider)).provider_ref
    if acts == "before":
        book.act(ref, True)
    for _ in range(2):
        assert (await provider.perform(operation("cancel", 1012, 2, ref))).succeeded
    with pytest.raises(Refusal):
        book.act(ref, True)
    assert (await provider.perform(operation("capture", 1, 3, ref))).code == "amount_exceeds"
    assert [row["outcome"] for row in book.of("o1")][:2] == ["canceled", "succeeded"]


async def test_what_was_captured_is_not_canceled(provider: Provider) -> None:
    ref = await authorized(provider)
    await provider.perform(operation("capture", 400, 2, ref))
    assert (await provider.perform(operation("cancel", 1000, 3, ref))).code == "already_captured"


async def test_nobody_is_told_by_a_webhook_before_the_buyer_has_acted(tmp_path: Path) -> None:
    book = Book(tmp_path / "told.db", tells=True)
    asked = {"operation": "authorize", "amount_minor": 112, "currency": "EUR", "payment_ref": "o1", "provider_ref": ""}
    book.perform("k", asked)
    assert book.owed(2**62) == []
    book.act("o1", True)
    (owed,) = book.owed(2**62)
    assert json.loads(owed["body"])["type"] == "payment.authorize.succeeded"
    book.close()


async def test_the_page_asks_says_what_became_of_it_and_shows_no_markup_of_others(
    server: TestServer, provider: Provider, book: Book
) -> None:
    asked = {"operation": "authorize", "amount_minor": 112, "currency": "EUR", "payment_ref": "<b>o2</b>", "provider_ref": ""}
    ref = book.perform("k2", asked)["provider_ref"]
    async with aiohttp.ClientSession(headers={"Accept": "text/html"}) as browser:
        async with browser.get(server.make_url(f"/pay/{ref}")) as page:
            text = await page.text()
            assert page.status == 200 and "&lt;b&gt;o2" in text and "<b>o2" not in text and "default-src 'none'" in page.headers[CSP]
        async with browser.post(server.make_url(f"/pay/{ref}/refuse")) as answer:
            assert "declined" in await answer.text()
        async with browser.get(server.make_url(f"/pay/{ref}")) as page:
            assert "declined" in await page.text()
        async with browser.get(server.make_url("/pay/nobody")) as page:
            assert page.status == 404


CSP = "Content-Security-Policy"


# -- the server's own -----------------------------------------------------------------------------------------------------------------
def test_the_book_outlives_its_process(file: Path) -> None:
    asked = {"operation": "authorize", "amount_minor": 5, "currency": "EUR", "payment_ref": "o1", "provider_ref": ""}
    first = Book(file)
    said = first.perform("k", asked)
    first.close()
    second = Book(file)
    assert second.perform("k", asked) == {**said, "asked": 2} and len(second.of("")) == 1
    second.close()


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("", {}),
        ("k", {"operation": "donate"}),
        ("k", {"amount_minor": 0}),
        ("k", {"amount_minor": 1.5}),
        ("k", {"amount_minor": True}),
        ("k", {"payment_ref": ""}),
        ("k", {"provider_ref": "pay_1"}),
        ("k", {"more": 1}),
        ("used", {"amount_minor": 6}),
    ],
)
async def test_a_request_that_cannot_be_meant_writes_nothing(server: TestServer, book: Book, key: str, change: dict[str, object]) -> None:
    asked: dict[str, object] = {"operation": "authorize", "amount_minor": 5, "currency": "EUR", "payment_ref": "o1", "provider_ref": ""}
    book.perform("used", asked)
    async with aiohttp.ClientSession() as http:
        async with http.post(server.make_url("/v1/operations"), json={**asked, **change}, headers={"Idempotency-Key": key}) as answer:
            assert answer.status == 422, await answer.text()
        async with http.get(server.make_url("/v1/operations"), params={"payment_ref": "o1"}) as answer:
            assert [row["key"] for row in (await answer.json())["operations"]] == ["used"]


def test_the_page_of_amounts_is_the_table() -> None:
    page = (Path(program.__file__).parents[2] / "docs" / "how-to" / "payments.md").read_text()
    for digits, behaviour in BEHAVIOUR.items():
        assert f"| `{digits:02}` | {behaviour.meaning} |" in page


def test_a_late_webhook_is_owed_after_its_time_only_and_the_rest_of_that_payment_is_usual(file: Path) -> None:
    book = Book(file, tells=True)
    asked = {"operation": "authorize", "amount_minor": 1505, "currency": "EUR", "payment_ref": "o1", "provider_ref": ""}
    done = book.perform("a", asked)
    assert [owed["id"] for owed in book.owed(done["at"] + int((LATE_S - 1) * 1e6))] == []
    assert len(book.owed(done["at"] + int(LATE_S * 1e6))) == 1
    voided = book.perform("v", {**asked, "operation": "void", "provider_ref": done["provider_ref"]})
    assert len(book.owed(voided["at"])) == 1
    assert behaviour_of("authorize", 1505).drops_all and not behaviour_of("void", 1505).drops_all
    book.close()


# -- disputes -------------------------------------------------------------------------------------------------------------------------
ASKED = {"amount_minor": 1000, "currency": "EUR", "payment_ref": "o1"}


async def told(server: TestServer, path: str, body: object) -> tuple[int, dict[str, object]]:
    async with aiohttp.ClientSession() as session, session.post(server.make_url(path), json=body) as answer:
        return answer.status, await answer.json()


async def captured(provider: Provider, amount: int = 1000) -> None:
    ref = await authorized(provider, amount)
    assert (await provider.perform(operation("capture", amount, 2, ref))).succeeded


async def test_what_was_captured_can_be_disputed_and_is_decided_once(provider: Provider, server: TestServer) -> None:
    await captured(provider)
    status, opened = await told(server, "/v1/disputes", {"payment_ref": "o1", "reason": "duplicate"})
    assert (status, opened["amount_minor"], opened["outcome"], opened["reason"]) == (200, 1000, "opened", "duplicate")
    path = f"/v1/disputes/{opened['dispute_ref']}"
    assert (await told(server, f"{path}/won", {}))[1]["outcome"] == "won"
    assert (await told(server, f"{path}/lost", {}))[0] == 422, "it is decided"


@pytest.mark.parametrize(
    "body", [{"payment_ref": "o2"}, {"payment_ref": "o1", "amount_minor": 1001}, {"payment_ref": "o1", "amount_minor": 0.5}, {}, []]
)
async def test_what_was_not_captured_cannot_be_disputed(provider: Provider, server: TestServer, body: object) -> None:
    await captured(provider)
    status, said = await told(server, "/v1/disputes", body)
    assert status == 422 and said["error"]
    status, _ = await told(server, "/v1/disputes", {"payment_ref": "o1", "amount_minor": 1000})
    assert status == 200, "nothing is left of the one before"


async def test_a_dispute_is_told_under_the_providers_own_reference_alone(file: Path) -> None:
    book = Book(file, tells=True)
    try:
        book.perform("k1", {**ASKED, "operation": "authorize", "provider_ref": ""})
        (ref,) = {row["provider_ref"] for row in book.of("o1")}
        book.perform("k2", {**ASKED, "operation": "capture", "provider_ref": ref})
        name = book.dispute("o1", 400, "fraudulent")["dispute_ref"]
        book.decide(name, "lost")
        bodies = [json.loads(owed["body"]) for owed in book.owed(2**62)][2:]
    finally:
        book.close()
    assert [body["type"] for body in bodies] == ["dispute.opened", "dispute.lost"] and len({body["id"] for body in bodies}) == 2
    assert all(body["data"]["provider_ref"] == ref and "o1" not in json.dumps(body) for body in bodies)
