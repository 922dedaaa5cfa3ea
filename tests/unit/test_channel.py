"""Channel policies: what is accepted, what is refused, what orders get to see."""

import pytest
from domain_harness import NOW, Log
from msgspec.structs import replace

from orderflow.streams.domain import channel
from orderflow.streams.domain.channel import BOX, ChannelPolicy, ChannelSet, ChannelSnapshot, SetChannel
from orderflow.streams.domain.contract import TimerDue
from orderflow.streams.domain.reasons import Reason


def log(key: str = "channel:web") -> Log:
    return Log("catalog", key)


def test_a_policy_is_set_and_shown() -> None:
    web = log()
    assert web.when(SetChannel(BOX)).events == [ChannelSet(BOX)]
    assert web.snapshot("channel") == ChannelSnapshot("channel:web", sequence=1, version=1, at=NOW, policy=BOX)
    web.when(SetChannel(replace(BOX, fraud=True)))
    assert web.snapshot("channel").version == 2


def test_setting_what_is_set_already_is_nothing() -> None:
    web = log()
    web.when(SetChannel(BOX))
    assert web.when(SetChannel(BOX)).events == []
    assert web.when(TimerDue("t", "none", NOW, "channel:web", 1)).events == []


def test_the_box_channel_sells_on_invoice_without_conditions() -> None:
    assert BOX == ChannelPolicy(client_ids=True)
    assert (BOX.payment_terms, BOX.partial_policy, BOX.capacity, BOX.time_zone) == ("invoice", "reject", "unlimited", "UTC")


@pytest.mark.parametrize(
    ("policy", "reason", "field"),
    [
        (replace(BOX, payment_terms="gold"), Reason.SCHEMA_INVALID, "payment_terms"),
        (replace(BOX, capacity="some"), Reason.SCHEMA_INVALID, "capacity"),
        (replace(BOX, partial_policy="maybe"), Reason.SCHEMA_INVALID, "partial_policy"),
        (replace(BOX, payment_provider="cod"), Reason.SCHEMA_INVALID, "payment_provider"),
        (replace(BOX, cod_maximum={"EUR": 0}), Reason.SCHEMA_INVALID, "cod_maximum"),
        (replace(BOX, cod_maximum={"euro": 100}), Reason.SCHEMA_INVALID, "cod_maximum"),
        (replace(BOX, payment_methods=("card", "shells")), Reason.SCHEMA_INVALID, "payment_methods"),
        (replace(BOX, stock_buffer=-1), Reason.SCHEMA_INVALID, "stock_buffer"),
        (replace(BOX, time_zone="Mars/Olympus"), Reason.SCHEMA_INVALID, "time_zone"),
        (replace(BOX, time_zone="../etc/passwd"), Reason.SCHEMA_INVALID, "time_zone"),
        (replace(BOX, default_location="moon"), Reason.UNKNOWN_LOCATION, "default_location"),
        (replace(BOX, currency="eur"), Reason.CURRENCY_UNSUPPORTED, "currency"),
        (replace(BOX, currency="EURO"), Reason.CURRENCY_UNSUPPORTED, "currency"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(policy: ChannelPolicy, reason: Reason, field: str) -> None:
    web = log()
    refused = web.when(SetChannel(policy)).refused
    assert (refused.reason, refused.detail) == (reason, {"field": field}) and web.rows.channel is None


@pytest.mark.parametrize(
    "policy", [replace(BOX, time_zone="Asia/Ho_Chi_Minh"), replace(BOX, currency="VND"), replace(BOX, default_location="main")]
)
def test_policies_of_every_kind_are_kept(policy: ChannelPolicy) -> None:
    assert log().when(SetChannel(policy)).events == [ChannelSet(policy)]


@pytest.mark.parametrize("key", ["web", "channel:", "channel:a b", "sku:web"])
def test_a_key_that_is_no_channel_is_refused(key: str) -> None:
    assert log(key).when(SetChannel(BOX)).refused.detail == {"field": "key"}


def test_a_policy_for_another_version_or_after_its_deadline_is_refused() -> None:
    web = log()
    web.when(SetChannel(BOX))
    assert web.when(SetChannel(BOX), expected_version=2).refused.reason == Reason.VERSION_CONFLICT
    assert web.when(SetChannel(BOX), deadline_at=NOW - 1).refused.reason == Reason.DEADLINE_PASSED


def test_nothing_waits_and_nothing_is_asked() -> None:
    web = log()
    outcome = web.when(SetChannel(BOX))
    assert not outcome.waits and outcome.sends == [] and channel.violations(web.rows) == ()
    assert channel.snapshots(web.rows, web.rows, 1, NOW) == () == channel.snapshots(channel.INITIAL, channel.INITIAL, 0, NOW)
