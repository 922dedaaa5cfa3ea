"""What a worker tells of its own state: partitions and positions, digests, single rows' digests, and a checkpoint of all of it.

Answers come from a frozen view of a partition, so that rows and position belong together while the worker goes on. Nothing here changes
anything but the directory of checkpoints, and only a program on this machine may ask for that.
"""

import asyncio
import re
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import structlog
from faust.web import View

from orderflow.streams.engine import Engine
from orderflow.streams.partitions import Partition
from orderflow.streams.reading import NotHere, add_page, answer
from orderflow.tables.digest import BUCKETS, Digest, bucket_of, digest_with_buckets, row_digest, without_prefix
from orderflow.tables.rocks import Position, Store, StoreError

log = structlog.get_logger(__name__)

CHECKPOINT_NAME = re.compile(r"^[A-Za-z0-9._-]{1,64}$")
CHECKPOINTS_MAX = 8
FROM_ELSEWHERE = ("Origin", "Sec-Fetch-Site", "Forwarded", "X-Forwarded-For")
"""What browsers and proxies add to a request."""
CHECKPOINTS = "checkpoints"
"""Folder of the data directory: checkpoints are links to its files, so they begin on its file system."""


class StateReader:
    """The state of the partitions this worker owns, for operators. Every method may take long and runs beside the turns."""

    def __init__(self, engine: Engine, store: Store) -> None:
        self.engine, self.store = engine, store
        self._known: dict[tuple[str, int], tuple[Position, Digest]] = {}

    def partition(self, space: str, number: int) -> Partition:
        """An owned partition that can be read. Raises NotHere."""
        source = next((each for each in self.engine.logs.values() if each.space == space), None)
        if source is None:
            raise NotHere(404, f"there is no key space {space}; there are {', '.join(each.space for each in self.engine.logs.values())}")
        partition = self.engine.partitions.get((source.topic, number))
        if partition is None:
            raise NotHere(421, f"{space}[{number}] is not owned by this worker")
        if not partition.running:
            raise NotHere(503, f"{space}[{number}] is being restored")
        return partition

    def overview(self) -> dict[str, Any]:
        """Every owned partition: how far it is, about how large; its digest if somebody asked for it and nothing happened since."""
        restoring = self.engine.restoring
        partitions = []
        for (topic, number), partition in sorted(self.engine.partitions.items()):
            space = partition.source.space
            keys, size = partition.family.size() if partition.running else (0, 0)
            position, known = self._known.get((space, number), (None, None))
            partitions.append(
                {
                    "space": space,
                    "partition": number,
                    "running": partition.running,
                    "caught_up": partition.caught_up,
                    "restoring": restoring.get((topic, number)),
                    "position": partition.committed.source_offset,
                    "keys_about": keys,
                    "size_bytes_about": size,
                    "digest": f"{known.value:016x}" if known is not None and position == partition.committed else None,
                }
            )
        return {"instance": self.store.instance, "set_aside": self.store.set_aside, "partitions": partitions, "copies": self.engine.copies}

    def digest(self, space: str, number: int, parts: bool) -> dict[str, Any]:
        """The digest of a partition's rows at one position; with `parts` that of each bucket of each table too."""
        partition = self.partition(space, number)
        position, pairs = partition.family.frozen()
        found, buckets = digest_with_buckets(pairs, partition.source.tables)
        self._known[space, number] = (position, found)
        return {
            "space": space,
            "partition": number,
            "instance": self.store.instance,
            "position": position.source_offset,
            "changelogs": dict(position.changelogs),
            "digest": f"{found.value:016x}",
            "rows": found.rows,
            "size_bytes": found.size_bytes,
            "buckets": buckets if parts else {},
        }

    def rows(self, space: str, number: int, name: str, bucket: int) -> list[tuple[str, str]]:
        """(key, digest) of every row in one bucket of a table."""
        partition = self.partition(space, number)
        table = partition.rows.tables.get(name)
        if table is None or not 0 <= bucket < BUCKETS:
            raise NotHere(404, f"{space} has no table {name} with a bucket {bucket}")
        pairs = without_prefix(partition.family, table)
        return [(key.decode(), row_digest(key, value)) for key, value in pairs if bucket_of(key) == bucket]

    def checkpoint(self, name: str) -> dict[str, Any]:
        """Make a data directory with the committed rows of this moment. Where it is, on this machine."""
        if not CHECKPOINT_NAME.match(name):
            raise NotHere(404, f"{name!r} is no name for a checkpoint: letters, digits, dots, hyphens, underscores")
        to = self.store.path / CHECKPOINTS / name
        if to.parent.is_dir() and len(list(to.parent.iterdir())) >= CHECKPOINTS_MAX:
            raise NotHere(409, f"{to.parent} holds {CHECKPOINTS_MAX} checkpoints that nobody took away: move or remove them first")
        try:
            self.store.checkpoint(to)
        except StoreError as error:
            raise NotHere(409, str(error)) from error
        log.info("store.checkpoint", directory=str(to))
        return {"instance": self.store.instance, "path": str(to.absolute())}


def add_pages(app: Any, engine: Engine, store: Store) -> None:
    """Serve the state on the worker's web endpoint."""
    reader = StateReader(engine, store)

    def place(request: Any) -> tuple[str, int]:
        number = request.match_info["partition"]
        return request.match_info["space"], int(number) if number.isdecimal() else -1

    async def overview(view: Any, request: Any) -> Any:
        return await _serve(view, reader.overview)

    async def one(view: Any, request: Any) -> Any:
        return await _serve(view, lambda: reader.digest(*place(request), parts=request.query.get("parts") == "true"))

    async def rows(view: Any, request: Any) -> Any:
        bucket = request.match_info["bucket"]
        number = int(bucket) if bucket.isdecimal() else -1
        return await _serve(view, lambda: reader.rows(*place(request), request.match_info["table"], number))

    async def checkpoint(view: Any, request: Any, **match_info: str) -> Any:
        if not asked_by_a_program_here(request):
            return answer(view, {"detail": "a checkpoint is made for a program on the worker's own machine only"}, 403)
        return await _serve(view, lambda: reader.checkpoint(request.match_info["name"]))

    add_page(app, "/state", overview)
    add_page(app, "/state/{space}/{partition}/digest", one)
    add_page(app, "/state/{space}/{partition}/rows/{table}/{bucket}", rows)
    app.page("/state/checkpoints/{name}")(type("MakeCheckpoint", (View,), {"post": checkpoint}))


def asked_by_a_program_here(request: Any) -> bool:
    """Did an aiohttp request come from this machine, neither from a page in a browser on it nor through a proxy?"""
    if any(name in request.headers for name in FROM_ELSEWHERE):
        return False
    own, peer = (request.get_extra_info(name) for name in ("sockname", "peername"))
    return bool(own and peer) and (own[0] == peer[0] or ip_address(peer[0]).is_loopback)


async def _serve(view: Any, read: Callable[[], Any]) -> Any:
    try:
        value = await asyncio.get_running_loop().run_in_executor(None, read)
    except NotHere as refusal:
        return answer(view, {"detail": str(refusal)}, refusal.status)
    return answer(view, value)
