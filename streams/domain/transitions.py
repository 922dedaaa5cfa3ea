"""Transition tables as data: what may follow what, and why. The rules use them, the docs draw them, a test compares the two."""

from functools import cached_property

from msgspec import Struct


class Transition(Struct, frozen=True, gc=False):
    """One allowed step. An empty source means that the entity does not exist yet."""

    source: str
    target: str
    trigger: str


class Transitions(Struct, frozen=True, dict=True):
    """All allowed steps of one kind of entity."""

    entity: str
    steps: tuple[Transition, ...]

    @cached_property
    def pairs(self) -> frozenset[tuple[str, str]]:
        """Every (source, target) that is allowed."""
        return frozenset((step.source, step.target) for step in self.steps)

    def allows(self, source: str, target: str) -> bool:
        """May the entity go from `source` to `target`?"""
        return (source, target) in self.pairs

    @cached_property
    def states(self) -> tuple[str, ...]:
        """Every state, in the order of the table."""
        named = (name for step in self.steps for name in (step.source, step.target) if name)
        return tuple(dict.fromkeys(named))

    @cached_property
    def finals(self) -> frozenset[str]:
        """States nothing leads out of."""
        return frozenset(self.states) - {step.source for step in self.steps}


def mermaid(table: Transitions) -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2"]
    for step in table.steps:
        lines.append(f"    {step.source.lower() or '[*]'} --> {step.target.lower()}: {step.trigger}")
    lines += [f"    {state.lower()} --> [*]" for state in table.states if state in table.finals]
    return "\n".join(lines) + "\n"
