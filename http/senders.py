"""What the edge needs of those who send webhooks; connectors/webhooks has them, `orderflow serve` brings the two together."""

from collections.abc import Mapping
from typing import Protocol

from orderflow.streams.domain.claims import RecordEarlyFact
from orderflow.streams.domain.payment_records import RecordWebhook


class Fact(Protocol):
    """A verified webhook as a command for the owner of `key` in a key space; `event_id` is the provider's."""

    @property
    def event_id(self) -> str: ...
    @property
    def space(self) -> str: ...
    @property
    def tenant(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def command(self) -> RecordWebhook | RecordEarlyFact: ...


class Sender(Protocol):
    """Who sends webhooks under a name."""

    async def refusal(self, headers: Mapping[str, str], raw: bytes, now_s: float) -> str:
        """The reason why these bytes are not believed; empty when they are."""

    def fact(self, raw: bytes) -> Fact:
        """What a verified body says. Raises ValueError when it cannot be read."""


class Senders(Protocol):
    """Every sender there is."""

    def named(self, name: str) -> Sender | None: ...


class Nobody:
    """The senders of an edge that was told of none: every webhook is refused."""

    def named(self, name: str) -> None:
        return None
