"""The controller's Prometheus metrics: `GET /metrics`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from failover.cluster_view import ClusterView
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

    def exposition(self) -> bytes:
        """The text that a scrape gets."""
        return generate_latest(self.registry)


def show_cluster(metrics: Metrics, cluster: ClusterView | None) -> None:
    """Bring the gauges to what is true now; without a cluster to show, those of the cluster vanish."""
    for gauge in (metrics.phase, metrics.alarms, metrics.node_up, metrics.node_promotable, metrics.node_lag_bytes):
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
