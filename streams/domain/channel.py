"""Channel policies: what selling through a channel means (domain.md 2.0). Key `channel:<name>` of the catalog key space.

There is no silent default: an order whose channel has no policy is refused. Orders read it as a lookup and copy what they used.
"""

from collections.abc import Iterator, Mapping
from typing import TypeAlias

from msgspec import Struct

from orderflow.streams.domain.contract import EventMeta, Get, Range, Refused, Send, Settings, Settle, Snapshot, TimerDue, Turn
from orderflow.streams.domain.ids import is_id
from orderflow.streams.domain.reasons import Reason
from orderflow.streams.domain.refusals import refusal, untimely
from orderflow.streams.domain.zones import is_zone

KEY_PREFIX = "channel:"
PAYMENT_TERMS = ("invoice", "prepaid", "cod")
PAYMENT_METHODS = ("card", "wallet", "installment", "bank_transfer")
PARTIAL_POLICIES = ("reject", "ship_available", "backorder", "ask")
CAPACITIES = ("unlimited", "slots")
PAYMENT_ATTEMPTS_MAX = 3


class ChannelPolicy(Struct, frozen=True, gc=False):
    """The values of domain.md 2.0; the defaults are those of the box channel."""

    payment_terms: str = "invoice"
    price_required: bool = False
    address_required: bool = False
    capacity: str = "unlimited"
    fraud: bool = False
    qc: bool = False
    limits: bool = False
    client_ids: bool = False
    partial_policy: str = "reject"
    must_accept: bool = False
    stock_buffer: int = 0
    default_location: str = ""
    currency: str = ""
    time_zone: str = "UTC"
    payment_provider: str = "local"
    payment_attempts: int = 1
    """How often a buyer may try to pay for an order: up to three times (domain.md 2.3)."""
    cod_maximum: Mapping[str, int] = {}
    """The largest total that may be paid on delivery, by currency, in minor units; a currency without one has no such limit."""
    payment_methods: tuple[str, ...] = ()
    """What buyers may pay in advance with, the first one unless their order names another; none named: card."""

    @property
    def methods(self) -> tuple[str, ...]:
        return self.payment_methods or PAYMENT_METHODS[:1]


BOX = ChannelPolicy(client_ids=True)
"""The channel of the demo profile: invoice terms, no price or address needed, callers may choose order ids."""


PREPAID = ChannelPolicy(payment_terms="prepaid", client_ids=True)
"""The channel of `orderflow up` that sells for money: an order is confirmed when its payment is authorized."""


class SetChannel(Struct, frozen=True, gc=False):
    """Make this the channel's policy."""

    policy: ChannelPolicy


class ChannelSet(Struct, frozen=True, gc=False):
    """The channel's policy from now on."""

    policy: ChannelPolicy


class ChannelRow(Struct, frozen=True, gc=False):
    """A channel as the catalog remembers it."""

    version: int
    policy: ChannelPolicy


class ChannelSnapshot(Struct, frozen=True, gc=False):
    """A channel's policy as it is now; the lookup other key spaces read."""

    key: str
    tenant: str = "main"
    sequence: int = 0
    version: int = 0
    at: int = 0
    policy: ChannelPolicy = ChannelPolicy()


class State(Struct, frozen=True, gc=False):
    """The row of one catalog key."""

    key: str = ""
    channel: ChannelRow | None = None


Command: TypeAlias = SetChannel | TimerDue
Event: TypeAlias = ChannelSet | Refused
COMMANDS = (SetChannel, TimerDue)
EVENTS = (ChannelSet, Refused)
INITIAL = State()


def channel_key(name: str) -> str:
    """The catalog key of a channel."""
    return KEY_PREFIX + name


def reads(key: str, command: Command) -> tuple[Get | Range, ...]:
    """The channel itself."""
    return (Get("channel", key),)


def recall(state: State, command: Command) -> tuple[Send, ...] | None:
    """Setting what is set already is met in `decide`."""
    return None


def decide(state: State, command: Command, turn: Turn) -> tuple[Event, ...]:
    """Accept a policy whose every value is one this folder knows. Setting what is set already changes nothing."""
    if isinstance(command, TimerDue):
        return ()
    reason = untimely(turn, state.channel.version if state.channel else 0)
    if reason is not None:
        return refusal(command, reason)
    for reason, field in _faults(turn.key, command.policy, turn.settings):
        return refusal(command, reason, field=field)
    if state.channel is not None and state.channel.policy == command.policy:
        return ()
    return (ChannelSet(command.policy),)


def _faults(key: str, policy: ChannelPolicy, settings: Settings) -> Iterator[tuple[Reason, str]]:
    """Every value that cannot be meant, in the order of the reasons."""
    if not key.startswith(KEY_PREFIX) or not is_id(key.removeprefix(KEY_PREFIX)):
        yield Reason.SCHEMA_INVALID, "key"
    if policy.payment_terms not in PAYMENT_TERMS:
        yield Reason.SCHEMA_INVALID, "payment_terms"
    if policy.capacity not in CAPACITIES:
        yield Reason.SCHEMA_INVALID, "capacity"
    if policy.partial_policy not in PARTIAL_POLICIES:
        yield Reason.SCHEMA_INVALID, "partial_policy"
    if not is_id(policy.payment_provider) or policy.payment_provider == "cod":  # whom nobody can ask
        yield Reason.SCHEMA_INVALID, "payment_provider"
    if not 1 <= policy.payment_attempts <= PAYMENT_ATTEMPTS_MAX:
        yield Reason.SCHEMA_INVALID, "payment_attempts"
    if any(not _is_currency(currency) or most < 1 for currency, most in policy.cod_maximum.items()):
        yield Reason.SCHEMA_INVALID, "cod_maximum"
    if not set(policy.payment_methods) <= set(PAYMENT_METHODS):
        yield Reason.SCHEMA_INVALID, "payment_methods"
    if policy.stock_buffer < 0:
        yield Reason.SCHEMA_INVALID, "stock_buffer"
    if not is_zone(policy.time_zone):
        yield Reason.SCHEMA_INVALID, "time_zone"
    if policy.default_location and policy.default_location not in settings.locations:
        yield Reason.UNKNOWN_LOCATION, "default_location"
    if policy.currency and not _is_currency(policy.currency):
        yield Reason.CURRENCY_UNSUPPORTED, "currency"


def _is_currency(text: str) -> bool:
    return len(text) == 3 and text.isascii() and text.isupper()


def evolve(state: State, event: Event, meta: EventMeta) -> State:
    """The policy is the last one set."""
    if isinstance(event, Refused):
        return state
    version = state.channel.version if state.channel else 0
    return State(state.key, ChannelRow(version + 1, event.policy))


def react(state: State, event: Event, meta: EventMeta) -> tuple[Send | Settle, ...]:
    """Nobody has to be asked: orders read the status topic."""
    return ()


def waits(state: State, command: Command, command_id: str) -> bool:
    """A policy is decided at once."""
    return False


def violations(state: State) -> tuple[str, ...]:
    """A policy that was accepted cannot be wrong."""
    return ()


def view(key: str) -> tuple[Get | Range, ...]:
    """The channel itself."""
    return (Get("channel", key),)


def snapshots(before: State, after: State, head_sequence: int, at: int) -> tuple[Snapshot, ...]:
    """The policy, when it changed."""
    row = after.channel
    if row is None or row is before.channel:
        return ()
    record = ChannelSnapshot(after.key, sequence=head_sequence, version=row.version, at=at, policy=row.policy)
    return (Snapshot("channel", after.key, record),)
