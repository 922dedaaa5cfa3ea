"""Fourteen bugs, each behind its name: a broken subclass or a wrapped function in the place of the sound one, in this test tree only.

A simulator that does not find them proves nothing. `orderflow simulate --planted` prints how many seeds each one took.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from msgspec import structs

from orderflow.streams import transaction
from orderflow.streams.domain import payment, sourcing, stock
from orderflow.streams.engine import Engine
from orderflow.streams.processor import Processor
from orderflow.streams.topology import SPACES, KeySpace
from orderflow.streams.turn import CommandTurn
from orderflow.tables import catchup
from simulation import clients
from simulation.edges import Edge
from simulation.system import Parts, System

Prepare = Callable[[System, Edge], None]


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute of production code for the length of a run."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _spaces(broken: Mapping[str, Any]) -> tuple[KeySpace, ...]:
    """The key spaces with other rules for some."""
    return tuple(structs.replace(space, rules=broken[space.name]) if space.name in broken else space for space in SPACES)


def _rules(module: Any, **functions: Any) -> SimpleNamespace:
    return SimpleNamespace(**{**vars(module), **functions})


class StateBeforeCommit(Parts):
    """RocksDB is written before the transaction is committed."""

    class engine(Engine):  # noqa: N801
        def commit(self) -> None:
            if self.transaction.open:
                touched = [partition for partition in self.partitions.values() if partition.touched]
                self._write(touched)
                for partition in touched:
                    partition.touched = True
            super().commit()


class NoDedupe(Parts):
    """A command id that was answered is decided again."""

    @contextmanager
    def planted(self) -> Iterator[None]:
        load = CommandTurn._answer_key

        def never(turn: CommandTurn, command_id: str) -> str:
            return load(turn, command_id) + f"/{turn.sequence}"

        with replaced(CommandTurn, "_answer_key", never):
            yield


class TimerLostAtHandOver(Parts):
    """The due index is not rebuilt when a partition is restored."""

    @contextmanager
    def planted(self) -> Iterator[None]:
        sound = catchup.Table.index_entries
        inside = [0]
        write = catchup.Job.write

        def without(table: Any, key: str, row: Any) -> dict[bytes, bytes]:
            entries = sound(table, key, row)
            return {entry: value for entry, value in entries.items() if entry[:1] != b"\x01"} if inside[0] else entries

        def write_without(job: Any, store: Any, now: int) -> None:
            inside[0] += 1
            try:
                write(job, store, now)
            finally:
                inside[0] -= 1

        with replaced(catchup.Table, "index_entries", without), replaced(catchup.Job, "write", write_without):
            yield


class TimersBeforeBacklog(Parts):
    """Timers are appended as soon as a partition is restored, whatever waits in its log."""

    class engine(Engine):  # noqa: N801
        def _start_restored(self) -> None:
            super()._start_restored()
            for partition in self.partitions.values():
                partition.caught_up = partition.running


class RandomOrderIdOnRetry(Parts):
    """The edge makes a new order id for each attempt of one request (see `PREPARES`)."""


def _random_order_ids(system: System, edge: Edge) -> None:
    edge.order_id = lambda number, sent: f"o{number:04d}" if sent <= 1 else f"o{number:04d}-{sent}"


class CollidingFollowUpIds(Parts):
    """Follow-up ids count per key instead of per event."""

    @contextmanager
    def planted(self) -> Iterator[None]:
        sound = CommandTurn._send

        def send(turn: CommandTurn, effect: Any, command_id: str, causation_id: str) -> None:
            number = command_id.rpartition(":")[2]
            sound(turn, effect, f"{turn.space.name}:{turn.key}:{number}", causation_id)

        with replaced(CommandTurn, "_send", send):
            yield


class NoFenceOnIndefiniteResult(Parts):
    """A timeout is taken for a failure: abort, and go on with the same producer."""

    @contextmanager
    def planted(self) -> Iterator[None]:
        sound = transaction.outcome
        table = lambda call, error: "abort" if error.name() == "_TIMED_OUT" else sound(call, error)  # noqa: E731
        with replaced(transaction, "outcome", table):
            yield


class OffsetsNotSent(Parts):
    """The transaction is committed without its offsets, so no generation fences it."""

    class producer(clients.Producer):  # noqa: N801
        def send_offsets_to_transaction(self, positions: Any, group: Any, timeout: float = 0) -> None:
            self._send(len(self._queue))


class ReleaseIgnoredWhenUnknown(Parts):
    """Releasing a reservation nobody knows does nothing, so a reserve that arrives later leaves an orphan."""

    @property
    def spaces(self) -> Iterable[KeySpace]:  # type: ignore[override]
        def decide(state: Any, command: Any, turn: Any) -> Any:
            if type(command).__name__ == "ReleaseReservation" and command.reservation_id not in state.reservation:
                return ()
            return stock.decide(state, command, turn)

        return _spaces({"stock": _rules(stock, decide=decide)})


class RefusalForgetsTheOthers(Parts):
    """An order that one sku refused ends without asking the others to release."""

    @contextmanager
    def planted(self) -> Iterator[None]:
        sound = sourcing._after_refusal

        def after_refusal(state: Any, order: Any, turn: Any, failed: Any) -> Any:
            events = sound(state, order, turn, failed)
            return tuple(event for event in events if getattr(event, "ask", "") != "release")

        with replaced(sourcing, "_after_refusal", after_refusal):
            yield


class HeadNotRestored(Parts):
    """A restored partition counts its keys' events from one again."""

    @contextmanager
    def planted(self) -> Iterator[None]:
        sound = catchup.Job.take

        def take(job: Any, topic: str, key: bytes, value: bytes | None, offset: int) -> None:
            if ".head.changelog" in topic:
                job.records += 1
                job._positions[topic] = offset + 1
                return
            sound(job, topic, key, value, offset)

        with replaced(catchup.Job, "take", take):
            yield


class TornCommand(Parts):
    """The outputs of a command leave before its size is checked."""

    class processor(Processor):  # noqa: N801
        def run(self, batch: Any) -> Any:
            leaked: list[Any] = []
            sound = CommandTurn.check_sizes

            def check(turn: CommandTurn) -> None:
                try:
                    sound(turn)
                except Exception:
                    leaked.extend(output for output in turn.outputs if len(output.value or b"") < 10_000)
                    raise

            with replaced(CommandTurn, "check_sizes", check):
                result = super().run(batch)
            result.outputs.extend(leaked)
            return result


class MoneyForgotten(Parts):
    """An order that ends asks nobody to give its money back, and does not wait for it."""

    @contextmanager
    def planted(self) -> Iterator[None]:
        with replaced(payment, "undone", lambda state, order: ()), replaced(payment, "is_undone", lambda state, order: True):
            yield


class GoodsBeforeMoney(Parts):
    """A shipment leaves while its capture is only asked for."""

    @contextmanager
    def planted(self) -> Iterator[None]:
        sound = payment.Handover.allows

        def allows(handover: Any, fulfillment: Any) -> bool:
            return sound(handover, fulfillment) or handover.is_open

        with replaced(payment.Handover, "allows", allows):
            yield


PLANTED: Mapping[str, type[Parts]] = {
    "state before commit": StateBeforeCommit,
    "no dedupe": NoDedupe,
    "timer lost at hand-over": TimerLostAtHandOver,
    "timers appended before the backlog is consumed": TimersBeforeBacklog,
    "random order id on retry": RandomOrderIdOnRetry,
    "colliding follow-up ids": CollidingFollowUpIds,
    "no fence on an indefinite result": NoFenceOnIndefiniteResult,
    "offsets not sent": OffsetsNotSent,
    "release ignored when unknown": ReleaseIgnoredWhenUnknown,
    "refusal forgets to release the others": RefusalForgetsTheOthers,
    "head sequence not restored": HeadNotRestored,
    "torn command": TornCommand,
    "money forgotten at the end": MoneyForgotten,
    "goods leave before their money is there": GoodsBeforeMoney,
}
PREPARES: Mapping[str, Prepare] = {"random order id on retry": _random_order_ids}
