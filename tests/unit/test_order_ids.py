"""Ids that both sides of a conversation compute, order numbers, reasons in one order."""

import pytest
from domain_harness import NOW
from hypothesis import given
from hypothesis import strategies as st

from orderflow.schemas import catalog
from orderflow.streams.domain import ids, reasons
from orderflow.streams.domain.reasons import Reason
from orderflow.streams.domain.zones import is_zone

names = st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True)


@given(names, names, st.integers(1, 10**6))
def test_a_reservation_id_is_read_as_it_was_made(sku: str, order_id: str, attempt: int) -> None:
    made = ids.reservation_id(sku, order_id, attempt)
    assert ids.parse_reservation(made) == (sku, order_id, attempt)
    key = ids.answer_key(order_id, made)
    assert key == f"{order_id}~G{attempt}~{sku}" and key.startswith(ids.answers_prefix(order_id))
    assert made.partition("~")[0] == sku and key.partition("~")[0] == order_id, "the owner stands before the first ~"


@pytest.mark.parametrize("text", ["", "a", "a~b", "a~b~", "a~b~c", "a~b~1~2", "~b~1", "a~~1", "a b~c~1", "a~b~²"])
def test_what_is_no_reservation_id(text: str) -> None:
    assert ids.parse_reservation(text) is None


@given(st.text())
def test_the_key_of_an_answer_is_always_the_orders(text: str) -> None:
    assert ids.answer_key("o1", text).startswith("o1~G")


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("a", True),
        ("A.b_c-9", True),
        ("x" * 64, True),
        ("x" * 65, False),
        ("", False),
        ("a~b", False),
        ("a/b", False),
        ("a\n", False),
        ("ä", False),
    ],
)
def test_ids(text: str, good: bool) -> None:
    assert ids.is_id(text) is good


def test_order_numbers_carry_the_local_day_and_eight_characters_of_the_id() -> None:
    assert ids.order_number("o1", NOW, "UTC") == "ORD-20270115-" + ids.order_number("o1", NOW, "UTC")[-8:]
    midnight = 1_800_057_600 * 1_000_000
    assert ids.order_number("o1", midnight - 1, "UTC")[4:12] == "20270115"
    assert ids.order_number("o1", midnight - 1, "Asia/Ho_Chi_Minh")[4:12] == "20270116"
    assert ids.order_number("o1", midnight, "America/New_York")[4:12] == "20270115"
    assert all(letter in ids.CROCKFORD for letter in ids.order_number("o2", NOW, "UTC")[-8:])
    assert ids.order_number("o1", NOW, "UTC") != ids.order_number("o2", NOW, "UTC")


def test_children_and_timers() -> None:
    assert ids.fulfillment_id("o1", 2) == "o1~F2"
    assert ids.timer_id("o1~F2", "buffered_post", 5) == "o1~F2:buffered_post:5"


def test_zones() -> None:
    assert is_zone("UTC") and is_zone("Europe/Berlin")
    assert not is_zone("") and not is_zone("Nowhere") and not is_zone("/etc/localtime")


def test_the_first_of_several_reasons() -> None:
    assert reasons.first([Reason.INSUFFICIENT_STOCK, Reason.UNKNOWN_SKU, "LATER"]) == Reason.UNKNOWN_SKU
    assert reasons.first(["LATER"]) == "LATER"


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_an_http_code(reason: Reason) -> None:
    assert reason in catalog.REASONS
