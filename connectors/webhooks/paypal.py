"""PayPal's webhooks: RSA-SHA256 over `id|time|webhook id|CRC-32 of the body`, with a certificate that the request names.

The certificate is fetched from PayPal alone and must be issued to PayPal's verification name by a certificate authority that browsers trust.
"""

import base64
import binascii
import re
import zlib
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import certifi
import structlog
from aiohttp import ClientError, ClientSession, ClientTimeout
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from orderflow.connectors.payments.paypal import DONE, NOT_DONE, amount_here, micros
from orderflow.connectors.webhooks.notice import Notice
from orderflow.connectors.webhooks.port import SIGNATURE_INVALID, TIMESTAMP_OUT_OF_RANGE, TOLERANCE_S
from orderflow.connectors.webhooks.reading import as_sent, event, text

log = structlog.get_logger(__name__)

HOSTS: Mapping[str, Mapping[str, str]] = {
    "live": {"api.paypal.com": "messageverificationcerts.paypal.com", "api-m.paypal.com": "messageverificationcerts.paypal.com"},
    "sandbox": {
        "api.sandbox.paypal.com": "messageverificationcerts.sandbox.paypal.com",
        "api-m.sandbox.paypal.com": "messageverificationcerts.sandbox.paypal.com",
    },
}
"""By environment: where a certificate may come from, and to whom it must be issued."""
PATH = re.compile(r"/v1/notifications/certs/[A-Za-z0-9_-]{1,128}")
ALGORITHM = "SHA256withRSA"
CERTIFICATES_MAX = 16
CERTIFICATE_BYTES_MAX = 64 << 10
FETCH_TIMEOUT_S = 10.0
LOST = frozenset({"RESOLVED_BUYER_FAVOUR", "ACCEPTED"})
"""Outcomes of a dispute in which the buyer keeps the money; in any other it is ours again, or PayPal's own to lose."""
OUR_KEY = re.compile(r"(?P<payment>[^~]+)~A\d+:(?P<operation>capture|refund):\d+")

Fetch = Callable[[str], Awaitable[bytes]]


async def fetch(url: str) -> bytes:
    """The certificates at an address, in PEM. Raises OSError."""
    try:
        async with (
            ClientSession(timeout=ClientTimeout(total=FETCH_TIMEOUT_S)) as session,
            session.get(url, allow_redirects=False) as answer,
        ):
            if answer.status != 200:
                raise OSError(f"{answer.status}")
            return await answer.content.read(CERTIFICATE_BYTES_MAX)
    except (ClientError, TimeoutError) as error:
        raise OSError(f"{type(error).__name__}") from None


def trusted_roots() -> list[x509.Certificate]:
    """The certificate authorities that browsers trust."""
    with open(certifi.where(), "rb") as file:
        return x509.load_pem_x509_certificates(file.read())


class PayPalWebhooks:
    """A source that signs so. `webhook_ids`: ours, as PayPal's dashboard shows them; `roots` and `fetch_pem` are the tests' own."""

    def __init__(
        self,
        webhook_ids: tuple[str, ...],
        environment: str = "live",
        roots: list[x509.Certificate] | None = None,
        fetch_pem: Fetch = fetch,
    ) -> None:
        self._ids, self._hosts, self._fetch = webhook_ids, HOSTS[environment], fetch_pem
        self._store = Store(trusted_roots() if roots is None else roots)
        self._chains: dict[str, list[x509.Certificate]] = {}

    async def refusal(self, headers: Mapping[str, str], raw: bytes, now_s: float) -> str:
        sent = [headers.get(f"PAYPAL-{name}", "") for name in ("TRANSMISSION-ID", "TRANSMISSION-TIME", "TRANSMISSION-SIG", "CERT-URL")]
        transmission_id, stamp, signature, url = sent
        if not all(sent) or headers.get("PAYPAL-AUTH-ALGO") != ALGORITHM:
            return SIGNATURE_INVALID
        try:
            given = base64.b64decode(signature, validate=True)
        except (binascii.Error, ValueError):
            return SIGNATURE_INVALID
        key = await self._key(url, now_s)
        if key is None:
            return SIGNATURE_INVALID
        head, crc = b"|".join((as_sent(transmission_id), as_sent(stamp))), str(zlib.crc32(raw)).encode()
        if not any(_is_signed(key, given, b"|".join((head, each.encode(), crc))) for each in self._ids):
            return SIGNATURE_INVALID
        return "" if _is_timely(stamp, now_s) else TIMESTAMP_OUT_OF_RANGE

    async def _key(self, url: str, now_s: float) -> RSAPublicKey | None:
        """The public key of PayPal's certificate at this address; None when it is not PayPal's, or not good now."""
        place = urlsplit(url)
        name = self._hosts.get(place.netloc)
        if name is None or place.scheme != "https" or place.query or place.fragment or PATH.fullmatch(place.path) is None:
            return None
        try:
            chain = self._chains.get(url) or x509.load_pem_x509_certificates(await self._fetch(url))
            policy = PolicyBuilder().store(self._store).time(datetime.fromtimestamp(now_s, UTC))
            policy.build_server_verifier(x509.DNSName(name)).verify(chain[0], chain[1:])
        except (OSError, ValueError, VerificationError) as error:
            log.warning("paypal.certificate_refused", why=str(error))
            return None
        if url not in self._chains and len(self._chains) >= CERTIFICATES_MAX:
            self._chains.clear()
        self._chains[url] = chain
        found = chain[0].public_key()
        return found if isinstance(found, RSAPublicKey) else None

    def read(self, raw: bytes) -> Notice:
        with event(raw) as body:
            kind, thing = text(body["event_type"]), body["resource"]
            at = micros(text(body["create_time"]))
            told = READERS.get(kind, _nothing)(thing)
            return Notice(text(body["id"]), kind, **told, occurred_at=at)


def _is_signed(key: RSAPublicKey, signature: bytes, signed: bytes) -> bool:
    try:
        key.verify(signature, signed, PKCS1v15(), SHA256())
    except InvalidSignature:
        return False
    return True


def _is_timely(stamp: str, now_s: float) -> bool:
    try:
        return abs(datetime.fromisoformat(stamp).timestamp() - now_s) <= TOLERANCE_S
    except (ValueError, OverflowError):
        return False


def _nothing(thing: Any) -> dict[str, Any]:
    """Something that we do not follow; its payment is named where it names one."""
    ours = OUR_KEY.fullmatch(_given(thing, "invoice_id"))
    return {"payment_ref": ours["payment"] if ours else _given(thing, "custom_id"), "provider_ref": _authorization(thing)}


def _moved(thing: Any) -> dict[str, Any]:
    """A capture or a refund; the invoice number is our key of it."""
    ours = OUR_KEY.fullmatch(_given(thing, "invoice_id"))
    if ours is None:
        return _nothing(thing)
    status = text(thing["status"])
    outcome = "succeeded" if status in DONE else "declined" if status in NOT_DONE else ""
    reason = text((thing.get("status_details") or {}).get("reason", ""))
    return {**_nothing(thing), "key": ours[0], "operation": ours["operation"], "outcome": outcome, **_amount(thing), "code": reason.lower()}


def _voided(thing: Any) -> dict[str, Any]:
    """The rest of an authorization; only of one that was not captured in part is it the whole amount."""
    return {**_nothing(thing), "operation": "void", "outcome": "succeeded", **_amount(thing), "provider_ref": text(thing["id"])}


def _disputed(thing: Any) -> dict[str, Any]:
    """Its transaction carries what we wrote on the capture. PayPal keeps the money from the first question on."""
    sale, *_ = thing["disputed_transactions"]
    decided = thing.get("dispute_outcome") or {}
    closed = text(thing["status"]) == "RESOLVED"
    outcome = ("lost" if text(decided["outcome_code"]) in LOST else "won") if closed else "opened"
    given_back = decided.get("amount_refunded") if outcome == "lost" else None
    ours = OUR_KEY.fullmatch(_given(sale, "invoice_number"))
    return {
        "payment_ref": ours["payment"] if ours else _given(sale, "custom"),
        "operation": "dispute",
        "outcome": outcome,
        **_amount({"amount": given_back or thing["dispute_amount"]}),
        "code": _given(thing, "reason").lower(),
        "dispute_ref": text(thing["dispute_id"]),
    }


def _amount(thing: Any) -> dict[str, Any]:
    currency = text(thing["amount"]["currency_code"])
    try:
        return {"amount_minor": amount_here(text(thing["amount"]["value"]), currency), "currency": currency}
    except ValueError as error:
        raise TypeError(str(error)) from None


def _given(thing: Any, name: str) -> str:
    return text(thing.get(name) or "")


def _authorization(thing: Any) -> str:
    """PayPal's id of the payment, as our adapter uses it."""
    related = ((thing.get("supplementary_data") or {}).get("related_ids") or {}).get("authorization_id")
    return text(related or "")


READERS: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "PAYMENT.CAPTURE.COMPLETED": _moved,
    "PAYMENT.CAPTURE.DECLINED": _moved,
    "PAYMENT.CAPTURE.DENIED": _moved,
    "PAYMENT.CAPTURE.PENDING": _moved,
    "PAYMENT.CAPTURE.REFUNDED": _moved,
    "PAYMENT.REFUND.COMPLETED": _moved,
    "PAYMENT.REFUND.FAILED": _moved,
    "PAYMENT.AUTHORIZATION.VOIDED": _voided,
    "CUSTOMER.DISPUTE.CREATED": _disputed,
    "CUSTOMER.DISPUTE.UPDATED": _disputed,
    "CUSTOMER.DISPUTE.RESOLVED": _disputed,
}
"""By PayPal's type of the event."""
