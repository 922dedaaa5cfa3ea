"""A figure beside what was wanted of it. Missed is said as plainly as met; nothing fails because of it."""

from typing import Any


def target(name: str, measured: float | None, unit: str, *, at_most: float | None = None, at_least: float | None = None) -> dict[str, Any]:
    """One line of a report; `met` is None when nothing was measured."""
    assert (at_most is None) != (at_least is None), "a target has one side"
    met = None
    if measured is not None:
        met = measured <= at_most if at_most is not None else measured >= (at_least or 0)
    return {"name": name, "measured": measured, "unit": unit, "at_most": at_most, "at_least": at_least, "met": met}
