"""`orderflow up` and `orderflow demo` as people start them: as processes, with signals, a second time."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from integration_harness import PATIENCE_S, PATIENT, until

from orderflow.connectors.box.box import Servers
from orderflow.connectors.box.process import started_at

pytestmark = [pytest.mark.box, pytest.mark.slow]

Json = dict[str, Any]
STOP_TIMEOUT_S = 180
DEMO_TIMEOUT_S = 900


@contextlib.contextmanager
def running(box: Servers, data: Path, *options: str) -> Iterator[tuple["subprocess.Popen[str]", Json]]:
    """`orderflow up` on the Kafka of the test run: the process and what it said it runs. Ended with SIGTERM."""
    names = {"ORDERFLOW_PREFIX": data.name, "ORDERFLOW_GROUP": data.name, **PATIENT}
    command = (sys.executable, "-m", "orderflow.cli", "up", "--port", "0", "--data", str(data), "--json", *options)
    servers = ("--bootstrap", box.bootstrap, "--registry", box.registry_url)
    process = subprocess.Popen([*command, *servers], stdout=subprocess.PIPE, env={**os.environ, **names}, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "up ended before it was ready"
        yield process, json.loads(line)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_TIMEOUT_S)


def get(url: str) -> Json:
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
        found: Json = json.load(answer)
        return found


def curl(url: str, body: str) -> int:
    """POST as the mission's `curl -d` does: form type, no key, no token. The status of the answer."""
    request = urllib.request.Request(url, body.encode(), {"Content-Type": "application/x-www-form-urlencoded"}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refusal:
        return refusal.code


def test_the_literal_requests_of_the_mission_and_a_second_start(box: Servers, tmp_path: Path) -> None:
    data = tmp_path / f"up-{os.getpid()}"
    with running(box, data, "--demo") as (_, state):
        url = state["url"]
        assert get(f"{url}/api/v1/stock/LIMITED-SKU")["available"] == 10
        assert get(f"{url}/api/v1/orders/test-order-123")["status"] in ("confirmed", "processing")
        with ThreadPoolExecutor(50) as pool:
            body = '{"items":[{"sku":"LIMITED-SKU","qty":1}]}'
            statuses = list(pool.map(lambda _: curl(f"{url}/api/v1/orders", body), range(50)))
        assert set(statuses) <= {201, 202, 409}
        until(lambda: get(f"{url}/api/v1/orders?sku=LIMITED-SKU")["total"] == 50, "all orders are there")
        until(lambda: get(f"{url}/api/v1/orders?status=pending&sku=LIMITED-SKU")["total"] == 0, "all orders are decided")
        assert get(f"{url}/api/v1/orders?status_not=cancelled&sku=LIMITED-SKU")["total"] == 10
        assert get(f"{url}/api/v1/inventory/LIMITED-SKU")["quantity_available"] == 0
        with ThreadPoolExecutor(4) as pool:
            post = f"{url}/api/v1/fulfillment/test-order-123/status"
            answers = pool.map(lambda status: curl(post, json.dumps({"status": status})), ("picking", "picked", "packed", "shipped"))
        assert set(answers) <= {200, 202}
        until(lambda: get(f"{url}/api/v1/orders/test-order-123")["status"] == "shipped", "it is shipped")
        children = state["processes"]
        assert {each["name"] for each in children} == {"worker-1", "edge", "provider", "payments"}
    assert all(started_at(each["pid"]) != each["started"] for each in children), "a child was left behind"
    assert not (data / "run.json").exists()

    with running(box, data, "--demo") as (process, state):
        url = state["url"]
        assert get(f"{url}/api/v1/stock/LIMITED-SKU")["on_hand"] == 10, "a second start must not receive the units again"
        assert get(f"{url}/api/v1/orders/test-order-123")["status"] == "shipped"
    assert process.returncode == 0


def test_a_killed_up_leaves_no_process_behind(box: Servers, tmp_path: Path) -> None:
    data = tmp_path / f"killed-{os.getpid()}"
    with running(box, data) as (process, state):
        process.kill()
        process.wait(STOP_TIMEOUT_S)
        until(lambda: all(started_at(each["pid"]) != each["started"] for each in state["processes"]), "all processes have ended")


def test_a_worker_that_is_killed_is_started_again_and_the_state_file_says_so(box: Servers, tmp_path: Path) -> None:
    data = tmp_path / f"again-{os.getpid()}"
    with running(box, data, "--workers", "2") as (_, state):
        before = {each["name"]: each["pid"] for each in state["processes"]}
        assert set(before) == {"worker-1", "worker-2", "edge", "provider", "payments"}
        os.kill(before["worker-2"], signal.SIGKILL)

        def now() -> dict[str, int]:
            return {each["name"]: each["pid"] for each in json.loads((data / "run.json").read_text())["processes"]}

        until(lambda: now().get("worker-2", before["worker-2"]) != before["worker-2"], "it is another process")
        assert now()["worker-1"] == before["worker-1"]
        until(lambda: not any(get(f"{state['url']}/health/ready")["partitions_missing"].values()), "every partition has an owner")


@pytest.mark.timeout(DEMO_TIMEOUT_S + 60)
def test_the_demo_proves_everything(tmp_path: Path) -> None:
    """On a Kafka of its own, as `make demo` runs it."""
    command = (sys.executable, "-m", "orderflow.cli", "demo", "--data", str(tmp_path / "demo"), "--json")
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEMO_TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    proofs = json.loads(done.stdout)
    assert [proof["proved"] for proof in proofs] == [True] * 5
    assert proofs[0]["figures"]["labels"][-2:] == ["shipped", "delivered"]
    ledgers = proofs[1]["figures"]["ledgers"].values()
    assert len(ledgers) == 3 and all(each["authorized"] == each["captured"] + each["voided"] for each in ledgers)
    for proof in (proofs[2], proofs[4]):
        figures = proof["figures"]
        assert (figures["confirmed"], figures["rejected"], figures["available"]) == (10, 40, 0)
    assert proofs[4]["figures"]["worker_killed"]
    late = proofs[3]["figures"]
    assert (late["placed"], late["ledger"]) == (202, {"authorized": 1505, "captured": 0, "voided": 1505, "refunded": 0})
