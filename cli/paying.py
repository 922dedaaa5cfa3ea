"""Prepaid orders as their caller sees them, and the provider's own book beside ours: paid and partly refunded, declined, canceled, and one
whose payment comes when the order has ended.
"""

import asyncio
import time
from typing import Any

from msgspec import Struct, field

from orderflow.cli import race
from orderflow.cli.client import Edge
from orderflow.cli.fulfillment import status_path
from orderflow.cli.money import PATH as PAYMENTS
from orderflow.cli.ordering import STEPS
from orderflow.cli.orders import PATH as ORDERS
from orderflow.cli.stock import PATH as STOCK

CURRENCY = "EUR"
SOLD, DECLINED, CANCELED, LATE = 1250, 1002, 1507, 1505
"""Unit prices in minor units: an ordinary one, one that the local provider declines, one whose first answers it loses, one whose
authorization it tells of by webhook only, after 30 s."""
LATE_CLOCK_SPEED = 90
"""Makes the payment window of half an hour 20 s: enough to pay in time on a busy machine, and 30 s are too late."""
REFUND = 500
OPERATIONS = {"authorize": "authorized", "capture": "captured", "void": "voided", "refund": "refunded"}
UNITS = 5


class Money(Struct):
    """What one order's money went through: our counters, and the sums and the number of rows per key of the provider's book."""

    status: str = ""
    ledger: dict[str, int] = field(default_factory=dict)
    book: dict[str, int] = field(default_factory=dict)
    rows_per_key: int = 0


class PaymentFacts(Struct):
    """The three orders by what was to happen to them, and the answers that their callers got."""

    placed: dict[str, int] = field(default_factory=dict)
    money: dict[str, Money] = field(default_factory=dict)
    refunded: int = 0
    available: int = -1


class LateFacts(Struct):
    """The order whose payment was late: what its caller was answered, its money, and the units that are free in the end."""

    placed: int = 0
    money: Money = field(default_factory=Money)
    available: int = -1


LEDGERS: dict[str, tuple[str, dict[str, int]]] = {
    "sold": ("shipped", {"authorized": SOLD, "captured": SOLD, "voided": 0, "refunded": REFUND}),
    "declined": ("canceled", dict.fromkeys(OPERATIONS.values(), 0)),
    "canceled": ("canceled", {"authorized": CANCELED, "captured": 0, "voided": CANCELED, "refunded": 0}),
}
"""Label and counters that each of them must end with. Authorized less captured less voided is zero, in every row."""
LATE_LEDGER = {"authorized": LATE, "captured": 0, "voided": LATE, "refunded": 0}


def judge_payments(facts: PaymentFacts) -> list[str]:
    """Everything that must not be, in words."""
    found = []
    if facts.placed.get("sold") not in (201, 202) or facts.placed.get("canceled") not in (201, 202):
        found.append(f"the orders were answered {facts.placed}")
    if facts.placed.get("declined") not in (202, 402):
        found.append(f"the declined order was answered {facts.placed.get('declined')}, must be 402")
    if facts.refunded not in (201, 202):
        found.append(f"the refund was answered {facts.refunded}, must be 201")
    for name, (status, ledger) in LEDGERS.items():
        found += _judge_money(name, facts.money.get(name, Money()), status, ledger)
    if facts.available != UNITS - 1:
        found.append(f"{facts.available} units are free, must be {UNITS - 1}: declined and canceled units come back")
    return found


def judge_late(facts: LateFacts) -> list[str]:
    """Everything that must not be, in words."""
    found = _judge_money("late", facts.money, "expired", LATE_LEDGER)
    if facts.placed != 202:
        found.append(f"the late order was answered {facts.placed}, must be 202: nobody knew more")
    if facts.available != UNITS:
        found.append(f"{facts.available} units are free, must be {UNITS}: those of an order that ended come back")
    return found


def _judge_money(name: str, money: Money, status: str, ledger: dict[str, int]) -> list[str]:
    found = []
    if money.status != status:
        found.append(f"the {name} order is {money.status or 'nowhere'}, must be {status}")
    if money.ledger != ledger:
        found.append(f"the {name} order's ledger is {money.ledger}, must be {ledger}")
    if money.book != money.ledger:
        found.append(f"the provider's book says {money.book} of the {name} order, ours {money.ledger}")
    if money.rows_per_key != 1:
        found.append(f"an operation of the {name} order is {money.rows_per_key} times in the provider's book")
    return found


async def run_payments(edge: Edge, provider_url: str, run_id: str, *, wait_s: float) -> PaymentFacts:
    """Sell one unit for money and give part of it back, have one declined, cancel one whose answers are lost on the way."""
    deadline = time.monotonic() + wait_s
    sku, facts = f"PAID-{run_id}", PaymentFacts()
    await race.insist(edge, f"{STOCK}/receipts", {"sku": sku, "qty": UNITS}, f"{run_id}-stock", deadline)
    ids = {}
    for name, price in (("sold", SOLD), ("declined", DECLINED), ("canceled", CANCELED)):
        ids[name], facts.placed[name] = await _place(edge, sku, price, f"{run_id}-{name}", deadline)
    await race.insist(edge, f"{ORDERS}/{ids['canceled']}/cancel", {}, f"{run_id}-cancel", deadline)
    await _settled(edge, ids["sold"], "processing", deadline)
    for status in STEPS:
        await race.insist(edge, status_path(ids["sold"]), {"status": status}, f"{run_id}-{status}", deadline)
    await _settled(edge, ids["sold"], "shipped", deadline)
    amount = {"amount_minor": REFUND, "currency": CURRENCY}
    refund = await race.outcome(edge, f"{PAYMENTS}/{ids['sold']}/refund", {"amount": amount}, f"{run_id}-refund", deadline)
    facts.refunded = refund.status
    async with Edge(provider_url) as provider:
        for name, (status, _) in LEDGERS.items():
            facts.money[name] = await _both_books(edge, provider, ids[name], status, deadline)
    facts.available = await _available(edge, sku, UNITS - 1, deadline)
    return facts


async def run_late(edge: Edge, provider_url: str, run_id: str, *, wait_s: float) -> LateFacts:
    """Sell one unit whose payment is not heard of before the order has ended."""
    deadline = time.monotonic() + wait_s
    sku, facts = f"LATE-{run_id}", LateFacts()
    await race.insist(edge, f"{STOCK}/receipts", {"sku": sku, "qty": UNITS}, f"{run_id}-late-stock", deadline)
    order_id, facts.placed = await _place(edge, sku, LATE, f"{run_id}-late", deadline)
    async with Edge(provider_url) as provider:
        facts.money = await _both_books(edge, provider, order_id, "expired", deadline)
    facts.available = await _available(edge, sku, UNITS, deadline)
    return facts


async def _place(edge: Edge, sku: str, price: int, key: str, deadline: float) -> tuple[str, int]:
    """The order's id and the status of the answer."""
    item = {"sku": sku, "qty": 1, "unit_price": {"amount_minor": price, "currency": CURRENCY}}
    placed = await race.insist(edge, ORDERS, {"channel": "prepaid", "items": [item]}, key, deadline)
    return str(placed.body.get("order_id") or ""), placed.status


async def _both_books(edge: Edge, provider: Edge, order_id: str, status: str, deadline: float) -> Money:
    """The order's money in our books and in the provider's, once it has come to its end."""
    money = await _settled(edge, order_id, status, deadline)
    rows = (await provider.get("/v1/operations", payment_ref=order_id)).body.get("operations", [])
    money.book = _sums(rows)
    money.rows_per_key = 1 if len({row["key"] for row in rows}) == len(rows) > 0 else len(rows)
    return money


async def _available(edge: Edge, sku: str, wanted: int, deadline: float) -> int:
    """The free units, once they are as many, or when the time is over."""
    while True:
        found = int((await race.read(edge, f"{STOCK}/{sku}", deadline)).body.get("available", -1))
        if found == wanted or time.monotonic() > deadline:
            return found
        await asyncio.sleep(race.POLL_S)


async def _settled(edge: Edge, order_id: str, status: str, deadline: float) -> Money:
    """The order's money once it has this label and the provider owes no answer, or when the time is over."""
    while True:
        order = (await race.read(edge, f"{ORDERS}/{order_id}", deadline)).body
        ledger = (await race.read(edge, f"{PAYMENTS}/{order_id}", deadline)).body.get("ledger", {})
        counters = {name: int(ledger.get(name, -1)) for name in OPERATIONS.values()}
        pending = any(ledger.get(f"{name}_pending") for name in OPERATIONS.values())
        if (order.get("status") == status and ledger and not pending) or time.monotonic() > deadline:
            return Money(str(order.get("status", "")), counters)
        await asyncio.sleep(race.POLL_S)


def _sums(rows: list[dict[str, Any]]) -> dict[str, int]:
    """The provider's book as counters."""
    sums = dict.fromkeys(OPERATIONS.values(), 0)
    for row in rows:
        if row["outcome"] == "succeeded":
            sums[OPERATIONS[row["operation"]]] += int(row["amount_minor"])
    return sums


def ledger_lines(orders: dict[str, Money]) -> list[str]:
    """The table of the demo: a row per order, and what is left of each authorization."""
    lines = [f"{'':10}{'authorized':>12}{'captured':>10}{'voided':>8}{'refunded':>10}{'open':>6}"]
    for name, money in orders.items():
        counters = [money.ledger.get(each, 0) for each in OPERATIONS.values()]
        authorized, captured, voided, refunded = counters
        lines.append(f"{name:10}{authorized:>12}{captured:>10}{voided:>8}{refunded:>10}{authorized - captured - voided:>6}")
    return lines
