"""Signed webhooks, right ones and those of tests/corpus/forged_webhooks.json: what each entry changes of a right one.

Secrets are made at run time. An entry says which secret signs (`secret`), when (`at_s` from now, or a literal `stamp`), what is signed
(`signs`), which headers are sent instead, as templates, and what happens to the body after it was signed.
"""

import base64
import hmac
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CORPUS = json.loads((Path(__file__).parent.parent / "corpus" / "forged_webhooks.json").read_text())
BODIES = {
    "append": lambda raw: raw + b" ",
    "truncate": lambda raw: raw[:-1],
    "empty": lambda raw: b"",
    "amount": lambda raw: raw.replace(b"1250", b"9250"),
    "reformat": lambda raw: json.dumps(json.loads(raw), indent=1).encode(),
    "bom": lambda raw: b"\xef\xbb\xbf" + raw,
}
NAMES = {"stripe": "stripe", "standard": "local"}
"""The name under which a scheme's sender is configured here."""


class Forger:
    """Senders with secrets of this run: `toml` configures them, `request` signs for them."""

    def __init__(self) -> None:
        self.keys = {name: os.urandom(32) for name in ("stripe", "standard", "other")}
        self.secrets = {name: "whsec_" + base64.b64encode(key).decode() for name, key in self.keys.items()}

    def toml(self, *more: str) -> str:
        sections = [f'[{NAMES[scheme]}]\nscheme = "{scheme}"\nsecrets = ["{self.secrets[scheme]}"]\n' for scheme in NAMES]
        return "\n".join([*sections, *more])

    def request(self, scheme: str, raw: bytes, entry: Mapping[str, Any] | None = None) -> tuple[dict[str, str], bytes]:
        """Headers and body as they are sent."""
        entry = entry or {}
        stamp = entry.get("stamp") or str(int(time.time()) + entry.get("at_s", 0))
        webhook_id = entry.get("id", "evt_1")
        head = {"stripe": [stamp], "standard": [webhook_id, stamp]}[scheme]
        signed = raw if entry.get("signs") == "body" else b".".join((*map(str.encode, head), raw))
        digest = hmac.digest(self._key(scheme, entry.get("secret", scheme)), signed, "sha256")
        sig = digest.hex() if scheme == "stripe" else base64.b64encode(digest).decode()
        values = {"t": stamp, "later": str(int(time.time()) + 1), "id": webhook_id, "sig": sig, "hex": digest.hex(), "upper": sig.upper()}
        values |= {"short": sig[:-1], "last": sig[:-1] + ("0" if sig[-1] != "0" else "1"), "zeros": "0" * len(sig)}
        templates = {
            "stripe": {"Stripe-Signature": "t={t},v1={sig}"},
            "standard": {"webhook-id": "{id}", "webhook-timestamp": "{t}", "webhook-signature": "v1,{sig}"},
        }[scheme] | entry.get("headers", {})
        headers = {name: template.format(**values) for name, template in templates.items() if template is not None}
        return headers, BODIES[entry["body"]](raw) if "body" in entry else raw

    def _key(self, scheme: str, name: str) -> bytes:
        if name == "empty":
            return b""
        if name == "neighbour":
            name = "standard" if scheme == "stripe" else "stripe"
        return self.secrets[name].encode() if scheme == "stripe" else self.keys[name]


def local_event(kind: str = "payment.authorize.succeeded", event_id: str = "evt_1", **data: Any) -> bytes:
    """A webhook of the local provider."""
    said = {"payment_ref": "o1", "key": "o1~A1:authorize:1", "amount_minor": 1250, "currency": "EUR", "provider_ref": "pay_1", "code": ""}
    return json.dumps({"id": event_id, "type": kind, "data": said | {"at": 1_769_162_400_000_000, "valid_until": None} | data}).encode()


def stripe_event(kind: str = "charge.succeeded", event_id: str = "evt_1", **thing: Any) -> bytes:
    """A webhook of Stripe about a charge that waits for its capture, as docs.stripe.com/api/events prints one, cut to what we read."""
    charge = {
        "id": "ch_1",
        "object": "charge",
        "amount": 1250,
        "captured": False,
        "currency": "eur",
        "metadata": {"orderflow_key": "o1~A1:authorize:1", "orderflow_payment": "o1"},
        "payment_intent": "pi_1",
        "payment_method_details": {"card": {"capture_before": 1_769_767_200}},
    }
    event = {"id": event_id, "object": "event", "type": kind, "created": 1_769_162_400, "data": {"object": charge | thing}}
    return json.dumps(event, separators=(",", ":")).encode()


EVENTS = {"stripe": stripe_event, "standard": local_event}
