"""Webhooks in: what payment providers say by themselves. The bytes are verified before anything reads them; nothing else reaches the log."""

import time

from aiohttp import web

from orderflow.http import limits
from orderflow.http.calls import PARKED, REQUEST_ID, Call, trace_in, view_response
from orderflow.http.gateway import Ask, Denied, Outcome
from orderflow.http.problems import Problem
from orderflow.http.routing import Route
from orderflow.http.senders import Fact
from orderflow.http.views import WebhookView
from orderflow.schemas import catalog
from orderflow.streams.domain.contract import CommandMeta

PATH = "/api/v1/webhooks"
REASONS = {
    "SIGNATURE_INVALID": "no live secret of this source made the signature of these bytes",
    "TIMESTAMP_OUT_OF_RANGE": "the signature is right, and too old or from the future",
}
FINE = 200
UNREADABLE, VERIFIED = "unreadable", "verified"


async def receive_webhook(call: Call) -> web.StreamResponse:
    """One effect per event, however often it is delivered; what says nothing of an operation of ours is recorded all the same."""
    name = call.id("source")
    sender = call.parts.senders.named(name)
    if sender is None:
        raise Problem("NOT_FOUND", f"no secret of a source {name} is configured")
    raw = await limits.read_body(call.request, call.parts.settings)
    reason = await sender.refusal(call.request.headers, raw, time.time())
    if reason:
        call.parts.meters.webhook(name, reason)
        wait_s = call.parts.strangers.wait_s(call.request.remote or "")
        if wait_s:
            said = f"more than {call.parts.settings.webhooks_unverified_max} requests of a minute from this address were signed by nobody"
            raise Problem("RATE_LIMITED", said, headers={"Retry-After": str(wait_s)})
        raise Problem(reason, REASONS[reason])
    try:
        fact = sender.fact(raw)
    except ValueError as error:
        call.parts.meters.webhook(name, UNREADABLE)
        raise Problem("SCHEMA_INVALID", f"the signature is right and the body is not as {name} documents it: {error}") from None
    call.parts.meters.webhook(name, VERIFIED)
    return _answer(fact, await _record(call, name, fact))


async def _record(call: Call, name: str, fact: Fact) -> Outcome | None:
    """The event's id is the command's: a repeat meets the first outcome."""
    principal = f"webhook:{name}"
    command_id = f"{principal}:{fact.event_id}"
    at = time.time_ns() // 1000
    meta = CommandMeta(command_id, at, fact.tenant, name, principal, correlation_id=call.request[REQUEST_ID])
    outcome = await call.parts.gateway.ask(Ask(fact.space, fact.key, fact.command, meta, trace_in(call.request.headers)))
    call.parts.meters.command(type(fact.command).__name__, outcome)
    return outcome


def _answer(fact: Fact, outcome: Outcome | None) -> web.Response:
    """Whatever became of it is ours to see to: it is in the log, so the provider need not send it again."""
    reason = outcome.reason if isinstance(outcome, Denied) else ""
    if reason and reason != PARKED and catalog.http_code(reason) != FINE:
        raise Problem(reason)
    view = WebhookView(event_id=fact.event_id, outcome="pending" if outcome is None else "recorded", reason=reason)
    return view_response(202 if outcome is None else FINE, view)


ROUTES = (
    Route(
        "POST",
        PATH + "/{source}",
        receive_webhook,
        "Take a payment provider's webhook, signed as the provider documents it.",
        "payments",
        {200: WebhookView, 202: WebhookView},
        problems=(400, 401, 404, 413, 429, 503),
    ),
)
