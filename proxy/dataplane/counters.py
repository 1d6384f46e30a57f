"""What a worker counts, and the table of all metrics.

Workers keep plain numbers and hand deltas to the supervisor, which alone owns the prometheus registry. Names here are
without the `egress_` prefix. Labels never hold prompt text, secrets, raw PII, paths or client addresses.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

type Labels = tuple[str, ...]
type Key = tuple[str, Labels]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric family. `buckets`: upper bounds of a histogram, in the metric's unit, without +Inf."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: Labels = ()
    buckets: tuple[float, ...] = ()


# Inference answers take 0.1 to 60 s, inspection 1 ms (patterns) to 1 s (NER of long prompts).
_UPSTREAM_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_INSPECT_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

METRICS: Final[Mapping[str, Metric]] = {
    metric.name: metric
    for metric in (
        Metric("requests_total", "counter", "Exchanges that ended, by outcome", ("app", "outcome")),
        Metric("denied_total", "counter", "Denials by reason code", ("reason", "app")),
        Metric("would_deny_total", "counter", "Denials that report mode let pass", ("reason", "app")),
        Metric(
            "tokens_total",
            "counter",
            "Tokens by kind (input, output, cache_read, cache_creation, reasoning)",
            ("app", "provider", "model", "kind"),
        ),
        Metric("cost_usd_nanos_total", "counter", "Spend in nano-dollars", ("app", "provider", "model")),
        Metric("unpriced_total", "counter", "Calls of models without a known price", ("app", "provider", "model")),
        Metric("cache_total", "counter", "Cache look-ups by result (hit, miss, bypass)", ("app", "result")),
        Metric("cache_forged_total", "counter", "Answers in the store that were not sealed for their place", ("app",)),
        Metric("findings_total", "counter", "Detections by entity and action", ("entity", "action")),
        Metric("request_seconds", "histogram", "Time of a whole exchange, streams to their end", ("app",), _UPSTREAM_S),
        Metric("upstream_seconds", "histogram", "Time until the upstream's response head", ("provider",), _UPSTREAM_S),
        Metric("inspect_seconds", "histogram", "Time one inspection took", (), _INSPECT_S),
        Metric("request_bytes_total", "counter", "Request body bytes of exchanges that went upstream", ("app",)),
        Metric("connections_open", "gauge", "Client connections open now", ()),
        Metric("tunnels_open", "gauge", "WebSockets and pass-through tunnels open now", ()),
        Metric("bodies_held_bytes", "gauge", "Request bodies held in memory", ()),
        Metric("upstream_connections_total", "counter", "Upstream connections by origin (new, reused)", ("origin",)),
        Metric("dns_queries_total", "counter", "DNS questions by result (allowed, denied, ...)", ("app", "result")),
        Metric("audit_records_total", "counter", "Audit records written", ("kind",)),
        Metric("audit_mirror_lost", "gauge", "Groups of audit lines that a mirror did not take", ("sink",)),
        Metric("audit_spool_full", "gauge", "Records that met a full spool, by fate (kept, refused)", ("fate",)),
        Metric("store_up", "gauge", "1 while the store answers the supervisor", ()),
        Metric(
            "store_silent_seconds",
            "gauge",
            "Since when the store does not confirm the supervisor's policy, by silence or by a head that is refused; "
            "0 while it does",
            (),
        ),
        Metric("stops_restored", "gauge", "Stop orders that the store had lost and was given back", ()),
        Metric("config_reloads_total", "counter", "Revisions a worker met, by result (accepted, refused)", ("result",)),
        Metric("internal_errors_total", "counter", "Failures that ended in a denial, by place", ("place",)),
        Metric("worker_up", "gauge", "1 while the worker serves", ("worker",)),
        Metric("worker_restarts_total", "counter", "Children that had to be started again", ("kind",)),
        Metric("inspector_up", "gauge", "1 while the inspector answers", ("inspector",)),
        Metric("config_seq", "gauge", "Sequence number of the active revision", ("worker",)),
        Metric("ready", "gauge", "1 while the proxy takes traffic", ()),
        Metric("ca_expires_timestamp_seconds", "gauge", "When the CA certificate expires", ()),
    )
}

# A caller chooses model names; without a bound it could make the registry grow for ever.
SERIES_LIMIT_PER_METRIC: Final = 2000
OVERFLOW: Final = "other"


@dataclass(slots=True)
class Histogram:
    """Counts per bucket (the last one is +Inf), not cumulative, and the sum of values."""

    buckets: tuple[float, ...]
    counts: list[int]
    total: float = 0.0


@dataclass(slots=True)
class Counters:
    """Plain numbers keyed by (name, label values). Not thread-safe: one event loop owns it."""

    counts: dict[Key, int] = field(default_factory=dict)
    gauges: dict[Key, float] = field(default_factory=dict)
    histograms: dict[Key, Histogram] = field(default_factory=dict)
    _series: dict[str, set[Labels]] = field(default_factory=dict)

    def add(self, name: str, labels: Labels = (), n: int = 1) -> None:
        """Adds `n` to a counter."""
        key: Key = (name, labels)
        before = self.counts.get(key)
        if before is None:
            key = self._key(name, labels)
            before = self.counts.get(key, 0)
        self.counts[key] = before + n

    def set(self, name: str, labels: Labels = (), value: float = 1) -> None:
        """Sets a gauge."""
        self.gauges[self._key(name, labels)] = value

    def observe(self, name: str, labels: Labels = (), value: float = 0.0) -> None:
        """Puts one value into a histogram."""
        cell = self.histograms.get((name, labels)) or self._cell(name, labels)
        cell.counts[bisect_left(cell.buckets, value)] += 1
        cell.total += value

    def take_delta(self) -> dict[str, Any] | None:
        """JSON-able numbers since the last call (gauges: their values now), or None when there are none."""
        if not (self.counts or self.gauges or self.histograms):
            return None
        delta = {
            "counts": [[name, labels, n] for (name, labels), n in self.counts.items()],
            "gauges": [[name, labels, value] for (name, labels), value in self.gauges.items()],
            "histograms": [[name, labels, h.counts, h.total] for (name, labels), h in self.histograms.items()],
        }
        self.counts, self.gauges, self.histograms = {}, {}, {}
        return delta

    def merge(self, delta: Mapping[str, Any]) -> None:
        """Adds another process's delta. Rows of unknown metrics or wrong shape raise KeyError or ValueError."""
        for name, labels, n in delta["counts"]:
            self.add(_known(name, labels), tuple(labels), n)
        for name, labels, value in delta["gauges"]:
            self.set(_known(name, labels), tuple(labels), value)
        for name, labels, counts, total in delta["histograms"]:
            cell = self._cell(_known(name, labels), tuple(labels))
            cell.counts = [old + new for old, new in zip(cell.counts, counts, strict=True)]
            cell.total += total

    def _cell(self, name: str, labels: Labels) -> Histogram:
        key = self._key(name, labels)
        cell = self.histograms.get(key)
        if cell is None:
            buckets = METRICS[name].buckets
            cell = self.histograms[key] = Histogram(buckets, [0] * (len(buckets) + 1))
        return cell

    def _key(self, name: str, labels: Labels) -> Key:
        seen = self._series.get(name)
        if seen is None:
            seen = self._series[name] = set()
        if labels not in seen:
            if len(seen) >= SERIES_LIMIT_PER_METRIC:
                return name, (OVERFLOW,) * len(labels)
            seen.add(labels)
        return name, labels


def _known(name: str, labels: Any) -> str:
    if len(METRICS[name].labels) != len(labels):
        raise ValueError(f"{name} takes {len(METRICS[name].labels)} labels")
    return name
