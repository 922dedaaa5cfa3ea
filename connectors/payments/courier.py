"""The local provider's webhooks: signed, sent until the receiver has them, each at least once, in no promised order."""

import asyncio
import contextlib
import time

import structlog
from aiohttp import ClientError, ClientSession, ClientTimeout
from msgspec import Struct

from orderflow.connectors.payments.book import Book
from orderflow.connectors.webhooks.standard import signed_headers

log = structlog.get_logger(__name__)

LOOK_S = 0.05
TIMEOUT_S = 10.0
FIRST_S, MOST_S = 1.0, 60.0
"""The second try comes after this long, later ones twice as late each, at most so late."""
GIVE_UP_TRIES = 4000
"""Nearly three days."""
MICROS_PER_S = 1_000_000


class Receiver(Struct, frozen=True):
    """Where webhooks go, and the secrets that sign them."""

    url: str
    keys: tuple[bytes, ...]


class Courier:
    """Delivers what the book owes."""

    def __init__(self, book: Book, receiver: Receiver) -> None:
        self._book, self._receiver = book, receiver

    async def run(self, stop: asyncio.Event) -> None:
        async with ClientSession(timeout=ClientTimeout(total=TIMEOUT_S)) as session:
            while not stop.is_set():
                for owed in self._book.owed(_now()):
                    await self._deliver(session, owed["number"], owed["id"], owed["body"], owed["tries"])
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), LOOK_S)

    async def _deliver(self, session: ClientSession, number: int, webhook_id: str, body: bytes, tries: int) -> None:
        headers = signed_headers(self._receiver.keys, webhook_id, int(time.time()), body)
        status = 0
        with contextlib.suppress(ClientError, TimeoutError, OSError):
            async with session.post(self._receiver.url, data=body, headers={**headers, "Content-Type": "application/json"}) as answer:
                status = answer.status
        if 200 <= status < 300:
            self._book.delivered(number)
        elif tries >= GIVE_UP_TRIES:
            log.error("webhook.given_up", webhook=webhook_id, status=status)
            self._book.delivered(number)
        else:
            wait_s = min(FIRST_S * 2 ** min(tries, 10), MOST_S)
            self._book.postpone(number, _now() + int(wait_s * MICROS_PER_S))


def _now() -> int:
    return time.time_ns() // 1000
