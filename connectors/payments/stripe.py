"""The adapter for Stripe: PaymentIntents that are confirmed at once and captured by hand, over its documented HTTP API (decision 0008).

What we make carries our key and our name of the payment as metadata, so that its webhooks find their order. A buyer who has to
authenticate is sent to Stripe's page and comes back to the return URL; without one, that is a decline (`authentication_required`).
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import structlog
from aiohttp import ClientError, ClientSession, ClientTimeout

from orderflow.connectors.payments.port import ActionRequired, Inexpressible, Operation, Outcome, Unanswered, declined

log = structlog.get_logger(__name__)

NAME = "stripe"
"""What requests for this provider are addressed to."""
URL = "https://api.stripe.com"
VERSION = "2026-10-28.endive"
"""The version of the API that this was written against."""
CARD = "payment_method_details"
DECLINES = (400, 402, 404)
"""Answers that a repeat would get again: the operation is not possible."""
FINAL = {"succeeded": True, "failed": False, "canceled": False}
"""What the status of a refund means; any other is not final."""
REFUNDS_MAX = 100
METHODS = ("card", "wallet")
"""What can be authorized now and captured later; a wallet is a card to Stripe."""
UNEXPECTED_STATE = "payment_intent_unexpected_state"
"""An intent does not do this where it stands."""

ZERO_DECIMAL_HERE = {"ISK": 100, "UGX": 100}
"""Currencies without minor units that Stripe writes with two of them (docs.stripe.com/currencies)."""
ZERO_DECIMAL_THERE = {"MGA": 100}
"""The other way round."""
ROUNDED_TO_TEN = frozenset({"BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"})
"""Currencies with three minor digits, of which Stripe takes the last one as 0 only."""


def amount_there(amount_minor: int, currency: str) -> int:
    """ISO 4217 minor units as Stripe writes them. Raises Inexpressible."""
    if currency in ROUNDED_TO_TEN and amount_minor % 10:
        raise Inexpressible(f"{amount_minor} {currency}: the last of three digits must be 0")
    divisor = ZERO_DECIMAL_THERE.get(currency, 1)
    if amount_minor % divisor:
        raise Inexpressible(f"{amount_minor} {currency}: there are no minor units")
    return amount_minor // divisor * ZERO_DECIMAL_HERE.get(currency, 1)


def amount_here(amount: int, currency: str) -> int:
    """Stripe's amount as ISO 4217 minor units."""
    return amount * ZERO_DECIMAL_THERE.get(currency, 1) // ZERO_DECIMAL_HERE.get(currency, 1)


class StripeProvider:
    """A client of Stripe. `timeout_s` is the whole deadline of a call; `url` is another's than Stripe's in tests. Buyers who had to act
    come back to `return_url`, in which `{payment}` is our name of the payment.
    """

    def __init__(self, key: str, timeout_s: float, url: str = URL, *, return_url: str = "") -> None:
        self._key, self._timeout_s, self._url, self._return_url = key, timeout_s, url.rstrip("/"), return_url
        self._session: ClientSession | None = None

    async def start(self) -> None:
        headers = {"Authorization": f"Bearer {self._key}", "Stripe-Version": VERSION}
        self._session = ClientSession(timeout=ClientTimeout(total=self._timeout_s), headers=headers)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def perform(self, operation: Operation) -> Outcome:
        try:
            amount = amount_there(operation.amount_minor, operation.currency)
        except Inexpressible as error:
            log.error("stripe.inexpressible", key=operation.key, why=str(error))
            return declined(operation, "amount_not_expressible")
        try:
            return await getattr(self, f"_{operation.operation}")(operation, amount)  # type: ignore[no-any-return]
        except Declined as answer:
            log.info("stripe.declined", key=operation.key, code=answer.code)
            return declined(operation, answer.code, answer.provider_ref)
        except (KeyError, TypeError, AttributeError) as error:
            raise Unanswered(f"Stripe's answer cannot be read: {error}") from None

    # -- operations ---------------------------------------------------------------------------------------------------------------
    async def _authorize(self, operation: Operation, amount: int) -> Outcome:
        """An intent whose buyer was sent to act is looked at: Stripe would repeat its first answer, and make another intent a day later. One
        whose buyer has failed is closed, for their browser could confirm it once more after our decline.
        """
        if operation.method not in METHODS:
            return declined(operation, "method_unsupported")
        if operation.provider_ref:
            intent = await self._get(_path(operation), {"expand[0]": "latest_charge"})
            if intent["status"] == "requires_payment_method":
                await self._post(f"{_path(operation)}/cancel", f"{operation.key}:end", {})
            return _authorized(operation, intent)
        form = {
            "amount": str(amount),
            "currency": operation.currency.lower(),
            "payment_method": operation.method_ref,
            "payment_method_types[0]": "card",
            "payment_method_options[card][request_multicapture]": "if_available",
            "payment_method_options[card][request_incremental_authorization]": "if_available",
            "capture_method": "manual",
            "confirm": "true",
            "expand[0]": "latest_charge",
            **self._for_buyer(operation),
            **_metadata(operation),
        }
        return _authorized(operation, await self._post("/v1/payment_intents", operation.key, form))

    def _for_buyer(self, operation: Operation) -> dict[str, str]:
        """What becomes of a buyer who has to authenticate."""
        if not self._return_url:
            return {"error_on_requires_action": "true"}
        return {"return_url": self._return_url.replace("{payment}", quote(operation.payment_ref, safe=""))}

    async def _capture(self, operation: Operation, amount: int) -> Outcome:
        """Whether the rest stays depends on the card alone, so that a repeat asks for the same."""
        intent = await self._get(_path(operation), {"expand[0]": "latest_charge"})
        multicapture = (intent["latest_charge"][CARD]["card"].get("multicapture") or {}).get("status")
        form = {"amount_to_capture": str(amount), **_metadata(operation)}
        if multicapture == "available":
            form["final_capture"] = "false"
        done = await self._post(f"{_path(operation)}/capture", operation.key, form)
        return Outcome(True, done["id"], operation.amount_minor, done["currency"].upper())

    async def _increase(self, operation: Operation, amount: int) -> Outcome:
        """Stripe is told the new total. That it was done before shows in the intent, which then carries this operation's key."""
        intent = await self._get(_path(operation), {})
        if (intent.get("metadata") or {}).get("orderflow_key") != operation.key:
            form = {"amount": str(intent["amount"] + amount), **_metadata(operation)}
            intent = await self._post(f"{_path(operation)}/increment_authorization", operation.key, form)
        return Outcome(True, intent["id"], operation.amount_minor, intent["currency"].upper())

    async def _void(self, operation: Operation, amount: int) -> Outcome:
        """What is not captured; of a card that is captured once, Stripe has released it with that capture."""
        intent = await self._get(_path(operation), {})
        if intent["status"] not in ("succeeded", "canceled"):
            intent = await self._post(f"{_path(operation)}/cancel", operation.key, {})
        return Outcome(True, intent["id"], operation.amount_minor, intent["currency"].upper())

    async def _cancel(self, operation: Operation, amount: int) -> Outcome:
        """Also of a buyer who has acted since: what is held goes back with it. Where Stripe will not, it may be canceled by now."""
        intent = await self._get(_path(operation), {})
        if intent["status"] != "canceled":
            try:
                intent = await self._post(f"{_path(operation)}/cancel", operation.key, {})
            except Declined as answer:
                if answer.code != UNEXPECTED_STATE:
                    raise
                intent = await self._get(_path(operation), {})
        if intent["status"] != "canceled":
            raise Declined(UNEXPECTED_STATE, intent["id"])
        return Outcome(True, intent["id"], operation.amount_minor, intent["currency"].upper())

    async def _refund(self, operation: Operation, amount: int) -> Outcome:
        """Looked for first: Stripe forgets keys after a day, and a repeat shows what has become of it since."""
        found = await self._get("/v1/refunds", {"payment_intent": operation.provider_ref, "limit": str(REFUNDS_MAX)})
        refund = next((each for each in found["data"] if (each.get("metadata") or {}).get("orderflow_key") == operation.key), None)
        if refund is None:
            form = {"payment_intent": operation.provider_ref, "amount": str(amount), **_metadata(operation)}
            refund = await self._post("/v1/refunds", operation.key, form)
        if refund["status"] not in FINAL:
            raise Unanswered(f"the refund is {refund['status']}")
        said = amount_here(refund["amount"], operation.currency), refund["currency"].upper()
        return Outcome(FINAL[refund["status"]], operation.provider_ref, *said, None, refund.get("failure_reason") or "")

    # -- wire ---------------------------------------------------------------------------------------------------------------------
    async def _post(self, path: str, key: str, form: Mapping[str, str]) -> Any:
        return await self._call("POST", path, data=form, headers={"Idempotency-Key": key})

    async def _get(self, path: str, query: Mapping[str, str]) -> Any:
        return await self._call("GET", path, params=query)

    async def _call(self, method: str, path: str, **request: Any) -> Any:
        """The answer's JSON. Raises Declined where a repeat would be declined again, else Unanswered."""
        assert self._session is not None, "start() first"
        try:
            async with self._session.request(method, self._url + path, allow_redirects=False, **request) as answer:
                body = await answer.json()
                status, says_repeat = answer.status, answer.headers.get("Stripe-Should-Retry") == "true"
        except (ClientError, TimeoutError, OSError, ValueError) as error:
            raise Unanswered(f"{type(error).__name__}: {error}") from None
        if status == 200:
            return body
        said = body.get("error") or {}
        kind, code = said.get("type", ""), said.get("decline_code") or said.get("code") or ""
        if status not in DECLINES or kind == "idempotency_error" or says_repeat:
            log.warning("stripe.unanswered", status=status, type=kind, code=code)
            raise Unanswered(f"Stripe answers {status} {kind} {code}")
        raise Declined(code or kind, (said.get("payment_intent") or {}).get("id", ""))


class Declined(Exception):
    """Stripe will not do it."""

    def __init__(self, code: str, provider_ref: str) -> None:
        super().__init__(code)
        self.code, self.provider_ref = code, provider_ref


def _path(operation: Operation) -> str:
    return f"/v1/payment_intents/{quote(operation.provider_ref)}"


def _authorized(operation: Operation, intent: Any) -> Outcome:
    """What an intent says of its authorization. Raises Declined, ActionRequired while its buyer has to act, else Unanswered."""
    status, reference = intent["status"], intent["id"]
    if status == "requires_action":
        raise _action(intent)
    if status in ("requires_payment_method", "canceled"):
        error = intent.get("last_payment_error") or {}
        usual = status if status == "canceled" and not error else "authentication_failed"
        raise Declined(error.get("decline_code") or error.get("code") or usual, reference)
    if status != "requires_capture":
        raise Unanswered(f"the PaymentIntent is {status}")
    until = intent["latest_charge"][CARD]["card"].get("capture_before")
    held = amount_here(intent["amount_capturable"], operation.currency)
    return Outcome(True, reference, held, intent["currency"].upper(), None if until is None else until * 1_000_000)


def _action(intent: Any) -> ActionRequired:
    """What the buyer has to do. Raises Unanswered when it is nothing that a page of Stripe's asks of them."""
    action = intent.get("next_action") or {}
    url = (action.get("redirect_to_url") or {}).get("url")
    if not url:
        raise Unanswered(f"the buyer has to act, and there is no page for it: the next action is {action.get('type')}")
    return ActionRequired(url, intent["id"])


def _metadata(operation: Operation) -> dict[str, str]:
    return {"metadata[orderflow_key]": operation.key, "metadata[orderflow_payment]": operation.payment_ref}
