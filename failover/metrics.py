"""The controller's Prometheus metrics: `GET /metrics`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from failover.cluster_view import ClusterView, ShownNode
from replication.topology import Phase

_FAST_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    """One registry a controller, so that several may live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.round_seconds = Histogram(
            "locum_controller_round_seconds", "Time to observe all agents.", registry=registry, buckets=_FAST_S
        )
        self.save_seconds = Histogram(
            "locum_controller_save_seconds", "Time to store a state.", registry=registry, buckets=_FAST_S
        )
        self.decisions = Counter("locum_controller_decisions", "Decisions by kind.", ["kind"], registry=registry)
        self.actions = Counter("locum_controller_actions", "Actions sent.", ["op", "outcome"], registry=registry)
        self.leading = Gauge("locum_controller_leading", "1 while it holds the leader lease.", registry=registry)
        self.term = Gauge("locum_term", "The cluster's term.", registry=registry)
        self.revision = Gauge("locum_revision", "Revision of the stored state.", registry=registry)
        self.phase = Gauge("locum_phase", "1 for the phase of the cluster.", ["phase"], registry=registry)
        self.incident_open = Gauge("locum_incident_open", "1 while an incident is open.", registry=registry)
        self.alarms = Gauge("locum_alarm", "1 while the alarm stands.", ["name"], registry=registry)
        self.node_up = Gauge(
            "locum_node_up", "1 when the agent answers and PostgreSQL runs.", ["node"], registry=registry
        )
        self.node_promotable = Gauge("locum_node_promotable", "1 when it may be promoted.", ["node"], registry=registry)
        self.node_lag_bytes = Gauge("locum_node_lag_bytes", "WAL not flushed yet.", ["node"], registry=registry)
        self.scrub_pages = Gauge("locum_scrub_pages", "Pages of the last pass over all.", ["node"], registry=registry)
        self.scrub_passes = Gauge("locum_scrub_passes", "Passes since the agent began.", ["node"], registry=registry)
        self.ledger_lag_bytes = Gauge(
            "locum_ledger_lag_bytes", "WAL that was not read yet.", ["node"], registry=registry
        )
        self.ledger_verified = Gauge(
            "locum_ledger_verified_blocks", "Blocks read after checkpoints.", ["node"], registry=registry
        )
        self.ledger_unverified_bytes = Gauge(
            "locum_ledger_unverified_bytes",
            "WAL before the last checkpoint whose blocks were not read from the disk yet.",
            ["node"],
            registry=registry,
        )
        self.compared_pages = Gauge(
            "locum_compared_pages", "Pages of the last comparison with the primary.", ["node"], registry=registry
        )

    def of_nodes(self) -> tuple[Gauge, ...]:
        """Those with a value for each node."""
        return (
            self.node_up,
            self.node_promotable,
            self.node_lag_bytes,
            self.scrub_pages,
            self.scrub_passes,
            self.ledger_lag_bytes,
            self.ledger_verified,
            self.ledger_unverified_bytes,
            self.compared_pages,
        )

    def exposition(self) -> bytes:
        """The text that a scrape gets."""
        return generate_latest(self.registry)


def show_cluster(metrics: Metrics, cluster: ClusterView | None) -> None:
    """Bring the gauges to what is true now; without a cluster to show, those of the cluster vanish."""
    for gauge in (metrics.phase, metrics.alarms, *metrics.of_nodes()):
        gauge.clear()
    if cluster is None:
        return
    metrics.term.set(cluster.term)
    metrics.revision.set(cluster.revision)
    metrics.incident_open.set(cluster.open_incident is not None)
    for phase in Phase:
        metrics.phase.labels(phase.value).set(phase is cluster.phase)
    for alarm in cluster.alarms:
        metrics.alarms.labels(alarm.name).set(1)
    for name, node in cluster.nodes.items():
        metrics.node_up.labels(name).set(node.state == "running")
        metrics.node_promotable.labels(name).set(node.promotable)
        if node.lag_bytes is not None:
            metrics.node_lag_bytes.labels(name).set(node.lag_bytes)
        _show_scrub(metrics, name, node)


def _show_scrub(metrics: Metrics, name: str, node: ShownNode) -> None:
    if node.scrub is not None:
        metrics.scrub_pages.labels(name).set(node.scrub.pages)
        metrics.scrub_passes.labels(name).set(node.scrub.passes)
    if node.ledger is not None:
        metrics.ledger_lag_bytes.labels(name).set(node.ledger.lag_bytes)
        metrics.ledger_verified.labels(name).set(node.ledger.verified_blocks)
        metrics.ledger_unverified_bytes.labels(name).set(node.ledger.unverified_bytes)
    if node.comparison_of_pages is not None:
        metrics.compared_pages.labels(name).set(node.comparison_of_pages.pages)
