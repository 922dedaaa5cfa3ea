"""A stand-in for PayPal's Orders v2 and Payments v2 that insists on their documented form: bearer tokens that end, request ids that replay their
first answer, amounts as decimal strings, an order that is approved first and authorized once, captures and refunds that add up.
"""

import base64
from decimal import Decimal
from typing import Any

from aiohttp import web

ORDER = "5O190127TN364715T"
PAGE = f"https://www.paypal.com/checkoutnow?token={ORDER}"


class PayPalStandIn:
    """`fail` answers the next POST with (status, is it done before?); None cuts the connection. `pending`: what is made is not final yet.
    `lags`: so many looks at the order do not show its authorization yet.
    """

    def __init__(self, client_id: str, secret: str, *, value: str = "10.00", currency: str = "EUR") -> None:
        self.basic = "Basic " + base64.b64encode(f"{client_id}:{secret}".encode()).decode()
        unit = {"amount": {"currency_code": currency, "value": value}, "payments": {"authorizations": [], "captures": [], "refunds": []}}
        self.order: dict[str, Any] = {"id": ORDER, "intent": "AUTHORIZE", "status": "APPROVED", "purchase_units": [unit], "links": []}
        self.payments = unit["payments"]
        self.answers: dict[str, tuple[int, Any]] = {}
        self.tokens: list[str] = []
        self.valid: set[str] = set()
        self.fail: list[tuple[int | None, bool]] = []
        self.pending = False
        self.lags = 0
        self.issue = ""
        self.not_found: dict[str, Any] = {"name": "RESOURCE_NOT_FOUND", "details": [{"issue": "INVALID_RESOURCE_ID"}]}
        self.posts: list[str] = []

    def ask_buyer(self, status: str = "CREATED", rel: str = "approve") -> None:
        """The order waits for its buyer from here on."""
        links = [("self", f"https://api-m.paypal.com/v2/checkout/orders/{ORDER}"), (rel, PAGE)]
        self.order.update(status=status, links=[{"href": href, "rel": name, "method": "GET"} for name, href in links])

    def approve(self) -> None:
        """What the buyer does at the page."""
        assert self.order["status"] in ("CREATED", "PAYER_ACTION_REQUIRED")
        self.order["status"] = "APPROVED"

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/oauth2/token", self._token)
        app.router.add_get("/v2/{rest:.*}", self._read)
        app.router.add_post("/v2/{rest:.*}", self._write)
        return app

    async def _token(self, request: web.Request) -> web.StreamResponse:
        if request.headers["Authorization"] != self.basic:
            return web.json_response({"error": "invalid_client"}, status=401)
        assert dict(await request.post()) == {"grant_type": "client_credentials"}
        self.tokens.append(f"A21AA{len(self.tokens)}")
        self.valid = {self.tokens[-1]}
        return web.json_response({"access_token": self.tokens[-1], "token_type": "Bearer", "expires_in": 32400})

    def _knows(self, request: web.Request) -> bool:
        return request.headers.get("Authorization", "").removeprefix("Bearer ") in self.valid

    async def _read(self, request: web.Request) -> web.StreamResponse:
        if not self._knows(request):
            return web.json_response({"name": "AUTHENTICATION_FAILURE"}, status=401)
        *_, kind, name = request.path.split("/")
        if kind == "orders":
            return self._shown(name)
        found = next(each for each in self.payments[kind] if each["id"] == name)
        return web.json_response({**found, "supplementary_data": {"related_ids": {"order_id": ORDER}}})

    def _shown(self, name: str) -> web.StreamResponse:
        if name != self.order["id"]:
            return web.json_response(self.not_found, status=404)
        if not self.lags:
            return web.json_response(self.order)
        self.lags -= 1
        (unit,) = self.order["purchase_units"]
        return web.json_response({**self.order, "status": "APPROVED", "purchase_units": [{"amount": unit["amount"]}]})

    async def _write(self, request: web.Request) -> web.StreamResponse:
        if not self._knows(request):
            return web.json_response({"name": "AUTHENTICATION_FAILURE"}, status=401)
        assert request.headers["Prefer"] == "return=representation"
        key, body = request.headers["PayPal-Request-Id"], await request.json()
        self.posts.append(request.path.removeprefix("/v2/"))
        wrong = self.fail.pop(0) if self.fail else None
        if wrong is None or wrong[1]:
            if key not in self.answers:
                self.answers[key] = self._perform(request.path.split("/"), body)
        if wrong is not None:
            if wrong[0] is None:
                assert request.transport is not None
                request.transport.abort()
            return web.json_response({"name": "INTERNAL_SERVER_ERROR"}, status=wrong[0] or 500)
        status, said = self.answers[key]
        return web.json_response(said, status=status)

    def _perform(self, path: list[str], body: dict[str, Any]) -> tuple[int, Any]:
        name, verb = path[-2:]
        if self.issue:
            return _refused(self.issue)
        if verb == "authorize":
            return self._authorize()
        if verb == "void":
            (found,) = self.payments["authorizations"]
            if found["status"] in ("VOIDED", "CAPTURED"):
                return _refused("PREVIOUSLY_VOIDED" if found["status"] == "VOIDED" else "PREVIOUSLY_CAPTURED")
            found["status"] = "VOIDED"
            return 200, dict(found)
        return self._capture(body) if verb == "capture" else self._refund(name, body)

    def _authorize(self) -> tuple[int, Any]:
        if self.payments["authorizations"]:
            return _refused("ORDER_ALREADY_AUTHORIZED")
        if self.order["status"] not in ("APPROVED", "SAVED"):
            return _refused("ORDER_COMPLETED_OR_VOIDED" if self.order["status"] == "VOIDED" else "ORDER_NOT_APPROVED")
        made = {"id": "AUTH1", "status": "CREATED", "amount": self.order["purchase_units"][0]["amount"]}
        self.payments["authorizations"].append({**made, "expiration_time": "2026-12-27T12:00:00Z", "create_time": "2026-11-28T12:00:00Z"})
        self.order["status"] = "COMPLETED"
        return 201, self.order

    def _capture(self, body: dict[str, Any]) -> tuple[int, Any]:
        assert body["final_capture"] is False and body["invoice_id"]
        (held,) = self.payments["authorizations"]
        total, value = Decimal(held["amount"]["value"]), _value(body)
        if held["status"] == "VOIDED" or sum(map(_value, self.payments["captures"])) + value > total:
            return _refused("MAX_CAPTURE_AMOUNT_EXCEEDED")
        return self._made("captures", body)

    def _refund(self, capture: str, body: dict[str, Any]) -> tuple[int, Any]:
        (of,) = (each for each in self.payments["captures"] if each["id"] == capture)
        back = [each for each in self.payments["refunds"] if each["links"][0]["href"].endswith(capture)]
        if sum(map(_value, back)) + _value(body) > _value(of):
            return _refused("REFUND_AMOUNT_EXCEEDED")
        return self._made("refunds", body, links=[{"rel": "up", "href": f"https://api-m.paypal.com/v2/payments/captures/{capture}"}])

    def _made(self, kind: str, body: dict[str, Any], **more: Any) -> tuple[int, Any]:
        number = len(self.payments[kind]) + 1
        made = {
            "id": f"{kind[:3].upper()}{number}",
            "status": "PENDING" if self.pending else "COMPLETED",
            "create_time": f"2026-11-28T12:00:{number:02}Z",
        }
        made |= {"amount": body["amount"], "invoice_id": body["invoice_id"], **more}
        self.payments[kind].append(made)
        return 201, dict(made)


def _value(thing: dict[str, Any]) -> Decimal:
    return Decimal(thing["amount"]["value"])


def _refused(issue: str) -> tuple[int, Any]:
    return 422, {"name": "UNPROCESSABLE_ENTITY", "details": [{"issue": issue}]}
