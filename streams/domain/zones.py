"""Local calendars: computed in `decide` and written into events, so that a fold never asks for a zone (domain.md 2, Time)."""

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from orderflow.streams.domain.contract import MICROS_PER_S


def is_zone(name: str) -> bool:
    """Is this an IANA zone this machine knows? UTC always is."""
    if name == "UTC":
        return True
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def local_date(at: int, time_zone: str) -> date:
    """The calendar day of a time in microseconds. The zone must be known (`is_zone`)."""
    zone = UTC if time_zone == "UTC" else ZoneInfo(time_zone)
    return datetime.fromtimestamp(at // MICROS_PER_S, zone).date()
