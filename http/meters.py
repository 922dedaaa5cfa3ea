"""What the edge counts: requests per route template, commands per outcome. No ids in labels."""

from prometheus_client import CollectorRegistry, Counter, Histogram

from orderflow.http.gateway import Denied, Outcome

BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
"""Around the targets of slot D79: edge 50 ms, order creation 2 s."""


class Meters:
    """One registry per edge, so that several can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter("orderflow_http_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry)
        self._seconds = Histogram(
            "orderflow_http_request_duration_seconds", "Time to answer.", ["method", "route"], buckets=BUCKETS_S, registry=self.registry
        )
        self._commands = Counter(
            "orderflow_commands", "Commands sent, by outcome within the wait.", ["command", "outcome", "reason"], registry=self.registry
        )

        self._webhooks = Counter(
            "orderflow_webhooks", "Webhooks, by source and whether they were believed.", ["source", "result"], registry=self.registry
        )

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        self._requests.labels(method, route, status).inc()
        self._seconds.labels(method, route).observe(seconds)

    def webhook(self, source: str, result: str) -> None:
        """`result`: verified, unreadable, or the reason of the refusal. `source` is one that is configured."""
        self._webhooks.labels(source, result).inc()

    def command(self, name: str, outcome: Outcome | None) -> None:
        """`outcome` None: no answer within the wait (202)."""
        if outcome is None:
            self._commands.labels(name, "pending", "").inc()
        elif isinstance(outcome, Denied):
            self._commands.labels(name, "refused", outcome.reason).inc()
        else:
            self._commands.labels(name, "applied", "").inc()
