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
    states: dict[tuple[str, str], Any] = {}
    sequences: dict[tuple[str, str], int] = {}
    for meta, key, event in events:
        owner = ("" if meta.tenant == "main" else f"{meta.tenant}/", key)
        expected = sequences.get(owner, 0) + 1
        if meta.sequence != expected:
            raise ValueError(f"{space.name} {key}: event {meta.event_id} where sequence {expected} was expected")
        sequences[owner] = meta.sequence
        states[owner] = space.rules.evolve(states.get(owner) or space.rules.State(key=key), event, meta)
    fields = {spec.name: spec.field for spec in space.tables if spec.name not in ("head", "answer")}
    tables: Tables = {name: {} for name in fields}
    for (prefix, key), state in states.items():
        for name, rows in tables.items():
            value = getattr(state, fields[name])
            if isinstance(value, dict):
                rows.update({prefix + row_key: row for row_key, row in value.items()})
            elif value is not None:
                rows[prefix + key] = value
    return tables
