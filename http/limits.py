"""How much a request may be: checked before anything is parsed, so that size alone can never cost work (slot D42).

Order: URL, headers, where a browser says it comes from, body size. Line and quantity limits are numbers here and rules in bodies.py.
"""

import asyncio
import time
import unicodedata
from collections.abc import Callable
from urllib.parse import urlsplit

from aiohttp import web
from msgspec import Struct

from orderflow.http.problems import Problem
from orderflow.http.settings import EdgeSettings, is_loopback
from orderflow.streams.domain.contract import Settings as Rules

_RULES = Rules()
MINUTE_S = 60.0
ADDRESSES_MAX = 10_000
"""So many source addresses are remembered."""


class Limits(Struct, frozen=True):
    """What one body may ask for (domain.md 2.1)."""

    lines_max: int = _RULES.lines_max
    quantity_per_line_max: int = _RULES.quantity_per_line_max
    quantity_per_sku_max: int = _RULES.quantity_per_sku_max
    receipt_quantity_max: int = _RULES.receipt_quantity_max

    @classmethod
    def of(cls, settings: EdgeSettings) -> "Limits":
        return cls(**{name: getattr(settings, name) for name in cls.__struct_fields__})


def check_size(request: web.Request, settings: EdgeSettings) -> None:
    """Refuse a URL, headers or an announced body above the limits: 414, 431, 413.

    aiohttp's own parser stops at twice these numbers (edge.py gives it them), so nothing larger is ever held.
    """
    if len(request.raw_path) > settings.url_bytes_max:
        raise Problem("URL_TOO_LONG", f"the URL may have {settings.url_bytes_max} bytes", status=414)
    if sum(len(name) + len(value) for name, value in request.raw_headers) > settings.header_bytes_max:
        raise Problem("HEADERS_TOO_LARGE", f"the headers may have {settings.header_bytes_max} bytes", status=431)
    if request.content_length is not None and request.content_length > settings.body_bytes_max:
        raise too_large(settings)


def check_origin(request: web.Request, settings: EdgeSettings) -> None:
    """Refuse what another site's page makes a browser send: without tokens, being on this machine is all the authority there is.

    Covers form posts from other pages (Origin, Sec-Fetch-Site) and names rebound to a loopback address (Host of another site).
    """
    if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
        raise Problem("FORBIDDEN", "a page of another site may not call this service", status=403)
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != request.host:
        raise Problem("FORBIDDEN", "a page of another origin may not call this service", status=403)
    host = urlsplit("//" + request.headers.get("Host", settings.host)).hostname
    if is_loopback(settings.host) and not is_loopback(host or ""):
        raise Problem("FORBIDDEN", "this service answers to localhost only", status=403)


async def read_body(request: web.Request, settings: EdgeSettings) -> bytes:
    """The whole body, at most body_bytes_max bytes within body_timeout_s.

    Raises:
        Problem: 413 when it is larger, 408 when it is slower.
    """
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            return await request.read()
    except TimeoutError:
        raise Problem("BODY_TOO_SLOW", f"the body did not arrive within {settings.body_timeout_s:g} s", status=408) from None
    except web.HTTPRequestEntityTooLarge:
        raise too_large(settings) from None


def too_large(settings: EdgeSettings) -> Problem:
    return Problem("BODY_TOO_LARGE", f"the body may have {settings.body_bytes_max} bytes", status=413)


class Strangers:
    """How many requests of a minute each source address sent that nobody had signed. Verified ones are never counted (slot D115).

    Args:
        per_minute: so many are answered with what was wrong; further ones are told to wait.
        clock: seconds that only grow.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute, self._clock = per_minute, clock
        self._seen: dict[str, tuple[float, int]] = {}

    def wait_s(self, address: str) -> int:
        """Count one more of this address; seconds until it is heard again, 0 as long as it is below the limit."""
        now = self._clock()
        until, count = self._seen.get(address, (0.0, 0))
        if now >= until:
            self._seen.pop(address, None)  # so that the oldest minute stands first
            until, count = now + MINUTE_S, 0
            self._forget(now)
        self._seen[address] = (until, count + 1)
        return max(1, round(until - now)) if count >= self._per_minute else 0

    def _forget(self, now: float) -> None:
        """Minutes that are over, and when there are too many addresses the oldest ones."""
        while self._seen and (len(self._seen) >= ADDRESSES_MAX or next(iter(self._seen.values()))[0] <= now):
            del self._seen[next(iter(self._seen))]


def is_safe(text: str) -> bool:
    """Printable and in Unicode form NFC: no control characters, no lone surrogates, no invisible formatting (slot D10)."""
    return text.isprintable() and (text.isascii() or unicodedata.is_normalized("NFC", text))
