"""J1-product: J1's commands as the product has them, in turn with J1: real schemas, envelope, rules, events, status, answers, timers' rows.

The same input as J1, as the orders key space would send it. A worker with the stock key space alone first takes the receipts of every SKU,
then is started again over the backlog of ReserveStock, which is measured.
"""

import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import contest
import drain
import j1
import j1_contest
import plots
from contestants import ALL, Lane

from orderflow.cli import contracts
from orderflow.connectors.box.box import Box
from orderflow.connectors.box.ports import free_port
from orderflow.schemas.catalog import Catalog
from orderflow.streams import checkers, worker
from orderflow.streams.domain.contract import CommandMeta
from orderflow.streams.domain.ids import reservation_id
from orderflow.streams.domain.order_records import RecordStockAnswer
from orderflow.streams.domain.parts import Holder
from orderflow.streams.domain.stock_records import ReceiveStock, ReserveStock
from orderflow.streams.records import Records
from orderflow.streams.replay import fold
from orderflow.streams.settings import WorkerSettings
from orderflow.streams.shell import run_app
from orderflow.streams.topology import STOCK

NAMES = ("j1", "j1-product")
FAR_US = 4_102_444_800_000_000
"""2100: no reservation expires while it is measured."""
METRICS = (*j1_contest.METRICS, "produces_per_event", "bytes_per_event")


# -- the worker -----------------------------------------------------------------------------------------------------------------------
def work() -> None:
    """The product's worker with the stock key space alone; settings from ORDERFLOW_... variables as always."""
    settings = WorkerSettings()
    records = Records.load(Catalog(settings.prefix, settings.partitions), settings.registry, settings.data / "schemas.json")
    store = worker.open_store(settings)
    worker.claim(settings, records, store)
    run_app(worker.build(settings, records, store, (STOCK,)))


# -- input ----------------------------------------------------------------------------------------------------------------------------
def receipts(records: Records, count: int, on_hand: int) -> Iterator[tuple[bytes, bytes]]:
    """A receipt for every SKU that the first `count` commands ask for."""
    encode = records.of("stock").encode_command
    for sku in sorted({command.sku for command in j1.commands(count)}):
        meta = CommandMeta(f"receipt-{sku}", j1.BASE_US, actor="bench", principal="bench")
        yield sku.encode(), encode(meta, sku, ReceiveStock("main", on_hand, reference=f"receipt-{sku}"))


def reservations(records: Records, count: int) -> Iterator[tuple[bytes, bytes]]:
    """J1's commands as the orders key space sends them: ids, correlation and causation of a real order."""
    encode = records.of("stock").encode_command
    for command in j1.commands(count):
        order, cause = command.order_id, f"orders:{command.order_id}:2"
        meta = CommandMeta(f"{cause}:0", command.requested_at, "main", "customer", command.customer_id, order, cause)
        name = reservation_id(command.sku, order, 1)
        value = ReserveStock(name, Holder(order), command.quantity, FAR_US, line_ids=(str(command.line_id),))
        yield command.sku.encode(), encode(meta, command.sku, value)


# -- the contest ----------------------------------------------------------------------------------------------------------------------
def run(box: Box, directory: Path, *, rounds: int, records: int, data: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Both jobs in turn on one box with a registry; the document that is saved and shown."""
    on_hand = j1.ON_HAND[data]
    broker = int((box.data_dir / "run" / "kafka.pid").read_text().split()[0])
    say(f"writing {records} commands")
    j1.make_topics(box.bootstrap, "j1", names=("commands",))
    j1.record(box.bootstrap, "j1", records)
    ours = ALL["orderflow"]
    command = ours.ready()
    shops: dict[int, Shop] = {}

    def lane(number: int) -> Lane:
        return Lane(box.bootstrap, f"j1-{number}", "j1.commands", directory / f"j1-{number}", on_hand)

    def before(number: int, name: str) -> None:
        if name == "j1":
            j1.make_topics(box.bootstrap, lane(number).app, names=j1.TOPICS[1:])
        else:
            shops[number] = Shop(box, directory, f"product-{number}", broker)
            shops[number].open(records, on_hand)

    def measure(number: int, name: str) -> contest.Figures:
        if name == "j1":
            return j1_contest.drained(ours, command, lane(number), broker, directory / f"j1-{number}.log")
        return shops[number].sell()

    def check(number: int, name: str) -> contest.Figures:
        here = lane(number)
        try:
            if name == "j1-product":
                return shops[number].check(records)
            checked = j1.check(box.bootstrap, here.app, records, on_hand)
            topics = [f"{here.app}.{topic}" for topic in j1.TOPICS[1:]]
            return {"checked": checked, **j1.weigh(box.bootstrap, topics, {}, records)}
        except AssertionError as wrong:
            return {"fault": str(wrong) or "the output is wrong"}
        finally:
            shutil.rmtree(here.state if name == "j1" else shops[number].data, ignore_errors=True)

    results = contest.take_turns(rounds, NAMES, measure, say, check, before)
    return {
        "job": "j1-product",
        "data": data,
        "records": records,
        "facts": contest.facts(),
        "contestants": {"j1": {"what": "the job of J1"}, "j1-product": {"what": "the product's reservation"}},
        "not_run": {},
        "against": "j1",
        "median": contest.medians(results, METRICS),
        "ratio": {metric: contest.ratios(results, metric, "j1") for metric in METRICS[:2]},
        "rounds": results,
    }


class Shop:
    """One round of the product: its topics, its worker's data, what was there before the reservations."""

    def __init__(self, box: Box, directory: Path, prefix: str, broker: int) -> None:
        self._box, self._prefix, self._broker = box, prefix, broker
        self.data, self._log = directory / prefix, directory / f"{prefix}.log"
        self._catalog = Catalog(prefix, j1.PARTITIONS)
        contracts.apply_topics(box.bootstrap, self._catalog)
        contracts.apply_schemas(box.registry_url, self._catalog)
        self._records = Records.load(self._catalog, box.registry_url, directory / f"{prefix}-schemas.json")
        self._stock = self._records.of("stock")
        self._starts: dict[str, dict[int, int]] = {}
        self._fault = ""

    def open(self, count: int, on_hand: int) -> None:
        """Receive units of every SKU, then put the commands into the log."""
        j1.write(self._box.bootstrap, self._stock.commands, receipts(self._records, count, on_hand))
        try:
            self._drain()
        except drain.Failed as failed:
            self._fault = f"taking the receipts, it {failed}"
            return
        self._starts = {topic.name: j1.ends(self._box.bootstrap, topic.name) for topic in self._catalog.topics()}
        j1.write(self._box.bootstrap, self._stock.commands, reservations(self._records, count))

    def sell(self) -> contest.Figures:
        """Drain the commands; the figures, or the fault."""
        try:
            return {"fault": self._fault} if self._fault else self._drain()
        except drain.Failed as failed:
            return {"fault": str(failed)}

    def _drain(self) -> dict[str, Any]:
        told = {"bootstrap": self._box.bootstrap, "registry": self._box.registry_url, "prefix": self._prefix, "group": self._prefix}
        told |= {"partitions": j1.PARTITIONS, "data": self.data, "worker_port": free_port(), "codec": "compiled"}
        return drain.drain(
            (sys.executable, __file__),
            {f"ORDERFLOW_{name.upper()}": str(value) for name, value in told.items()},
            bootstrap=self._box.bootstrap,
            group=self._prefix,
            topic=self._stock.commands,
            broker=self._broker,
            log=self._log,
            limit_s=j1_contest.LIMIT_S,
        )

    def check(self, count: int) -> contest.Figures:
        """The checkers over the events, rows equal to their fold, one answer per command. Raises AssertionError."""
        bootstrap = self._box.bootstrap
        broken = [*checkers.stock_counts(self._events()), *checkers.one_writer(self._events())]
        assert not broken, f"{len(broken)} violations, the first: {broken[0]}"
        folded = fold(STOCK, ((seen.meta, seen.key, seen.value) for seen in self._events()))
        for table, rows in folded.items():
            last = dict(j1.read_all(bootstrap, self._stock.changelog(table)))
            decode = self._stock.row(table).decode
            assert {key.decode(): decode(value) for key, value in last.items() if value} == rows, (
                f"{table}: rows are not the fold of the events"
            )
        asked = Counter(reservation_id(command.sku, command.order_id, 1) for command in j1.commands(count))
        answered, outcomes = _answers(self._records, j1.read_all(bootstrap, self._records.of("orders").commands))
        assert answered == asked, f"{sum(asked.values())} commands, {sum(answered.values())} answers"
        mixed = [name for name, found in outcomes.items() if len(found) > 1]
        assert not mixed, f"{len(mixed)} commands have two answers, the first is {mixed[0]}"
        assert not sum(1 for _ in j1.messages(bootstrap, self._stock.dlq)), "commands were parked"
        refused = sum(found == {"refused"} for found in outcomes.values())
        topics = [topic.name for topic in self._catalog.topics() if topic.name != self._stock.commands]
        checked = {"commands": count, "distinct": len(asked), "refused": refused, "reserved_rows": len(folded["stock"])}
        return {"checked": checked, **j1.weigh(bootstrap, topics, self._starts, count)}

    def _events(self) -> Iterator[checkers.Seen]:
        for message in j1.messages(self._box.bootstrap, self._stock.events):
            meta, key, event = self._stock.decode_event(message.value())
            yield checkers.Seen("stock", message.partition(), message.offset(), meta, key, event)


def _answers(records: Records, commands: Iterator[tuple[bytes, bytes]]) -> tuple[Counter[str], dict[str, set[str]]]:
    """How often each reservation was answered, and with which outcomes."""
    answered: Counter[str] = Counter()
    outcomes: dict[str, set[str]] = {}
    for _, value in commands:
        _, _, answer = records.of("orders").decode_command(value)
        assert isinstance(answer, RecordStockAnswer), f"stock sent the orders {type(answer).__name__}"
        answered[answer.reservation_id] += 1
        outcomes.setdefault(answer.reservation_id, set()).add(answer.outcome)
    return answered, outcomes


# -- what people read -----------------------------------------------------------------------------------------------------------------
HEAD = (
    "job",
    "CPU µs per event",
    "events/s",
    "× CPU",
    "× events/s",
    "records out per command",
    "bytes out per command",
    "rounds",
    "output",
)


def rows(document: Mapping[str, Any]) -> Iterator[list[str]]:
    """A line per job."""
    for name in document["contestants"]:
        middle, mine = document["median"][name], [each for each in document["rounds"] if each["contestant"] == name]
        yield [
            name,
            *(j1_contest.spread(middle.get(metric)) for metric in METRICS[:2]),
            *(j1_contest.ratio(document, metric, name) for metric in METRICS[:2]),
            *(j1_contest.spread(middle.get(metric)) for metric in METRICS[-2:]),
            f"{middle['rounds']} of {len(mine)}",
            j1_contest.verdict(mine),
        ]


def table(document: Mapping[str, Any]) -> str:
    """The Markdown table of docs/benchmarks.md."""
    return plots.markdown(HEAD, rows(document)) + "\n\n" + j1_contest.legend(document)


def charts(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, SVG) of each chart."""
    yield (
        "cpu",
        plots.bars(
            "J1 and the product: CPU per event", "µs, less is better; the line is the range", [*j1_contest.bars(document, METRICS[0])]
        ),
    )


if __name__ == "__main__":
    work()
