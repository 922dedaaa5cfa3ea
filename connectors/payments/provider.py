"""The local payment provider: a real HTTP server with a durable book, for the box, demos and tests. No money exists here.

It authorizes, captures, voids and refunds, each key once, lets a buyer's bank dispute what was captured when it is told to, and tells of it all
by signed webhooks (courier.py); some buyers have to agree on its page first (pages.py). By their last two digits amounts make it behave badly
(book.py), so that everything a real provider does on a bad day can be seen on purpose.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web

from orderflow.connectors.payments import pages
from orderflow.connectors.payments.book import AT_BUYER, LIST_MAX, OPERATIONS, VALID_US, Book, Refusal, behaviour_of
from orderflow.connectors.payments.courier import Courier, Receiver
from orderflow.connectors.webhooks.reading import number, text

log = structlog.get_logger(__name__)


def build_app(book: Book) -> web.Application:
    """The provider's HTTP API over one book."""

    async def perform(request: web.Request) -> web.StreamResponse:
        try:
            done = book.perform(request.headers.get("Idempotency-Key", ""), _asked(request.headers, await request.json()))
        except (Refusal, ValueError) as error:
            return web.json_response({"error": str(error)}, status=422)
        behaviour = behaviour_of(done["operation"], done["amount_minor"])
        drops = behaviour.drops_all or (done["asked"] == 1 and behaviour.drops_first)
        if drops and request.transport is not None:
            request.transport.abort()
        if done["asked"] == 1 and behaviour.delay_s:
            await asyncio.sleep(behaviour.delay_s)
        page = str(request.url.origin() / "pay" / done["provider_ref"]) if done["outcome"] == AT_BUYER else ""
        return web.json_response({name: done[name] for name in ANSWERED} | {"action_url": page})

    async def listed(request: web.Request) -> web.StreamResponse:
        after = request.query.get("after", "0")
        if not (after.isascii() and after.isdigit()):
            return web.json_response({"error": "after is the number of an operation"}, status=422)
        rows = book.of(request.query.get("payment_ref", ""), int(after))
        return web.json_response({"operations": [_shown(row) for row in rows], "more": len(rows) == LIST_MAX})

    async def act(request: web.Request) -> web.StreamResponse:
        """What the buyer decides, as JSON for programs and as a page for browsers."""
        names = request.match_info
        try:
            done = book.act(names["reference"], names["word"] == "agree")
        except Refusal as error:
            return web.json_response({"error": str(error)}, status=422)
        if "text/html" in request.headers.get("Accept", ""):
            return pages.decided(done)
        return web.json_response(_shown(done))

    async def page(request: web.Request) -> web.StreamResponse:
        return pages.asked(book.named(request.match_info["reference"]))

    async def dispute(request: web.Request) -> web.StreamResponse:
        try:
            body = await request.json()
            amount = None if body.get("amount_minor") is None else number(body["amount_minor"])
            return web.json_response(book.dispute(text(body["payment_ref"]), amount, text(body.get("reason", "fraudulent"))))
        except Refusal as error:
            return web.json_response({"error": str(error)}, status=422)
        except (ValueError, KeyError, TypeError, AttributeError):
            return web.json_response({"error": "the fields are payment_ref, amount_minor and reason"}, status=422)

    async def decide(request: web.Request) -> web.StreamResponse:
        outcome = request.match_info["outcome"]
        try:
            return web.json_response(book.decide(request.match_info["dispute"], outcome))
        except Refusal as error:
            return web.json_response({"error": str(error)}, status=422)

    async def ready(request: web.Request) -> web.StreamResponse:
        return web.json_response({"ready": True})

    app = web.Application()
    app.router.add_post("/v1/operations", perform)
    app.router.add_get("/v1/operations", listed)
    app.router.add_get("/pay/{reference}", page)
    app.router.add_post("/pay/{reference}/{word:agree|refuse}", act)
    app.router.add_post("/v1/disputes", dispute)
    app.router.add_post("/v1/disputes/{dispute}/{outcome:won|lost}", decide)
    app.router.add_get("/health/ready", ready)
    return app


ANSWERED = ("outcome", "provider_ref", "amount_minor", "currency", "valid_until", "code")
FIELDS = {"operation": str, "amount_minor": int, "currency": str, "payment_ref": str, "provider_ref": str}


def _asked(headers: Mapping[str, str], body: Any) -> dict[str, Any]:
    """The request's fields. Raises Refusal naming what is wrong."""
    if not headers.get("Idempotency-Key"):
        raise Refusal("Idempotency-Key is missing")
    if not isinstance(body, dict) or body.keys() != FIELDS.keys():
        raise Refusal(f"the fields are {', '.join(FIELDS)}")
    wrong = [name for name, kind in FIELDS.items() if type(body[name]) is not kind]
    if wrong or body["operation"] not in OPERATIONS or body["amount_minor"] <= 0 or not body["payment_ref"]:
        raise Refusal(f"wrong: {', '.join(wrong) or 'operation, amount_minor or payment_ref'}")
    if (body["operation"] == "authorize") == bool(body["provider_ref"]):
        raise Refusal("provider_ref belongs to every operation but the first")
    return dict(body)


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "fingerprint"}


async def serve(
    file: Path, host: str, port: int, stop: asyncio.Event, receiver: Receiver | None = None, *, valid_us: int = VALID_US
) -> None:
    """Run the provider until `stop`; it tells `receiver` of every operation, if there is one, and authorizes for `valid_us`."""
    book = Book(file, tells=receiver is not None, valid_us=valid_us)
    runner = web.AppRunner(build_app(book), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        log.info("provider.started", url=f"http://{host}:{port}", book=str(file))
        if receiver is None:
            await stop.wait()
        else:
            await Courier(book, receiver).run(stop)
    finally:
        await runner.cleanup()
        book.close()
