"""The judge of chaos runs believes no outcome that contradicts what a caller was told, and the load has the money it says."""

from types import SimpleNamespace

import chaos_judge
import chaos_load
import pytest
from chaos_load import ORDERS, Answer, Posted


def posted(*statuses: int) -> Posted:
    return Posted(f"POST {ORDERS}", "k", "o1", answers=[Answer(status, "", 0.0) for status in statuses])


@pytest.mark.parametrize(
    ("heard", "status", "problem"),
    [
        ((201,), "PROCESSING", ""),
        ((0, 503, 202, 201), "CANCELED", ""),
        ((202,), "REJECTED", ""),
        ((409,), "REJECTED", ""),
        ((402, 402), "REJECTED", ""),
        ((202,), "PENDING", "I5"),
        ((202,), "CANCEL_PENDING", "I5"),
        ((201,), "REJECTED", "I9"),
        ((409,), "PROCESSING", "I9"),
        ((402,), "SHIPPED", "I9"),
        ((201, 409), "PROCESSING", "I9"),
        ((402, 409), "REJECTED", "I9"),
        ((201, 402), "PROCESSING", "I9"),
    ],
)
def test_an_order_ends_as_its_callers_were_told(heard: tuple[int, ...], status: str, problem: str) -> None:
    found = list(chaos_judge._order("here", posted(*heard), SimpleNamespace(status=status)))
    assert [each.split()[0] for each in found] == [problem] * bool(problem), found


def test_an_order_that_was_accepted_exists() -> None:
    assert "LOST" in next(chaos_judge._order("here", posted(202), None))


@pytest.mark.parametrize("ending", sorted(set(chaos_load.ENDINGS)))
def test_what_an_order_costs_ends_as_it_is_meant_to(ending: int) -> None:
    for items in ([{"sku": "a", "qty": 2}], [{"sku": "a", "qty": 1}, {"sku": "b", "qty": 2}, {"sku": "c", "qty": 2}]):
        total = sum(line["qty"] * line["unit_price"]["amount_minor"] for line in chaos_load._priced(items, ending))
        assert total % 100 == ending and total >= chaos_load.PRICE
