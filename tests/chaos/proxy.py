"""A TCP proxy that understands enough of Kafka to hurt it: it knows which request is which, and can hold, lose or cut one of them.

    with Proxy("127.0.0.1", 9092) as proxy:
        client = Producer({"bootstrap.servers": proxy.address})
        proxy.arm(Trouble(END_TXN, "lose the answer"))

A client that begins here stays here: wherever an answer names the broker's address, its port is replaced by the proxy's, which changes no
length and so needs no knowledge of any version (metadata, coordinators). Every request is written down as (api, what happened).

A held request belongs to the network: it reaches the broker after its time even when the client has long closed its connection.
"""

import asyncio
import contextlib
import struct
import threading
import time
from collections import Counter
from collections.abc import Coroutine
from typing import Any, Literal, Self

from msgspec import Struct, structs

PRODUCE, METADATA, FIND_COORDINATOR, INIT_PRODUCER_ID = 0, 3, 10, 22
ADD_PARTITIONS_TO_TXN, ADD_OFFSETS_TO_TXN, END_TXN, TXN_OFFSET_COMMIT = 24, 25, 26, 28
NAMES = {
    PRODUCE: "Produce",
    METADATA: "Metadata",
    FIND_COORDINATOR: "FindCoordinator",
    INIT_PRODUCER_ID: "InitProducerId",
    ADD_PARTITIONS_TO_TXN: "AddPartitionsToTxn",
    ADD_OFFSETS_TO_TXN: "AddOffsetsToTxn",
    END_TXN: "EndTxn",
    TXN_OFFSET_COMMIT: "TxnOffsetCommit",
}
FRAME_BYTES_MAX = 100 << 20

Kind = Literal["hold", "lose the request", "lose the answer", "hold and cut", "lose and cut", "forward and cut"]
"""hold: the request goes on after `seconds`; the client waits. lose: it, or its answer, never arrives; the connection stays open.
and cut: the client loses its connection at once, and the request arrives `seconds` later, never, or now."""


class Trouble(Struct, frozen=True):
    """What happens to the next request of this api, after `skip` of them. With `until` = (api, number) a held request arrives as soon as
    the broker has answered so many requests of that api, and after `seconds` at the latest: the worst moment a network can choose."""

    api: int
    kind: Kind
    seconds: float = 0.0
    skip: int = 0
    until: tuple[int, int] = (-1, 0)


class Seen(Struct, frozen=True):
    """A request that came: when (monotonic), which, and what happened to it ("" = went through)."""

    at: float
    api: int
    version: int
    happened: str = ""


class Proxy:
    """Listens on a free port of 127.0.0.1 in a thread of its own, for one broker."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.seen: list[Seen] = []
        self.arrived: list[tuple[float, int]] = []
        """(monotonic, api) of held requests that reached the broker."""
        self.answered: Counter[int] = Counter()
        """api -> how many requests the broker has answered."""
        self.late = 0
        """Requests whose connection was cut and that have not arrived yet."""
        self._troubles: list[Trouble] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening = 0
        self._server: asyncio.Server | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self._listening = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *raised: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def address(self) -> str:
        """What clients are told instead of the broker's address."""
        return f"127.0.0.1:{self._listening}"

    def arm(self, trouble: Trouble) -> None:
        """One request will meet this. Several troubles are met one by one."""
        self._loop.call_soon_threadsafe(self._troubles.append, trouble)

    def disarm(self) -> None:
        self._loop.call_soon_threadsafe(self._troubles.clear)

    def happened(self, since: float = 0.0) -> list[Seen]:
        """The requests that met trouble since a moment."""
        return [seen for seen in list(self.seen) if seen.happened and seen.at >= since]

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- one connection -----------------------------------------------------------------------------------------------------------
    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            broker_reader, broker_writer = await asyncio.open_connection(self.host, self.port)
        except OSError:
            writer.close()
            return
        connection = _Connection(self, reader, writer, broker_reader, broker_writer)
        try:
            await connection.run()
        except asyncio.CancelledError:  # the proxy ends; asyncio's streams would print a traceback
            pass
        finally:
            writer.close()
            if not connection.held:
                broker_writer.close()

    def meet(self, api: int) -> Trouble | None:
        """The trouble that this request has, if it is its turn."""
        for number, trouble in enumerate(self._troubles):
            if trouble.api == api:
                if trouble.skip:
                    self._troubles[number] = structs.replace(trouble, skip=trouble.skip - 1)
                    return None
                return self._troubles.pop(number)
        return None

    def keep(self, work: Coroutine[Any, Any, None]) -> None:
        """Something that goes on when its connection is over."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def readdress(self, data: bytes) -> bytes:
        """The broker's host and port, wherever they stand together, with the proxy's port. Both are 4 bytes after the same host."""
        host = self.host.encode()
        return data.replace(host + struct.pack(">i", self.port), host + struct.pack(">i", self._listening))


class _Connection:
    """One client's connection and the one to the broker that belongs to it."""

    def __init__(
        self,
        proxy: Proxy,
        client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        broker: asyncio.StreamReader,
        to_broker: asyncio.StreamWriter,
    ) -> None:
        self.proxy, self.client, self.to_client, self.broker, self.to_broker = proxy, client, to_client, broker, to_broker
        self.held = False
        """Is the connection to the broker still needed, for what the network holds?"""
        self._left: tuple[bytes, int, float, tuple[int, int]] | None = None
        self._asked: dict[int, int] = {}
        """Correlation ids of requests without an answer yet -> api."""
        self._unanswered: set[int] = set()
        """Correlation ids whose answers get lost."""

    async def run(self) -> None:
        both = [asyncio.ensure_future(self._requests()), asyncio.ensure_future(self._answers())]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for side in both:
                side.cancel()
            await asyncio.gather(*both, return_exceptions=True)
        if self._left is not None:
            self.held = True
            self.proxy.late += 1
            self.proxy.keep(self._arrive_late(*self._left))

    async def _requests(self) -> None:
        while (frame := await _frame(self.client)) is not None:
            api, version, correlation = struct.unpack_from(">hhi", frame, 4)
            trouble = self.proxy.meet(api)
            self.proxy.seen.append(Seen(time.monotonic(), api, version, trouble.kind if trouble else ""))
            self._asked[correlation] = api
            if trouble is None:
                await _send(self.to_broker, frame)
            elif not await self._suffer(trouble, frame, api, correlation):
                return

    async def _suffer(self, trouble: Trouble, frame: bytes, api: int, correlation: int) -> bool:
        """False: the client's connection is over."""
        if trouble.kind == "hold":
            await asyncio.sleep(trouble.seconds)
            self.proxy.arrived.append((time.monotonic(), api))
            await _send(self.to_broker, frame)
        elif trouble.kind == "lose the answer":
            self._unanswered.add(correlation)
            await _send(self.to_broker, frame)
        elif trouble.kind == "hold and cut":
            self._left = (frame, api, trouble.seconds, trouble.until)
        elif trouble.kind == "forward and cut":
            self._left = (frame, api, 0.0, (-1, 0))
        return not trouble.kind.endswith("cut")

    async def _arrive_late(self, frame: bytes, api: int, seconds: float, until: tuple[int, int]) -> None:
        """The network delivers what a closed connection had sent; nobody hears the answer."""
        answered, end = self.proxy.answered, time.monotonic() + seconds
        awaited = answered[until[0]] + until[1]
        try:
            while time.monotonic() < end and (until[1] == 0 or answered[until[0]] < awaited):
                await asyncio.sleep(min(0.001, seconds))
            await _send(self.to_broker, frame)
            self.proxy.arrived.append((time.monotonic(), api))
            with contextlib.suppress(TimeoutError, OSError):
                async with asyncio.timeout(5):
                    await _frame(self.broker)
        finally:
            self.proxy.late -= 1
            self.to_broker.close()

    async def _answers(self) -> None:
        while (frame := await _frame(self.broker)) is not None:
            (correlation,) = struct.unpack_from(">i", frame, 4)
            api = self._asked.pop(correlation, -1)
            self.proxy.answered[api] += 1
            if correlation in self._unanswered:
                self._unanswered.discard(correlation)
                continue
            if api in (METADATA, FIND_COORDINATOR):
                frame = self.proxy.readdress(frame)
            await _send(self.to_client, frame)


async def _frame(reader: asyncio.StreamReader) -> bytes | None:
    """A whole request or answer with its length; None at the end of the connection."""
    try:
        head = await reader.readexactly(4)
        (size,) = struct.unpack(">i", head)
        if not 0 < size <= FRAME_BYTES_MAX:
            return None
        return head + await reader.readexactly(size)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


async def _send(writer: asyncio.StreamWriter, frame: bytes) -> None:
    with contextlib.suppress(ConnectionError):
        writer.write(frame)
        await writer.drain()
