"""The contract every key space keeps: read, decide, evolve, react.

A key space is a module of pure functions over frozen values. The processor calls them in one order and nothing else does:

    reads(key, command)             which rows the decision needs                        -> tuple[Get | Range, ...]
    recall(state, command)          a repeat answered by the row it made                 -> tuple[Send, ...] | None
    decide(state, command, turn)    what happened; a refusal is an event with a reason   -> tuple[event, ...]
    evolve(state, event, meta)      the only way state changes; never refuses            -> state
    react(state, event, meta)       what to ask of whom, and which waiting command ended -> tuple[Send | Settle, ...]
    waits(state, command, id)       is the command's answer still open?                  -> bool
    violations(state)               what may never be true; such a command is parked     -> tuple[str, ...]
    view(key)                       the rows a complete snapshot of the key needs        -> tuple[Get | Range, ...]
    snapshots(before, after, sequence, at)  what status topics and GET show              -> tuple[Snapshot, ...]

`state` is the space's own `State`: `key` (the id the log is keyed by, without the tenant's prefix), then one field per table, a row
or None for the table keyed like the space (`Row | None`), a mapping from row key to row for the others. It holds exactly the rows
that `reads` named. `react` sees the state after its event. Values never know their key space's log, its ids or the clock: `Turn` and
`EventMeta` bring what they may use.
"""

from collections.abc import Mapping
from typing import NewType

from msgspec import Struct

Micros = NewType("Micros", int)
"""Microseconds since 1970 UTC."""
MICROS_PER_S = 1_000_000


class ReplyTo(Struct, frozen=True, gc=False):
    """Where the edge that sent a command waits for its answer."""

    edge_id: str
    partition: int
    request_id: str


class CommandMeta(Struct, frozen=True, gc=False):
    """What travels with every command (contracts.md 6)."""

    command_id: str
    requested_at: int
    tenant: str = "main"
    actor: str = ""
    principal: str = ""
    correlation_id: str = ""
    causation_id: str = ""
    deadline_at: int | None = None
    expected_version: int | None = None
    body_hash: str = ""
    reply_to: ReplyTo | None = None


class EventMeta(Struct, frozen=True, gc=False):
    """What travels with every event. `occurred_at` is the turn time, so that a fold needs no clock."""

    event_id: str
    sequence: int
    occurred_at: int
    caused_by: str
    tenant: str = "main"
    version: int = 0
    command_id: str = ""
    correlation_id: str = ""
    actor: str = ""
    refused: bool = False


class Settings(Struct, frozen=True, gc=False):
    """The numbers rules may use, the same for every worker of an application."""

    locations: tuple[str, ...] = ("main",)
    give_up_s: int = 120
    """How long a saga waits for an answer inside the system before it asks the owner to release."""
    reservation_margin_s: int = 300
    """A reservation outlives the order's latest open timer by this much."""
    payment_window_s: int = 1800
    """How long an order that is paid by card waits for its authorization: 30 min (domain.md 2.3)."""
    wallet_window_s: int = 900
    """The same by wallet: 15 min."""
    installment_window_s: int = 7200
    """The same in installments: 2 h."""
    bank_transfer_window_s: int = 86_400
    """The same by bank transfer: 24 h."""
    cod_window_s: int = 86_400
    """How long an order that is paid on delivery waits to be confirmed: 24 h (domain.md 2.3)."""
    authorization_warning_s: int = 86_400
    """How long before its authorization ends an order that is not captured is held for people: a day (domain.md 2.3)."""
    shortage_window_s: int = 259_200
    """How long a customer may think about a shortage: 72 h (domain.md 2.2)."""
    backorder_window_s: int = 2_592_000
    """How long an order waits for units that are not there: 30 days."""
    claim_wait_s: int = 600
    """How long what a provider says of a payment that nobody knows waits for its order: ten minutes (domain.md 2.3)."""
    contended_wait_s: int = 1
    """How long an order of several skus waits before it asks again for units that others may be giving back."""
    contended_waits_max: int = 3
    cancel_window_s: int = 3600
    """How long a customer may cancel (domain.md 2.2)."""
    refund_window_s: int = 15_552_000
    """How long after the latest capture people may still refund: 180 days (domain.md 2.3)."""
    complete_after_s: int = 604_800
    """How long after its delivery an order completes: seven days (domain.md 2.2)."""
    lines_max: int = 100
    quantity_per_line_max: int = 999
    quantity_per_sku_max: int = 50
    buffered_posts_max: int = 8
    buffered_post_s: int = 10
    receipt_quantity_max: int = 1_000_000_000


class Turn(Struct, frozen=True, gc=False):
    """One decision's surroundings: whose log, when (turn time in microseconds), which command."""

    key: str
    at: int
    meta: CommandMeta
    settings: Settings


class Get(Struct, frozen=True, gc=False):
    """Read one row of a table."""

    table: str
    key: str


class Range(Struct, frozen=True, gc=False):
    """Read at most `limit` rows of a table whose index entry (or key, without an index) starts with `prefix`, in that order."""

    table: str
    prefix: str
    limit: int
    index: str = ""


class Send(Struct, frozen=True, gc=False):
    """Ask the owner of `key` in key space `space` for something; one's own key is served in the same turn."""

    space: str
    key: str
    command: Struct


class Settle(Struct, frozen=True, gc=False):
    """A command that waited has its final outcome: no reason means it was applied, a reason means it was refused."""

    command_id: str
    reason: str = ""
    shortages: tuple["Shortage", ...] = ()


class Snapshot(Struct, frozen=True, gc=False):
    """The present value of one entity for its compacted status topic `orderflow.<aggregate>.status.v1`."""

    aggregate: str
    key: str
    record: Struct


class Shortage(Struct, frozen=True, gc=False):
    """What a sku could not give, in units."""

    sku: str
    requested: int
    available: int


class Refused(Struct, frozen=True, gc=False):
    """Every refusal but StockRefused: the first matching reason; state and version stay as they are."""

    command_type: str
    reason: str
    detail: Mapping[str, str] = {}
    shortages: tuple[Shortage, ...] = ()


class TimerDue(Struct, frozen=True, gc=False):
    """A deadline of an entity has passed; the turn decides what that means. Late, double or outdated ones change nothing."""

    timer_id: str
    kind: str
    due_at: int
    entity_id: str
    entity_version: int


class HeadRow(Struct, frozen=True, gc=False):
    """A key's place in its own history: moved by every event, refusals included."""

    sequence: int


class AnswerRow(Struct, frozen=True, gc=False):
    """What a command was answered, kept seven days so that a repeat meets its first answer. Outcome: pending, applied, refused."""

    command_id: str
    principal: str
    body_hash: str
    outcome: str
    reason: str = ""
    body: bytes = b""
    at: int = 0
    command_type: str = ""
    reply_to: tuple[ReplyTo, ...] = ()
