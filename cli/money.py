"""Money as the commands write and show it: `1250EUR`, and a payment with its counters."""

from collections.abc import Iterator
from typing import Any

from orderflow.cli.client import Answer
from orderflow.cli.terminal import Failure, columns, fields

PATH = "/api/v1/payments"
WRONG_USAGE = 2


def parse_money(text: str) -> dict[str, Any]:
    """`1250EUR`: minor units and an ISO 4217 code. Raises Failure naming the text."""
    digits, currency = text[:-3], text[-3:]
    if not (digits.isascii() and digits.isdigit() and currency.isascii() and currency.isalpha() and currency.isupper()):
        raise Failure(f"{text!r} is no amount", then="write minor units and currency, for example 1250EUR", code=WRONG_USAGE)
    return {"amount_minor": int(digits), "currency": currency}


def payment_lines(answer: Answer) -> Iterator[str]:
    payment = answer.body
    if answer.status == 202:
        yield f"accepted, there is no outcome yet: {answer.location or payment.get('location', '')}"
        return
    counters = payment["ledger"]
    yield from fields({"payment_id": payment["payment_id"], "status": payment["status"], "currency": counters["currency"]})
    named = ("authorized", "captured", "voided", "refunded", *(("disputed",) if payment["disputes"] else ()))
    yield from columns(
        ("", *named),
        [["done", *(counters[name] for name in named)], ["asked", *(counters[f"{name}_pending"] for name in named)]],
    )
    rows = (
        [each["attempt_id"], each["operation"], each["operation_no"], each["outcome"], each["amount"]["amount_minor"], each["code"]]
        for each in payment["attempts"]
    )
    yield from columns(("attempt", "latest", "no", "outcome", "amount", "code"), rows)
    if payment["disputes"]:
        found = (
            [each["dispute_ref"], each["outcome"], each["amount"]["amount_minor"], each["code"], each["opened_at"]]
            for each in payment["disputes"]
        )
        yield from columns(("dispute", "outcome", "amount", "code", "opened_at"), found)
