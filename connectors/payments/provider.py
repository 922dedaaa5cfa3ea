"""The local payment provider: a real HTTP server with a durable book, for the box, demos and tests. No money exists here.

It authorizes, captures, voids and refunds, each key once; by their last two digits amounts make it behave badly (BEHAVIOUR), so that
everything a real provider does on a bad day can be seen on purpose.
"""

import asyncio
import hashlib
import json
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web
from msgspec import Struct

log = structlog.get_logger(__name__)

OPERATIONS = ("authorize", "capture", "void", "refund")
VALID_US = 7 * 24 * 3600 * 1_000_000
"""An authorization ends after seven days (slot D76)."""
DELAY_S = 3.0
"""Longer than an edge waits for an outcome."""
LIST_MAX = 1000


class Behaviour(Struct, frozen=True):
    """What the provider does about an amount: decline these operations, or answer late, or not at all the first time."""

    declines: tuple[str, ...] = ()
    code: str = ""
    delay_s: float = 0.0
    drops_first: bool = False
    meaning: str = ""


BEHAVIOUR: Mapping[int, Behaviour] = {
    2: Behaviour(("authorize",), "insufficient_funds", meaning="the authorization is declined"),
    3: Behaviour(("capture",), "expired_card", meaning="the capture is declined"),
    4: Behaviour(("refund",), "refund_refused", meaning="the refund is declined"),
    7: Behaviour(drops_first=True, meaning="it is done, and the first answer is lost"),
    8: Behaviour(delay_s=DELAY_S, meaning=f"it is done, and answered after {DELAY_S:g} s"),
}
"""By the last two digits of the operation's amount in minor units; every other amount succeeds at once."""
USUAL = Behaviour()

SCHEMA = """
CREATE TABLE IF NOT EXISTS operations (
    key TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, payment_ref TEXT NOT NULL, provider_ref TEXT NOT NULL, operation TEXT NOT NULL,
    amount_minor INTEGER NOT NULL, currency TEXT NOT NULL, outcome TEXT NOT NULL, code TEXT NOT NULL, valid_until INTEGER,
    at INTEGER NOT NULL, asked INTEGER NOT NULL DEFAULT 1
) STRICT;
CREATE INDEX IF NOT EXISTS by_payment ON operations (payment_ref);
CREATE INDEX IF NOT EXISTS by_provider_ref ON operations (provider_ref);
"""


class Refusal(Exception):
    """A request that cannot be meant; nothing was written."""


class Book:
    """What was asked and done, on disk before it is answered."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._book = sqlite3.connect(file, isolation_level=None)
        self._book.row_factory = sqlite3.Row
        self._book.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;" + SCHEMA)

    def close(self) -> None:
        self._book.close()

    def perform(self, key: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Do the operation unless its key was seen before, and say what became of it. Raises Refusal for a key with another body."""
        fingerprint = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        self._book.execute("BEGIN IMMEDIATE")
        try:
            row = self._book.execute("SELECT * FROM operations WHERE key = ?", (key,)).fetchone()
            if row is None:
                self._do(key, fingerprint, asked)
            elif row["fingerprint"] != fingerprint:
                raise Refusal("the key was used for another request")
            else:
                self._book.execute("UPDATE operations SET asked = asked + 1 WHERE key = ?", (key,))
            found = dict(self._book.execute("SELECT * FROM operations WHERE key = ?", (key,)).fetchone())
            self._book.execute("COMMIT")
            return found
        except BaseException:
            self._book.execute("ROLLBACK")
            raise

    def of(self, payment_ref: str, after: int = 0) -> list[dict[str, Any]]:
        """At most LIST_MAX operations on a payment, oldest first, of all payments where none is named; those whose `number` is higher."""
        query = "SELECT rowid AS number, * FROM operations WHERE (payment_ref = ? OR ? = '') AND rowid > ? ORDER BY rowid LIMIT ?"
        return [dict(row) for row in self._book.execute(query, (payment_ref, payment_ref, after, LIST_MAX))]

    def _do(self, key: str, fingerprint: str, asked: Mapping[str, Any]) -> None:
        operation, amount = asked["operation"], asked["amount_minor"]
        provider_ref = asked["provider_ref"] or "pay_" + hashlib.sha256(key.encode()).hexdigest()[:20]
        code = self._refusal(operation, amount, asked["currency"], provider_ref)
        at = time.time_ns() // 1000
        valid_until = at + VALID_US if operation == "authorize" and not code else None
        outcome = "declined" if code else "succeeded"
        row = (key, fingerprint, asked["payment_ref"], provider_ref, operation, amount, asked["currency"], outcome, code, valid_until, at)
        self._book.execute(f"INSERT INTO operations VALUES ({', '.join('?' * len(row))}, 1)", row)

    def _refusal(self, operation: str, amount: int, currency: str, provider_ref: str) -> str:
        """Why it will not do this; empty when it will."""
        behaviour = BEHAVIOUR.get(amount % 100, USUAL)
        if operation in behaviour.declines:
            return behaviour.code
        if operation == "authorize":
            return ""
        done = dict.fromkeys(OPERATIONS, 0)
        rows = (
            "SELECT operation, SUM(amount_minor) AS sum FROM operations WHERE provider_ref = ? AND currency = ? AND outcome = 'succeeded'"
        )
        for row in self._book.execute(f"{rows} GROUP BY operation", (provider_ref, currency)):
            done[row["operation"]] = row["sum"]
        left = done["capture"] - done["refund"] if operation == "refund" else done["authorize"] - done["capture"] - done["void"]
        return "amount_exceeds" if amount > left else ""


def build_app(book: Book) -> web.Application:
    """The provider's HTTP API over one book."""

    async def perform(request: web.Request) -> web.StreamResponse:
        try:
            done = book.perform(request.headers.get("Idempotency-Key", ""), _asked(request.headers, await request.json()))
        except (Refusal, ValueError) as error:
            return web.json_response({"error": str(error)}, status=422)
        behaviour = BEHAVIOUR.get(done["amount_minor"] % 100, USUAL)
        if done["asked"] == 1 and behaviour.drops_first and request.transport is not None:
            request.transport.abort()
        if done["asked"] == 1 and behaviour.delay_s:
            await asyncio.sleep(behaviour.delay_s)
        return web.json_response({name: done[name] for name in ANSWERED})

    async def listed(request: web.Request) -> web.StreamResponse:
        after = request.query.get("after", "0")
        if not (after.isascii() and after.isdigit()):
            return web.json_response({"error": "after is the number of an operation"}, status=422)
        rows = book.of(request.query.get("payment_ref", ""), int(after))
        return web.json_response({"operations": [_shown(row) for row in rows], "more": len(rows) == LIST_MAX})

    async def ready(request: web.Request) -> web.StreamResponse:
        return web.json_response({"ready": True})

    app = web.Application()
    app.router.add_post("/v1/operations", perform)
    app.router.add_get("/v1/operations", listed)
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


async def serve(file: Path, host: str, port: int, stop: asyncio.Event) -> None:
    """Run the provider until `stop`."""
    book = Book(file)
    runner = web.AppRunner(build_app(book), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        log.info("provider.started", url=f"http://{host}:{port}", book=str(file))
        await stop.wait()
    finally:
        await runner.cleanup()
        book.close()
