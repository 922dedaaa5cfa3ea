"""The way of a fulfillment as data: its steps, their ranks, which of them a warehouse need not report (domain.md 2.5)."""

from collections.abc import Iterable

from msgspec.structs import replace

from orderflow.streams.domain.order_records import FulfillmentReduced, FulfillmentStatus, FulfillmentStatusChanged
from orderflow.streams.domain.order_rows import FulfillmentRow
from orderflow.streams.domain.transitions import Transition, Transitions

PENDING, PLANNING, PICKING = FulfillmentStatus.PENDING, FulfillmentStatus.PLANNING, FulfillmentStatus.PICKING
PICKED, PACKING, PACKED = FulfillmentStatus.PICKED, FulfillmentStatus.PACKING, FulfillmentStatus.PACKED
READY, SHIPPED, COMPLETED = FulfillmentStatus.READY, FulfillmentStatus.SHIPPED, FulfillmentStatus.COMPLETED
CANCELED, COMPENSATED = FulfillmentStatus.CANCELED, FulfillmentStatus.COMPENSATED

WAY = (PENDING, PLANNING, PICKING, PICKED, PACKING, PACKED, READY, SHIPPED, COMPLETED)
"""Every fulfillment goes this way, step by step, unless it is canceled before it ships."""
RANKS = dict(zip(WAY, (0, 10, 20, 30, 40, 50, 60, 70, 80), strict=True))
OPTIONAL = frozenset({PLANNING, PACKING, READY})
"""Steps nobody has to report: a later post implies them."""
POSTED = frozenset({PLANNING, PICKING, PICKED, PACKING, PACKED, READY, SHIPPED})
"""Steps a warehouse may report; canceling is the order's, completing the carrier's."""
COUNTED = {PICKED: "picked", PACKED: "packed", SHIPPED: "shipped"}
"""The counter a step sets on every line, and a post may name quantities for."""
FINISHED = frozenset({COMPLETED, CANCELED, COMPENSATED})

TRANSITIONS = Transitions(
    "fulfillment",
    (
        Transition("", PENDING, "order confirmed, one per location"),
        Transition(PENDING, PLANNING, "capacity is unlimited"),
        Transition(PLANNING, PICKING, "posted"),
        Transition(PICKING, PICKED, "posted"),
        Transition(PICKED, PACKING, "posted or implied"),
        Transition(PACKING, PACKED, "posted"),
        Transition(PACKED, READY, "posted or implied"),
        Transition(READY, SHIPPED, "posted, commit answered"),
        Transition(SHIPPED, COMPLETED, "delivered"),
        Transition(SHIPPED, COMPENSATED, "undelivered: it never reached its receiver"),
        *(Transition(status, CANCELED, "order canceled") for status in WAY[: WAY.index(SHIPPED)]),
    ),
)


def status_named(text: str) -> FulfillmentStatus | None:
    """The status of a posted word, in any case, `cancelled` included; None when there is none."""
    name = text.upper()
    name = "CANCELED" if name == "CANCELLED" else name
    found = FulfillmentStatus.__members__.get(name)
    return None if found is FulfillmentStatus.UNKNOWN else found


def steps_to(status: FulfillmentStatus, target: FulfillmentStatus) -> tuple[FulfillmentStatus, ...] | None:
    """The steps from one status to a later one of the way, the target last; None when one that must be reported is missing."""
    between = WAY[WAY.index(status) + 1 : WAY.index(target)]
    return (*between, target) if all(step in OPTIONAL for step in between) else None


def moved(row: FulfillmentRow, event: FulfillmentStatusChanged) -> FulfillmentRow:
    """The fulfillment after the event, its buffer untouched."""
    progress = {line.line_id: line for line in event.lines}
    lines = tuple(
        replace(line, picked=progress[line.line_id].picked, packed=progress[line.line_id].packed, shipped=progress[line.line_id].shipped)
        if line.line_id in progress
        else line
        for line in row.lines
    )
    return replace(row, version=row.version + 1, status=event.new_status, lines=lines)


def reduced(row: FulfillmentRow, event: FulfillmentReduced) -> FulfillmentRow:
    """The fulfillment with less to send."""
    ordered = {line.line_id: line.ordered for line in event.lines}
    lines = tuple(replace(line, ordered=ordered.get(line.line_id, line.ordered)) for line in row.lines)
    return replace(row, version=row.version + 1, lines=lines)


def on_the_way(statuses: Iterable[FulfillmentStatus]) -> list[FulfillmentStatus]:
    """Those that were not canceled, the least advanced first."""
    return sorted((status for status in statuses if status in RANKS), key=RANKS.__getitem__)


def label(statuses: Iterable[FulfillmentStatus]) -> str:
    """One word for all fulfillments of an order, in lower case; empty when there are none."""
    found = tuple(statuses)
    going = on_the_way(found)
    if not going and COMPENSATED in found:
        return "undelivered"
    if not going:
        return "canceled" if found else ""
    least, most = going[0], going[-1]
    if least is COMPLETED:
        return "completed"
    if least is SHIPPED:
        return "partially_delivered" if most is COMPLETED else "shipped"
    return "partially_shipped" if most in (SHIPPED, COMPLETED) else least.lower()
