"""What a worker does to the garbage collector: it does not look at values, and seldom at anything."""

import gc
import importlib
import pkgutil
from collections.abc import Iterator

import pytest
from msgspec import Struct

import orderflow.streams.domain
from orderflow.streams import batch, wire
from orderflow.streams.shell import GC_THRESHOLDS, calm_collector


def values() -> Iterator[type[Struct]]:
    """Every kind of command, event, row, snapshot and output."""
    names = [module.name for module in pkgutil.iter_modules(orderflow.streams.domain.__path__, "orderflow.streams.domain.")]
    for module in (*map(importlib.import_module, names), wire):
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, Struct) and kind.__module__ == module.__name__:
                yield kind
    yield batch.Output


@pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.__name__) for kind in values() if kind.__name__ != "Transitions"])
def test_a_value_is_not_tracked(kind: type[Struct]) -> None:
    """They are made by the hundred thousand and cannot be part of a cycle; tracked, they cost a tenth of a worker's time."""
    assert not kind.__struct_config__.gc, f"declare it `class {kind.__name__}(Struct, frozen=True, gc=False)`"


def test_a_worker_freezes_what_it_loaded_and_collects_seldom() -> None:
    before = gc.get_threshold()
    try:
        calm_collector()
        assert gc.get_threshold() == GC_THRESHOLDS
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
