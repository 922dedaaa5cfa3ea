"""PayPal's webhooks: believed only with a certificate of PayPal's, from PayPal, good now. The authority is made anew for every run."""

import base64
import json
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from orderflow.connectors.webhooks.notice import fact
from orderflow.connectors.webhooks.paypal import PayPalWebhooks, trusted_roots
from orderflow.connectors.webhooks.reading import Unreadable

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
NAME = "messageverificationcerts.paypal.com"
URL = "https://api.paypal.com/v1/notifications/certs/CERT-360caa42-fca2a594-1d93a270"
OURS, OTHER = "8PT597110X687430L", "0AB12345CD678901E"


def issue(
    name: str, key: rsa.RSAPrivateKey, issuer: "tuple[x509.Certificate, rsa.RSAPrivateKey] | None", end: datetime
) -> x509.Certificate:
    """A certificate, of an authority of its own where there is no issuer."""
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    signer = issuer[1] if issuer else key
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=30))
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(issuer is None, None), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if issuer is None:
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        built = built.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        built = built.add_extension(usage, critical=True)
    else:
        built = built.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        built = built.add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return built.sign(signer, SHA256())


KEYS = [rsa.generate_private_key(65537, 2048) for _ in range(3)]
ROOT = issue("a test authority", KEYS[0], None, NOW + timedelta(days=3650))
LEAF = issue(NAME, KEYS[1], (ROOT, KEYS[0]), NOW + timedelta(days=90))


class PayPal:
    """PayPal as a test needs it: signs, and serves a certificate; `fetched` counts how often it was asked for."""

    def __init__(self, leaf: x509.Certificate = LEAF, key: rsa.RSAPrivateKey = KEYS[1]) -> None:
        self.leaf, self.key, self.fetched = leaf, key, 0

    async def fetch(self, url: str) -> bytes:
        self.fetched += 1
        return self.leaf.public_bytes(Encoding.PEM)

    def headers(self, raw: bytes, webhook_id: str = OURS, at: datetime = NOW) -> dict[str, str]:
        stamp = at.strftime("%Y-%m-%dT%H:%M:%SZ")
        signed = f"tr-1|{stamp}|{webhook_id}|{zlib.crc32(raw)}".encode()
        signature = base64.b64encode(self.key.sign(signed, padding.PKCS1v15(), SHA256())).decode()
        return {
            "PAYPAL-TRANSMISSION-ID": "tr-1",
            "PAYPAL-TRANSMISSION-TIME": stamp,
            "PAYPAL-TRANSMISSION-SIG": signature,
            "PAYPAL-CERT-URL": URL,
            "PAYPAL-AUTH-ALGO": "SHA256withRSA",
        }


def resource(**more: Any) -> dict[str, Any]:
    """A capture as developer.paypal.com prints one, cut to what we read."""
    return {
        "id": "42311647XV020574X",
        "status": "COMPLETED",
        "amount": {"currency_code": "EUR", "value": "12.50"},
        "invoice_id": "o1~A1:capture:2",
        "custom_id": "o1",
        "supplementary_data": {"related_ids": {"authorization_id": "0VF52814937998046", "order_id": "5O190127TN364715T"}},
    } | more


def dispute(status: str, outcome: str = "") -> dict[str, Any]:
    """A dispute as PayPal documents it; of one that the buyer won a part was refunded."""
    refunded = {"amount_refunded": {"currency_code": "EUR", "value": "10.00"}} if outcome == "RESOLVED_BUYER_FAVOUR" else {}
    return {
        "dispute_id": "PP-D-27803",
        "disputed_transactions": [{"seller_transaction_id": "2GG279541U471931P", "invoice_number": "o1~A1:capture:2", "custom": "o1"}],
        "reason": "MERCHANDISE_OR_SERVICE_NOT_RECEIVED",
        "dispute_amount": {"currency_code": "EUR", "value": "12.50"},
        "status": status,
        **({"dispute_outcome": {"outcome_code": outcome, **refunded}} if outcome else {}),
    }


def webhook(kind: str = "PAYMENT.CAPTURE.COMPLETED", **more: Any) -> bytes:
    said = {"id": "WH-1", "event_type": kind, "create_time": "2026-11-28T12:00:00.000Z", "resource_type": "capture"}
    return json.dumps(said | {"resource": resource(**more)}).encode()


async def refusal(change: dict[str, str] | None = None, raw: bytes | None = None, sender: PayPal | None = None, **how: Any) -> str:
    sender, signed = sender or PayPal(), webhook()
    source = PayPalWebhooks((OTHER, OURS), roots=[ROOT], fetch_pem=sender.fetch, **{k: v for k, v in how.items() if k == "environment"})
    headers = sender.headers(signed, **{name: value for name, value in how.items() if name in ("webhook_id", "at")}) | (change or {})
    return await source.refusal(headers, signed if raw is None else raw, NOW.timestamp())


async def test_what_paypal_signed_for_one_of_our_webhooks_is_believed_and_its_certificate_fetched_once() -> None:
    sender = PayPal()
    source = PayPalWebhooks((OTHER, OURS), roots=[ROOT], fetch_pem=sender.fetch)
    for _ in range(3):
        assert await source.refusal(sender.headers(webhook()), webhook(), NOW.timestamp()) == ""
    assert sender.fetched == 1


FORGED: dict[str, Callable[[], dict[str, Any]]] = {
    "no signature": lambda: {"change": {"PAYPAL-TRANSMISSION-SIG": ""}},
    "no base64": lambda: {"change": {"PAYPAL-TRANSMISSION-SIG": "!"}},
    "zeros": lambda: {"change": {"PAYPAL-TRANSMISSION-SIG": base64.b64encode(bytes(256)).decode()}},
    "another algorithm": lambda: {"change": {"PAYPAL-AUTH-ALGO": "none"}},
    "another transmission": lambda: {"change": {"PAYPAL-TRANSMISSION-ID": "tr-2"}},
    "a later stamp than the signed one": lambda: {"change": {"PAYPAL-TRANSMISSION-TIME": "2026-11-28T12:00:01Z"}},
    "a byte appended": lambda: {"raw": webhook() + b" "},
    "no body": lambda: {"raw": b""},
    "another webhook's": lambda: {"webhook_id": "7ZZ000000Z000000Z"},
    "another key": lambda: {"sender": PayPal(key=KEYS[2])},
    "a certificate of nobody's": lambda: {"sender": PayPal(issue(NAME, KEYS[1], None, NOW + timedelta(days=9)))},
    "a certificate for another name": lambda: {
        "sender": PayPal(issue("messageverificationcerts.paypal.com.example", KEYS[1], (ROOT, KEYS[0]), NOW + timedelta(days=9)))
    },
    "a certificate that has ended": lambda: {"sender": PayPal(issue(NAME, KEYS[1], (ROOT, KEYS[0]), NOW - timedelta(days=1)))},
    "a certificate from elsewhere": lambda: {"change": {"PAYPAL-CERT-URL": URL.replace("api.paypal.com", "api.paypal.com.example")}},
    "a certificate over http": lambda: {"change": {"PAYPAL-CERT-URL": URL.replace("https", "http")}},
    "a certificate behind a user's name": lambda: {"change": {"PAYPAL-CERT-URL": URL.replace("https://", "https://api.paypal.com@evil/")}},
    "a certificate at another path": lambda: {"change": {"PAYPAL-CERT-URL": "https://api.paypal.com/v1/notifications/certs/../x"}},
    "another port": lambda: {"change": {"PAYPAL-CERT-URL": URL.replace("paypal.com", "paypal.com:444")}},
    "the sandbox's, where live is meant": lambda: {"change": {"PAYPAL-CERT-URL": URL.replace("api.", "api.sandbox.")}},
    "live, where the sandbox is meant": lambda: {"environment": "sandbox"},
}


@pytest.mark.parametrize("name", FORGED)
async def test_a_forged_webhook_is_not_believed(name: str) -> None:
    assert await refusal(**FORGED[name]()) == "SIGNATURE_INVALID"


@pytest.mark.parametrize(("seconds", "reason"), [(-299, ""), (299, ""), (-301, "TIMESTAMP_OUT_OF_RANGE"), (301, "TIMESTAMP_OUT_OF_RANGE")])
async def test_a_webhook_is_of_now(seconds: int, reason: str) -> None:
    assert await refusal(at=NOW + timedelta(seconds=seconds)) == reason


async def test_a_certificate_that_cannot_be_had_believes_nobody_and_is_asked_for_again() -> None:
    class Away(PayPal):
        async def fetch(self, url: str) -> bytes:
            if self.fetched == 0:
                self.fetched += 1
                raise OSError("503")
            return await super().fetch(url)

    sender = Away()
    source = PayPalWebhooks((OURS,), roots=[ROOT], fetch_pem=sender.fetch)
    said = [await source.refusal(sender.headers(webhook()), webhook(), NOW.timestamp()) for _ in range(2)]
    assert said == ["SIGNATURE_INVALID", ""]


def test_the_roots_that_browsers_trust_are_there() -> None:
    assert len(trusted_roots()) > 50


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (
            webhook(),
            {
                "operation": "capture",
                "outcome": "succeeded",
                "key": "o1~A1:capture:2",
                "amount_minor": 1250,
                "currency": "EUR",
                "payment_ref": "o1",
                "provider_ref": "0VF52814937998046",
            },
        ),
        (webhook("PAYMENT.CAPTURE.PENDING", status="PENDING"), {"operation": "capture", "outcome": ""}),
        (
            webhook("PAYMENT.CAPTURE.DECLINED", status="DECLINED", status_details={"reason": "BUYER_COMPLAINT"}),
            {"operation": "capture", "outcome": "declined", "code": "buyer_complaint"},
        ),
        (webhook("PAYMENT.CAPTURE.REFUNDED", invoice_id="acme/o1~A1:refund:3"), {"operation": "refund", "payment_ref": "acme/o1"}),
        (webhook("PAYMENT.CAPTURE.COMPLETED", invoice_id="INV-7"), {"operation": "", "key": "", "payment_ref": "o1"}),
        (
            webhook("PAYMENT.AUTHORIZATION.VOIDED", invoice_id=None, id="0VF52814937998046"),
            {"operation": "void", "outcome": "succeeded", "key": "", "payment_ref": "o1", "provider_ref": "0VF52814937998046"},
        ),
        (
            webhook("CUSTOMER.DISPUTE.CREATED", **dispute("UNDER_REVIEW")),
            {
                **{"operation": "dispute", "outcome": "opened", "dispute_ref": "PP-D-27803", "payment_ref": "o1", "key": ""},
                **{"amount_minor": 1250, "currency": "EUR", "code": "merchandise_or_service_not_received"},
            },
        ),
        (webhook("CUSTOMER.DISPUTE.RESOLVED", **dispute("RESOLVED", "RESOLVED_SELLER_FAVOUR")), {"outcome": "won", "amount_minor": 1250}),
        (webhook("CUSTOMER.DISPUTE.RESOLVED", **dispute("RESOLVED", "CANCELED_BY_BUYER")), {"outcome": "won"}),
        (webhook("CUSTOMER.DISPUTE.RESOLVED", **dispute("RESOLVED", "RESOLVED_BUYER_FAVOUR")), {"outcome": "lost", "amount_minor": 1000}),
        (webhook("PAYMENT.CAPTURE.COMPLETED", amount={"currency_code": "JPY", "value": "1250"}), {"amount_minor": 1250, "currency": "JPY"}),
    ],
)
def test_what_paypal_says(raw: bytes, said: dict[str, Any]) -> None:
    notice = PayPalWebhooks((OURS,), roots=[ROOT]).read(raw)
    assert {name: getattr(notice, name) for name in said} == said
    assert (notice.event_id, notice.occurred_at) == ("WH-1", int(NOW.timestamp()) * 1_000_000)


@pytest.mark.parametrize("raw", [b"[]", b"{}", b"x", webhook(amount={"currency_code": "EUR", "value": "1.234"}), webhook(amount=None)])
def test_what_cannot_be_read_is_said(raw: bytes) -> None:
    with pytest.raises(Unreadable):
        PayPalWebhooks((OURS,), roots=[ROOT]).read(raw)


def test_nothing_personal_is_kept() -> None:
    raw = webhook(payer={"email_address": "someone@example.org", "name": {"surname": "Someone"}})
    assert "omeone" not in repr(fact("paypal", PayPalWebhooks((OURS,), roots=[ROOT]).read(raw), raw))
