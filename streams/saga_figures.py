"""What a worker counts of sagas; scraped at /metrics (slots D52 and INT-P1-03).

Ends are counted from the events of committed batches, so a rollback counts nothing twice; like every counter they begin anew with the
process. What is open is no counter at all: it is looked up in the rows when somebody scrapes (open_sagas.py), so it is right after a
restart and a hand-over, and no turn pays for it.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate, product

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from orderflow.streams.domain.contract import MICROS_PER_S
from orderflow.streams.domain.sagas import RESULTS, TYPES, End
from orderflow.streams.open_sagas import OpenSagas

STEP_S = (0.05, 0.2, 1.0, 5.0, 30.0, 120.0, 300.0, 1800.0, 86_400.0)
"""Upper bounds in seconds: an edge's wait, the give-up, the payment window and a day are among them."""


class SagaFigures(Collector):
    """Counts ends as they are committed, and asks what is open when it is scraped."""

    def __init__(self, open_sagas: OpenSagas, registry: CollectorRegistry = REGISTRY) -> None:
        self._open = open_sagas
        self._ends = Counter(dict.fromkeys(product(TYPES, RESULTS), 0))
        self._steps = {name: [0] * (len(STEP_S) + 1) for name in TYPES}
        self._seconds = dict.fromkeys(TYPES, 0.0)
        registry.register(self)

    def ended(self, ends: Sequence[End]) -> None:
        """Sagas that a commit has ended."""
        for end in ends:
            seconds = end.step_us / MICROS_PER_S
            self._ends[end.saga_type, end.outcome] += 1
            self._steps[end.saga_type][bisect_left(STEP_S, seconds)] += 1
            self._seconds[end.saga_type] += seconds

    def collect(self) -> Iterator[Metric]:
        ends = CounterMetricFamily("orderflow_sagas", "Sagas that ended, by type and outcome", labels=["type", "outcome"])
        for labels, count in list(self._ends.items()):
            ends.add_metric(labels, count)
        yield ends
        steps = HistogramMetricFamily("orderflow_saga_step_seconds", "How long the last step of a saga took to its end", labels=["type"])
        bounds = [*(str(bound) for bound in STEP_S), "+Inf"]
        for name in TYPES:
            steps.add_metric([name], list(zip(bounds, accumulate(self._steps[name]), strict=True)), self._seconds[name])
        yield steps
        sample = self._open.sample()
        yield _gauge("open", "Sagas under way", sample.open)
        yield _gauge("stuck", "Sagas that need people: see `orderflow sagas list --stuck`", sample.stuck)
        yield _gauge("oldest_seconds", "How long the oldest saga under way has waited", sample.oldest_s)
        cut = GaugeMetricFamily("orderflow_sagas_cut", "1 when more are open than were looked at: the gauges are then too low")
        cut.add_metric([], float(sample.cut))
        yield cut


def _gauge(name: str, text: str, values: "Counter[str] | dict[str, float]") -> Metric:
    gauge = GaugeMetricFamily(f"orderflow_sagas_{name}", text, labels=["type"])
    for each in TYPES:
        gauge.add_metric([each], float(values.get(each, 0)))
    return gauge
