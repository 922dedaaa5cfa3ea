"""`orderflow demo`: the whole promise in one command: an order from POST to delivered, three that are paid for, 50 buyers of 10 units, the
same with a crash, and a payment that came too late.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec import Struct, field

from orderflow.cli import paying, race, verify
from orderflow.cli.client import Answer, Edge, Unreachable
from orderflow.cli.fulfillment import delivery_path, status_path
from orderflow.cli.ordering import STEPS
from orderflow.cli.orders import PATH as ORDERS
from orderflow.cli.stock import PATH as STOCK
from orderflow.cli.terminal import NO, UNAVAILABLE, AsJson, Failure, progress, show

BUYERS, UNITS = 50, 10
WAIT_S = 120.0
STORY_EVENTS = ("OrderCreated", "OrderStatusChanged", "FulfillmentCreated", "FulfillmentStatusChanged", "DeliveryConfirmed")


class StoryFacts(Struct):
    """What one order went through, as its caller saw it."""

    order_id: str = ""
    placed: int = 0
    """The status of the answer to its POST."""
    labels: list[str] = field(default_factory=list)
    """Its label after it was placed, after each report of the warehouse and after the carrier's."""
    answers: list[int] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    sequences: list[int] = field(default_factory=list)
    on_hand_before: int = -1
    on_hand_after: int = -1


def judge_story(facts: StoryFacts) -> list[str]:
    """Everything that must not be, in words."""
    found = []
    if facts.placed != 201:
        found.append(f"the order was answered {facts.placed}, must be 201")
    refused = [status for status in facts.answers if status not in (200, 202)]
    if refused or len(facts.answers) != len(STEPS) + 1:
        found.append(f"the reports of warehouse and carrier were answered {facts.answers}")
    if facts.labels[-2:] != ["shipped", "delivered"]:
        found.append(f"the order went {' -> '.join(facts.labels) or 'nowhere'}, must end shipped -> delivered")
    if facts.on_hand_after != facts.on_hand_before - 1:
        found.append(f"{facts.on_hand_before} units were on hand before one was shipped, {facts.on_hand_after} after")
    missing = [name for name in STORY_EVENTS if name not in facts.events]
    if missing:
        found.append(f"its timeline lacks {', '.join(missing)}")
    if facts.sequences != list(range(1, len(facts.sequences) + 1)):
        found.append(f"the sequence of its events has a gap: {facts.sequences}")
    return found


async def run_story(edge: Edge, run_id: str, *, wait_s: float) -> StoryFacts:
    """Receive five units, order one, pick, pack, ship it, and deliver it as a carrier would report it."""
    deadline = time.monotonic() + wait_s
    sku = f"STORY-{run_id}"
    facts = StoryFacts()
    await race.insist(edge, f"{STOCK}/receipts", {"sku": sku, "qty": 5}, f"{run_id}-stock", deadline)
    await race.until_received(edge, sku, 5, deadline)
    facts.on_hand_before = await _on_hand(edge, sku, deadline)
    placed = await race.outcome(edge, ORDERS, {"items": [{"sku": sku, "qty": 1}]}, f"{run_id}-order", deadline)
    facts.placed, facts.order_id = placed.status, str(placed.body.get("order_id") or "")
    facts.labels.append(await _label(edge, facts.order_id, ("confirmed", "processing"), deadline))
    for status in STEPS:
        facts.answers.append((await _report(edge, status_path(facts.order_id), {"status": status}, f"{run_id}-{status}", deadline)).status)
    facts.labels.append(await _label(edge, facts.order_id, ("shipped",), deadline))
    facts.answers.append((await _report(edge, delivery_path(facts.order_id), {}, f"{run_id}-delivery", deadline)).status)
    facts.labels.append(await _label(edge, facts.order_id, ("delivered",), deadline))
    while STORY_EVENTS[-1] not in facts.events and time.monotonic() < deadline:  # a row is there a little before its events can be read
        timeline = await race.read_whole(edge, f"{ORDERS}/{facts.order_id}/timeline", deadline)
        facts.events = [str(event["event"]) for event in timeline.get("events", ())]
        facts.sequences = [int(event["sequence"]) for event in timeline.get("events", ())]
    while (now := await _on_hand(edge, sku, deadline)) == facts.on_hand_before and time.monotonic() < deadline:
        await asyncio.sleep(race.POLL_S)  # the shelf hears of the shipment one hop later
    facts.on_hand_after = now
    return facts


async def _report(edge: Edge, path: str, body: dict[str, Any], key: str, deadline: float) -> Answer:
    return await race.insist(edge, path, body, key, deadline)


async def _on_hand(edge: Edge, sku: str, deadline: float) -> int:
    return int((await race.read(edge, f"{STOCK}/{sku}", deadline)).body.get("on_hand", -1))


async def _label(edge: Edge, order_id: str, wanted: tuple[str, ...], deadline: float) -> str:
    """The order's label, once it is one of these or the time is over."""
    while True:
        label = str((await race.read(edge, f"{ORDERS}/{order_id}", deadline)).body.get("status", ""))
        if label in wanted or time.monotonic() > deadline:
            return label
        await asyncio.sleep(race.POLL_S)


# -- the command --------------------------------------------------------------------------------------------------------------------
class Proof(Struct):
    """One thing the demo showed: what, with which figures, and every fault."""

    what: str
    figures: dict[str, Any]
    faults: list[str]


def demo(
    data: Annotated[Path | None, typer.Option("--data", help="Keep everything here; a temporary directory without.")] = None,
    as_json: AsJson = False,
) -> None:
    """Start everything, prove what it promises, stop everything.

    One order goes from POST to shipped and delivered. One is paid, captured as it ships and partly refunded, one declined, one canceled
    although the provider's answers are lost; the provider's book agrees. 50 buyers want 10 units at once. Meanwhile the payment of one more
    order comes when the order has ended, and is given back: windows that people wait for are 90 times shorter here. Then 50 more buyers,
    and the worker is killed with -9 in the middle. Every line that is printed was checked.

    \b
    Example:
      orderflow demo
    \b
    Exit codes:
      0   everything was proved
      1   something was not: the faults are printed
      69  something did not start: its log is shown
    """
    if data is not None:
        _prove(data, as_json)
        return
    with tempfile.TemporaryDirectory(prefix="orderflow-demo-") as directory:
        _prove(Path(directory), as_json)


def _prove(data: Path, as_json: bool) -> None:
    from orderflow.cli.system import System

    def tell(line: str) -> None:
        print(line, file=sys.stderr if as_json else sys.stdout, flush=True)

    began = time.monotonic()
    with progress() as on_step:
        system = System(data, payments=True, on_step=on_step, environment={"ORDERFLOW_CLOCK_SPEED": str(paying.LATE_CLOCK_SPEED)})
        system.start()
    try:
        tell(f"started  Kafka, registry, worker, edge and payment provider in {time.monotonic() - began:.1f} s: {system.url}")
        provider = next(each.url for each in system.state.processes if each.name == "provider")
        proofs = asyncio.run(_all_proofs(system.url, provider, data, tell))
    except Unreachable as error:
        raise Failure(str(error), then=f"see the logs in {data}/logs (keep them with --data)", code=UNAVAILABLE) from None
    finally:
        system.stop()
    faults = [fault for proof in proofs for fault in proof.faults]
    if as_json:
        document = [{"what": proof.what, "proved": not proof.faults, "figures": proof.figures, "faults": proof.faults} for proof in proofs]
        show(document, True, lambda _: ())
    tell(f"stopped  everything after {time.monotonic() - began:.1f} s")
    tell(f"{'NOT proved' if faults else 'proved'}   {len([p for p in proofs if not p.faults])} of {len(proofs)} promises")
    if faults:
        raise typer.Exit(NO)


async def _all_proofs(url: str, provider: str, data: Path, tell: Callable[[str], None]) -> list[Proof]:
    proofs: list[Proof] = []

    def add(proof: Proof) -> None:
        proofs.append(proof)
        tell(f"{'FAILED ' if proof.faults else 'proved '}  {proof.what}")
        for fault in proof.faults:
            tell(f"         {fault}")

    async with Edge(url) as edge:
        late = asyncio.create_task(paying.run_late(edge, provider, verify.new_run_id(), wait_s=WAIT_S))
        try:
            add(await _story(edge))
            money = await paying.run_payments(edge, provider, verify.new_run_id(), wait_s=WAIT_S)
            add(_paid(money))
            for line in paying.ledger_lines(money.money):
                tell(f"         {line}")
            facts = await race.run(edge, verify.new_run_id(), orders=BUYERS, stock=UNITS, duplicates=False, kill=None, wait_s=WAIT_S)
            await asyncio.to_thread(verify.read_log, facts, url, data)
            add(Proof(_result("", facts), facts.figures(), race.judge_race(facts)))

            add(_paid_late(await late))  # before the worker is killed: while there is none, no window ends and a late payment is in time
            for line in paying.ledger_lines({"late": late.result().money}):
                tell(f"         {line}")

            facts = await race.run(
                edge, verify.new_run_id(), orders=BUYERS, stock=UNITS, duplicates=False, kill=lambda: verify.kill(data), wait_s=WAIT_S
            )
            if facts.killed is not None:
                facts.killed = await verify.started_again(data, facts.killed)
                await asyncio.to_thread(verify.read_log, facts, url, data)
                how = f"the worker killed with -9 (process {facts.killed.pid}): "
                add(Proof(_result(how, facts), facts.figures(), race.judge_race(facts)))
        finally:
            late.cancel()
    return proofs


async def _story(edge: Edge) -> Proof:
    story = await run_story(edge, verify.new_run_id(), wait_s=WAIT_S)
    what = f"one order, POST to delivery: {' -> '.join(story.labels)}, {len(story.events)} events without a gap"
    return Proof(what, {"order_id": story.order_id, "labels": story.labels, "events": story.events}, judge_story(story))


def _paid(money: paying.PaymentFacts) -> Proof:
    what = "three prepaid orders: one captured as it shipped and partly refunded, one declined, one canceled; the provider's book agrees"
    ledgers = {name: each.ledger for name, each in money.money.items()}
    return Proof(what, {"placed": money.placed, "ledgers": ledgers}, paying.judge_payments(money))


def _paid_late(late: paying.LateFacts) -> Proof:
    what = "a payment that came when its order had expired was given back, the units were free again; the provider's book agrees"
    return Proof(what, {"placed": late.placed, "ledger": late.money.ledger}, paying.judge_late(late))


def _result(how: str, facts: race.RaceFacts) -> str:
    return (
        f"{how}{facts.orders} buyers at once, {facts.stock} units: {len(facts.won)} confirmed, {len(facts.lost)} refused, "
        f"available {facts.available}, never below {facts.available_lowest}, {facts.seconds:.1f} s"
    )
