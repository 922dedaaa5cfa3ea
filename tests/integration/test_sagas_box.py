"""A provider that hangs: the order is seen as an open saga, then as stuck, and the on-call's command gives everything back (slot D17).

And the books: what somebody changes in the provider's own book is found by `orderflow reconcile payments` (slot D63).
"""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import urllib.request
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from integration_harness import PATIENCE_S, Answer, Rig, eventually, started, until

from orderflow.cli.system import PROGRAM
from orderflow.connectors.box.box import Servers

pytestmark = pytest.mark.box

ORDERS, SAGAS = "/api/v1/orders", "/api/v1/sagas"
SETTINGS = {
    "ORDERFLOW_PROVIDER_TIMEOUT_S": "1",
    "ORDERFLOW_PROVIDER_REPEAT_MAX_S": "2",
    "ORDERFLOW_SAGA_UNANSWERED_S": "3",
    "ORDERFLOW_ANSWER_WAIT_S": "8",
}


@pytest.fixture(scope="module")
def rig(box: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with started(box, tmp_path_factory.mktemp("sagas"), "sagas", payments=True, settings=SETTINGS) as running:
        yield running


async def place(rig: Rig, price: int) -> Answer:
    order_id, sku = f"o-{uuid.uuid4().hex[:10]}", f"SKU-{uuid.uuid4().hex[:10]}"
    await rig.receive(sku, 5)
    line = {"sku": sku, "qty": 1, "unit_price": {"amount_minor": price, "currency": "EUR"}}
    return await rig.call("POST", ORDERS, {"order_id": order_id, "channel": "prepaid", "items": [line]}, key=order_id)


async def told(rig: Rig, *arguments: str, code: int = 0) -> dict[str, Any]:
    """What a command prints with --json; it must end with this code."""
    system = rig.system
    environment = {
        **os.environ,
        "ORDERFLOW_URL": system.url,
        "ORDERFLOW_BOOTSTRAP": rig.bootstrap,
        "ORDERFLOW_REGISTRY": system.servers.registry_url,
        "ORDERFLOW_PREFIX": rig.names.prefix,
        "ORDERFLOW_PROVIDER_URL": rig.process("provider").url,
    }
    command = [*PROGRAM, *arguments, "--json"]
    done = await asyncio.to_thread(subprocess.run, command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == code, (done.stdout, done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def figure(rig: Rig, name: str) -> float:
    (worker,) = rig.system.state.workers
    with urllib.request.urlopen(f"{worker.url}/metrics", timeout=PATIENCE_S) as answer:
        lines = [line for line in answer.read().decode().splitlines() if line.startswith(name + " ")]
    return float(lines[0].split()[-1]) if lines else 0.0


async def sagas(rig: Rig, order_id: str) -> list[dict[str, Any]]:
    answer = await eventually(lambda: rig.get(f"{SAGAS}/{order_id}"), lambda found: found.status == 200)
    items: list[dict[str, Any]] = answer.json["items"]
    return items


async def test_a_hung_provider_is_seen_stuck_and_compensated(rig: Rig) -> None:
    provider = rig.process("provider")
    os.kill(provider.pid, signal.SIGSTOP)
    try:
        placed = await place(rig, 1250)
        assert placed.status == 202
        order_id = placed.json["order_id"]
        (saga,) = await eventually(lambda: sagas(rig, order_id), lambda found: found and found[0]["step"] == "authorize")
        assert (saga["type"], saga["waits_for"], saga["compensating"]) == ("place", ["provider local"], False)
        (saga,) = await eventually(lambda: sagas(rig, order_id), lambda found: found and found[0]["stuck"])
        assert saga["stuck"] == "unanswered" and saga["waited_s"] > 3
        listed = await told(rig, "sagas", "list", "--stuck", "--type", "place")
        assert order_id in [each["order_id"] for each in listed["items"]]
        until(lambda: figure(rig, 'orderflow_sagas_stuck{type="place"}') == 1, "the gauge says so")
        assert figure(rig, 'orderflow_sagas_oldest_seconds{type="place"}') > 3
        refused = await told(rig, "sagas", "resume", order_id, code=1)
        assert "provider local" in refused["errors"][0]
        await told(rig, "sagas", "compensate", order_id, code=75)
        (saga,) = await eventually(lambda: sagas(rig, order_id), lambda found: found and found[0]["type"] == "cancel")
        assert saga["compensating"]
        assert (await rig.get(f"{ORDERS}/{order_id}")).json["reason"] == "SAGA_COMPENSATED"
    finally:
        os.kill(provider.pid, signal.SIGCONT)
    found = await eventually(lambda: rig.get(f"{ORDERS}/{order_id}"), lambda seen: seen.json.get("state") == "canceled")
    assert found.json["financial_status"] in ("voided", "failed")
    assert await sagas(rig, order_id) == []
    assert (await told(rig, "sagas", "compensate", order_id))["state"] == "canceled", "it may be said twice"
    until(lambda: figure(rig, 'orderflow_sagas_stuck{type="place"}') == 0, "nothing is stuck any more")
    assert figure(rig, 'orderflow_sagas_total{outcome="compensated",type="place"}') == 1
    assert figure(rig, 'orderflow_sagas_total{outcome="completed",type="cancel"}') == 1


async def test_open_sagas_are_known_after_the_worker_was_killed(rig: Rig) -> None:
    provider = rig.process("provider")
    os.kill(provider.pid, signal.SIGSTOP)
    try:
        order_id = (await place(rig, 1350)).json["order_id"]
        await eventually(lambda: sagas(rig, order_id), lambda found: found and found[0]["step"] == "authorize")
        with rig.worker_down():
            pass
        (saga,) = await eventually(lambda: sagas(rig, order_id), lambda found: found and found[0]["stuck"])
        assert saga["type"] == "place"
        until(lambda: figure(rig, 'orderflow_sagas_open{type="place"}') == 1, "the new process counts it")
    finally:
        os.kill(provider.pid, signal.SIGCONT)
    await eventually(lambda: rig.get(f"{ORDERS}/{order_id}"), lambda seen: seen.json.get("state") == "processing")


async def test_a_declined_refund_hangs_until_it_is_resumed(rig: Rig) -> None:
    """The local provider declines refunds of amounts that end with 04: 1204 was captured and is to go back."""
    order_id = (await place(rig, 1204)).json["order_id"]
    await eventually(lambda: rig.get(f"{ORDERS}/{order_id}"), lambda seen: seen.json.get("state") == "processing")
    captured = await rig.call("POST", f"/api/v1/payments/{order_id}/capture", {}, key=f"c-{order_id}")
    assert captured.status in (200, 202)
    await eventually(lambda: rig.get(f"{ORDERS}/{order_id}"), lambda seen: seen.json["financial_status"] == "captured")
    await told(rig, "sagas", "compensate", order_id, code=75)
    (saga,) = await eventually(lambda: sagas(rig, order_id), lambda found: found and found[0]["stuck"] not in ("", "unanswered"))
    assert (saga["type"], saga["step"], saga["stuck"], saga["waits_for"]) == ("cancel", "refund", "declined", ["people"])
    refused = await told(rig, "sagas", "resume", order_id, code=1)
    assert refused["code"] == "PAYMENT_DECLINED"
    assert (await rig.get(f"/api/v1/payments/{order_id}")).json["attempts"][0]["operation_no"] == 4, (
        "it was asked again, as a new operation"
    )


async def test_planted_differences_are_found(rig: Rig) -> None:
    order_id = (await place(rig, 2250)).json["order_id"]
    await eventually(lambda: rig.get(f"{ORDERS}/{order_id}"), lambda seen: seen.json.get("state") == "processing")
    assert (await told(rig, "reconcile", "payments"))["differences"] == []
    book = sqlite3.connect(rig.system.data / "provider" / "book.db", isolation_level=None)
    try:
        for key in (f"{order_id}~A1:capture:2", f"{order_id}~A1:capture:3"):
            book.execute(
                "INSERT INTO operations SELECT ?, fingerprint, payment_ref, provider_ref, 'capture', amount_minor, currency, outcome, code, "
                "valid_until, at, asked FROM operations WHERE key = ?",
                (key, f"{order_id}~A1:authorize:1"),
            )
        book.execute("UPDATE operations SET amount_minor = 2249 WHERE key = ?", (f"{order_id}~A1:authorize:1",))
    finally:
        book.close()
    found = (await told(rig, "reconcile", "payments", code=1))["differences"]
    assert [(each["kind"], each["key"]) for each in found] == [
        ("amount", f"{order_id}~A1:authorize:1"),
        ("missing here", f"{order_id}~A1:capture:2"),
        ("missing here", f"{order_id}~A1:capture:3"),
    ]


async def test_a_silent_provider_is_said(rig: Rig) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [*PROGRAM, "reconcile", "payments", "--provider-url", "http://127.0.0.1:9", "--bootstrap", rig.bootstrap]
        + ["--registry", rig.system.servers.registry_url, "--prefix", rig.names.prefix],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 69 and "provider" in done.stderr
