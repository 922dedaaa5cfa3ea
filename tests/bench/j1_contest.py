"""J1 between contestants: one recorded input, everybody's own group, topics and state, the output of every run checked."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import contest
import drain
import j1
import plots
from contestants import ALL, OURS, Contestant, Lane, Missing

from orderflow.connectors.box.box import Box

LIMIT_S = 900.0
METRICS = ("cpu_us_per_event", "events_per_s", "broker_us_per_event", "peak_rss_mb")
AGAINST = ("kafka-streams", "orderflow", "orderflow-python")
"""Whom the others are compared with: the first of these that takes part."""


def run(
    box: Box,
    directory: Path,
    *,
    codec: str,
    peers: Sequence[str],
    rounds: int,
    records: int,
    data: str,
    say: Callable[[str], None],
    keep: Callable[[dict[str, Any]], None] = lambda document: None,
) -> dict[str, Any]:
    """Build who can be built, write the input, take turns; the document that is kept after each round and shown."""
    commands, not_run = {}, {}
    for name in (*OURS[codec], *peers):
        say(f"{name}: getting ready")
        try:
            commands[name] = ALL[name].ready()
        except Missing as missing:
            not_run[name] = str(missing)
    shares = {name: min(records, ALL[name].records_max or records) for name in commands}
    for count in sorted(set(shares.values())):
        say(f"writing {count} commands")
        j1.make_topics(box.bootstrap, f"j1-{count}", names=("commands",))
        j1.record(box.bootstrap, f"j1-{count}", count)
    broker = int((box.data_dir / "run" / "kafka.pid").read_text().split()[0])

    def lane(number: int, name: str) -> Lane:
        app = f"j1-{number}-{name}"
        return Lane(box.bootstrap, app, f"j1-{shares[name]}.commands", directory / app, j1.ON_HAND[data])

    def before(number: int, name: str) -> None:
        here = lane(number, name)
        j1.create(box.bootstrap, [here.out])
        j1.create(box.bootstrap, ALL[name].changelogs(here), config={"cleanup.policy": "compact"})

    def measure(number: int, name: str) -> contest.Figures:
        here = lane(number, name)
        return drained(ALL[name], commands[name], here, broker, directory / f"{here.app}.log")

    def check(number: int, name: str) -> contest.Figures:
        here = lane(number, name)
        try:
            return {"checked": j1.check(box.bootstrap, here.app, shares[name], here.on_hand, places=ALL[name].places(here))}
        except AssertionError as wrong:
            return {"fault": str(wrong) or "the output is wrong"}
        finally:
            shutil.rmtree(here.state, ignore_errors=True)

    against = next((name for name in AGAINST if name in commands), "")

    def document(results: list[contest.Result]) -> dict[str, Any]:
        return {
            "job": "j1",
            "data": data,
            "records": records,
            "facts": contest.facts(),
            "contestants": {name: {"what": ALL[name].what, "records": shares[name]} for name in commands},
            "not_run": not_run,
            "against": against,
            "median": contest.medians(results, METRICS),
            "ratio": {metric: contest.ratios(results, metric, against) for metric in METRICS[:2]},
            "rounds": results,
        }

    return document(contest.take_turns(rounds, list(commands), measure, say, check, before, lambda results: keep(document(results))))


def drained(contestant: Contestant, command: Sequence[str], here: Lane, broker: int, log: Path) -> contest.Figures:
    """The figures of one run, or its fault."""
    try:
        return drain.drain(
            command,
            {**here.environment, **contestant.environment},
            bootstrap=here.bootstrap,
            group=here.app,
            topic=here.commands,
            broker=broker,
            log=log,
            limit_s=LIMIT_S,
        )
    except drain.Failed as failed:
        return {"fault": str(failed)}


# -- what people read ---------------------------------------------------------------------------------------------------------------------
HEAD = ("contestant", "CPU µs per event", "events/s", "× CPU", "× events/s", "broker µs", "peak RSS MB", "records", "rounds", "output")


def rows(document: Mapping[str, Any]) -> Iterator[list[str]]:
    """A line per contestant: median (range), the ratio to `against` within a round; those that failed or were not run, with the reason."""
    for name, about in document["contestants"].items():
        middle, mine = document["median"][name], [each for each in document["rounds"] if each["contestant"] == name]
        figures = [spread(middle.get(metric)) for metric in METRICS]
        yield [
            name,
            *figures[:2],
            *(ratio(document, metric, name) for metric in METRICS[:2]),
            *figures[2:],
            plots.number(about["records"]),
            f"{middle['rounds']} of {len(mine)}",
            verdict(mine),
        ]
    for name, why in document["not_run"].items():
        yield [name, *[""] * (len(HEAD) - 2), f"not run: {why.splitlines()[0]}"]


def spread(found: Mapping[str, float] | None) -> str:
    """Median (from to) as people read it; empty when no round counts."""
    if not found:
        return ""
    middle, low, high = (plots.number(found[name]) for name in ("median", "from", "to"))
    return middle if low == high else f"{middle} ({low} to {high})"


def ratio(document: Mapping[str, Any], metric: str, name: str) -> str:
    """The median of the ratios within a round; empty when no round has both."""
    found = document["ratio"][metric].get(name)
    return f"{found['median']:.2f}" if found else ""


def verdict(results: Sequence[contest.Result]) -> str:
    """`right`, or how often it failed and the first reason."""
    faults = [each["fault"].splitlines()[0] for each in results if each["fault"]]
    return f"FAILED {len(faults)} of {len(results)}: {faults[0]}" if faults else "right"


def table(document: Mapping[str, Any]) -> str:
    """The Markdown table of docs/benchmarks.md, with the machine and what is compared under it."""
    return plots.markdown(HEAD, rows(document)) + "\n\n" + legend(document)


def legend(document: Mapping[str, Any]) -> str:
    """What the figures are and where they were taken."""
    facts = document["facts"]
    against = f"× is the ratio to `{document['against']}` within a round. " if document["against"] else ""
    return (
        f"{document['records']} records. Medians (range) of the rounds that count. {against}{facts['cpu']}, {facts['cores']} cores, "
        f"Linux {facts['kernel']}, CPython {facts['python']}, Kafka {facts['kafka']}, {facts['at'][:10]}."
    )


def charts(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, SVG) of each chart."""
    yield "cpu", plots.bars("J1: CPU per event", "µs, less is better; the line is the range", [*bars(document, METRICS[0])])
    yield "events", plots.bars("J1: events per second on one core", "more is better; the line is the range", [*bars(document, METRICS[1])])


def bars(document: Mapping[str, Any], metric: str) -> Iterator[plots.Bar]:
    """A bar per contestant, in one weight; a note for those without a figure."""
    for name in document["contestants"]:
        found = document["median"][name].get(metric)
        if found:
            yield plots.Bar(name, found["median"], found["from"], found["to"])
        else:
            failed = any(each["fault"] for each in document["rounds"] if each["contestant"] == name)
            yield plots.Bar(name, None, note="failed" if failed else "no round counts")
    for name in document["not_run"]:
        yield plots.Bar(name, None, note="not run")
