"""What the stock key space remembers: one row per sku with a cell per location, one row per reservation (contracts.md 6, Rows)."""

from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct

from orderflow.streams.domain.parts import Holder, Qty


class ReservationStatus(StrEnum):
    """Ends exactly once: fulfilled, released or expired. Committed is not an end."""

    ACTIVE = "ACTIVE"
    COMMITTED = "COMMITTED"
    FULFILLED = "FULFILLED"
    RELEASED = "RELEASED"
    EXPIRED = "EXPIRED"


class Cell(Struct, frozen=True, gc=False):
    """One location's units. `reserved` belong to active reservations, `allocated` to committed ones; both are still on hand."""

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

    @property
    def free(self) -> int:
        """Good units nobody has a claim on, the safety stock included."""
        return self.on_hand - self.allocated - self.reserved - self.damaged - self.quality_control

    @property
    def available(self) -> int:
        """Units that may be sold (domain.md 2.4)."""
        return self.on_hand - self.allocated - self.reserved - self.damaged - self.quality_control - self.safety_stock


class StockRow(Struct, frozen=True, gc=False):
    """A sku. Cells are sorted by location."""

    version: int
    retired: bool = False
    lot_tracked: bool = False
    cells: tuple[Cell, ...] = ()


class ReservationRow(Struct, frozen=True, gc=False):
    """Units kept for an order: `quantity` were asked, `allocations` are still kept, the others are fulfilled or released. One that waits
    keeps none: `wanted` are to come, from where the other fields say, and counted at `waits_in`; it waits since this event of its sku.
    """

    reservation_id: str
    sku: str
    holder: Holder
    status: ReservationStatus
    quantity: int
    fulfilled: int = 0
    released: int = 0
    allocations: tuple[Qty, ...] = ()
    due_at: int | None = None
    created_at: int = 0
    original_due_at: int | None = None
    wanted: int = 0
    priority: int = 0
    preferred: tuple[str, ...] = ()
    allow_other: bool = True
    waits_in: str = ""
    waits_since: int = 0


class State(Struct, frozen=True, gc=False):
    """The rows of one sku that a decision reads."""

    key: str = ""
    stock: StockRow | None = None
    reservation: Mapping[str, ReservationRow] = {}
