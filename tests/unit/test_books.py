"""Two books beside each other: every planted difference is found, and two that are the same are equal (slot D63)."""

from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port
from domain_payments import asked, authorized, reserved, said
from msgspec.structs import replace

from orderflow.cli import books, reconcile
from orderflow.cli.books import Row, differences
from orderflow.cli.terminal import Failure
from orderflow.connectors.payments import book as ledger
from orderflow.connectors.payments import provider as program
from orderflow.streams.domain.order_records import PostFulfillmentStatus
from orderflow.streams.domain.payment_records import PaymentRequested, PaymentSnapshot, RefundPayment


@pytest.fixture(scope="module")
def sold() -> tuple[PaymentSnapshot, list[Row]]:
    """An order that was authorized, captured and partly refunded, and what the provider did."""
    log = authorized()
    for status in ("picking", "picked", "packed", "shipped"):
        log.when(PostFulfillmentStatus("o1", status), command_id=status)
    log.when(said(asked(log)))
    log.when(RefundPayment(), command_id="refund")
    log.when(said(asked(log)))
    rows = [_row(event) for event in log.named(PaymentRequested)]
    assert [row.operation for row in rows] == ["authorize", "capture", "refund"]
    return log.snapshot("payment"), rows


def _row(asked_for: PaymentRequested, outcome: str = "succeeded") -> Row:
    amount = asked_for.amount
    return Row(asked_for.idempotency_key, "o1", asked_for.operation, amount.amount_minor, amount.currency, outcome)


def found(ours: PaymentSnapshot, theirs: list[Row]) -> list[tuple[str, str]]:
    return [(each.kind, each.key) for each in differences({"o1": ours}, theirs)]


def test_books_that_say_the_same_are_equal(sold: tuple[PaymentSnapshot, list[Row]]) -> None:
    assert found(*sold) == []
    assert books.open_operations([sold[0]]) == 0


@pytest.mark.parametrize("number", [0, 1, 2])
def test_an_operation_that_is_missing_there_is_found(sold: tuple[PaymentSnapshot, list[Row]], number: int) -> None:
    ours, rows = sold
    ((kind, key),) = found(ours, rows[:number] + rows[number + 1 :])
    assert (kind, key.endswith(f":{number + 1}")) == ("missing there", True)


@pytest.mark.parametrize("key", ["o1~A1:capture:4", "o1~A1:capture:3", "o1~A1:capture:1", "o1~A2:capture:1", "nothing of ours"])
def test_a_second_capture_is_found_whatever_its_key_is(sold: tuple[PaymentSnapshot, list[Row]], key: str) -> None:
    ours, rows = sold
    assert found(ours, [*rows, Row(key, "o1", "capture", 1000, "EUR", "succeeded")]) == [("missing here", key)]


def test_a_payment_that_we_do_not_know_is_found(sold: tuple[PaymentSnapshot, list[Row]]) -> None:
    ours, rows = sold
    (stranger,) = differences({"o1": ours}, [*rows, replace(rows[0], payment_ref="o2", key="o2~A1:authorize:1")])
    assert (stranger.payment_id, stranger.kind) == ("o2", "missing here")


@pytest.mark.parametrize("number", [0, 1, 2])
def test_another_amount_is_found_whether_it_is_the_latest_or_not(sold: tuple[PaymentSnapshot, list[Row]], number: int) -> None:
    ours, rows = sold
    changed = [replace(row, amount_minor=999) if place == number else row for place, row in enumerate(rows)]
    ((kind, key),) = found(ours, changed)
    assert kind == "amount" and rows[number].operation in key
    dollars = [replace(row, currency="USD") if place == 2 else row for place, row in enumerate(rows)]
    assert found(ours, dollars) == [("amount", rows[2].key)]


@pytest.mark.parametrize(("number", "kind"), [(1, "amount"), (2, "outcome")])
def test_another_outcome_is_found(sold: tuple[PaymentSnapshot, list[Row]], number: int, kind: str) -> None:
    """Of all but the latest operation the sums tell."""
    ours, rows = sold
    ((seen, _),) = found(ours, [replace(row, outcome="declined") if place == number else row for place, row in enumerate(rows)])
    assert seen == kind


def test_what_is_done_there_and_open_here_is_found() -> None:
    log = reserved()
    ours = log.snapshot("payment")
    assert found(ours, []) == [] and books.open_operations([ours]) == 1, "it is on its way: the connector asks"
    (difference,) = differences({"o1": ours}, [_row(asked(log))])
    assert (difference.kind, difference.ours, difference.theirs) == ("open here", "requested", "succeeded")
    assert difference.repair.startswith("orderflow payments connect")
    log.when(said(asked(log), "unknown"))
    assert found(log.snapshot("payment"), [_row(asked(log), "declined")]) == [("open here", "o1~A1:authorize:1")]


def test_every_kind_names_what_to_do() -> None:
    kinds = {books.MISSING_THERE, books.MISSING_HERE, books.AMOUNT, books.OUTCOME, books.OPEN_HERE}
    assert set(books.REPAIRS) == kinds
    assert all(text.startswith("orderflow ") for text in books.REPAIRS.values())


async def test_the_whole_book_is_read_page_by_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (ledger, program):
        monkeypatch.setattr(module, "LIST_MAX", 2)
    book = ledger.Book(tmp_path / "book.db")
    for number in range(1, 6):
        asked_for = {"operation": "authorize", "amount_minor": 100, "currency": "EUR", "payment_ref": f"o{number % 2}", "provider_ref": ""}
        book.perform(f"o{number % 2}~A{number}:authorize:1", asked_for)
    async with TestServer(program.build_app(book)) as server:
        url = str(server.make_url(""))
        rows = await reconcile._book(url)
        async with aiohttp.ClientSession() as session:
            wrong = await session.get(f"{url}/v1/operations?after=x")
            of_one = await (await session.get(f"{url}/v1/operations?payment_ref=o1&after=1")).json()
    book.close()
    assert [row.key for row in rows] == [f"o{number % 2}~A{number}:authorize:1" for number in range(1, 6)]
    assert wrong.status == 422
    assert ([each["number"] for each in of_one["operations"]], of_one["more"]) == ([3, 5], True)


async def test_a_provider_that_is_silent_or_no_provider_ends_with_69() -> None:
    with pytest.raises(Failure) as silent:
        await reconcile._book(f"http://127.0.0.1:{unused_port()}")
    async with TestServer(web.Application()) as server:
        with pytest.raises(Failure) as other:
            await reconcile._book(str(server.make_url("")))
    assert (silent.value.code, other.value.code) == (69, 69)
