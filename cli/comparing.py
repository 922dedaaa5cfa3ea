"""`orderflow tables verify`: the rows of a partition's owner, the fold of its changelogs and the fold of its events, at one position.

The owner says what its rows come to and where it stood in every changelog; the changelogs are folded up to there, the events up to the
sequence each key had there. So a running system can be compared: a key that has moved on since is left out, what is found counts only
if a second look finds it too.
"""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from msgspec import Struct, field

from orderflow.cli import contracts, owners
from orderflow.cli.owners import Place

if TYPE_CHECKING:
    from orderflow.streams.records import Records, SpaceRecords
    from orderflow.streams.topology import KeySpace

AGAIN_AFTER_S = 2.0
FAULTS_MAX = 20
UNFOLDED = ("head", "answer")
"""Tables that no event says."""


class Fault(Struct, frozen=True):
    """One row that is not the same everywhere."""

    space: str
    partition: int
    table: str
    key: str
    what: str


class Compared(Struct):
    """One partition: how much was compared, and what was not the same."""

    space: str
    partition: int
    owner: str
    position: int = 0
    rows: int = 0
    digest: str = ""
    events: int = 0
    moved_on: int = 0
    """Rows that were written again while we looked, and so were left out."""
    note: str = ""
    faults: list[Fault] = field(default_factory=list)


class _Logged(Struct):
    """The changelogs of one partition up to the owner's position."""

    rows: dict[str, dict[bytes, bytes]] = field(default_factory=dict)
    moved: dict[str, set[bytes]] = field(default_factory=dict)


def compare(bootstrap: str, records: "Records", places: list[Place]) -> list[Compared]:
    """Compare these partitions, twice where something is found. Raises Failure when an owner or the broker does not answer."""
    first = _look(bootstrap, records, places)
    suspects = [place for place, found in zip(places, first, strict=True) if found.faults]
    if not suspects:
        return first
    time.sleep(AGAIN_AFTER_S)
    again = {(each.space, each.partition): each for each in _look(bootstrap, records, suspects)}
    result = []
    for each in first:
        second = again.get((each.space, each.partition))
        if second is not None:
            before = {(fault.table, fault.key) for fault in each.faults}
            second.faults = [fault for fault in second.faults if (fault.table, fault.key) in before]
        result.append(second or each)
    return result


def _look(bootstrap: str, records: "Records", places: list[Place]) -> list[Compared]:
    from orderflow.streams.topology import space_named

    found: dict[Place, Compared] = {}
    for name in dict.fromkeys(place.space for place in places):
        mine = [place for place in places if place.space == name]
        space, codecs = space_named(name), records.of(name)
        said = {place.partition: owners.ask(place.address, f"/state/{name}/{place.partition}/digest?parts=true") for place in mine}
        logged = _changelogs(bootstrap, space, codecs, {number: answer["changelogs"] for number, answer in said.items()})
        events = _events(bootstrap, codecs, set(said))
        for place in mine:
            answer, there = said[place.partition], logged[place.partition]
            compared = Compared(name, place.partition, place.address, answer["position"], answer["rows"], answer["digest"])
            compared.moved_on = sum(len(keys) for keys in there.moved.values())
            compared.faults += _against_owner(space, place, answer["buckets"], there)
            compared.faults += _against_events(space, codecs, compared, events[place.partition], there)
            del compared.faults[FAULTS_MAX:]
            found[place] = compared
    return [found[place] for place in places]


def _changelogs(bootstrap: str, space: "KeySpace", codecs: "SpaceRecords", ends: dict[int, dict[str, int]]) -> dict[int, _Logged]:
    """Every row as the changelogs had it where the owner stood, and the keys that have newer records."""
    found = {number: _Logged() for number in ends}
    for spec in space.tables:
        topic = codecs.changelog(spec.name)
        for each in found.values():
            each.rows[spec.name], each.moved[spec.name] = {}, set()
        for message in contracts.read_topic(bootstrap, topic):
            number = message.partition()
            if number not in found:
                continue
            key, value = message.key() or b"", message.value()
            rows, moved = found[number].rows[spec.name], found[number].moved[spec.name]
            if message.offset() >= ends[number].get(topic, 0):
                moved.add(key)  # compaction may have taken its older record, so nothing is known of where the owner stood
            elif value is None:
                rows.pop(key, None)
            else:
                rows[key] = value
    return found


def _against_owner(space: "KeySpace", place: Place, buckets: dict[str, list[str]], there: _Logged) -> Iterator[Fault]:
    """Rows whose bytes are not the same at the owner and in its changelog."""
    from orderflow.tables.digest import bucket_digests, bucket_of, row_digest

    for spec in space.tables:
        rows, moved = there.rows[spec.name], there.moved[spec.name]
        ours = bucket_digests(sorted(rows.items()))
        for bucket, (one, other) in enumerate(zip(ours, buckets[spec.name], strict=True)):
            if one == other:
                continue
            path = f"/state/{place.space}/{place.partition}/rows/{quote(spec.name)}/{bucket}"
            theirs = {key.encode(): said for key, said in owners.ask(place.address, path)}
            logged = {key: row_digest(key, value) for key, value in rows.items() if bucket_of(key) == bucket}
            for key in sorted(theirs.keys() | logged.keys()):
                if key not in moved and theirs.get(key) != logged.get(key):
                    yield Fault(space.name, place.partition, spec.name, key.decode(), _what(key in theirs, key in logged))


def _what(at_owner: bool, in_changelog: bool) -> str:
    if at_owner and in_changelog:
        return "the owner's row is not the one in its changelog"
    return "the owner has a row that its changelog does not have" if at_owner else "the owner does not have a row that its changelog has"


Story = tuple[list[tuple[Any, str, Any]], int]
"""(meta, key, event) of a partition in order, and its first offset."""


def _events(bootstrap: str, codecs: "SpaceRecords", numbers: set[int]) -> dict[int, Story]:
    found: dict[int, Story] = {number: ([], 0) for number in numbers}
    for message in contracts.read_topic(bootstrap, codecs.events):
        number = message.partition()
        if number in found:
            story, first = found[number]
            if not story:
                first = message.offset()
            story.append(codecs.decode_event(message.value() or b""))
            found[number] = (story, first)
    return found


def _against_events(space: "KeySpace", codecs: "SpaceRecords", compared: Compared, story: Story, there: _Logged) -> Iterator[Fault]:
    """Rows that are not the fold of their events, each key up to the sequence of its head row."""
    from orderflow.streams.replay import fold

    events, first = story
    if first > 0 and events and any(meta.sequence > 1 for meta, _, _ in _firsts(events)):
        compared.note = "not compared with the events: the oldest are deleted"
        return
    decode_head = codecs.row("head").decode
    heads = {key.decode(): decode_head(value).sequence for key, value in there.rows["head"].items()}
    moved = {key.decode() for key in there.moved["head"]}
    told = [event for event in events if (owner := _owner(*event[:2])) not in moved and event[0].sequence <= heads.get(owner, 0)]
    last = {_owner(meta, key): meta.sequence for meta, key, _ in told}
    for key, sequence in sorted(heads.items()):
        if key not in moved and last.get(key, 0) != sequence:
            what = f"the events end at {last.get(key, 0)}, the row says {sequence}"
            yield Fault(space.name, compared.partition, "head", key, what)
    compared.events = len(told)
    try:
        tables = fold(space, told)
    except ValueError as error:
        yield Fault(space.name, compared.partition, "head", "", f"the events cannot be folded: {error}")
        return
    for spec in space.tables:
        if spec.name in UNFOLDED:
            continue
        decode, folded = codecs.row(spec.name).decode, tables[spec.name]
        logged = {key.decode(): decode(value) for key, value in there.rows[spec.name].items()}
        for key in sorted(folded.keys() | logged.keys()):
            if key.partition("~")[0] not in moved and folded.get(key) != logged.get(key):
                yield Fault(space.name, compared.partition, spec.name, key, "the row in the changelog is not the fold of its events")


def _firsts(events: list[tuple[Any, str, Any]]) -> Iterator[tuple[Any, str, Any]]:
    """The first event of each key."""
    seen: set[str] = set()
    for event in events:
        owner = _owner(*event[:2])
        if owner not in seen:
            seen.add(owner)
            yield event


def _owner(meta: Any, key: str) -> str:
    """The key's head row."""
    return key if meta.tenant == "main" else f"{meta.tenant}/{key}"
