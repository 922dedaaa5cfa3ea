"""Why something is refused, in one order: where several reasons hold, the first of this list is named.

Identity comes first, then what the request itself shows, then what it names that does not exist, then the present state.
The HTTP code of each reason is in schemas/catalog.py.
"""

from collections.abc import Iterable
from enum import StrEnum


class Reason(StrEnum):
    """Every reason the rules of this folder give."""

    NOT_FOUND = "NOT_FOUND"
    KEY_REUSED = "KEY_REUSED"
    ALREADY_PLACED = "ALREADY_PLACED"
    RESERVATION_EXPIRED = "RESERVATION_EXPIRED"
    RESERVATION_FINAL = "RESERVATION_FINAL"
    VERSION_CONFLICT = "VERSION_CONFLICT"
    DEADLINE_PASSED = "DEADLINE_PASSED"
    SCHEMA_INVALID = "SCHEMA_INVALID"
    EMPTY_LINES = "EMPTY_LINES"
    LINE_LIMIT = "LINE_LIMIT"
    QUANTITY_INVALID = "QUANTITY_INVALID"
    QUANTITY_LIMIT = "QUANTITY_LIMIT"
    DUE_TIME_MISSING = "DUE_TIME_MISSING"
    UNKNOWN_CHANNEL = "UNKNOWN_CHANNEL"
    UNKNOWN_SKU = "UNKNOWN_SKU"
    UNKNOWN_LOCATION = "UNKNOWN_LOCATION"
    UNKNOWN_STATUS = "UNKNOWN_STATUS"
    LINE_UNKNOWN = "LINE_UNKNOWN"
    PAYMENT_METHOD_INELIGIBLE = "PAYMENT_METHOD_INELIGIBLE"
    POLICY_UNSUPPORTED = "POLICY_UNSUPPORTED"
    CURRENCY_UNSUPPORTED = "CURRENCY_UNSUPPORTED"
    PRICE_MISSING = "PRICE_MISSING"
    PRICE_INVALID = "PRICE_INVALID"
    AMOUNT_OVERFLOW = "AMOUNT_OVERFLOW"
    ADDRESS_INCOMPLETE = "ADDRESS_INCOMPLETE"
    ALREADY_FINAL = "ALREADY_FINAL"
    ALREADY_SHIPPED = "ALREADY_SHIPPED"
    CANCEL_WINDOW_CLOSED = "CANCEL_WINDOW_CLOSED"
    AMBIGUOUS_FULFILLMENT = "AMBIGUOUS_FULFILLMENT"
    STALE_STATUS = "STALE_STATUS"
    ILLEGAL_TRANSITION = "ILLEGAL_TRANSITION"
    PREDECESSOR_MISSING = "PREDECESSOR_MISSING"
    QUANTITY_EXCEEDED = "QUANTITY_EXCEEDED"
    SKU_RETIRED = "SKU_RETIRED"
    EXTENSION_LIMIT = "EXTENSION_LIMIT"
    INSUFFICIENT_STOCK = "INSUFFICIENT_STOCK"
    WOULD_GO_NEGATIVE = "WOULD_GO_NEGATIVE"
    STEP_TIMED_OUT = "STEP_TIMED_OUT"


_ORDER = {reason.value: number for number, reason in enumerate(Reason)}


def first(reasons: Iterable[str]) -> str:
    """The one of several reasons that is named. There must be at least one."""
    return min(reasons, key=lambda reason: _ORDER.get(reason, len(_ORDER)))
