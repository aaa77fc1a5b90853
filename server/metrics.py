"""What /metrics shows (prometheus text format)."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20)


class Metrics:
    """One registry a process, nothing global, so that tests may run several servers."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "locum_server_requests_total", "Requests answered.", ["route", "method", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "locum_server_request_seconds", "Time to an answer.", ["route"], buckets=_SECONDS, registry=self.registry
        )
        self.unknown_outcomes = Counter(
            "locum_server_unknown_outcomes_total", "Writes that were run again to learn theirs.", registry=self.registry
        )
        self.stale_reads = Counter(
            "locum_server_stale_reads_total", "Reads answered by a standby.", registry=self.registry
        )

    def watch(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """A gauge that is asked when somebody looks."""
        Gauge(name, help_text, registry=self.registry).set_function(value)

    def render(self) -> bytes:
        """The text."""
        return generate_latest(self.registry)
