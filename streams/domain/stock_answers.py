"""What an order knows of its reservations, and what an answer of their owner makes of it. Pure lookups over rows."""

from collections.abc import Iterable, Mapping

from orderflow.streams.domain.ids import parse_reservation
from orderflow.streams.domain.order_records import PlacedLine, RecordStockAnswer, StockAnswerRecorded
from orderflow.streams.domain.order_rows import OrderLine, StockAnswerRow
from orderflow.streams.domain.parts import units

MORE = "more"
"""The step of an order that asks for more units: an edit."""
AWAITED: Mapping[str, str] = {"reserve": "asked", MORE: "asked", "commit": "committing", "release": "releasing"}
"""What the row of a reservation says while the owner has not answered this ask."""
QUEUED = "queued"
"""The owner has not got the units, and the reservation waits for them."""
OUTCOMES = ("reserved", QUEUED, "refused", "committed", "released", "expired", "shipped", "lost")
"""What an owner may answer."""
ENDED = frozenset({"refused", "released", "expired", "shipped", "lost"})
"""Outcomes after which a reservation keeps nothing."""


def demand(lines: Iterable[PlacedLine | OrderLine]) -> dict[str, int]:
    """Units wanted of each sku, summed over the lines, by sku. Canceled ones are wanted by nobody."""
    wanted: dict[str, int] = {}
    for line in lines:
        quantity = line.quantity - line.canceled if isinstance(line, OrderLine) else line.quantity
        if line.kind == "item" and quantity:
            wanted[line.sku] = wanted.get(line.sku, 0) + quantity
    return dict(sorted(wanted.items()))


def outcome_after(row: StockAnswerRow | None, answer: RecordStockAnswer | StockAnswerRecorded) -> str | None:
    """The row's outcome after this answer; None when it is stale, repeated or about nothing that was asked.

    Answers say what is kept from now on, which never grows again once it is granted, so a repeat changes nothing.
    """
    if row is None or row.outcome in ENDED:
        return None
    kept, left = units(row.allocations), units(answer.allocations)
    match answer.outcome:
        case "reserved" if row.outcome in ("asked", QUEUED):
            return "reserved"
        case "queued" if row.outcome == "asked":
            return QUEUED
        case "reserved" if row.outcome == "releasing" and not kept and left:
            return "releasing"  # granted while the release was on its way
        case "refused" if row.outcome == "asked":
            return "refused"
        case "committed" if row.outcome in ("committing", "reserved"):
            return "committed"
        case "released" | "expired" | "shipped" | "lost" if left == 0:
            return answer.outcome
        case "released" | "shipped" | "lost" if left < kept:
            return row.outcome
    return None


def is_whole(row: StockAnswerRow) -> bool:
    """Does the reservation keep all that was asked?"""
    return units(row.allocations) == row.quantity


def live(rows: Iterable[StockAnswerRow]) -> tuple[str, ...]:
    """Ids of the reservations that keep units or may come to, in the order of the rows."""
    return tuple(row.reservation_id for row in rows if row.outcome not in ENDED)


def latest(rows: Iterable[StockAnswerRow], attempt: int) -> dict[str, StockAnswerRow]:
    """What each sku said last to an order in this attempt, by sku; the first attempt counts for nothing once a second has begun."""
    first_attempt = min(attempt, 2)
    found: dict[str, tuple[int, StockAnswerRow]] = {}
    for row in rows:
        parsed = parse_reservation(row.reservation_id)
        asked_in = parsed[2] if parsed else 0
        if asked_in >= first_attempt and asked_in >= found.get(row.sku, (0, row))[0]:
            found[row.sku] = (asked_in, row)
    return {sku: row for sku, (_, row) in sorted(found.items())}
