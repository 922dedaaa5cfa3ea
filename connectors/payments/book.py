"""The book of the local provider: what was asked and done, and which webhooks it owes, on disk before anything is answered.

By their last two digits amounts make it behave badly (BEHAVIOUR).
"""

import hashlib
import json
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

OPERATIONS = ("authorize", "capture", "void", "refund", "cancel", "increase")
AT_BUYER = "requires_action"
"""What became of an authorization so far: its buyer has to act."""
VALID_US = 7 * 24 * 3600 * 1_000_000
"""An authorization ends after seven days (slot D76)."""
DELAY_S = 3.0
"""Longer than an edge waits for an outcome."""
LATE_S = 30.0
"""When a webhook that comes late is sent."""
LIST_MAX = 1000


class Behaviour(Struct, frozen=True):
    """What the provider does about an amount in these operations: decline them, answer late, not at all the first time or ever, tell of it
    by so many webhooks, and after so long.
    """

    operations: tuple[str, ...] = OPERATIONS
    code: str = ""
    """Why it declines; empty when it does not."""
    first_only: bool = False
    """It declines only the first of them for a payment."""
    delay_s: float = 0.0
    asks_buyer: bool = False
    """It authorizes when the buyer has agreed on its page."""
    drops_first: bool = False
    drops_all: bool = False
    webhooks: int = 1
    webhooks_after_s: float = 0.0
    meaning: str = ""


BEHAVIOUR: Mapping[int, Behaviour] = {
    2: Behaviour(("authorize", "increase"), "insufficient_funds", meaning="the authorization is declined, or more of it"),
    3: Behaviour(("capture",), "expired_card", meaning="the capture is declined"),
    4: Behaviour(("refund",), "refund_refused", meaning="the refund is declined"),
    5: Behaviour(
        ("authorize",),
        drops_all=True,
        webhooks_after_s=LATE_S,
        meaning=f"the authorization is done, and never answered: only the webhook tells, after {LATE_S:g} s",
    ),
    6: Behaviour(delay_s=DELAY_S, webhooks=3, meaning=f"it is done, told by three webhooks, and answered after {DELAY_S:g} s"),
    7: Behaviour(drops_first=True, webhooks=0, meaning="it is done; the first answer is lost, and so is the webhook"),
    8: Behaviour(delay_s=DELAY_S, webhooks=0, meaning=f"it is done, and answered after {DELAY_S:g} s, without a webhook"),
    9: Behaviour(drops_all=True, meaning="it is done, and never answered: only the webhook tells"),
    11: Behaviour(
        ("authorize",), "insufficient_funds", first_only=True, meaning="the first authorization of an order is declined, the next is done"
    ),
    12: Behaviour(("authorize",), asks_buyer=True, meaning="the buyer has to agree on the provider's page first"),
}
"""By the last two digits of the operation's amount in minor units; every other amount succeeds at once."""
USUAL = Behaviour()


def behaviour_of(operation: str, amount_minor: int) -> Behaviour:
    """How the provider behaves about this."""
    found = BEHAVIOUR.get(amount_minor % 100, USUAL)
    return found if operation in found.operations else USUAL


SCHEMA = """
CREATE TABLE IF NOT EXISTS operations (
    key TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, payment_ref TEXT NOT NULL, provider_ref TEXT NOT NULL, operation TEXT NOT NULL,
    amount_minor INTEGER NOT NULL, currency TEXT NOT NULL, outcome TEXT NOT NULL, code TEXT NOT NULL, valid_until INTEGER,
    at INTEGER NOT NULL, asked INTEGER NOT NULL DEFAULT 1
) STRICT;
CREATE INDEX IF NOT EXISTS by_payment ON operations (payment_ref);
CREATE INDEX IF NOT EXISTS by_provider_ref ON operations (provider_ref);
CREATE TABLE IF NOT EXISTS disputes (
    dispute_ref TEXT PRIMARY KEY, provider_ref TEXT NOT NULL, payment_ref TEXT NOT NULL, amount_minor INTEGER NOT NULL, currency TEXT NOT NULL,
    reason TEXT NOT NULL, outcome TEXT NOT NULL, at INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS webhooks (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL, body BLOB NOT NULL, due_at INTEGER NOT NULL, tries INTEGER NOT NULL DEFAULT 0
) STRICT;
"""


class Refusal(Exception):
    """A request that cannot be meant; nothing was written."""


class Book:
    """What was asked and done, on disk before it is answered."""

    def __init__(self, file: Path, *, tells: bool = False, valid_us: int = VALID_US) -> None:
        self.tells = tells
        """Are there webhooks?"""
        self._valid_us = valid_us
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

    def named(self, provider_ref: str) -> dict[str, Any] | None:
        """The authorization that the book calls so."""
        row = self._book.execute("SELECT * FROM operations WHERE provider_ref = ? AND operation = 'authorize'", (provider_ref,)).fetchone()
        return None if row is None else dict(row)

    def act(self, reference: str, agrees: bool) -> dict[str, Any]:
        """The buyer agrees to an authorization that waits for them, or does not; `reference` is our name of the payment or the book's. Raises
        Refusal where none waits.
        """
        self._book.execute("BEGIN IMMEDIATE")
        waiting = "SELECT * FROM operations WHERE (provider_ref = ? OR payment_ref = ?) AND outcome = ?"
        row = self._book.execute(waiting, (reference, reference, AT_BUYER)).fetchone()
        if row is None:
            self._book.execute("ROLLBACK")
            raise Refusal(f"no payment {reference!r} waits for its buyer")
        now = time.time_ns() // 1000
        said = ("succeeded", "", now + self._valid_us) if agrees else ("declined", "authentication_failed", None)
        self._book.execute("UPDATE operations SET outcome = ?, code = ?, valid_until = ? WHERE key = ?", (*said, row["key"]))
        done = dict(self._book.execute("SELECT * FROM operations WHERE key = ?", (row["key"],)).fetchone())
        self._owe(done, now)
        self._book.execute("COMMIT")
        return done

    def _do(self, key: str, fingerprint: str, asked: Mapping[str, Any]) -> None:
        operation, amount = asked["operation"], asked["amount_minor"]
        provider_ref = asked["provider_ref"] or "pay_" + hashlib.sha256(key.encode()).hexdigest()[:20]
        code = self._refusal(operation, amount, asked["currency"], provider_ref, asked["payment_ref"])
        at = time.time_ns() // 1000
        asks_buyer = operation == "authorize" and behaviour_of(operation, amount).asks_buyer
        valid_until = at + self._valid_us if operation == "authorize" and not code and not asks_buyer else None
        outcome = "declined" if code else AT_BUYER if asks_buyer else "succeeded"
        row = (key, fingerprint, asked["payment_ref"], provider_ref, operation, amount, asked["currency"], outcome, code, valid_until, at)
        self._book.execute(f"INSERT INTO operations VALUES ({', '.join('?' * len(row))}, 1)", row)
        if operation == "cancel" and not code:  # nothing of it is authorized, or ever will be
            gone = "UPDATE operations SET outcome = 'canceled' WHERE provider_ref = ? AND operation = 'authorize'"
            self._book.execute(gone, (provider_ref,))
        if outcome != AT_BUYER:
            self._owe(dict(self._book.execute("SELECT * FROM operations WHERE key = ?", (key,)).fetchone()), at)

    def _owe(self, done: Mapping[str, Any], at: int) -> None:
        """The webhooks about what became of an operation."""
        if not self.tells:
            return
        event_id = "evt_" + hashlib.sha256(done["key"].encode()).hexdigest()[:20]
        said = {name: done[name] for name in ("payment_ref", "key", "amount_minor", "currency", "provider_ref", "code", "valid_until")}
        body = json.dumps({"id": event_id, "type": f"payment.{done['operation']}.{done['outcome']}", "data": said | {"at": at}}).encode()
        behaviour = behaviour_of(done["operation"], done["amount_minor"])
        due_at = at + int(behaviour.webhooks_after_s * 1_000_000)
        for _ in range(behaviour.webhooks):
            self._book.execute("INSERT INTO webhooks (id, body, due_at) VALUES (?, ?, ?)", (event_id, body, due_at))

    # -- disputes: what a buyer's bank does, here on request ------------------------------------------------------------------------
    def dispute(self, payment_ref: str, amount_minor: int | None, reason: str) -> dict[str, Any]:
        """A buyer disputes what was captured of a payment, all of it without an amount. Raises Refusal where nothing was."""
        captured = (
            "SELECT provider_ref, currency, SUM(amount_minor) AS sum FROM operations WHERE payment_ref = ? AND operation = 'capture'"
            " AND outcome = 'succeeded' GROUP BY provider_ref, currency"
        )
        row = self._book.execute(captured, (payment_ref,)).fetchone()
        amount = amount_minor if amount_minor is not None or row is None else row["sum"]
        if row is None or amount is None or not 0 < amount <= row["sum"]:
            raise Refusal(f"{row['sum'] if row else 0} of {payment_ref!r} was captured: no more can be disputed")
        number = self._book.execute("SELECT COUNT(*) FROM disputes").fetchone()[0] + 1
        name = "dp_" + hashlib.sha256(f"{payment_ref} {number}".encode()).hexdigest()[:20]
        self._book.execute("BEGIN IMMEDIATE")
        said = (name, row["provider_ref"], payment_ref, amount, row["currency"], reason, "opened", time.time_ns() // 1000)
        self._book.execute("INSERT INTO disputes VALUES (?, ?, ?, ?, ?, ?, ?, ?)", said)
        return self._disputed(name)

    def decide(self, dispute_ref: str, outcome: str) -> dict[str, Any]:
        """The buyer's bank decides a dispute: won or lost for the shop. Raises Refusal where there is none that is open."""
        self._book.execute("BEGIN IMMEDIATE")
        opened = "UPDATE disputes SET outcome = ?, at = ? WHERE dispute_ref = ? AND outcome = 'opened'"
        if self._book.execute(opened, (outcome, time.time_ns() // 1000, dispute_ref)).rowcount != 1:
            self._book.execute("ROLLBACK")
            raise Refusal(f"there is no open dispute {dispute_ref!r}")
        return self._disputed(dispute_ref)

    def _disputed(self, dispute_ref: str) -> dict[str, Any]:
        """The dispute as it is now; who is told hears the provider's own name of the payment and no other."""
        row = dict(self._book.execute("SELECT * FROM disputes WHERE dispute_ref = ?", (dispute_ref,)).fetchone())
        if self.tells:
            event_id = "evt_" + hashlib.sha256(f"{dispute_ref} {row['outcome']}".encode()).hexdigest()[:20]
            said = {name: row[name] for name in ("dispute_ref", "provider_ref", "amount_minor", "currency", "at")} | {"code": row["reason"]}
            body = json.dumps({"id": event_id, "type": f"dispute.{row['outcome']}", "data": said}).encode()
            self._book.execute("INSERT INTO webhooks (id, body, due_at) VALUES (?, ?, ?)", (event_id, body, row["at"]))
        self._book.execute("COMMIT")
        return row

    # -- webhooks: owed from the moment of the operation, until the receiver has them ----------------------------------------------
    def owed(self, now: int) -> list[sqlite3.Row]:
        """The webhooks that are due."""
        return list(self._book.execute("SELECT * FROM webhooks WHERE due_at <= ? ORDER BY due_at LIMIT ?", (now, LIST_MAX)))

    def delivered(self, number: int) -> None:
        self._book.execute("DELETE FROM webhooks WHERE number = ?", (number,))

    def postpone(self, number: int, due_at: int) -> None:
        self._book.execute("UPDATE webhooks SET due_at = ?, tries = tries + 1 WHERE number = ?", (due_at, number))

    def _refusal(self, operation: str, amount: int, currency: str, provider_ref: str, payment_ref: str) -> str:
        """Why it will not do this; empty when it will."""
        behaviour = behaviour_of(operation, amount)
        before = "SELECT 1 FROM operations WHERE payment_ref = ? AND operation = ?"
        spared = behaviour.first_only and self._book.execute(before, (payment_ref, operation)).fetchone() is not None
        if operation == "authorize" or (behaviour.code and not spared):
            return "" if spared else behaviour.code
        done = dict.fromkeys(OPERATIONS, 0)
        rows = (
            "SELECT operation, SUM(amount_minor) AS sum FROM operations WHERE provider_ref = ? AND currency = ? AND outcome = 'succeeded'"
        )
        for row in self._book.execute(f"{rows} GROUP BY operation", (provider_ref, currency)):
            done[row["operation"]] = row["sum"]
        if operation == "cancel":
            return "already_captured" if done["capture"] else ""
        if operation == "increase":
            return "" if done["authorize"] > done["void"] else "nothing_authorized"
        done["authorize"] += done["increase"]
        left = done["capture"] - done["refund"] if operation == "refund" else done["authorize"] - done["capture"] - done["void"]
        return "amount_exceeds" if amount > left else ""
