"""Where a worker's committed rows are read: one entity, bounded lists, health. Never anything that is not committed.

A read that arrives while a commit is under way waits for it, so that whoever saw a reply also sees its row.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from prometheus_client import generate_latest

from orderflow.schemas.partitioner import partition_of
from orderflow.streams.domain.contract import Get, HeadRow, Range
from orderflow.streams.engine import Engine
from orderflow.streams.lookups import Lookup
from orderflow.streams.partitions import Partition
from orderflow.streams.topology import KeySpace
from orderflow.tables.rows import Table

LIST_MAX = 500
COMMIT_WAIT_S = 5.0
COMMIT_POLL_S = 0.001
STALLED_S = 30.0


class NotHere(Exception):
    """The answer to a read this worker cannot serve: HTTP status and what to do."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Reader:
    """Committed rows of the partitions this worker owns."""

    def __init__(self, engine: Engine, spaces: Sequence[KeySpace], partitions: int, lookups: Mapping[str, Lookup]) -> None:
        self.engine, self.partitions, self.lookups = engine, partitions, lookups
        self.spaces = {aggregate: space for space in spaces for aggregate in (space.main, *space.shown)}
        self.logs = {source.space: source for source in engine.logs.values()}

    def partition(self, space: KeySpace, key: str) -> Partition:
        """The running partition of a key. Raises NotHere: 421 when another worker owns it, 503 while it is restored."""
        source = self.logs[space.name]
        number = partition_of(key.encode(), self.partitions)
        partition = self.engine.partitions.get((source.topic, number))
        if partition is None:
            raise NotHere(421, f"{source.topic}[{number}] is not owned by this worker")
        if not partition.running:
            done, total = self.engine.restoring.get((source.topic, number), (0, 0))
            raise NotHere(503, f"{source.topic}[{number}] is being restored: {done} of {total} records")
        return partition

    def snapshot(self, aggregate: str, key: str) -> Any:
        """A key's snapshot of this aggregate as committed, or None."""
        space = self.spaces[aggregate]
        return self.snapshot_in(space, self.partition(space, key), key, aggregate)

    def snapshot_in(self, space: KeySpace, partition: Partition, key: str, aggregate: str) -> Any:
        rules = space.rules
        state = self.state(space, partition, key, rules.view(key))
        head: HeadRow | None = committed(partition, partition.rows.tables["head"], key)
        snapshots = rules.snapshots(rules.INITIAL, state, head.sequence if head else 0, partition.committed.turn_time)
        return next((snapshot.record for snapshot in snapshots if snapshot.aggregate == aggregate), None)

    def state(self, space: KeySpace, partition: Partition, key: str, refs: Iterable[Get | Range]) -> Any:
        """The key's rows that `refs` name, as committed, without lookups."""
        tables, initial = partition.rows.tables, space.rules.INITIAL
        values: dict[str, Any] = {}
        for ref in refs:
            if ref.table in space.lookups:
                continue
            table, field = tables[ref.table], ref.table.replace("-", "_")
            if isinstance(ref, Get):
                row = committed(partition, table, ref.key)
                if getattr(initial, field) is None:
                    values[field] = row
                elif row is not None:
                    values.setdefault(field, {})[ref.key] = row
            else:
                found = partition.family.scan(table.prefix + ref.prefix.encode())
                values[field] = {raw[1:].decode(): table.decode(value) for _, (raw, value) in zip(range(ref.limit), found, strict=False)}
        return space.rules.State(key=key, **values)

    def running(self, space: KeySpace) -> list[Partition]:
        """The partitions of a key space that can be read here."""
        topic = self.logs[space.name].topic
        return [partition for (name, _), partition in list(self.engine.partitions.items()) if name == topic and partition.running]

    def orders(self, wanted: Callable[[Any], bool], shown: Callable[[str], bool], limit: int) -> dict[str, Any]:
        """At most `limit` orders whose row is wanted and whose label is shown, and how many there are, by label. Reads every order here."""
        space = self.spaces["order"]
        total, by_label, items = 0, dict[str, int](), list[Any]()
        partitions = self.running(space)
        for partition in partitions:
            table = partition.rows.tables["order"]
            for raw, value in partition.family.scan(table.prefix):
                if not wanted(table.decode(value)):
                    continue
                snapshot = self.snapshot_in(space, partition, raw[1:].decode(), space.main)
                if not shown(snapshot.label):
                    continue
                total += 1
                by_label[snapshot.label] = by_label.get(snapshot.label, 0) + 1
                if len(items) < limit:
                    items.append(snapshot)
        return {"total": total, "by_label": by_label, "items": items, "partitions": [partition.number for partition in partitions]}

    def reservations(self, overdue_only: bool, limit: int) -> dict[str, Any]:
        """Open reservations by due time; overdue by more than `overdue_s` on caught-up partitions there should never be one."""
        space = self.spaces["stock"]
        now = time.time_ns() // 1000
        items: list[tuple[int, str, Any]] = []
        caught_up = True
        for partition in self.running(space):
            caught_up = caught_up and partition.caught_up
            table = partition.rows.tables["reservation"]
            for raw, value in partition.family.scan(table.prefix):
                row = table.decode(value)
                due = table.due(row) if table.due is not None else None
                if due is None or (overdue_only and due[1] >= now):
                    continue
                items.append((due[1], raw[1:].decode(), row))
        items.sort(key=lambda item: item[:2])
        views = [{**msgspec.to_builtins(row), "overdue_s": round(max(0, now - due) / 1e6, 3)} for due, _, row in items[:limit]]
        return {"total": len(items), "caught_up": caught_up, "items": views, "partitions": [p.number for p in self.running(space)]}

    def health(self) -> tuple[int, dict[str, Any]]:
        """200 when every partition that is assigned here is restored and caught up."""
        engine = self.engine
        partitions = list(engine.partitions.items())
        behind = [f"{topic}[{number}]" for (topic, number), p in partitions if not (p.running and p.caught_up)]
        restoring = {f"{topic}[{number}]": progress for (topic, number), progress in engine.restoring.items()}
        stalled = time.monotonic() - engine.last_step > STALLED_S
        missing = [name for name, lookup in self.lookups.items() if not lookup.ready]
        ready = engine.generation > 0 and not behind and not stalled and not missing
        return (200 if ready else 503), {
            "ready": ready,
            "partitions": len(partitions),
            "behind": behind,
            "stopped": [f"{topic}[{number}]" for (topic, number), p in partitions if p.stopped],
            "restoring": restoring,
            "lookups_missing": missing,
            "stalled": stalled,
        }


def committed(partition: Partition, table: Table, key: str) -> Any:
    """A row as it is on disk, from any thread."""
    value = partition.family.get(table.prefix + key.encode())
    return None if value is None else table.decode(value)


def add_pages(app: Any, reader: Reader) -> None:
    """Serve committed rows, lists, health and metrics on the worker's web endpoint."""
    pages = _Pages(reader)
    add_page(app, "/rows/{aggregate}/{key}", pages.row)
    add_page(app, "/list/orders", pages.orders)
    add_page(app, "/list/reservations", pages.reservations)
    add_page(app, "/health/live", pages.live)
    add_page(app, "/health/ready", pages.ready)
    add_page(app, "/metrics", pages.metrics)


def add_page(app: Any, path: str, handler: Callable[[Any, Any], Any]) -> None:
    """Serve GET. Faust makes a view class of a plain function; a bound method would lose the view."""

    async def get(view: Any, request: Any, **match_info: str) -> Any:
        return await handler(view, request)

    app.page(path)(get)


class _Pages:
    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    async def row(self, view: Any, request: Any) -> Any:
        aggregate, key = request.match_info["aggregate"], request.match_info["key"]
        if aggregate not in self.reader.spaces:
            return answer(view, {"detail": f"no aggregate {aggregate}"}, 404)
        return await self._serve(view, lambda: self.reader.snapshot(aggregate, key))

    async def orders(self, view: Any, request: Any) -> Any:
        query = request.query
        status, status_not, sku = query.get("status"), query.get("status_not"), query.get("sku")
        customer, channel = query.get("customer"), query.get("channel")

        def wanted(order: Any) -> bool:
            return (
                (sku is None or any(line.sku == sku for line in order.lines))
                and (customer is None or order.customer_ref == customer)
                and (channel is None or order.channel == channel)
            )

        def shown(label: str) -> bool:
            return (status is None or label == status) and (status_not is None or label != status_not)

        return await self._serve(view, lambda: self.reader.orders(wanted, shown, limit_in(query)))

    async def reservations(self, view: Any, request: Any) -> Any:
        overdue = request.query.get("overdue", "false").lower() == "true"
        return await self._serve(view, lambda: self.reader.reservations(overdue, limit_in(request.query)))

    async def live(self, view: Any, request: Any) -> Any:
        return answer(view, {"live": True})

    async def ready(self, view: Any, request: Any) -> Any:
        status, body = self.reader.health()
        return answer(view, body, status)

    async def metrics(self, view: Any, request: Any) -> Any:
        return view.bytes(generate_latest(), content_type="text/plain")

    async def _serve(self, view: Any, read: Callable[[], Any]) -> Any:
        return await serve(view, self.reader.engine, read)


async def serve(view: Any, engine: Engine, read: Callable[[], Any]) -> Any:
    """Answer with what is read, off the loop and after the commit that is under way; 404 where that is None."""
    try:
        deadline = time.monotonic() + COMMIT_WAIT_S
        while not engine.settled.is_set():
            if time.monotonic() > deadline:
                raise NotHere(503, "a commit is under way")
            await asyncio.sleep(COMMIT_POLL_S)
        value = await asyncio.get_running_loop().run_in_executor(None, read)
    except NotHere as refusal:
        return answer(view, {"detail": str(refusal)}, refusal.status)
    return answer(view, {"detail": "not found"}, 404) if value is None else answer(view, value)


def answer(view: Any, value: Any, status: int = 200) -> Any:
    return view.bytes(msgspec.json.encode(value), content_type="application/json", status=status)


def limit_in(query: Any) -> int:
    """The limit a list was asked for, at most LIST_MAX."""
    value = query.get("limit", str(LIST_MAX))
    return max(1, min(int(value), LIST_MAX)) if value.isdigit() else LIST_MAX
