"""What the payments connector can be told, from the environment (ORDERFLOW_...), and why it would refuse to start with it."""

import re
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

STRIPE_KEY = re.compile(r"[sr]k_(test|live)_[A-Za-z0-9]{16,}")
PAYPAL_PART = re.compile(r"[A-Za-z0-9_-]{40,}")
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class PaymentSettings(BaseSettings):
    """One payments connector. Names end with their unit; every wait and count has a bound."""

    model_config = SettingsConfigDict(env_prefix="ORDERFLOW_", extra="ignore", frozen=True)

    bootstrap: str = "127.0.0.1:9092"
    """Kafka's bootstrap servers."""
    registry: str = "http://127.0.0.1:8081"
    """The schema registry's Confluent API; needed at the first start and for unknown schema ids only."""
    prefix: str = Field("orderflow", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    """First part of every topic's name."""
    partitions: int = Field(4, ge=1, le=1024)
    """Partitions per key space, fixed for life."""
    group: str = Field("orderflow", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    """The workers' consumer group; connectors of a provider share theirs under this name with `-payments-<provider>`."""
    data: Path = Path(".orderflow")
    """Where schema ids are kept; a connector keeps nothing else on disk."""
    provider: Literal["local", "stripe", "paypal"] = "local"
    """Whose requests this connector serves: `local` is the provider of `orderflow up`."""
    provider_url: str = ""
    """Where the provider answers; empty takes http://127.0.0.1:8090 for the local one, the real one of the others."""
    stripe_key_file: Path | None = None
    """The file with Stripe's secret or restricted key."""
    paypal_client_file: Path | None = None
    """The file with PayPal's client id on its first line and the secret on its second."""
    return_url: str = Field("", max_length=500)
    """Where a buyer who had to act at Stripe comes back to, a page of the shop; `{payment}` in it becomes the payment's id. Without one Stripe
    declines what would need the buyer."""
    connector_host: str = "127.0.0.1"
    """Address of the connector's own endpoint: health and metrics."""
    connector_port: int = Field(6070, ge=1, le=65535)
    """Port of the connector's own endpoint."""
    provider_timeout_s: float = Field(30.0, gt=0, le=60)
    """The whole deadline of one call to a provider (slot GW-P0-01)."""
    provider_repeat_s: float = Field(1.0, gt=0, le=60)
    """An operation without an answer is asked for again after this long, then ever later."""
    provider_repeat_max_s: float = Field(900.0, ge=1, le=3600)
    """And at the latest after this long, until it is answered."""
    provider_look_s: float = Field(5.0, gt=0, le=300)
    """While a buyer has to act, the provider is asked this often whether they did; its webhook is faster."""
    provider_calls_max: int = Field(100, ge=1, le=10_000)
    """At most this many calls are under way; the others wait their turn."""
    breaker_open_s: float = Field(30.0, gt=0, le=600)
    """How long a provider that fails (half of at least 20 calls within 10 s) is left alone before one call tries it again."""

    def refusals(self) -> list[str]:
        """Every reason not to start, each naming its variable; empty when the connector may start."""
        found = []
        url = urlsplit(self.provider_url)
        if self.provider_url and url.scheme not in ("http", "https"):
            found.append(f"ORDERFLOW_PROVIDER_URL={self.provider_url} is no http address")
        if self.provider != "local" and url.scheme == "http" and url.hostname not in LOOPBACK:
            found.append(f"ORDERFLOW_PROVIDER_URL={self.provider_url}: a key is sent over https only")
        if self.return_url and urlsplit(self.return_url).scheme not in ("http", "https"):
            found.append(f"ORDERFLOW_RETURN_URL={self.return_url} is no http address")
        if self.provider == "paypal" and not all(PAYPAL_PART.fullmatch(part) for part in self.paypal_client):
            found.append(f"ORDERFLOW_PAYPAL_CLIENT_FILE={self.paypal_client_file or ''} holds no client id and secret, a line each")
        if self.provider == "stripe" and not STRIPE_KEY.fullmatch(self.stripe_key):
            found.append(f"ORDERFLOW_STRIPE_KEY_FILE={self.stripe_key_file or ''} holds no key of Stripe: sk_... or rk_...")
        return found

    @property
    def stripe_key(self) -> str:
        """The key, empty when there is none to be read."""
        return _text(self.stripe_key_file).strip()

    @property
    def paypal_client(self) -> tuple[str, str]:
        """Client id and secret, empty when there are none to be read."""
        lines = [line.strip() for line in _text(self.paypal_client_file).splitlines()]
        return (lines[0], lines[1]) if len(lines) == 2 else ("", "")


def _text(file: Path | None) -> str:
    try:
        return "" if file is None else file.read_text()
    except (OSError, ValueError):
        return ""
