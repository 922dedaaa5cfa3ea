"""Past failures: whole plans, so that they stay what they were when a profile draws other faults from the same seed."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from simulation.run import Plan

FILE = Path(__file__).with_name("corpus.txt")


def past() -> Iterator[tuple[str, Plan]]:
    """(what it once found, plan) of each line; lines are `<plan as JSON>  # <what it found>`."""
    for line in FILE.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            plan, _, why = line.partition("  # ")
            yield why, msgspec.json.decode(plan, type=Plan)


def line_of(plan: Plan, why: str) -> str:
    """What to append to the file."""
    return f"{msgspec.json.encode(plan).decode()}  # {why}"
