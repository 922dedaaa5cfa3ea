"""A hundred cancels at once against the warehouse's posts, in any order in which the logs could carry them (row 19 of the fault matrix).

pytest tests/unit/test_cancel_race.py --chaos-rounds 1000
"""

from random import Random

import pytest
from domain_harness import NOW, World, seconds
from domain_payments import PREPAID, Bank, place, priced

from orderflow.streams.domain import payment, payment_ledger
from orderflow.streams.domain.order_records import CancelOrder, OrderStatus, PostFulfillmentStatus

ORDERS = 100
UNITS = 2 * ORDERS
PRICE = 1000
SEEDS = 12
STEPS = ("picking", "picked", "packed", "shipped")


def all_arrive(world: World, bank: Bank) -> None:
    while world.flying:
        world.arrive(world.random.choice(list(world.flying)))
        bank.listen()


def raced(seed: int) -> tuple[World, Bank]:
    """Every order is paid and in work; then its cancel and its posts are on their way together, as is all that follows from them."""
    world = World(Random(seed), channel=PREPAID).stock("A", UNITS)
    world.repeat = 0.05
    bank = Bank(world, world.random, 0.0)
    for number in range(ORDERS):
        world.send("orders", f"o{number}", place(priced("1", "A", 1, PRICE)), f"place-o{number}")
    all_arrive(world, bank)
    for number in range(ORDERS):
        world.send("orders", f"o{number}", CancelOrder("staff"), f"cancel-o{number}")
        for status in STEPS:
            world.send("orders", f"o{number}", PostFulfillmentStatus(f"o{number}", status), f"{status}-o{number}", f"warehouse o{number}")
    all_arrive(world, bank)
    while world.tick(until=NOW + seconds(20_000)):
        all_arrive(world, bank)
    return world, bank


def test_a_cancel_and_a_shipment_never_both_win(request: pytest.FixtureRequest) -> None:
    ends = {OrderStatus.SHIPPED: 0, OrderStatus.CANCELED: 0}
    for seed in range(request.config.getoption("--chaos-rounds") or SEEDS):
        world, bank = raced(seed)
        left = 0
        for number in range(ORDERS):
            order_id = f"o{number}"
            rows = world.log("orders", order_id).rows
            order, money = rows.order, rows.payment.ledger
            shipped = sum(line.shipped for line in order.lines)
            left += shipped
            ends[order.status] += 1
            assert (shipped == 1) == (order.status is OrderStatus.SHIPPED), f"seed {seed}, {order_id}"
            kept = payment_ledger.refundable(money)
            assert (kept, payment_ledger.capturable(money)) == (PRICE * shipped, 0), f"seed {seed}, {order_id}: {money}"
            assert not payment.is_open(rows.payment)
            assert bank.moved(order_id, "capture") - bank.moved(order_id, "refund") == kept
            settled = {settle.reason for settle in world.settled.get(f"cancel-{order_id}", ())}
            assert not (shipped and "" in settled), f"seed {seed}, {order_id}: the cancel was answered as done, and the goods left"
        (cell,) = world.log("stock", "A").rows.stock.cells
        assert (cell.on_hand, cell.reserved, cell.allocated) == (UNITS - left, 0, 0), f"seed {seed}"
    assert all(ends.values()), f"one side always wins: {ends}"
