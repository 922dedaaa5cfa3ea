"""Events -> state: the truth that rows and changelogs are compared with. Pure."""

from collections.abc import Iterable
from typing import Any

from orderflow.streams.domain.contract import EventMeta
from orderflow.streams.topology import KeySpace

Tables = dict[str, dict[str, Any]]
"""Table name -> row key -> row."""


def fold(space: KeySpace, events: Iterable[tuple[EventMeta, str, Any]]) -> Tables:
    """The rows of a key space after these events, which must come in order per key. Head and answer rows are not folded from events.

    Raises ValueError when a key's sequence has a gap or a repeat: then these are not all of its events.
    """
    states: dict[str, Any] = {}
    sequences: dict[str, int] = {}
    for meta, key, event in events:
        expected = sequences.get(key, 0) + 1
        if meta.sequence != expected:
            raise ValueError(f"{space.name} {key}: event {meta.event_id} where sequence {expected} was expected")
        sequences[key] = meta.sequence
        states[key] = space.rules.evolve(states.get(key) or space.rules.State(key=key), event, meta)
    tables: Tables = {spec.name: {} for spec in space.tables if spec.name not in ("head", "answer")}
    for key, state in states.items():
        for name, rows in tables.items():
            value = getattr(state, space.table(name).field)
            if isinstance(value, dict):
                rows.update(value)
            elif value is not None:
                rows[key] = value
    return tables
