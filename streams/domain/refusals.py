"""Refusals and the checks every command meets before its own (domain.md 2, Order of checks)."""

from msgspec import Struct

from orderflow.streams.domain.contract import Refused, Turn
from orderflow.streams.domain.reasons import Reason


class UnknownValue(ValueError):
    """A word this version does not know. Its record is parked, and redriven when a version does."""


def refusal(command: Struct, reason: Reason, **detail: str) -> tuple[Refused]:
    """The event that a command changed nothing, and why."""
    return (Refused(type(command).__name__, reason, detail),)


def untimely(turn: Turn, version: int) -> Reason | None:
    """Decided on an older version than the present one, or after its deadline. Facts and compensations are never asked this."""
    meta = turn.meta
    if meta.expected_version is not None and meta.expected_version != version:
        return Reason.VERSION_CONFLICT
    if meta.deadline_at is not None and meta.deadline_at < turn.at:
        return Reason.DEADLINE_PASSED
    return None
