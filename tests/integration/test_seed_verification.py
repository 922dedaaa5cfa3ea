"""The mission's own "Verification Plan", run as it is written there against what `orderflow up --demo` seeds.

Changed are host and port, and the two SQL queries, which are asked of the API.
"""

import asyncio
import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from integration_harness import ANSWERS, PATIENCE_S, Rig, eventually, started

from orderflow.cli.up import LIMITED_SKU, TEST_ORDER, seed
from orderflow.connectors.box.box import Servers

pytestmark = [
    pytest.mark.box,
    pytest.mark.skipif(
        not (shutil.which("bash") and shutil.which("curl")), reason="bash and curl are what the mission's plan is written in"
    ),
]

WRITTEN_FOR = "http://localhost:8080"

RACE = r"""
for i in {1..50}; do
  curl -X POST http://localhost:8080/api/v1/orders \
    -d '{"items":[{"sku":"LIMITED-SKU","qty":1}]}' &
done
wait
"""

ORDERING = r"""
ORDER_ID="test-order-123"

# Trigger: picking → picked → packed → shipped in rapid succession
curl -X POST http://localhost:8080/api/v1/fulfillment/$ORDER_ID/status -d '{"status":"picking"}' &
curl -X POST http://localhost:8080/api/v1/fulfillment/$ORDER_ID/status -d '{"status":"picked"}' &
curl -X POST http://localhost:8080/api/v1/fulfillment/$ORDER_ID/status -d '{"status":"packed"}' &
curl -X POST http://localhost:8080/api/v1/fulfillment/$ORDER_ID/status -d '{"status":"shipped"}' &
wait

# Check order final status (might be out of order if no sequencing)
curl http://localhost:8080/api/v1/orders/$ORDER_ID | jq '.status'
"""

JQ = """command -v jq > /dev/null || jq() { "$PYTHON" -c 'import json, sys; print(json.dumps(json.load(sys.stdin)["status"]))'; }"""
"""The one filter the plan uses, where jq is not installed."""


@pytest.fixture(scope="module")
def rig(box: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with started(box, tmp_path_factory.mktemp("seed"), "seed", settings=ANSWERS) as running:
        asyncio.run(seed(running.system.url))
        yield running


async def test_50_concurrent_orders_of_10_units_leave_10_orders_and_no_stock(rig: Rig) -> None:
    said = documents(run(rig, RACE))

    listed = await eventually(lambda: rig.get(f"/api/v1/orders?sku={LIMITED_SKU}"), lambda found: all_decided(found.json, 50))
    await rig.stock_becomes(LIMITED_SKU, 10, 0, 0, 10)
    not_cancelled = (await rig.get(f"/api/v1/orders?status_not=cancelled&sku={LIMITED_SKU}")).json
    inventory = (await rig.get(f"/api/v1/inventory/{LIMITED_SKU}")).json
    assert not_cancelled["total"] == 10
    assert inventory["quantity_available"] == inventory["available"] == 0
    assert (inventory["on_hand"], inventory["allocated"]) == (10, 10)
    reasons = Counter(order["reason"] for order in listed.json["items"])
    assert reasons == {"": 10, "INSUFFICIENT_STOCK": 40}

    states = {order["order_id"]: order["state"] for order in listed.json["items"]}
    assert len(said) == 50, "every buyer has an answer"
    for answer in said:
        if "accepted" not in answer:  # 202: the outcome was not known yet
            assert (states[answer["order_id"]] == "rejected") == (answer.get("code") == "INSUFFICIENT_STOCK"), answer


async def test_four_posts_in_rapid_succession_end_shipped(rig: Rig) -> None:
    order = await rig.decided(TEST_ORDER)
    assert order["status"] == "processing"

    *_, printed = documents(run(rig, ORDERING))

    assert printed == "shipped"
    assert (await rig.get(f"/api/v1/orders/{TEST_ORDER}")).json["status"] == "shipped"


def run(rig: Rig, script: str) -> str:
    """What the script prints."""
    here = {"PATH": os.environ["PATH"], "PYTHON": shutil.which("python3") or "python3", "no_proxy": "localhost"}
    written = script.replace(WRITTEN_FOR, rig.system.url.replace("127.0.0.1", "localhost"))
    done = subprocess.run(["bash", "-c", f"{JQ}\n{written}"], env=here, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    return done.stdout


def documents(text: str) -> list[Any]:
    """JSON documents that stand one after the other: the answers that curl prints have no line ends."""
    found, decoder, rest = [], json.JSONDecoder(), text.strip()
    while rest:
        document, end = decoder.raw_decode(rest)
        found.append(document)
        rest = rest[end:].strip()
    return found


def all_decided(listed: dict[str, Any], count: int) -> bool:
    states = [order["state"] for order in listed["items"]]
    return bool(listed["complete"]) and listed["total"] == count and not {"pending", "cancel_pending"} & set(states)
