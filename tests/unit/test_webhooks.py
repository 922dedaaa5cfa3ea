"""Webhooks at the edge: who is believed, what their bodies say, and what reaches the log. The forged ones are tests/corpus/forged_webhooks.json."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from test_edge_outcomes import RECORDS, Script
from webhook_forger import CORPUS, EVENTS, NAMES, Forger, local_event, stripe_event

from orderflow.cli.serve import _sources
from orderflow.cli.terminal import Failure
from orderflow.connectors.webhooks.notice import Notice, fact
from orderflow.connectors.webhooks.reading import Unreadable
from orderflow.connectors.webhooks.sources import Refused as SecretsRefused
from orderflow.connectors.webhooks.sources import Sources, standard_keys, write_secret
from orderflow.connectors.webhooks.standard import StandardWebhooks, secret_bytes, sign
from orderflow.connectors.webhooks.stripe import StripeWebhooks
from orderflow.http.calls import Parts
from orderflow.http.edge import Edge, build_app
from orderflow.http.gateway import Applied, Denied, Outcome
from orderflow.http.limits import ADDRESSES_MAX, Strangers
from orderflow.http.meters import Meters
from orderflow.http.owners import Owners
from orderflow.http.problems import later
from orderflow.http.reads import Reads
from orderflow.http.settings import EdgeSettings
from orderflow.http.timeline import Timeline
from orderflow.streams.domain.claims import RecordEarlyFact
from orderflow.streams.domain.parts import Money
from orderflow.streams.domain.payment_records import RecordWebhook

PATH = "/api/v1/webhooks"
FORGER = Forger()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "webhooks.toml"
    found.write_text(FORGER.toml())
    return found


@asynccontextmanager
async def edge(
    file: Path | None, outcome: Outcome | Exception | None = None, *, unverified_max: int = 1000
) -> AsyncIterator[tuple[TestClient, Script]]:
    settings = EdgeSettings.model_validate({"profile": "demo", "webhooks_unverified_max": unverified_max})
    strangers = Strangers(unverified_max)
    script, reads = Script(outcome), Reads(Owners({"orders": 4, "stock": 4}), settings)
    parts = Parts(settings, script, reads, Timeline(settings, RECORDS), Meters(), asyncio.Event(), strangers, Sources(file))
    async with TestClient(TestServer(build_app(Edge(parts, (reads, script))))) as client:
        yield client, script


async def post(client: TestClient, scheme: str, raw: bytes, entry: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    headers, body = FORGER.request(scheme, raw, entry)
    async with client.post(f"{PATH}/{NAMES[scheme]}", data=body, headers=headers) as answer:
        return answer.status, await answer.json()


# -- who is believed --------------------------------------------------------------------------------------------------------------
def test_the_corpus_holds_at_least_forty_forgeries_each_once() -> None:
    assert len({(entry["scheme"], entry["name"]) for entry in CORPUS}) == len(CORPUS) >= 40


@pytest.mark.parametrize("entry", CORPUS, ids=lambda entry: f"{entry['scheme']}: {entry['name']}")
async def test_a_forged_webhook_is_401_and_nothing_is_sent(file: Path, entry: dict[str, Any]) -> None:
    async with edge(file, Applied(None)) as (client, script):
        status, problem = await post(client, entry["scheme"], EVENTS[entry["scheme"]](), entry)
        assert (status, problem["code"], script.asked) == (401, entry["reason"], [])
        metrics = await (await client.get("/metrics")).text()
        assert f'orderflow_webhooks_total{{result="{entry["reason"]}",source="{NAMES[entry["scheme"]]}"}} 1.0' in metrics
        assert (await post(client, entry["scheme"], EVENTS[entry["scheme"]]()))[0] == 200, "the same one, signed rightly"


async def test_who_sends_too_much_that_nobody_signed_is_told_to_wait_and_what_is_signed_always_passes(file: Path) -> None:
    forged = next(entry for entry in CORPUS if entry["scheme"] == "standard")
    async with edge(file, Applied(None), unverified_max=3) as (client, script):
        for _ in range(10):
            assert (await post(client, "standard", local_event()))[0] == 200
        found = [await post(client, "standard", local_event(), forged) for _ in range(5)]
        assert [status for status, _ in found] == [401, 401, 401, 429, 429]
        assert found[-1][1]["code"] == "RATE_LIMITED"
        headers, body = FORGER.request("standard", local_event(), forged)
        async with client.post(f"{PATH}/{NAMES['standard']}", data=body, headers=headers) as answer:
            assert 1 <= int(answer.headers["Retry-After"]) <= 60
        assert (await post(client, "standard", local_event()))[0] == 200
    assert len(script.asked) == 11


def test_the_minute_of_an_address_is_its_own_and_memory_is_bounded() -> None:
    now = [0.0]
    strangers = Strangers(2, lambda: now[0])
    assert [strangers.wait_s("a") for _ in range(3)] == [0, 0, 60]
    assert strangers.wait_s("b") == 0
    now[0] = 59.0
    assert strangers.wait_s("a") == 1
    now[0] = 60.0
    assert [strangers.wait_s("a") for _ in range(3)] == [0, 0, 60]
    for number in range(3 * ADDRESSES_MAX):
        strangers.wait_s(f"10.0.0.{number}")
    assert len(strangers._seen) <= ADDRESSES_MAX


@pytest.mark.parametrize("at_s", [-299, 299])
@pytest.mark.parametrize("scheme", NAMES)
async def test_a_clock_that_is_five_minutes_off_is_borne(file: Path, scheme: str, at_s: int) -> None:
    async with edge(file, Applied(None)) as (client, _):
        assert (await post(client, scheme, EVENTS[scheme](), {"at_s": at_s}))[0] == 200


async def test_without_secrets_nobody_is_believed(file: Path) -> None:
    async with edge(None) as (client, script):
        assert (await post(client, "stripe", stripe_event()))[0] == 404
    async with edge(file) as (client, script):
        headers, body = FORGER.request("stripe", stripe_event())
        assert (await client.post(f"{PATH}/paypal", data=body, headers=headers)).status == 404
    assert script.asked == []


async def test_the_example_of_the_standard_has_its_signature() -> None:
    """The vector that standard-webhooks/spec prints for its libraries."""
    key = secret_bytes("whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    raw, webhook_id, stamp = b'{"test": 2432232314}', "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330"
    assert sign(key, webhook_id, stamp, raw) == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    headers = {"webhook-id": webhook_id, "webhook-timestamp": stamp, "webhook-signature": sign(key, webhook_id, stamp, raw)}
    assert await StandardWebhooks((key,)).refusal(headers, raw, int(stamp)) == ""


# -- rotation ---------------------------------------------------------------------------------------------------------------------
async def test_a_secret_is_replaced_without_a_restart_and_both_are_good_meanwhile(file: Path) -> None:
    new = Forger()

    async def statuses(client: TestClient) -> list[int]:
        found = []
        for forger in (FORGER, new):
            headers, body = forger.request("stripe", stripe_event())
            found.append((await client.post(f"{PATH}/stripe", data=body, headers=headers)).status)
        return found

    def live(*forgers: Forger) -> None:
        secrets = ", ".join(f'"{forger.secrets["stripe"]}"' for forger in forgers)
        fresh = file.with_suffix(".new")
        fresh.write_text(f'[stripe]\nscheme = "stripe"\nsecrets = [{secrets}]\n')
        os.replace(fresh, file)

    async with edge(file, Applied(None)) as (client, _):
        assert await statuses(client) == [200, 401]
        live(new, FORGER)
        assert await statuses(client) == [200, 200]
        live(new)
        assert await statuses(client) == [401, 200]
        file.write_text("[stripe]\nscheme = 7\n")
        assert await statuses(client) == [401, 200], "a file that cannot be used changes nothing"
        file.unlink()
        assert await statuses(client) == [401, 200]


WEAK = [
    ("[stripe", "table declaration"),
    ("stripe = 3", "[stripe] is no section"),
    ('[stripe]\nscheme = "other"\nsecrets = []', "scheme is one of"),
    ('[stripe]\nscheme = "stripe"\nsecrets = []', "1 to 4"),
    ('[stripe]\nscheme = "stripe"\nsecrets = ["whsec_changeme"]', "secrets 1: is too short or a placeholder"),
    ('[stripe]\nscheme = "stripe"\nsecrets = ["whsec_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"]', "placeholder"),
    ('[local]\nscheme = "standard"\nsecrets = ["whsec_!!!!abcdefghijklmnopqrstuvwxyz"]', "base64"),
    ('[local]\nscheme = "standard"\nsecrets = ["abcdefghijklmnopqrstuvwxyz0123456789"]', "starts with whsec_"),
    ('[local]\nscheme = "standard"\nsecrets = ["whsec_YWJjZGVmZ2hpamtsbW5vcA=="]', "24 to 64 bytes"),
    ('[paypal]\nscheme = "paypal"\nsecrets = []', "unknown keys: secrets"),
    ('[paypal]\nscheme = "paypal"\nwebhook_ids = ["?"]', "webhook_ids 1: is no id"),
    ('[paypal]\nscheme = "paypal"\nwebhook_ids = ["8PT597110X687430L"]\nenvironment = "test"', "environment is one of live, sandbox"),
    ('[local]\nscheme = "standard"\nsecret = "x"\nsecrets = []', "unknown keys: secret"),
]


@pytest.mark.parametrize(("text", "fault"), WEAK, ids=lambda value: value if " " in value else None)
def test_a_weak_file_of_secrets_is_refused_without_telling_them(file: Path, text: str, fault: str) -> None:
    file.write_text(text)
    with pytest.raises(SecretsRefused) as refused:
        Sources(file)
    assert fault in str(refused.value) and "abcdefghijkl" not in str(refused.value)


def test_an_edge_does_not_start_with_a_file_it_cannot_use(file: Path) -> None:
    file.write_text("[stripe]\n")
    with pytest.raises(Failure) as refused:
        _sources(file)
    assert refused.value.code == 78 and "ORDERFLOW_WEBHOOKS" in str(refused.value)


def test_the_secret_of_the_box_is_made_once_and_for_its_owner(tmp_path: Path) -> None:
    file = tmp_path / "webhooks.toml"
    write_secret(file, "local")
    first = standard_keys(file, "local")
    write_secret(file, "local")
    assert standard_keys(file, "local") == first and len(first[0]) == 32
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(SecretsRefused, match="no \\[stripe\\]"):
        standard_keys(file, "stripe")


# -- what they say ----------------------------------------------------------------------------------------------------------------
async def test_a_verified_webhook_is_a_command_that_its_repeat_shares(file: Path) -> None:
    async with edge(file, Applied(None)) as (client, script):
        first, second = [await post(client, "standard", local_event(valid_until=7)) for _ in range(2)]
    assert first == second == (200, {"event_id": "evt_1", "outcome": "recorded", "reason": ""})
    one, two = script.asked
    assert (one.space, one.key, one.meta.tenant, one.meta.principal) == ("orders", "o1", "main", "webhook:local")
    assert (one.meta.command_id, one.meta.body_hash) == (two.meta.command_id, two.meta.body_hash) == ("webhook:local:evt_1", "")
    assert isinstance(one.command, RecordWebhook)
    assert (one.command.provider, one.command.kind, one.command.idempotency_key) == (
        "local",
        "payment.authorize.succeeded",
        "o1~A1:authorize:1",
    )
    assert (one.command.operation, one.command.outcome, one.command.amount) == ("authorize", "succeeded", Money(1250, "EUR"))
    assert (one.command.valid_until, one.command.happened_at, len(one.command.raw_sha256)) == (7, 1_769_162_400_000_000, 64)


@pytest.mark.parametrize(
    ("outcome", "status", "said"),
    [
        (None, 202, {"outcome": "pending", "reason": ""}),
        (Denied("UNKNOWN_REFERENCE"), 200, {"outcome": "recorded", "reason": "UNKNOWN_REFERENCE"}),
        (Denied("AMOUNT_MISMATCH"), 200, {"outcome": "recorded", "reason": "AMOUNT_MISMATCH"}),
        (Denied("PARKED"), 200, {"outcome": "recorded", "reason": "PARKED"}),
        (later("OVERLOADED", "", 1), 503, {"code": "OVERLOADED"}),
    ],
)
async def test_what_is_in_the_log_is_not_asked_for_again(
    file: Path, outcome: Outcome | Exception | None, status: int, said: dict[str, str]
) -> None:
    async with edge(file, outcome) as (client, _):
        answer = await post(client, "standard", local_event())
    assert (answer[0], {name: answer[1][name] for name in said}) == (status, said)


@pytest.mark.parametrize(
    "raw", [b"[]", b"{}", b'{"id": 1, "type": "x", "data": {}}', b'{"id": "e", "type": "payment.void.succeeded", "data": 5}']
)
async def test_a_body_that_is_signed_and_cannot_be_read_is_400(file: Path, raw: bytes) -> None:
    async with edge(file, Applied(None)) as (client, script):
        for scheme in NAMES:
            status, problem = await post(client, scheme, raw)
            assert (status, problem["code"], script.asked) == (400, "SCHEMA_INVALID", [])
    with pytest.raises(Unreadable):
        StandardWebhooks(()).read(raw)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (
            stripe_event(),
            {
                "operation": "authorize",
                "outcome": "succeeded",
                "key": "o1~A1:authorize:1",
                "amount_minor": 1250,
                "currency": "EUR",
                "provider_ref": "pi_1",
                "valid_until": 1_769_767_200_000_000,
                "payment_ref": "o1",
            },
        ),
        (stripe_event(payment_method_details=None), {"operation": "authorize", "outcome": "succeeded", "valid_until": None}),
        (stripe_event(captured=True), {"operation": "", "outcome": "", "payment_ref": "o1", "provider_ref": "pi_1"}),
        (
            stripe_event(
                "payment_intent.payment_failed",
                id="pi_1",
                object="payment_intent",
                last_payment_error={"decline_code": "lost_card", "code": "x"},
            ),
            {"operation": "authorize", "outcome": "", "code": "lost_card", "provider_ref": "pi_1"},
        ),
        (
            stripe_event("payment_intent.canceled", id="pi_1", object="payment_intent", amount_received=250),
            {"operation": "void", "outcome": "succeeded", "key": "", "amount_minor": 1000, "provider_ref": "pi_1"},
        ),
        (
            stripe_event("refund.updated", id="re_1", object="refund", status="succeeded", amount=500),
            {"operation": "refund", "outcome": "succeeded", "amount_minor": 500, "provider_ref": "pi_1"},
        ),
        (stripe_event("refund.created", object="refund", status="pending"), {"operation": "refund", "outcome": ""}),
        (
            stripe_event("refund.failed", object="refund", status="failed", failure_reason="expired_or_canceled_card"),
            {"operation": "refund", "outcome": "declined", "code": "expired_or_canceled_card"},
        ),
        (
            stripe_event("charge.dispute.created", object="dispute", id="dp_1", status="needs_response", reason="fraudulent", metadata={}),
            {
                **{
                    "operation": "dispute",
                    "outcome": "opened",
                    "dispute_ref": "dp_1",
                    "provider_ref": "pi_1",
                    "payment_ref": "",
                    "key": "",
                },
                **{"amount_minor": 1250, "currency": "EUR", "code": "fraudulent"},
            },
        ),
        *(
            (
                stripe_event(f"charge.dispute.{kind}", object="dispute", id="dp_1", status=status),
                {"operation": "dispute", "outcome": outcome},
            )
            for kind, status, outcome in (
                ("created", "warning_needs_response", ""),
                ("updated", "under_review", "opened"),
                ("closed", "warning_closed", ""),
                ("closed", "won", "won"),
                ("closed", "lost", "lost"),
                ("funds_reinstated", "won", "won"),
            )
        ),
        (stripe_event("account.updated", payment_intent=None, metadata=None), {"operation": "", "payment_ref": "", "provider_ref": ""}),
    ],
)
def test_what_stripe_says(raw: bytes, said: dict[str, Any]) -> None:
    notice = StripeWebhooks(()).read(raw)
    assert {name: getattr(notice, name) for name in said} == said
    assert (notice.event_id, notice.occurred_at) == ("evt_1", 1_769_162_400_000_000)


@pytest.mark.parametrize(
    ("notice", "tenant", "key", "operation"),
    [
        (Notice("e", "k", "o1", "o1~A1:void:2"), "main", "o1", "o1~A1:void:2"),
        (Notice("e", "k", "acme/o1", "acme/o1~A1:void:2"), "acme", "o1", "o1~A1:void:2"),
        (Notice("evt:1", "k"), "main", "stripe-evt-1", ""),
        (Notice("e" * 99, "k", "not an id"), "main", ("stripe-" + "e" * 99)[:64], ""),
    ],
)
def test_a_notice_goes_to_the_order_that_it_names_or_to_a_key_of_its_own(notice: Notice, tenant: str, key: str, operation: str) -> None:
    found = fact("stripe", notice, b"raw")
    assert isinstance(found.command, RecordWebhook)
    assert (found.space, found.tenant, found.key, found.command.idempotency_key) == ("orders", tenant, key, operation)


@pytest.mark.parametrize("payment_ref", ["", "not an id"])
def test_a_notice_that_names_the_providers_reference_alone_goes_to_whoever_claims_it(payment_ref: str) -> None:
    found = fact("stripe", Notice("e", "k", payment_ref, provider_ref="pi_1"), b"raw")
    assert isinstance(found.command, RecordEarlyFact) and found.command.fact.provider_ref == "pi_1"
    assert (found.space, found.tenant, found.key, found.event_id) == ("references", "main", "provider_ref:stripe:pi_1", "e")


def test_a_dispute_of_the_local_provider_names_its_own_reference_alone() -> None:
    said = {"dispute_ref": "dp_1", "provider_ref": "pay_1", "amount_minor": 500, "currency": "EUR", "code": "fraudulent", "at": 7}
    notice = StandardWebhooks(()).read(json.dumps({"id": "evt_1", "type": "dispute.lost", "data": said}).encode())
    assert (notice.operation, notice.outcome, notice.dispute_ref, notice.payment_ref) == ("dispute", "lost", "dp_1", "")
    assert (notice.amount_minor, notice.currency, notice.provider_ref, notice.code) == (500, "EUR", "pay_1", "fraudulent")


def test_nothing_personal_of_a_body_is_kept() -> None:
    """Billing details, addresses and mails stay behind."""
    raw = stripe_event(billing_details={"email": "someone@example.org", "name": "Some One"}, receipt_email="someone@example.org")
    assert "someone" not in repr(fact("stripe", StripeWebhooks(()).read(raw), raw))
    assert "someone" in json.dumps(json.loads(raw))
