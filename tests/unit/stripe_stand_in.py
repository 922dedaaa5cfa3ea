"""A stand-in for Stripe's API that insists on its documented wire format: form-encoded bodies, a bearer key, a pinned version, keys that
replay their first answer, PaymentIntents that go the documented way. By the payment method the card declines, or its buyer has to act.
"""

import asyncio
import hashlib
from typing import Any

from aiohttp import web

VERSION = "2026-10-28.endive"
CREATE = {
    "amount",
    "currency",
    "payment_method",
    "payment_method_types[0]",
    "payment_method_options[card][request_multicapture]",
    "payment_method_options[card][request_incremental_authorization]",
    "capture_method",
    "confirm",
    "expand[0]",
    "metadata[orderflow_key]",
    "metadata[orderflow_payment]",
}
DECLINES = {"pm_lost": ("card_declined", "lost_card")}
ACTIONS = {"pm_3ds": "redirect_to_url", "pm_sdk": "use_stripe_sdk"}
"""Payment methods whose buyer has to authenticate, and what is asked of them."""
PAGE = "https://hooks.stripe.com/3d_secure_2/hosted"
CANCELABLE = ("requires_payment_method", "requires_capture", "requires_confirmation", "requires_action")
CHARGE = "latest_charge"


class StripeStandIn:
    """`fail` answers the next calls with (status, body, is it done before?); None cuts the connection."""

    def __init__(self, key: str, *, multicapture: bool = True) -> None:
        self.key, self.multicapture = key, multicapture
        self.intents: dict[str, dict[str, Any]] = {}
        self.refunds: list[dict[str, Any]] = []
        self.answers: dict[str, tuple[str, int, dict[str, Any]]] = {}
        self.fail: list[tuple[int | None, dict[str, Any], bool]] = []
        self.calls: list[str] = []
        self.delay_s = 0.0
        self.refund_status = "succeeded"
        self.declines_more: str | None = None
        """Why the card declines more of an authorization."""

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_route("*", "/v1/{rest:.*}", self._serve)
        return app

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        path = request.path.removeprefix("/v1/")
        self.calls.append(f"{request.method} {path}")
        if request.headers.get("Authorization") != f"Bearer {self.key}":
            return _error(401, "invalid_request_error", "api_key_invalid")
        assert request.headers["Stripe-Version"] == VERSION
        await asyncio.sleep(self.delay_s)
        if request.method == "GET":
            return self._read(path, dict(request.query))
        assert request.content_type == "application/x-www-form-urlencoded"
        form = {name: str(value) for name, value in (await request.post()).items()}
        wrong = self.fail.pop(0) if self.fail else None
        if wrong is not None and not wrong[2]:
            return self._wrong(request, wrong)
        key, fingerprint = request.headers["Idempotency-Key"], hashlib.sha256(repr((path, sorted(form.items()))).encode()).hexdigest()
        assert len(key) <= 255
        if key in self.answers:
            first, status, body = self.answers[key]
            if first != fingerprint:
                return _error(400, "idempotency_error", "")
        else:
            status, body = self._write(path, form)
            self.answers[key] = (fingerprint, status, body)
        if wrong is not None:
            return self._wrong(request, wrong)
        return web.json_response(body, status=status)

    @staticmethod
    def _wrong(request: web.Request, wrong: tuple[int | None, dict[str, Any], bool]) -> web.StreamResponse:
        if wrong[0] is None:
            assert request.transport is not None
            request.transport.abort()
        return web.json_response(wrong[1], status=wrong[0] or 500)

    def _read(self, path: str, query: dict[str, str]) -> web.StreamResponse:
        if path == "refunds":
            return web.json_response({"data": [each for each in self.refunds if each["payment_intent"] == query["payment_intent"]]})
        intent = self.intents.get(path.removeprefix("payment_intents/"))
        if intent is None:
            return _error(404, "invalid_request_error", "resource_missing")
        is_whole = query.get("expand[0]") == CHARGE or intent[CHARGE] is None
        return web.json_response(intent if is_whole else {**intent, CHARGE: "ch_1"})

    # -- the buyer, at the page that an intent sends them to ----------------------------------------------------------------------
    def agree(self, name: str) -> None:
        """They authenticate: the money is held."""
        assert self.intents[name]["status"] == "requires_action"
        self._hold(self.intents[name])

    def refuse(self, name: str, code: str, decline_code: str | None = None) -> None:
        """They do not authenticate, or do and the card declines."""
        assert self.intents[name]["status"] == "requires_action"
        error = _body("card_error", code, decline_code)["error"]
        self.intents[name].update(status="requires_payment_method", next_action=None, last_payment_error=error)

    def _write(self, path: str, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        if path == "payment_intents":
            return self._create(form)
        if path == "refunds":
            return self._refund(form)
        _, name, verb = path.split("/")
        intent = self.intents[name]
        if intent["status"] not in (CANCELABLE if verb == "cancel" else ("requires_capture",)):
            return 400, _body("invalid_request_error", "payment_intent_unexpected_state")
        if verb == "cancel":
            assert not form
            intent.update(status="canceled", amount_capturable=0, next_action=None)
            return 200, dict(intent)
        if verb == "increment_authorization":
            return self._increment(intent, form)
        amount, is_final = int(form["amount_to_capture"]), form.get("final_capture") != "false"
        assert is_final or self.multicapture, "only where multicapture is available"
        if amount > intent["amount_capturable"]:
            return 400, _body("invalid_request_error", "amount_too_large")
        left = 0 if is_final else intent["amount_capturable"] - amount
        received = intent["amount_received"] + amount
        intent.update(amount_received=received, amount_capturable=left, status="requires_capture" if left else "succeeded")
        return 200, dict(intent)

    def _increment(self, intent: dict[str, Any], form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """The new total, which has to be more, and which the card may decline; the intent keeps what it had then."""
        assert form.keys() == {"amount", "metadata[orderflow_key]", "metadata[orderflow_payment]"}
        more = int(form["amount"]) - intent["amount"]
        if more <= 0:
            return 400, _body("invalid_request_error", "amount_too_small")
        if self.declines_more is not None:
            return 402, _body("card_error", "card_declined", self.declines_more)
        metadata = {"orderflow_key": form["metadata[orderflow_key]"], "orderflow_payment": form["metadata[orderflow_payment]"]}
        intent.update(amount=int(form["amount"]), amount_capturable=intent["amount_capturable"] + more, metadata=metadata)
        return 200, dict(intent)

    def _create(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        assert form["currency"].islower() and form["capture_method"] == "manual" and form["confirm"] == "true"
        (buyer,) = form.keys() ^ CREATE
        assert form["expand[0]"] == CHARGE and buyer in ("error_on_requires_action", "return_url")
        assert form[buyer].startswith("https://") if buyer == "return_url" else form[buyer] == "true"
        name = f"pi_{len(self.intents) + 1}"
        intent = {
            "id": name,
            "object": "payment_intent",
            "amount": int(form["amount"]),
            "amount_capturable": 0,
            "amount_received": 0,
            "currency": form["currency"],
            "status": "requires_payment_method",
            "metadata": {"orderflow_key": form["metadata[orderflow_key]"], "orderflow_payment": form["metadata[orderflow_payment]"]},
            "next_action": None,
            "last_payment_error": None,
            CHARGE: None,
        }
        self.intents[name] = intent
        method, action = form["payment_method"], ACTIONS.get(form["payment_method"])
        declined = DECLINES.get(method) if action is None or "return_url" in form else ("authentication_required", None)
        if declined is not None:
            return 402, _body("card_error", *declined, payment_intent=dict(intent))
        if action is not None:
            said = {"return_url": form["return_url"], "url": f"{PAGE}?intent={name}"} if action == "redirect_to_url" else {}
            intent.update(status="requires_action", next_action={"type": action, action: said})
        else:
            self._hold(intent)
        return 200, dict(intent)

    def _hold(self, intent: dict[str, Any]) -> None:
        card = {"capture_before": 1_800_000_000, "multicapture": {"status": "available" if self.multicapture else "unavailable"}}
        charge = {"payment_method_details": {"card": card}}
        intent.update({"status": "requires_capture", "amount_capturable": intent["amount"], "next_action": None, CHARGE: charge})

    def _refund(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        intent = self.intents[form["payment_intent"]]
        done = sum(each["amount"] for each in self.refunds if each["payment_intent"] == intent["id"])
        if int(form["amount"]) > intent["amount_received"] - done:
            return 400, _body("invalid_request_error", "charge_already_refunded")
        refund = {
            "id": f"re_{len(self.refunds) + 1}",
            "amount": int(form["amount"]),
            "currency": intent["currency"],
            "payment_intent": intent["id"],
            "status": self.refund_status,
            "metadata": {"orderflow_key": form["metadata[orderflow_key]"]},
        }
        self.refunds.append(refund)
        return 200, dict(refund)


def _body(kind: str, code: str, decline_code: str | None = None, **more: Any) -> dict[str, Any]:
    return {"error": {"type": kind, "code": code, **({"decline_code": decline_code} if decline_code else {}), **more}}


def _error(status: int, kind: str, code: str) -> web.StreamResponse:
    return web.json_response(_body(kind, code), status=status)
