"""Reading what workers own: one row from its owner, lists from all owners at once.

A read is answered from committed rows or not at all: 421 and broken connections are retried with fresh news of the owners, at most
read_attempts_max times, then 503; a list says which partitions nobody answered for.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import msgspec
from aiohttp import ClientError, ClientSession, ClientTimeout
from msgspec import Struct

from orderflow.http.owners import Owners
from orderflow.http.problems import later
from orderflow.http.settings import EdgeSettings
from orderflow.streams.domain.order_records import OrderSnapshot
from orderflow.streams.domain.parts import Holder

T = TypeVar("T")
NEWS_WAIT_S = 0.15
"""How long the first retry waits for news of the owners; the next ones wait twice as long each."""


class ReservationItem(Struct, frozen=True):
    """What a worker lists of a reservation; `overdue_s` is how long ago it was due by the partition's time."""

    reservation_id: str
    sku: str
    holder: Holder
    status: str
    quantity: int
    due_at: int | None = None
    overdue_s: float = 0.0


class SagaItem(Struct, frozen=True):
    """What a worker tells of a saga. `since` and `due_at` in microseconds; `stuck` is why people are needed, empty where they are not."""

    saga_id: str
    saga_type: str
    order_id: str
    step: str
    since: int
    due_at: int | None = None
    waits_for: tuple[str, ...] = ()
    compensating: bool = False
    waited_s: float = 0.0
    stuck: str = ""


class OrderSagas(Struct, frozen=True):
    """What a worker tells of one order's sagas."""

    order_id: str
    status: str
    reason: str
    caught_up: bool
    items: tuple[SagaItem, ...]


class Part(Struct, Generic[T], frozen=True):
    """One worker's share of a list."""

    total: int
    items: tuple[T, ...]
    partitions: tuple[int, ...]
    by_label: dict[str, int] = {}
    caught_up: bool = True


class Merged(Struct, Generic[T], frozen=True):
    """All shares as one; what `partitions_missing` hold is not in it."""

    total: int
    items: list[T]
    by_label: dict[str, int]
    caught_up: bool
    partitions_missing: list[int]


class Reads:
    """The client of the workers' read endpoints."""

    def __init__(self, owners: Owners, settings: EdgeSettings) -> None:
        self.owners = owners
        self.settings = settings
        self._session: ClientSession | None = None

    async def start(self) -> None:
        self._session = ClientSession(timeout=ClientTimeout(total=self.settings.read_timeout_s))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def row(self, space: str, aggregate: str, key: str, shape: type[T]) -> T | None:
        """The committed snapshot of one entity, None when there is none.

        Raises:
            Problem: 503 when its partition is being restored or no owner answered.
        """
        return await self._of_owner(space, key, f"/rows/{aggregate}/{quote(key, safe='~')}", shape)

    async def sagas_of(self, order_id: str) -> OrderSagas | None:
        """An order's sagas, None when there is no such order. Raises Problem as `row` does."""
        return await self._of_owner("orders", order_id, f"/sagas/{quote(order_id, safe='~')}", OrderSagas)

    async def _of_owner(self, space: str, key: str, path: str, shape: type[T]) -> T | None:
        partition = self.owners.partition(space, key)
        for attempt in range(self.settings.read_attempts_max):
            if attempt:
                await self.owners.news(NEWS_WAIT_S * 2 ** (attempt - 1))
            worker = self.owners.of(space, partition)
            if worker is None:
                continue
            try:
                status, retry_after, body = await self._get(worker.address + path)
            except (ClientError, TimeoutError, OSError):
                continue
            if status == 200:
                return msgspec.json.decode(body, type=shape)
            if status == 404:
                return None
            if status == 503:
                raise later("PARTITION_RESTORING", f"partition {partition} of {space} is being restored", retry_after)
        raise later("PARTITION_MOVING", f"no owner of partition {partition} of {space} answered", self.settings.retry_after_s)

    async def orders(self, limit: int, filters: Mapping[str, str]) -> Merged[OrderSnapshot]:
        """Orders that match, the newest first."""
        merged = await self._list("orders", "/list/orders", {**filters, "limit": str(limit)}, Part[OrderSnapshot])
        merged.items.sort(key=lambda order: (-(order.placed_at or 0), order.order_id))
        del merged.items[limit:]
        return merged

    async def reservations(self, limit: int, filters: Mapping[str, str]) -> Merged[ReservationItem]:
        """Reservations that match, the longest overdue first."""
        merged = await self._list("stock", "/list/reservations", {**filters, "limit": str(limit)}, Part[ReservationItem])
        merged.items.sort(key=lambda item: (-item.overdue_s, item.reservation_id))
        del merged.items[limit:]
        return merged

    async def sagas(self, limit: int, filters: Mapping[str, str]) -> Merged[SagaItem]:
        """Sagas that match, the one that waits longest first."""
        merged = await self._list("orders", "/list/sagas", {**filters, "limit": str(limit)}, Part[SagaItem])
        merged.items.sort(key=lambda item: (item.since, item.saga_id))
        del merged.items[limit:]
        return merged

    async def _list(self, space: str, path: str, query: Mapping[str, str], shape: type[Part[T]]) -> Merged[T]:
        """Ask every owner at once; once more while somebody is missing or two answer for the same partition (a move in progress)."""
        parts: Sequence[Part[T]] = ()
        missing = list(range(self.owners.partitions[space]))
        for attempt in range(self.settings.read_attempts_max):
            if attempt:
                await self.owners.news(NEWS_WAIT_S * 2 ** (attempt - 1))
            answers = await asyncio.gather(*(self._part(address + path, query, shape) for address in self.owners.by_address(space)))
            parts = [part for part in answers if part is not None]
            answered = Counter(partition for part in parts for partition in part.partitions)
            missing = [partition for partition in range(self.owners.partitions[space]) if answered[partition] != 1]
            if not missing:
                break
        if len(missing) == self.owners.partitions[space]:
            raise later("PARTITION_MOVING", f"no owner of any partition of {space} answered", self.settings.retry_after_s)
        labels: Counter[str] = Counter()
        for part in parts:
            labels.update(part.by_label)
        return Merged(
            total=sum(part.total for part in parts),
            items=[item for part in parts for item in part.items],
            by_label=dict(sorted(labels.items())),
            caught_up=all(part.caught_up for part in parts),
            partitions_missing=missing,
        )

    async def _part(self, url: str, query: Mapping[str, str], shape: type[Part[T]]) -> Part[T] | None:
        try:
            status, _, body = await self._get(url, query)
        except (ClientError, TimeoutError, OSError):
            return None
        return msgspec.json.decode(body, type=shape) if status == 200 else None

    async def _get(self, url: str, query: Mapping[str, str] | None = None) -> tuple[int, int, bytes]:
        """Status, Retry-After in seconds, body."""
        assert self._session is not None, "start() first"
        async with self._session.get(url, params=query) as answer:
            retry_after: Any = answer.headers.get("Retry-After", "")
            seconds = int(retry_after) if retry_after.isdecimal() else self.settings.retry_after_s
            return answer.status, seconds, await answer.read()
