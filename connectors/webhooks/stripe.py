"""Stripe's webhooks, as docs.stripe.com/webhooks describes them: `Stripe-Signature: t=...,v1=...`, HMAC-SHA256 in hex over `t.body`.

What Stripe says of a capture is a running total and carries no key of ours, so a capture is only recorded: its own request, repeated under
its key, tells its outcome. So is a payment that failed, for the intent that its buyer could confirm once more is to be closed with the decline.
A dispute names the PaymentIntent alone.
"""

import hmac
from collections.abc import Callable, Mapping
from typing import Any

from orderflow.connectors.payments.stripe import amount_here
from orderflow.connectors.webhooks.notice import Notice
from orderflow.connectors.webhooks.port import SIGNATURE_INVALID, TIMESTAMP_OUT_OF_RANGE, is_timely
from orderflow.connectors.webhooks.reading import as_sent, event, number, text

SCHEME = "v1"
PARTS_MAX = 16
REFUNDED = {"succeeded": "succeeded", "failed": "declined", "canceled": "declined"}
"""What the status of a refund means to us; any other is not final."""


DISPUTED = {"needs_response": "opened", "under_review": "opened", "won": "won", "lost": "lost"}
"""What the status of a dispute means to us; a warning is a bank's question, and no money is kept for it."""


class StripeWebhooks:
    """A source that signs so. `keys`: the endpoint's secrets as Stripe shows them, two while one replaces the other."""

    def __init__(self, keys: tuple[bytes, ...]) -> None:
        self._keys = keys

    async def refusal(self, headers: Mapping[str, str], raw: bytes, now_s: float) -> str:
        parts = [part.partition("=") for part in headers.get("Stripe-Signature", "").split(",")]
        stamps = [value for name, _, value in parts if name == "t"]
        given = [as_sent(value) for name, _, value in parts if name == SCHEME]
        if len(stamps) != 1 or not given or len(parts) > PARTS_MAX:
            return SIGNATURE_INVALID
        signed = b".".join((as_sent(stamps[0]), raw))
        wanted = [hmac.digest(key, signed, "sha256").hex().encode() for key in self._keys]
        matches = [hmac.compare_digest(signature, each) for signature in given for each in wanted]
        if not any(matches):
            return SIGNATURE_INVALID
        return "" if is_timely(stamps[0], now_s) else TIMESTAMP_OUT_OF_RANGE

    def read(self, raw: bytes) -> Notice:
        with event(raw) as body:
            event_id, kind, at = text(body["id"]), text(body["type"]), number(body["created"]) * 1_000_000
            told = READERS.get(kind, _nothing)(body["data"]["object"])
            return Notice(event_id, kind, **told, occurred_at=at)


def _nothing(thing: Any) -> dict[str, Any]:
    """Something that we do not follow; its payment is named where it names one."""
    reference = thing.get("payment_intent") or (thing["id"] if thing.get("object") == "payment_intent" else "")
    return {"payment_ref": _ours(thing, "payment"), "provider_ref": text(reference)}


def _charged(thing: Any) -> dict[str, Any]:
    """A charge without a capture is an authorization; `capture_before` ends it."""
    if thing["captured"]:
        return _nothing(thing)
    until = ((thing.get("payment_method_details") or {}).get("card") or {}).get("capture_before")
    valid_until = None if until is None else number(until) * 1_000_000
    return _said(thing, "authorize", "succeeded", thing["amount"], thing["payment_intent"], valid_until=valid_until)


def _failed(thing: Any) -> dict[str, Any]:
    error = thing.get("last_payment_error") or {}
    return _said(thing, "authorize", "", thing["amount"], thing["id"], code=text(error.get("decline_code") or error.get("code") or ""))


def _canceled(thing: Any) -> dict[str, Any]:
    """The intent still carries the key of its authorization, which is not the one of the void."""
    rest = number(thing["amount"]) - number(thing["amount_received"])
    return {**_said(thing, "void", "succeeded", rest, thing["id"]), "key": ""}


def _refunded(thing: Any) -> dict[str, Any]:
    outcome = REFUNDED.get(text(thing["status"]), "")
    return _said(thing, "refund", outcome, thing["amount"], thing["payment_intent"], code=text(thing.get("failure_reason") or ""))


def _disputed(thing: Any) -> dict[str, Any]:
    currency = text(thing["currency"]).upper()
    return {
        "operation": "dispute",
        "outcome": DISPUTED.get(text(thing["status"]), ""),
        "amount_minor": amount_here(number(thing["amount"]), currency),
        "currency": currency,
        "provider_ref": text(thing.get("payment_intent") or ""),
        "code": text(thing.get("reason") or ""),
        "dispute_ref": text(thing["id"]),
    }


def _said(
    thing: Any, operation: str, outcome: str, amount: object, reference: object, *, code: str = "", valid_until: int | None = None
) -> dict[str, Any]:
    currency = text(thing["currency"]).upper()
    return {
        "payment_ref": _ours(thing, "payment"),
        "key": _ours(thing, "key"),
        "operation": operation,
        "outcome": outcome,
        "amount_minor": amount_here(number(amount), currency),
        "currency": currency,
        "provider_ref": text(reference or ""),
        "code": code,
        "valid_until": valid_until,
    }


def _ours(thing: Any, name: str) -> str:
    """What our adapter wrote on it when it was made."""
    return text((thing.get("metadata") or {}).get(f"orderflow_{name}", ""))


READERS: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "charge.succeeded": _charged,
    "payment_intent.payment_failed": _failed,
    "payment_intent.canceled": _canceled,
    "refund.created": _refunded,
    "refund.updated": _refunded,
    "refund.failed": _refunded,
    "charge.refund.updated": _refunded,
    "charge.dispute.created": _disputed,
    "charge.dispute.updated": _disputed,
    "charge.dispute.funds_withdrawn": _disputed,
    "charge.dispute.funds_reinstated": _disputed,
    "charge.dispute.closed": _disputed,
}
"""By Stripe's type of the event."""
