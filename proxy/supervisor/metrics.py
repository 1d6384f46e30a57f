"""The one prometheus registry, fed by the workers' deltas."""

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from proxy.dataplane.counters import METRICS, Counters, Metric

PREFIX = "egress_"


class CountersCollector(Collector):
    """Shows one `Counters` (totals over all workers, dead ones included) as prometheus families."""

    def __init__(self, totals: Counters) -> None:
        self._totals = totals

    def collect(self) -> Iterator[Family]:
        """Every declared metric, those without values too: dashboards see the family from the first scrape."""
        for metric in METRICS.values():
            yield _family(metric, self._totals)


def make_registry(totals: Counters) -> CollectorRegistry:
    """A registry of our own: the library's global one would carry whatever other packages put there."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(CountersCollector(totals))
    return registry


def render(registry: CollectorRegistry) -> bytes:
    """Prometheus text format."""
    return generate_latest(registry)


def _family(metric: Metric, totals: Counters) -> Family:
    name = PREFIX + metric.name
    if metric.kind == "counter":
        counter = CounterMetricFamily(name, metric.help, labels=metric.labels)
        for (row, labels), count in totals.counts.items():
            if row == metric.name:
                counter.add_metric(labels, count)
        return counter
    if metric.kind == "gauge":
        gauge = GaugeMetricFamily(name, metric.help, labels=metric.labels)
        for (row, labels), value in totals.gauges.items():
            if row == metric.name:
                gauge.add_metric(labels, value)
        return gauge
    histogram = HistogramMetricFamily(name, metric.help, labels=metric.labels)
    for (row, labels), cell in totals.histograms.items():
        if row == metric.name:
            bounds = [*(str(bound) for bound in metric.buckets), "+Inf"]
            histogram.add_metric(labels, list(zip(bounds, accumulate(cell.counts), strict=True)), cell.total)
    return histogram
