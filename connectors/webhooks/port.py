"""What a source of webhooks is, and the check all of them share."""

from collections.abc import Mapping
from typing import Protocol

from orderflow.connectors.webhooks.notice import Notice

SIGNATURE_INVALID, TIMESTAMP_OUT_OF_RANGE = "SIGNATURE_INVALID", "TIMESTAMP_OUT_OF_RANGE"
TOLERANCE_S = 300
"""How old a webhook may be, and how far ahead of our clock (slot D73)."""


class Source(Protocol):
    """A provider that sends webhooks."""

    async def refusal(self, headers: Mapping[str, str], raw: bytes, now_s: float) -> str:
        """Why these bytes are not the provider's (SIGNATURE_INVALID) or not of now (TIMESTAMP_OUT_OF_RANGE); empty when they are.

        `headers` are found in any case. Never parses the body.
        """

    def read(self, raw: bytes) -> Notice:
        """What the body says. Raises Unreadable (reading.py). An event of an unknown type is a notice with its type and id alone."""


def is_timely(timestamp: str, now_s: float) -> bool:
    """Are these Unix seconds, written in digits, within the tolerance of now? Both sides: a future stamp would be good for longer."""
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        return False
    return abs(int(timestamp) - now_s) <= TOLERANCE_S
