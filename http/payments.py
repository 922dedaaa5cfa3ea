"""Payments over HTTP: the money of an order, and what people may do with it. Its id is the order's."""

from collections.abc import Callable
from typing import TypeVar

from aiohttp import web
from msgspec import Struct
from pydantic import BaseModel, Field

from orderflow.http import bodies
from orderflow.http.bodies import Body
from orderflow.http.calls import Call, view_response
from orderflow.http.gateway import Denied
from orderflow.http.idempotency import HEADER, key_in
from orderflow.http.orders import PATH as ORDERS
from orderflow.http.orders import change_order, money
from orderflow.http.problems import Problem
from orderflow.http.routing import Route
from orderflow.http.views import AcceptedView, OrderView, PaymentView, payment_view
from orderflow.streams.domain.parts import Money
from orderflow.streams.domain.payment_records import CapturePayment, PaymentSnapshot, RefundPayment, RetryPayment, VoidPayment

PATH = "/api/v1/payments"
B = TypeVar("B", bound=Body)


class MoneyBody(Body):
    """Without an amount all that is possible."""

    amount: bodies.Money | None = None
    reason: str = Field("", max_length=200)
    reference: str = Field("", pattern=r"^[A-Za-z0-9._-]{0,64}$")


class RetryBody(Body):
    """The same payment method again, or another."""

    token_ref: bodies.Token | None = Field(None, description="The buyer's payment method as the channel's provider names it.")


async def retry_payment(call: Call) -> web.StreamResponse:
    """200 with the order once the provider has said yes; 202 until it has answered."""
    order_id = call.id("id")
    _demand_key(call)
    body = await call.body(RetryBody)
    return await change_order(call, order_id, RetryPayment(body.token_ref or ""), call.name(body, order_id))


async def get_payment(call: Call) -> web.StreamResponse:
    payment = await _read(call, call.id("id"))
    return call.show(payment_view(payment), payment.version)


async def capture_payment(call: Call) -> web.StreamResponse:
    """Take authorized money; 202 until the provider has answered."""
    return await _moved(call, lambda *asked: CapturePayment(*asked), 200)


async def void_payment(call: Call) -> web.StreamResponse:
    """Give the rest of an authorization back; 202 until the provider has answered."""
    return await _moved(call, lambda *asked: VoidPayment(*asked), 200)


async def refund_payment(call: Call) -> web.StreamResponse:
    """Give captured money back; 202 until the provider has answered."""
    return await _moved(call, lambda *asked: RefundPayment(*asked), 201)


async def _moved(call: Call, asking: Callable[[Money | None, str, str], Struct], status: int) -> web.StreamResponse:
    return await moved(call, MoneyBody, lambda body: asking(money(body.amount), body.reason, body.reference), status)


async def moved(call: Call, kind: type[B], asking: Callable[[B], Struct], status: int) -> web.StreamResponse:
    """Ask for what the body says: the payment after it, 202 while it has no outcome, or the problem of the rule that refused."""
    payment_id = call.id("id")
    _demand_key(call)
    body = await call.body(kind)
    name = call.name(body, payment_id)
    outcome = await call.ask("orders", payment_id, asking(body), name)
    if isinstance(outcome, Denied):
        raise call.refusal(outcome, order_id=payment_id)
    if outcome is None:
        return call.accepted(name, f"{PATH}/{payment_id}", order_id=payment_id)
    payment = await _read(call, payment_id)
    return view_response(status, payment_view(payment), version=payment.version, location=f"{PATH}/{payment_id}")


def _demand_key(call: Call) -> None:
    if key_in(call.request.headers) is None:
        detail = "is required where money moves: a repeat without it would move it twice"
        raise Problem("SCHEMA_INVALID", faults=[{"header": HEADER, "code": "SCHEMA_INVALID", "detail": detail}])


async def _read(call: Call, payment_id: str) -> PaymentSnapshot:
    """The payment as its owner has committed it. Raises Problem when there is none."""
    payment = await call.parts.reads.row("orders", "payment", payment_id, PaymentSnapshot)
    if payment is None:
        raise Problem("NOT_FOUND", f"there is no payment {payment_id}", members={"order_id": payment_id})
    return payment


PROBLEMS = (400, 402, 404, 409, 412, 413, 422, 503)
RETRY = "Try once more to pay for an order whose payment was declined, where its channel allows another attempt."


def _route(verb: str, summary: str, status: int) -> Route:
    handler = {"capture": capture_payment, "void": void_payment, "refund": refund_payment}[verb]
    answers: dict[int, type[BaseModel] | None] = {status: PaymentView, 202: AcceptedView}
    return Route("POST", f"{PATH}/{{id}}/{verb}", handler, summary, "payments", answers, body=MoneyBody, problems=PROBLEMS)


ROUTES = (
    Route("GET", PATH + "/{id}", get_payment, "Read a payment.", "payments", {200: PaymentView, 304: None}, problems=(400, 404, 503)),
    Route(
        "POST",
        ORDERS + "/{id}/payments",
        retry_payment,
        RETRY,
        "payments",
        {200: OrderView, 202: AcceptedView},
        body=RetryBody,
        problems=(*PROBLEMS, 410),
    ),
    _route("capture", "Take authorized money before goods leave; handing them over does it by itself.", 200),
    _route("void", "Give back what was not captured of an order that ends; canceling does it by itself.", 200),
    _route("refund", "Give captured money back.", 201),
)
