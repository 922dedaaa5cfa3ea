"""What the stock key space hears, says and shows: commands, events and the snapshot, keyed by sku (contracts.md 6).

Fields are in the order of the Avro records, without `meta` and the key.
"""

from msgspec import Struct

from orderflow.streams.domain.parts import Holder, Money, Qty


class ReserveStock(Struct, frozen=True, gc=False):
    """Keep units for an order until `due_at`: all of them or none, or what there is if `allow_partial`; wait for them until then if `backorder`.
    Locations outside `preferred` only if `allow_other`.
    """

    reservation_id: str
    holder: Holder
    quantity: int
    due_at: int
    preferred: tuple[str, ...] = ()
    allow_other: bool = True
    allow_partial: bool = False
    priority: int = 0
    line_ids: tuple[str, ...] = ()
    backorder: bool = False


class ExtendReservation(Struct, frozen=True, gc=False):
    """Move an active reservation's due time later, at most to twice its first duration."""

    reservation_id: str
    due_at: int


class CommitReservation(Struct, frozen=True, gc=False):
    """The order is confirmed: its units wait for shipping and no longer expire. No quantity means all that is kept."""

    reservation_id: str
    quantity: int | None = None
    reason: str = ""


class ReleaseReservation(Struct, frozen=True, gc=False):
    """Give back what a reservation keeps beyond `kept`, at each location; without it everything. Total: it never fails, also for an id
    nobody knows.
    """

    reservation_id: str
    quantity: int | None = None
    reason: str = ""
    kept: tuple[Qty, ...] = ()


class ShipStock(Struct, frozen=True, gc=False):
    """Units have left the building. What the reservation keeps at the named locations beyond `picked` is given back."""

    reservation_id: str
    fulfillment_id: str
    picked: tuple[Qty, ...] = ()


class ReceiveStock(Struct, frozen=True, gc=False):
    """Units have arrived; the first receipt introduces the sku."""

    location_id: str
    quantity: int
    lot: str = ""
    expires_on: int | None = None
    received_at: int | None = None
    disposition: str = "available"
    expected_ref: str = ""
    reference: str = ""
    unit_cost: Money | None = None


class AdjustStock(Struct, frozen=True, gc=False):
    """A count or breakage corrects on_hand by `delta`; with `expected`, only if on_hand is that now."""

    location_id: str
    lot: str = ""
    delta: int = 0
    expected: int | None = None
    reason: str = ""
    reference: str = ""
    counted_at: int | None = None


class _ReservationEvent(Struct, frozen=True, gc=False):
    """`quantity` and `allocations` are the units this event is about."""

    reservation_id: str
    holder: Holder
    quantity: int
    allocations: tuple[Qty, ...] = ()
    due_at: int | None = None
    fulfillment_id: str = ""
    reason: str = ""


class StockReserved(_ReservationEvent, frozen=True):
    """Units are kept for an order until `due_at`."""


class BackorderQueued(_ReservationEvent, frozen=True):
    """`quantity` units are not there: the reservation waits for them until `due_at`."""

    priority: int = 0
    preferred: tuple[str, ...] = ()
    allow_other: bool = True


class BackorderAllocated(_ReservationEvent, frozen=True):
    """The units that a reservation waited for have come, and are kept for its order until `due_at`."""


class ReservationExtended(_ReservationEvent, frozen=True):
    """A reservation's due time has moved to `due_at`."""


class ReservationCommitted(_ReservationEvent, frozen=True):
    """The units wait for shipping."""


class ReservationReleased(_ReservationEvent, frozen=True):
    """These units are for sale again. A quantity of 0: the reservation was never made and never can be."""


class ReservationExpired(_ReservationEvent, frozen=True):
    """The due time passed first: these units are for sale again."""


class StockShipped(_ReservationEvent, frozen=True):
    """`quantity` units left for a fulfillment, `allocations` of them from the reservation; the rest was found at the shelf."""


class AllocationLost(_ReservationEvent, frozen=True):
    """These units are not there after all: a count or breakage took them from the reservation."""


class StockRefused(Struct, frozen=True, gc=False):
    """A reservation was refused. `contended`: open reservations of others hold what is missing, so it may become free again."""

    reservation_id: str
    holder: Holder
    requested: int
    available: int
    contended: bool = False
    reason: str = ""


class MovementRecorded(Struct, frozen=True, gc=False):
    """on_hand at one location moved from `before` to `after`; the only way it ever does (kinds receive, ship, adjust)."""

    movement_id: str
    location_id: str
    lot: str = ""
    kind: str = ""
    quantity: int = 0
    before: int = 0
    after: int = 0
    reason: str = ""
    reference: str = ""
    activity: str = ""
    unit_cost: Money | None = None


class StockChanged(Struct, frozen=True, gc=False):
    """News for catalogs and channels: what a movement did to a location's available units."""

    location_id: str
    available: int
    previous_available: int
    on_hand: int
    change: str
    reference: str = ""


class Cell(Struct, frozen=True, gc=False):
    """One location of a sku as the outside sees it."""

    location_id: str
    on_hand: int
    allocated: int = 0
    reserved: int = 0
    incoming: int = 0
    damaged: int = 0
    quality_control: int = 0
    safety_target: int = 0
    safety_stock: int = 0
    backordered: int = 0
    available: int = 0


class StockSnapshot(Struct, frozen=True, gc=False):
    """A sku at all its locations."""

    sku: str
    tenant: str = "main"
    sequence: int = 0
    version: int = 0
    at: int = 0
    cells: tuple[Cell, ...] = ()
