"""The adapter for PayPal: an order that its buyer approved is authorized, captured, voided and refunded, over Orders v2 and Payments v2.

PayPal's own id of our payment is the authorization's; while the buyer has yet to approve the order, it is the order's. Captures and refunds
carry our key as invoice number: it must be unique there, so it guards what the request id guards, and it finds what was done before.
"""

import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any
from urllib.parse import quote

import structlog
from aiohttp import ClientError, ClientSession, ClientTimeout, encode_basic_auth

from orderflow.connectors.payments.port import ActionRequired, Inexpressible, Operation, Outcome, Unanswered, declined

log = structlog.get_logger(__name__)

NAME = "paypal"
"""What requests for this provider are addressed to."""
URL = "https://api-m.paypal.com"
EXPONENTS = {"JPY": 0}
"""ISO 4217 minor digits of the currencies that PayPal takes; the others have two."""
WHOLE_UNITS = frozenset({"HUF", "JPY", "TWD"})
"""Currencies that PayPal takes without decimals (developer.paypal.com/reference/currency-codes)."""
DONE, NOT_DONE = ("COMPLETED", "PARTIALLY_REFUNDED", "REFUNDED"), ("DECLINED", "FAILED", "CANCELLED", "DENIED")
"""What the status of a capture or refund means; any other is not final."""
WAITING, APPROVED = ("CREATED", "PAYER_ACTION_REQUIRED"), ("APPROVED", "SAVED")
"""What the status of an order means: its buyer has to act, or has; an order is saved after its approval only."""
GONE: Mapping[str, Any] = {"status": "VOIDED", "purchase_units": ()}
"""An order that PayPal does not know any more."""
DECLINES = (400, 404, 422)
"""Answers that a repeat would get again: the operation is not possible."""
UNTIL_END_S = 60.0
"""A token is renewed this long before its end."""


def amount_there(amount_minor: int, currency: str) -> str:
    """ISO 4217 minor units as PayPal writes them. Raises Inexpressible."""
    exponent = EXPONENTS.get(currency, 2)
    if currency in WHOLE_UNITS and amount_minor % 10**exponent:
        raise Inexpressible(f"{amount_minor} {currency}: PayPal takes no decimals of it")
    value = Decimal(amount_minor).scaleb(-exponent)
    return f"{value:.0f}" if currency in WHOLE_UNITS else f"{value:.{exponent}f}"


def amount_here(value: str, currency: str) -> int:
    """PayPal's amount as ISO 4217 minor units. Raises ValueError when it has none."""
    try:
        found = Decimal(value).scaleb(EXPONENTS.get(currency, 2))
    except InvalidOperation:
        raise ValueError(f"{value!r} is no amount") from None
    if found != found.to_integral_value():
        raise ValueError(f"{value} {currency} has no whole minor units")
    return int(found)


class PayPalProvider:
    """A client of PayPal. `timeout_s` is the whole deadline of a call; `url` is the sandbox's, or another's in tests."""

    def __init__(self, client_id: str, secret: str, timeout_s: float, url: str = URL) -> None:
        self._basic, self._timeout_s, self._url = encode_basic_auth(client_id, secret), timeout_s, url.rstrip("/")
        self._session: ClientSession | None = None
        self._token, self._token_until = "", 0.0

    async def start(self) -> None:
        self._session = ClientSession(timeout=ClientTimeout(total=self._timeout_s))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def perform(self, operation: Operation) -> Outcome:
        try:
            amount = {"currency_code": operation.currency, "value": amount_there(operation.amount_minor, operation.currency)}
        except Inexpressible as error:
            log.error("paypal.inexpressible", key=operation.key, why=str(error))
            return declined(operation, "amount_not_expressible")
        try:
            return await getattr(self, f"_{operation.operation}")(operation, amount)  # type: ignore[no-any-return]
        except Declined as answer:
            log.info("paypal.declined", key=operation.key, code=answer.code)
            return declined(operation, answer.code)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise Unanswered(f"PayPal's answer cannot be read: {error}") from None

    # -- operations ---------------------------------------------------------------------------------------------------------------
    async def _authorize(self, operation: Operation, amount: Mapping[str, str]) -> Outcome:
        """The order must be approved for exactly this amount. It is looked at first: an order is authorized once."""
        path = _path(operation.method_ref)
        order = await self._get(path)
        (unit,) = order["purchase_units"]
        if (_minor(unit), unit["amount"]["currency_code"]) != (operation.amount_minor, operation.currency):
            return declined(operation, "amount_differs")
        if not list(_payments(order, "authorizations")):
            if order["status"] in WAITING:
                raise _action(order)
            order = await self._post(f"{path}/authorize", operation.key, {})
        (made,) = _payments(order, "authorizations")
        if made["status"] != "CREATED":
            raise Declined(made["status"].lower()) if made["status"] in NOT_DONE else Unanswered(f"the authorization is {made['status']}")
        until = made.get("expiration_time")
        return _outcome(made["id"], made, None if until is None else micros(until))

    async def _capture(self, operation: Operation, amount: Mapping[str, str]) -> Outcome:
        body = {"amount": amount, "invoice_id": operation.key, "final_capture": False}
        made = await self._post(f"/v2/payments/authorizations/{quote(operation.provider_ref)}/capture", operation.key, body)
        if made["status"] not in DONE:  # the answer is the first one, repeated; the capture may have gone on
            made = await self._get(f"/v2/payments/captures/{quote(made['id'])}")
        return _final(operation, made)

    async def _increase(self, operation: Operation, amount: Mapping[str, str]) -> Outcome:
        """PayPal authorizes an order once, for what its buyer has approved."""
        return declined(operation, "increase_unsupported")

    async def _void(self, operation: Operation, amount: Mapping[str, str]) -> Outcome:
        await self._release(operation.provider_ref, operation.key)
        return Outcome(True, operation.provider_ref, operation.amount_minor, operation.currency)

    async def _release(self, authorization_id: str, key: str) -> None:
        try:
            await self._post(f"/v2/payments/authorizations/{quote(authorization_id)}/void", key, {})
        except Declined as answer:
            if answer.code != "PREVIOUSLY_VOIDED":
                raise

    async def _cancel(self, operation: Operation, amount: Mapping[str, str]) -> Outcome:
        """Nothing of an order is authorized without our asking. Of an approved one a call of ours may be under way: it is authorized once,
        so that is done here, and voided, and nothing comes later.
        """
        path = _path(operation.provider_ref)
        order = await self._order(path)
        if order["status"] in APPROVED and not list(_payments(order, "authorizations")):
            order = await self._used_up(path, operation.key)
        found = list(_payments(order, "authorizations"))
        if order["status"] == "COMPLETED" and not found:
            raise Unanswered("the order is COMPLETED, and shows no authorization")
        for made in found:
            if made["status"] not in ("VOIDED", *NOT_DONE):
                await self._release(made["id"], f"{operation.key}:void")
        return Outcome(True, operation.provider_ref, operation.amount_minor, operation.currency)

    async def _order(self, path: str) -> Any:
        """The order as it is now, which may be GONE."""
        try:
            return await self._get(path)
        except Declined as answer:
            if answer.name != "RESOURCE_NOT_FOUND":
                raise
            return GONE

    async def _used_up(self, path: str, key: str) -> Any:
        """An approved order when it is authorized, by this call or another, or when PayPal will not authorize it."""
        try:
            return await self._post(f"{path}/authorize", key, {})
        except Declined as answer:
            order = await self._order(path)
            if answer.code == "ORDER_ALREADY_AUTHORIZED" and not list(_payments(order, "authorizations")):
                raise Unanswered("the order is authorized, and does not show it yet") from None
            return order

    async def _refund(self, operation: Operation, amount: Mapping[str, str]) -> Outcome:
        """Of one capture that still has so much; what spans two of them is declined. It is looked for first."""
        authorization = await self._get(f"/v2/payments/authorizations/{quote(operation.provider_ref)}")
        order_id = authorization["supplementary_data"]["related_ids"]["order_id"]
        order = await self._get(_path(order_id))
        made = next((each for each in _payments(order, "refunds") if each.get("invoice_id") == operation.key), None)
        if made is None:
            capture = next((each for each in _payments(order, "captures") if _left(order, each) >= operation.amount_minor), None)
            if capture is None:
                return declined(operation, "refund_spans_captures")
            body = {"amount": amount, "invoice_id": operation.key}
            made = await self._post(f"/v2/payments/captures/{quote(capture['id'])}/refund", operation.key, body)
        if made["status"] not in DONE:
            made = await self._get(f"/v2/payments/refunds/{quote(made['id'])}")
        return _final(operation, made)

    # -- wire ---------------------------------------------------------------------------------------------------------------------
    async def _post(self, path: str, key: str, body: Mapping[str, Any]) -> Any:
        headers = {"PayPal-Request-Id": key, "Prefer": "return=representation"}
        return await self._authorized("POST", path, json=body, headers=headers)

    async def _get(self, path: str) -> Any:
        return await self._authorized("GET", path, headers={})

    async def _authorized(self, method: str, path: str, *, headers: Mapping[str, str], **request: Any) -> Any:
        """The answer's JSON. A token that is refused is renewed once."""
        for is_last in (False, True):
            bearer = {"Authorization": f"Bearer {await self._bearer()}"}
            status, body = await self._call(method, path, headers={**headers, **bearer}, **request)
            if status != 401 or is_last:
                return _told(status, body)
            self._token = ""
        raise AssertionError("twice at most")

    async def _bearer(self) -> str:
        if not self._token or time.monotonic() > self._token_until:
            form = {"grant_type": "client_credentials"}
            status, body = await self._call("POST", "/v1/oauth2/token", data=form, headers={"Authorization": self._basic})
            if status != 200:
                raise Unanswered(f"PayPal gives no token: {status}")
            self._token, self._token_until = body["access_token"], time.monotonic() + body["expires_in"] - UNTIL_END_S
        return self._token

    async def _call(self, method: str, path: str, **request: Any) -> tuple[int, Any]:
        assert self._session is not None, "start() first"
        try:
            async with self._session.request(method, self._url + path, allow_redirects=False, **request) as answer:
                return answer.status, await answer.json() if answer.status != 204 else {}
        except (ClientError, TimeoutError, OSError, ValueError) as error:
            raise Unanswered(f"{type(error).__name__}: {error}") from None


class Declined(Exception):
    """PayPal will not do it: why (`code`), and its name of the error."""

    def __init__(self, code: str, name: str = "") -> None:
        super().__init__(code)
        self.code, self.name = code, name


def _told(status: int, body: Any) -> Any:
    """The body of a success. Raises Declined where a repeat would be declined again, else Unanswered."""
    if 200 <= status < 300:
        return body
    details = body.get("details") or [{}]
    name = body.get("name") or ""
    code = details[0].get("issue") or name
    if status not in DECLINES or code in ("PAYPAL_REQUEST_ID_PREVIOUSLY_USED", "DUPLICATE_REQUEST_ID"):
        log.warning("paypal.unanswered", status=status, code=code)
        raise Unanswered(f"PayPal answers {status} {code}")
    raise Declined(code, name)


def _path(order_id: str) -> str:
    return f"/v2/checkout/orders/{quote(order_id, safe='')}"


def _action(order: Any) -> ActionRequired:
    """Where the buyer approves the order. Raises Unanswered when it does not say."""
    links = {link["rel"]: link["href"] for link in order.get("links", ())}
    url = links.get("payer-action") or links.get("approve")
    if not url:
        raise Unanswered(f"the order is {order['status']}, and has no link for its buyer")
    return ActionRequired(url, order["id"])


def _payments(order: Any, kind: str) -> Iterator[Any]:
    """All authorizations, captures or refunds of an order, oldest first."""
    found = [each for unit in order["purchase_units"] for each in unit.get("payments", {}).get(kind, ())]
    return iter(sorted(found, key=lambda each: (each.get("create_time", ""), each["id"])))


def _left(order: Any, capture: Any) -> int:
    """What of a capture was not refunded yet."""
    if capture["status"] not in DONE:
        return 0
    back = (each for each in _payments(order, "refunds") if each["status"] not in NOT_DONE and _is_of(each, capture["id"]))
    return _minor(capture) - sum(map(_minor, back))


def _is_of(refund: Any, capture_id: str) -> bool:
    return any(link["rel"] == "up" and link["href"].endswith(f"/captures/{capture_id}") for link in refund.get("links", ()))


def _minor(thing: Any) -> int:
    return amount_here(thing["amount"]["value"], thing["amount"]["currency_code"])


def micros(time_there: str) -> int:
    """A time as PayPal writes it. Raises ValueError."""
    return int(datetime.fromisoformat(time_there).timestamp() * 1_000_000)


def _final(operation: Operation, made: Any) -> Outcome:
    """Of a capture or refund whose status is final. Raises Unanswered while it is not."""
    if made["status"] in DONE:
        return _outcome(operation.provider_ref, made)
    if made["status"] in NOT_DONE:
        reason = (made.get("status_details") or {}).get("reason") or made["status"]
        return declined(operation, reason.lower())
    raise Unanswered(f"it is {made['status']}")


def _outcome(provider_ref: str, made: Any, valid_until: int | None = None) -> Outcome:
    return Outcome(True, provider_ref, _minor(made), made["amount"]["currency_code"], valid_until)
