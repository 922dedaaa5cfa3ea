"""What an edge can be told, from the environment (ORDERFLOW_...), and why it would refuse to start with it."""

from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from orderflow.streams.domain.contract import Settings as Rules

_RULES = Rules()


class EdgeSettings(BaseSettings):
    """One edge process. Names end with their unit; every wait, size and count has a bound."""

    model_config = SettingsConfigDict(env_prefix="ORDERFLOW_", extra="ignore", frozen=True)

    profile: Literal["demo", "prod"] = "prod"
    """`demo` needs no token and takes ids chosen by the caller; `prod` denies by default."""
    host: str = "127.0.0.1"
    """Address the edge listens on."""
    port: int = Field(8080, ge=0, le=65535)
    """Port the edge listens on; 0 takes any free one."""
    expose: bool = False
    """Bind the demo profile beyond this machine: everybody who reaches the port can then do everything."""
    bootstrap: str = "127.0.0.1:9092"
    """Kafka's bootstrap servers."""
    registry: str = "http://127.0.0.1:8081"
    """The schema registry's Confluent API; needed at the first start and for unknown schema ids only."""
    prefix: str = Field("orderflow", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    """First part of every topic's name."""
    partitions: int = Field(4, ge=1, le=1024)
    """Partitions per key space, fixed for life."""
    data: Path = Path(".orderflow")
    """Where schema ids are kept, so that the edge starts without the registry; nothing else of an edge is on disk."""

    webhooks: Path | None = None
    """The file with the secrets of those who may send webhooks (docs/how-to/webhooks.md); without it every webhook is refused."""

    webhooks_unverified_max: int = Field(1000, ge=1)
    """Webhooks of a minute and a source address that nobody signed; further ones are 429. Verified ones are never counted."""
    answer_wait_s: float = Field(2.0, gt=0, le=30)
    """How long a POST waits for its outcome before it answers 202 (contracts.md 2)."""
    produce_timeout_s: float = Field(5.0, gt=0, le=30)
    """How long the log may take to acknowledge a command before the caller gets 503."""
    start_timeout_s: float = Field(15.0, gt=0, le=120)
    """How long the broker may take to answer when the edge starts."""
    drain_timeout_s: float = Field(30.0, gt=0, le=120)
    """After SIGTERM open requests may finish within this time (slot D56)."""
    in_flight_max: int = Field(10_000, ge=1)
    """At most this many commands wait for their outcome; beyond it the answer is 503."""
    read_timeout_s: float = Field(2.0, gt=0, le=30)
    """How long one worker may take to answer a read."""
    read_attempts_max: int = Field(3, ge=1, le=10)
    """How often a read is tried, with fresh owners each time."""
    retry_after_s: int = Field(1, ge=1)
    """Value of Retry-After with 503."""

    body_bytes_max: int = Field(1 << 20, ge=1024)
    """Largest request body; larger is 413."""
    body_timeout_s: float = Field(10.0, gt=0, le=60)
    """How long a caller may take to send a body."""
    url_bytes_max: int = Field(8 << 10, ge=256, le=32 << 10)
    """Longest URL; longer is 414."""
    header_bytes_max: int = Field(16 << 10, ge=1024, le=32 << 10)
    """Largest header section; larger is 431."""
    list_max: int = Field(500, ge=1, le=500)
    """Most items of one list answer."""
    list_default: int = Field(100, ge=1, le=500)
    """Items of a list answer when the caller names no limit."""
    timeline_records_max: int = Field(500_000, ge=1)
    """A timeline gives up after reading this many records of the partition."""
    timeline_timeout_s: float = Field(10.0, gt=0, le=60)
    """A timeline gives up after this long."""

    lines_max: int = Field(_RULES.lines_max, ge=1)
    """Most lines of an order."""
    quantity_per_line_max: int = Field(_RULES.quantity_per_line_max, ge=1)
    """Most units on one line."""
    quantity_per_sku_max: int = Field(_RULES.quantity_per_sku_max, ge=1)
    """Most units of one SKU in an order."""
    receipt_quantity_max: int = Field(_RULES.receipt_quantity_max, ge=1)
    """Most units of one receipt."""
    default_location: str = _RULES.locations[0]
    """Where stock is received and adjusted when a demo request names no location."""

    @property
    def demo(self) -> bool:
        return self.profile == "demo"

    def refusals(self) -> list[str]:
        """Every reason not to start, each naming its variable; empty when the edge may start."""
        found = []
        if not self.demo:
            found.append(
                "ORDERFLOW_PROFILE=prod: this version cannot authenticate callers yet, so it would let everybody in; "
                "use ORDERFLOW_PROFILE=demo on your own machine"
            )
        elif not self.expose and not is_loopback(self.host):
            found.append(
                f"ORDERFLOW_HOST={self.host}: the demo profile asks nobody for a token, so it listens on this machine only; "
                "set ORDERFLOW_EXPOSE=true if everybody who reaches the port may do everything"
            )
        if self.list_default > self.list_max:
            found.append(f"ORDERFLOW_LIST_DEFAULT={self.list_default} is above ORDERFLOW_LIST_MAX={self.list_max}")
        return found


def is_loopback(host: str) -> bool:
    """Is this address or name only reachable from this machine?"""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
