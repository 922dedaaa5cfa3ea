"""Who may send webhooks, from one file of secrets, read again when it changes: rotating a secret needs no restart.

[stripe]                                  # the name in the path, and of the provider
scheme = "stripe"                         # standard, stripe
secrets = ["whsec_new...", "whsec_old..."]  # every one is good; remove the old one when the provider has the new one
"""

import base64
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import structlog
from msgspec import Struct

from orderflow.connectors.webhooks.notice import Fact, fact
from orderflow.connectors.webhooks.paypal import HOSTS, PayPalWebhooks
from orderflow.connectors.webhooks.port import Source
from orderflow.connectors.webhooks.standard import SECRET_PREFIX, StandardWebhooks, secret_bytes
from orderflow.connectors.webhooks.stripe import StripeWebhooks

log = structlog.get_logger(__name__)

SECRETS_MAX = 4
SECRET_BYTES = 32
SECRET_CHARACTERS_MIN = 24
WEBHOOK_ID = re.compile(r"[A-Za-z0-9]{8,50}")
LETTERS_MIN = 8
"""A secret of fewer different characters is a placeholder."""


class Refused(ValueError):
    """The file is not usable; `reasons` are all of them, without a secret in any."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


class NamedSource:
    """A source under the name of its provider."""

    def __init__(self, name: str, source: Source) -> None:
        self.name = name
        self.refusal = source.refusal
        self._source = source

    def fact(self, raw: bytes) -> Fact:
        """The command that records a verified body. Raises Unreadable (a ValueError)."""
        return fact(self.name, self._source.read(raw), raw)


class Sources:
    """The sources of one file; without a file there is none, and every webhook is refused.

    Raises:
        Refused: the file cannot be used as it is at the start. Later a file that cannot be used is told in the log, and the last one stands.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._read = (0, 0)
        self._sources: Mapping[str, NamedSource] = {}
        if file is not None:
            self._stamp()
            self._sources = load(file)

    def named(self, name: str) -> NamedSource | None:
        if self._file is not None and self._stamp():
            try:
                self._sources = load(self._file)
                log.info("webhooks.secrets_read", sources=sorted(self._sources))
            except Refused as error:
                log.error("webhooks.secrets_refused", reasons=error.reasons)
        return self._sources.get(name)

    def _stamp(self) -> bool:
        """Has the file changed since it was read?"""
        assert self._file is not None
        try:
            found = self._file.stat()
        except OSError:
            return False
        before, self._read = self._read, (found.st_mtime_ns, found.st_ino)
        return before != self._read


def standard_keys(file: Path, name: str) -> tuple[bytes, ...]:
    """The secrets of a sender that signs by Standard Webhooks, for the sender itself. Raises Refused."""
    section = load_sections(file).get(name)
    if section is None or section["scheme"] != "standard":
        raise Refused([f"{file}: there is no [{name}] with the scheme standard"])
    return tuple(map(secret_bytes, section["secrets"]))


def write_secret(file: Path, name: str) -> None:
    """Make the file with one new random secret for a sender that signs by Standard Webhooks, unless there is one; for its owner's eyes."""
    if not file.exists():
        file.touch(mode=0o600)
        secret = SECRET_PREFIX + base64.b64encode(os.urandom(SECRET_BYTES)).decode()
        file.write_text(f'[{name}]\nscheme = "standard"\nsecrets = ["{secret}"]\n')


def load(file: Path) -> dict[str, NamedSource]:
    """The sources that the file names. Raises Refused."""
    sections = load_sections(file).items()
    return {name: NamedSource(name, SCHEMES[section["scheme"]].build(section)) for name, section in sections}


def load_sections(file: Path) -> dict[str, dict[str, Any]]:
    """The file's sections, each of them sound. Raises Refused."""
    try:
        sections = tomllib.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise Refused([f"{file}: {error}"]) from None
    reasons = [f"{file}: [{name}] {fault}" for name, section in sections.items() for fault in _faults(section)]
    if reasons:
        raise Refused(reasons)
    return sections


def _stripe(section: Mapping[str, Any]) -> Source:
    return StripeWebhooks(tuple(secret.encode() for secret in section["secrets"]))


def _standard(section: Mapping[str, Any]) -> Source:
    return StandardWebhooks(tuple(map(secret_bytes, section["secrets"])))


def _paypal(section: Mapping[str, Any]) -> Source:
    return PayPalWebhooks(tuple(section["webhook_ids"]), section.get("environment", "live"))


def _weak_text(secret: str) -> Iterator[str]:
    """Why this cannot be a secret that somebody chose at random."""
    if len(secret) < SECRET_CHARACTERS_MIN or len(set(secret.removeprefix(SECRET_PREFIX))) < LETTERS_MIN:
        yield "is too short or a placeholder"


def _weak_standard(secret: str) -> Iterator[str]:
    yield from (found := list(_weak_text(secret)))
    if not found:
        try:
            secret_bytes(secret)
        except ValueError as error:
            yield str(error)


def _no_webhook_id(value: str) -> Iterator[str]:
    if WEBHOOK_ID.fullmatch(value) is None:
        yield "is no id of a PayPal webhook: letters and digits"


class Scheme(Struct, frozen=True):
    """How a section of this scheme is read: its list, what is wrong with a value of it, other keys and their values, the source."""

    values: str
    faults: Callable[[str], Iterator[str]]
    build: Callable[[Mapping[str, Any]], Source]
    others: Mapping[str, tuple[str, ...]] = {}


SCHEMES: Mapping[str, Scheme] = {
    "standard": Scheme("secrets", _weak_standard, _standard),
    "stripe": Scheme("secrets", _weak_text, _stripe),
    "paypal": Scheme("webhook_ids", _no_webhook_id, _paypal, {"environment": tuple(HOSTS)}),
}


def _faults(section: Any) -> Iterator[str]:
    """Everything that is wrong with a section."""
    if not isinstance(section, dict):
        yield "is no section"
        return
    scheme = SCHEMES.get(str(section.get("scheme")))
    if scheme is None:
        yield f"scheme is one of {', '.join(SCHEMES)}"
        return
    unknown = sorted(section.keys() - {"scheme", scheme.values, *scheme.others})
    if unknown:
        yield f"has unknown keys: {', '.join(unknown)}"
    for name, possible in scheme.others.items():
        if section.get(name, possible[0]) not in possible:
            yield f"{name} is one of {', '.join(possible)}"
    values = section.get(scheme.values)
    if not isinstance(values, list) or not 1 <= len(values) <= SECRETS_MAX or not all(isinstance(each, str) for each in values):
        yield f"{scheme.values} is a list of 1 to {SECRETS_MAX} strings"
        return
    for number, value in enumerate(values, 1):
        yield from (f"{scheme.values} {number}: {fault}" for fault in scheme.faults(value))
