"""Standard Webhooks, the specification of standardwebhooks.com: what the local provider of the box sends.

Signed is `id.timestamp.body` with HMAC-SHA256; `webhook-signature` lists `v1,` and base64, one for each secret that is live.
"""

import base64
import binascii
import hmac
from collections.abc import Mapping
from typing import Any

from orderflow.connectors.payments.book import OPERATIONS
from orderflow.connectors.webhooks.notice import Notice
from orderflow.connectors.webhooks.port import SIGNATURE_INVALID, TIMESTAMP_OUT_OF_RANGE, is_timely
from orderflow.connectors.webhooks.reading import as_sent, event, number, text

SECRET_PREFIX = "whsec_"  # noqa: S105
SECRET_BYTES = range(24, 65)
VERSION = "v1"
SIGNATURES_MAX = 16


def secret_bytes(secret: str) -> bytes:
    """The key of `whsec_` and base64. Raises ValueError saying what is wrong with it, and never the secret."""
    if not secret.startswith(SECRET_PREFIX):
        raise ValueError(f"a secret starts with {SECRET_PREFIX}")
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        raise ValueError(f"what follows {SECRET_PREFIX} is base64") from None
    if len(key) not in SECRET_BYTES:
        raise ValueError("a secret has 24 to 64 bytes")
    return key


def sign(key: bytes, webhook_id: str, timestamp: str, raw: bytes) -> str:
    """The signature of one webhook."""
    digest = hmac.digest(key, b".".join((as_sent(webhook_id), as_sent(timestamp), raw)), "sha256")
    return f"{VERSION},{base64.b64encode(digest).decode()}"


def signed_headers(keys: tuple[bytes, ...], webhook_id: str, timestamp: int, raw: bytes) -> dict[str, str]:
    """What a sender adds to its request: a signature with every live secret."""
    signatures = " ".join(sign(key, webhook_id, str(timestamp), raw) for key in keys)
    return {"webhook-id": webhook_id, "webhook-timestamp": str(timestamp), "webhook-signature": signatures}


class StandardWebhooks:
    """A source that signs so. `keys`: the live secrets, two while one replaces the other."""

    def __init__(self, keys: tuple[bytes, ...]) -> None:
        self._keys = keys

    async def refusal(self, headers: Mapping[str, str], raw: bytes, now_s: float) -> str:
        webhook_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
        given = headers.get("webhook-signature", "").split(" ")
        if not webhook_id or len(given) > SIGNATURES_MAX:
            return SIGNATURE_INVALID
        wanted = [sign(key, webhook_id, timestamp, raw).encode() for key in self._keys]
        matches = [hmac.compare_digest(as_sent(signature), each) for signature in given for each in wanted]
        if not any(matches):
            return SIGNATURE_INVALID
        return "" if is_timely(timestamp, now_s) else TIMESTAMP_OUT_OF_RANGE

    def read(self, raw: bytes) -> Notice:
        with event(raw) as body:
            kind, data = text(body["type"]), body["data"]
            if kind in DISPUTES:
                return _disputed(text(body["id"]), kind, data)
            if kind not in KINDS:
                return Notice(text(body["id"]), kind)
            return Notice(
                text(body["id"]),
                kind,
                text(data["payment_ref"]),
                text(data["key"]),
                *KINDS[kind],
                number(data["amount_minor"]),
                text(data["currency"]),
                text(data["provider_ref"]),
                text(data["code"]),
                number(data["at"]),
                None if data["valid_until"] is None else number(data["valid_until"]),
            )


def _disputed(event_id: str, kind: str, data: Any) -> Notice:
    """It names the provider's payment alone, as those of real providers do."""
    return Notice(
        event_id,
        kind,
        operation="dispute",
        outcome=DISPUTES[kind],
        amount_minor=number(data["amount_minor"]),
        currency=text(data["currency"]),
        provider_ref=text(data["provider_ref"]),
        code=text(data["code"]),
        occurred_at=number(data["at"]),
        dispute_ref=text(data["dispute_ref"]),
    )


DISPUTES: Mapping[str, str] = {f"dispute.{outcome}": outcome for outcome in ("opened", "won", "lost")}
KINDS: Mapping[str, tuple[str, str]] = {
    f"payment.{operation}.{outcome}": (operation, outcome) for operation in OPERATIONS for outcome in ("succeeded", "declined")
}
"""The types of the local provider's events, and what they mean to us."""
