"""The one list of what crosses a boundary: topics, the records on them, their keys, settings, subjects; names and closed word lists.

contracts.md is this page in prose; docs/reference/topics.md and records.md are generated from it. It holds no behaviour: what a
record means is in streams/domain, how it is written in codec.py.
"""

from collections.abc import Mapping
from functools import cache
from typing import Literal

from msgspec import Struct

from orderflow.schemas.avsc import Json, expanded

DAY_MS = 24 * 3600 * 1000
INPUT_BYTES_MAX = 1_048_588
"""Kafka's own default for `max.message.bytes`, stated so that the dead-letter topic can take twice as much for sure."""

Compatibility = Literal["FULL_TRANSITIVE", "BACKWARD_TRANSITIVE"]
Kind = Literal["commands", "events", "status", "changelog", "meta", "replies", "workers", "settings", "dlq"]


class Table(Struct, frozen=True):
    """A table of a key space: its name on the changelog topic, the row's record and what keys it."""

    name: str
    row: str
    key: str


class Aggregate(Struct, frozen=True):
    """What a status topic shows: the snapshot's record and what keys it."""

    name: str
    snapshot: str
    key: str


class Space(Struct, frozen=True):
    """A key space: one key, one command log, one writer. `key` is the name of the field that holds it, second after `meta`."""

    name: str
    key: str
    commands: tuple[str, ...]
    events: tuple[str, ...]
    aggregates: tuple[Aggregate, ...]
    tables: tuple[Table, ...]


def _in(folder: str, names: str) -> tuple[str, ...]:
    return tuple(f"orderflow.{folder}.{name}" for name in names.split())


def _head_and_answer(key: str) -> tuple[Table, Table]:
    return (Table("head", "orderflow.engine.HeadRow", key), Table("answer", "orderflow.engine.AnswerRow", f"{key}/command_id"))


SPACES = (
    Space(
        "orders",
        "order_id",
        _in(
            "orders",
            "PlaceOrder RecordStockAnswer CancelOrder EditOrder AnswerShortage PlaceHold ReleaseHold PostFulfillmentStatus RecordDelivery"
            " RecordUndelivered"
            " RecordProviderResult RecordWebhook RetryPayment ConfirmCod ConfirmCodCollection CapturePayment VoidPayment RefundPayment"
            " TimerDue",
        ),
        _in(
            "orders",
            "OrderCreated OrderStatusChanged OrderRejected OrderEditRequested OrderEdited OrderEditFailed OrderLineCanceled"
            " ShortageAsked OrderBackordered OrderHoldPlaced OrderHoldReleased StockAsked StockAnswerRecorded FulfillmentCreated FulfillmentStatusChanged FulfillmentReduced FulfillmentStatusIgnored"
            " FulfillmentStatusBuffered DeliveryConfirmed DeliveryFailed"
            " PaymentRequested PaymentAuthorized PaymentCaptured PaymentVoided PaymentRefunded PaymentCanceled PaymentFailed PaymentUnknown"
            " PaymentActionRequired WebhookRecorded DisputeOpened DisputeClosed Refused",
        ),
        (
            Aggregate("order", "orderflow.orders.OrderSnapshot", "order_id"),
            Aggregate("fulfillment", "orderflow.orders.FulfillmentSnapshot", "fulfillment_id"),
            Aggregate("payment", "orderflow.orders.PaymentSnapshot", "payment_id"),
        ),
        (
            *_head_and_answer("order_id"),
            Table("order", "orderflow.orders.rows.OrderRow", "order_id"),
            Table("stock-answer", "orderflow.orders.rows.StockAnswerRow", "order_id~G<attempt>~<sku>"),
            Table("fulfillment", "orderflow.orders.rows.FulfillmentRow", "fulfillment_id"),
            Table("payment", "orderflow.orders.rows.PaymentRow", "order_id"),
        ),
    ),
    Space(
        "stock",
        "sku",
        _in("stock", "ReserveStock ExtendReservation CommitReservation ReleaseReservation ShipStock ReceiveStock AdjustStock TimerDue"),
        _in(
            "stock",
            "StockReserved BackorderQueued BackorderAllocated ReservationExtended ReservationCommitted ReservationReleased ReservationExpired StockShipped AllocationLost"
            " StockRefused MovementRecorded StockChanged Refused",
        ),
        (Aggregate("stock", "orderflow.stock.StockSnapshot", "sku"),),
        (
            *_head_and_answer("sku"),
            Table("stock", "orderflow.stock.rows.StockRow", "sku"),
            Table("reservation", "orderflow.stock.rows.ReservationRow", "reservation_id"),
        ),
    ),
    Space(
        "catalog",
        "key",
        _in("catalog", "SetChannel TimerDue"),
        _in("catalog", "ChannelSet Refused"),
        (Aggregate("channel", "orderflow.catalog.ChannelSnapshot", "key"),),
        (*_head_and_answer("key"), Table("channel", "orderflow.catalog.rows.ChannelRow", "key")),
    ),
    Space(
        "references",
        "key",
        _in("claims", "ClaimValue RecordEarlyFact TimerDue"),
        _in("claims", "ValueClaimed EarlyFactKept EarlyFactForwarded EarlyFactForgotten Refused"),
        (Aggregate("claim", "orderflow.claims.ClaimSnapshot", "key"),),
        (*_head_and_answer("key"), Table("claim", "orderflow.claims.rows.ClaimRow", "key")),
    ),
)


class Topic(Struct, frozen=True):
    """One topic as it must exist. `config` holds the settings contracts.md 4 names; `owner` the key space it belongs to, or `engine`."""

    name: str
    kind: Kind
    owner: str
    key: str
    partitions: int
    config: Mapping[str, str]
    records: tuple[str, ...] = ()
    compatibility: Compatibility = "FULL_TRANSITIVE"

    def subject(self, record: str) -> str:
        """The registry subject of one of its records: TopicRecordName on command and event topics, `<topic>-value` elsewhere."""
        if record not in self.records:
            raise KeyError(f"{record} is not on {self.name}")
        return f"{self.name}-{record}" if self.kind in ("commands", "events") else f"{self.name}-value"


class Subject(Struct, frozen=True):
    """One record of one topic in the registry."""

    name: str
    topic: str
    record: str
    compatibility: Compatibility
    owner: str

    @property
    def schema(self) -> Json:
        """The self-contained schema that is registered."""
        return expanded(self.record)


_LOG = {"message.timestamp.type": "LogAppendTime", "max.message.bytes": str(INPUT_BYTES_MAX)}
CONFIG: Mapping[Kind, Mapping[str, str]] = {
    "commands": {"cleanup.policy": "delete", "retention.ms": str(7 * DAY_MS), **_LOG},
    "events": {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1", **_LOG},
    "status": {"cleanup.policy": "compact"},
    "changelog": {
        "cleanup.policy": "compact",
        "segment.bytes": str(64 * 1024 * 1024),
        "segment.ms": str(3600 * 1000),
        "min.cleanable.dirty.ratio": "0.1",
        "max.compaction.lag.ms": str(3600 * 1000),
        "delete.retention.ms": str(7 * DAY_MS),
    },
    "replies": {"cleanup.policy": "delete", "retention.ms": str(10 * 60 * 1000), "segment.ms": str(10 * 60 * 1000)},
    "workers": {"cleanup.policy": "compact"},
    "settings": {"cleanup.policy": "compact"},
    "dlq": {"cleanup.policy": "delete", "retention.ms": str(30 * DAY_MS), "max.message.bytes": str(2 * INPUT_BYTES_MAX)},
}
"""Settings by kind of topic (contracts.md 4). Replies also roll their segments: retention only ever removes whole closed ones."""

REPLIES_PARTITIONS = 16


class Catalog(Struct, frozen=True):
    """The catalogue under one name prefix, so that several systems can share a broker. Partitions per key space are fixed for life."""

    prefix: str = "orderflow"
    partitions: int = 4

    @property
    def replies(self) -> str:
        return f"{self.prefix}.replies.v1"

    @property
    def workers(self) -> str:
        return f"{self.prefix}.workers.v1"

    @property
    def settings(self) -> str:
        return f"{self.prefix}.settings.v1"

    def commands_topic(self, space: str) -> str:
        return f"{self.prefix}.{space}.commands.v1"

    def events_topic(self, space: str) -> str:
        return f"{self.prefix}.{space}.events.v1"

    def status_topic(self, aggregate: str) -> str:
        return f"{self.prefix}.{aggregate}.status.v1"

    def changelog_topic(self, space: str, table: str) -> str:
        return f"{self.prefix}.{space}.{table}.changelog.v1"

    def meta_topic(self, space: str) -> str:
        return f"{self.prefix}.{space}.meta.v1"

    def dlq_topic(self, space: str) -> str:
        return f"{self.prefix}.{space}.dlq.v1"

    def topics(self) -> tuple[Topic, ...]:
        """Every topic, by key space, then those of the engine."""
        return _topics(self)

    def topic(self, name: str) -> Topic:
        """The topic of that name; KeyError without."""
        for topic in self.topics():
            if topic.name == name:
                return topic
        raise KeyError(name)

    def subjects(self) -> tuple[Subject, ...]:
        """Every subject of the registry, in the order of their topics."""
        return tuple(
            Subject(topic.subject(record), topic.name, record, topic.compatibility, topic.owner)
            for topic in self.topics()
            for record in topic.records
        )


@cache
def _topics(catalog: Catalog) -> tuple[Topic, ...]:
    found: list[Topic] = []
    for space in SPACES:
        at, count = space.name, catalog.partitions
        found += (
            Topic(catalog.commands_topic(at), "commands", at, space.key, count, CONFIG["commands"], space.commands),
            Topic(catalog.events_topic(at), "events", at, space.key, count, CONFIG["events"], space.events),
        )
        for aggregate in space.aggregates:
            name = catalog.status_topic(aggregate.name)
            found.append(Topic(name, "status", at, aggregate.key, count, CONFIG["status"], (aggregate.snapshot,)))
        for table in space.tables:
            name = catalog.changelog_topic(at, table.name)
            found.append(Topic(name, "changelog", at, table.key, count, CONFIG["changelog"], (table.row,), "BACKWARD_TRANSITIVE"))
        meta = ("orderflow.engine.MetaRow",)
        found += (
            Topic(catalog.meta_topic(at), "meta", at, "<space>:<partition>", count, CONFIG["changelog"], meta, "BACKWARD_TRANSITIVE"),
            Topic(catalog.dlq_topic(at), "dlq", at, f"original key ({space.key})", count, CONFIG["dlq"]),
        )
    reply, worker = ("orderflow.engine.Reply",), ("orderflow.engine.Worker",)
    found += (
        Topic(catalog.replies, "replies", "engine", "edge_id", REPLIES_PARTITIONS, CONFIG["replies"], reply),
        Topic(catalog.workers, "workers", "engine", "<space>:<partition>", 1, CONFIG["workers"], worker),
        Topic(catalog.settings, "settings", "engine", "name", 1, CONFIG["settings"]),
    )
    return tuple(found)


def space_named(name: str) -> Space:
    """The key space of that name; KeyError without."""
    for space in SPACES:
        if space.name == name:
            return space
    raise KeyError(name)


ALIASES: Mapping[str, str] = {
    "OrderStatusChanged": "orders.order.status_changed",
    "OrderCreated": "order.created",
    "OrderRejected": "order.rejected",
    "StockChanged": "warehouse.inventory.stock_changed",
    "StockReserved": "inventory.reserved",
    "BackorderQueued": "inventory.backordered",
    "BackorderAllocated": "inventory.backorder_allocated",
    "ReservationReleased": "warehouse.inventory.reservation_released",
    "ReservationExpired": "warehouse.inventory.reservation_expired",
    "ReservationCommitted": "inventory.stock.committed",
    "OrderEdited": "order.edited",
    "OrderLineCanceled": "order.line_canceled",
    "ShortageAsked": "order.shortage_asked",
    "OrderBackordered": "order.backordered",
    "OrderHoldPlaced": "order.hold_placed",
    "OrderHoldReleased": "order.hold_released",
    "FulfillmentCreated": "fulfillment.order_created",
    "FulfillmentStatusChanged": "fulfillment.status_changed",
    "DeliveryConfirmed": "shipping.delivery_confirmed",
    "DeliveryFailed": "shipping.delivery_failed",
    "PaymentAuthorized": "payment.payment.processed",
    "PaymentCaptured": "payment.payment.captured",
    "PaymentVoided": "payment.payment.voided",
    "PaymentRefunded": "payment.payment.refunded",
    "PaymentCanceled": "payment.payment.canceled",
    "PaymentFailed": "payment.payment.failed",
    "PaymentActionRequired": "payment.payment.action_required",
    "DisputeOpened": "payment.dispute.opened",
    "DisputeClosed": "payment.dispute.closed",
}
"""Origin names of events (domain.md 6.2): header `ce_type`, webhook type, `--type` of the CLI. No alias: the record's own name."""


def ce_type(record: str) -> str:
    """The `ce_type` of a record given by name or full name."""
    name = record.rpartition(".")[2]
    return ALIASES.get(name, name)


_STOCK_OUTCOMES = ("reserved", "queued", "refused", "committed", "released", "expired", "shipped", "lost")
_PAYMENT_TERMS = ("invoice", "prepaid", "cod")
_PAYMENT_METHODS = ("card", "wallet", "installment", "bank_transfer")
_PARTIAL_POLICIES = ("reject", "ship_available", "backorder", "ask")
_OPERATIONS = ("authorize", "capture", "void", "refund", "cancel", "increase")
_RESULTS = (
    *("PaymentAuthorized", "PaymentCaptured", "PaymentVoided", "PaymentRefunded", "PaymentCanceled"),
    *("PaymentFailed", "PaymentUnknown", "PaymentActionRequired"),
)
_WEBHOOKS = ("orders.RecordWebhook", "orders.WebhookRecorded", "claims.EarlyFact")
_DISPUTES = ("opened", "won", "lost")
_UNDELIVERED = ("returned_to_sender", "lost", "refused")
_HOLDS = ("FRAUD_REVIEW", "ADDRESS_INVALID", "PAYMENT", "PAYMENT_EXPIRING", "CAPACITY", "SHORT", "MANUAL")
_OPERATION_OUTCOMES = ("requested", "succeeded", "declined", "unknown", "requires_action")
VALUES: Mapping[str, tuple[str, ...]] = {
    "orderflow.orders.RecordStockAnswer.outcome": _STOCK_OUTCOMES,
    "orderflow.orders.StockAnswerRecorded.outcome": _STOCK_OUTCOMES,
    "orderflow.orders.rows.StockAnswerRow.outcome": (*_STOCK_OUTCOMES, "asked", "committing", "releasing"),
    **{f"orderflow.orders.{name}.operation": _OPERATIONS for name in ("RecordProviderResult", "PaymentRequested", *_RESULTS)},
    "orderflow.orders.RecordProviderResult.outcome": _OPERATION_OUTCOMES[1:],
    **{f"orderflow.{name}.operation": ("", *_OPERATIONS, "dispute") for name in _WEBHOOKS},
    **{f"orderflow.{name}.outcome": ("", "succeeded", "declined", *_DISPUTES) for name in _WEBHOOKS},
    "orderflow.orders.DisputeClosed.outcome": _DISPUTES[1:],
    "orderflow.orders.PaymentSnapshotDispute.outcome": _DISPUTES,
    "orderflow.orders.rows.Dispute.outcome": _DISPUTES,
    "orderflow.orders.PaymentSnapshotAttempt.operation": _OPERATIONS,
    "orderflow.orders.PaymentSnapshotAttempt.outcome": _OPERATION_OUTCOMES,
    "orderflow.orders.rows.Attempt.operation": _OPERATIONS,
    "orderflow.orders.rows.Attempt.outcome": _OPERATION_OUTCOMES,
    "orderflow.orders.StockAsked.ask": ("reserve", "commit", "release", "later", "more"),
    "orderflow.engine.AnswerRow.outcome": ("pending", "applied", "refused"),
    "orderflow.engine.Reply.outcome": ("applied", "refused"),
    "orderflow.orders.PlacedLine.kind": ("item", "shipping", "fee"),
    "orderflow.orders.rows.OrderLine.kind": ("item", "shipping", "fee"),
    "orderflow.orders.PlaceOrder.payment_terms": _PAYMENT_TERMS,
    "orderflow.orders.PlaceOrder.partial_policy": _PARTIAL_POLICIES,
    "orderflow.orders.PlaceOrder.payment_method": ("", *_PAYMENT_METHODS),
    "orderflow.orders.AnswerShortage.choice": ("ship_available", "cancel"),
    **{f"orderflow.orders.{name}.reason": _UNDELIVERED for name in ("RecordUndelivered", "DeliveryFailed")},
    **{
        f"orderflow.orders.{name}.hold": _HOLDS
        for name in ("PlaceHold", "ReleaseHold", "OrderHoldPlaced", "OrderHoldReleased", "rows.Hold")
    },
    "orderflow.stock.ReceiveStock.disposition": ("available", "damaged", "quality_control"),
    "orderflow.stock.MovementRecorded.kind": ("receive", "ship", "adjust"),
    "orderflow.stock.StockChanged.change": (
        *("RECEIVED", "RESERVED", "RELEASED", "EXPIRED", "ALLOCATED"),
        *("SHIPPED", "RETURNED", "ADJUSTED", "TRANSFERRED"),
    ),
    "orderflow.catalog.ChannelPolicy.payment_terms": _PAYMENT_TERMS,
    "orderflow.catalog.ChannelPolicy.partial_policy": _PARTIAL_POLICIES,
    "orderflow.catalog.ChannelPolicy.capacity": ("unlimited", "slots"),
}
"""The closed list of each string field that has one (contracts.md 3.3). Commands hold no enums: another value is refused or parked."""


_CODES: Mapping[int, str] = {
    200: "STALE_STATUS DUPLICATE_EVENT UNKNOWN_REFERENCE AMOUNT_MISMATCH CURRENCY_MISMATCH",
    400: "SCHEMA_INVALID DUE_TIME_MISSING EMPTY_LINES",
    401: "UNAUTHENTICATED SIGNATURE_INVALID TIMESTAMP_OUT_OF_RANGE",
    402: "PAYMENT_DECLINED",
    403: "FORBIDDEN APPROVAL_REQUIRED SELF_APPROVAL OVERRIDE_LIMIT",
    404: "NOT_FOUND UNKNOWN_TRACKING",
    409: """
        INSUFFICIENT_STOCK PRICE_CHANGED SHIPPING_RATE_CHANGED ILLEGAL_TRANSITION ALREADY_SHIPPED ALREADY_FINAL
        ALREADY_PLACED REFERENCE_TAKEN CANCEL_WINDOW_CLOSED RETURN_WINDOW_CLOSED REFUND_WINDOW_CLOSED HOLD_ACTIVE RESERVATION_FINAL
        STEP_SKIPPED PREDECESSOR_MISSING AMBIGUOUS_FULFILLMENT CAPACITY_FULL STORAGE_FULL SKU_RETIRED CART_EMPTY
        CART_NOT_OPEN TRACKING_TAKEN EMAIL_TAKEN PHONE_TAKEN WOULD_GO_NEGATIVE BATCH_ALREADY_APPLIED FRAUD_BLOCKED
        REFUND_EXCEEDS_CAPTURED CAPTURE_EXCEEDS_AUTHORIZED DISPUTE_OPEN VERSION_CONFLICT EDIT_NOT_ALLOWED
        NOT_AUTHORIZED_STATE AUTHORIZATION_EXPIRED UNDELIVERED LOT_EXPIRED LOT_MISMATCH WEIGHT_MISMATCH QC_REQUIRED LABEL_MISSING
        SHIPMENT_MISSING RETRIES_EXHAUSTED ORDER_NOT_DELIVERED LINE_IN_OTHER_RETURN NOT_RECEIVED
        REPLACEMENT_OUT_OF_STOCK RATE_STALE ADDRESS_IN_USE CUSTOMER_ERASED ORDERS_OPEN
    """,
    410: "SESSION_EXPIRED RESERVATION_EXPIRED METHOD_EXPIRED",
    422: """
        UNKNOWN_SKU UNKNOWN_LOCATION UNKNOWN_UNIT UNKNOWN_CHANNEL UNKNOWN_CODE UNKNOWN_STATUS UNKNOWN_CARRIER
        LINE_UNKNOWN POLICY_UNSUPPORTED CURRENCY_UNSUPPORTED PRICE_MISSING ADDRESS_INVALID ADDRESS_INCOMPLETE
        COUNTRY_UNSUPPORTED POSTAL_CODE_INVALID ZONE_NOT_SERVED PROMOTION_INVALID NOT_ACTIVE NOT_ELIGIBLE
        MINIMUM_NOT_MET CONFLICTS_WITH LIMIT_REACHED CUSTOMER_LIMIT_REACHED BUDGET_EXHAUSTED DISCOUNT_ABOVE_CEILING
        ALREADY_USED_IN_ORDER LINE_LIMIT QUANTITY_LIMIT EXTENSION_LIMIT PROMOTION_LIMIT RETURN_LIMIT QUANTITY_INVALID
        QUANTITY_EXCEEDED AMOUNT_OUT_OF_RANGE AMOUNT_OVERFLOW PRICE_INVALID INTERVAL_OVERLAP BATCH_INVALID
        SHIPPING_METHOD_UNAVAILABLE PAYMENT_METHOD_INELIGIBLE PACKAGE_TOO_LARGE FEE_EXCEEDS_REFUND INPUT_UNSAFE
        NOT_RETURNABLE KEY_REUSED
    """,
    429: "RATE_LIMITED",
    503: "GATEWAY_UNAVAILABLE CARRIER_UNAVAILABLE DEADLINE_PASSED",
    504: "STEP_TIMED_OUT",
}
REASONS: Mapping[str, int] = {reason: code for code, reasons in _CODES.items() for reason in reasons.split()}
"""Every reason of a refusal and its HTTP code (contracts.md 5)."""

STATE_CONFLICT = 409
PRECONDITION_FAILED = 412


def http_code(reason: str, *, if_match: bool = False) -> int:
    """The HTTP code of a reason; one that is not listed speaks about the present state. `if_match`: the request carried If-Match."""
    if reason == "VERSION_CONFLICT" and if_match:
        return PRECONDITION_FAILED
    return REASONS.get(reason, STATE_CONFLICT)
