"""A figure beside what was wanted of it. Missed is said as plainly as met; nothing fails because of it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import contest
import plots

from orderflow.schemas.codec import ENGINE


def target(name: str, measured: float | None, unit: str, *, at_most: float | None = None, at_least: float | None = None) -> dict[str, Any]:
    """One line of a report; `met` is None when nothing was measured."""
    assert (at_most is None) != (at_least is None), "a target has one side"
    met = None
    if measured is not None:
        met = measured <= at_most if at_most is not None else measured >= (at_least or 0)
    return {"name": name, "measured": measured, "unit": unit, "at_most": at_most, "at_least": at_least, "met": met}


def document(job: str, options: Mapping[str, Any], rounds: Sequence[dict[str, Any]], wanted: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What is saved and shown of one benchmark."""
    return {
        "job": job,
        "options": dict(options),
        "facts": {**contest.facts(), "codec": ENGINE},
        "rounds": list(rounds),
        "targets": list(wanted),
    }


HEAD = ("target", "measured", "wanted", "")


def rows(found: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Each target of a document: its name, the figure, the limit, met or missed."""
    for each in found["targets"]:
        limit = f"<= {each['at_most']:,.10g}" if each["at_most"] is not None else f">= {each['at_least']:,.10g}"
        measured = "-" if each["measured"] is None else f"{each['measured']:,.10g} {each['unit']}"
        verdict = {True: "met", False: "missed", None: "not measured"}[each["met"]]
        yield each["name"], measured, f"{limit} {each['unit']}", verdict


def bars(found: Mapping[str, Any], metric: str) -> list[plots.Bar]:
    """A bar per contestant, in their order: the median and the range of a figure over the rounds that count."""
    names = dict.fromkeys(each["contestant"] for each in found["rounds"])
    middle = contest.medians(found["rounds"], [metric])
    return [
        plots.Bar(name, spread["median"], spread["from"], spread["to"])
        if (spread := middle[name].get(metric))
        else plots.Bar(name, None, note="no round counts")
        for name in names
    ]


def range_of(values: Sequence[float]) -> str:
    """Median and range, shortly; empty without values."""
    if not values:
        return ""
    found = contest.spread(values)
    return f"{found['median']:g}" + (f" ({found['from']:g}-{found['to']:g})" if len(values) > 1 else "")


def table(head: Sequence[str], lines: Sequence[Sequence[Any]], found: Mapping[str, Any]) -> str:
    """The Markdown of docs/benchmarks-system.md: the figures, the targets, where they were taken."""
    parts = [plots.markdown(head, [[str(cell) for cell in line] for line in lines])]
    if found["targets"]:
        parts.append(plots.markdown(HEAD, list(rows(found))))
    facts = found["facts"]
    void = sum(each["void"] for each in found["rounds"])
    unfit = f" {void} of {len(found['rounds'])} results are void: the machine changed its speed, or others used it." if void else ""
    parts.append(
        f"{facts['cpu']}, {facts['cores']} cores, Linux {facts['kernel']}, CPython {facts['python']}, {facts['codec']} codec, Kafka {facts['kafka']}, "
        f"{facts['at'][:10]}.{unfit}"
    )
    return "\n\n".join(parts)
