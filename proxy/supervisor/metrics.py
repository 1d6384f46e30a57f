"""The one prometheus registry, fed by the workers' deltas."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from proxy.dataplane.counters import METRICS, Counters, Histogram, Labels, Metric

PREFIX: Final = "egress_"


class Totals:
    """Numbers over all workers. Counters and histograms outlive the worker that counted; gauges die with it."""

    def __init__(self) -> None:
        self.own = Counters()
        self._gauges: dict[str, Counters] = {}

    def merge(self, source: str, delta: Mapping[str, Any]) -> None:
        """Adds one worker's delta. KeyError or ValueError when it is not one."""
        self.own.merge({**delta, "gauges": []})
        self._gauges.setdefault(source, Counters()).merge({**delta, "counts": [], "histograms": []})

    def forget(self, source: str) -> None:
        """The worker has ended: what it held open is gone."""
        self._gauges.pop(source, None)

    def gauges(self, name: str) -> dict[Labels, float]:
        """Summed over the living workers, plus the supervisor's own."""
        summed: dict[Labels, float] = {}
        for counters in (self.own, *self._gauges.values()):
            for labels, value in _rows(counters.gauges, name):
                summed[labels] = summed.get(labels, 0) + value
        return summed


class TotalsCollector(Collector):
    """Shows `Totals` as prometheus families."""

    def __init__(self, totals: Totals) -> None:
        self._totals = totals

    def collect(self) -> Iterator[Family]:
        """Every declared metric, those without values too: dashboards see the family from the first scrape."""
        for metric in METRICS.values():
            yield _FAMILIES[metric.kind](metric, self._totals)


def make_registry(totals: Totals) -> CollectorRegistry:
    """A registry of our own: the library's global one would carry whatever other packages put there."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(TotalsCollector(totals))
    return registry


def render(registry: CollectorRegistry) -> bytes:
    """Prometheus text format."""
    return generate_latest(registry)


def _rows[V](table: Mapping[tuple[str, Labels], V], name: str) -> Iterable[tuple[Labels, V]]:
    return ((labels, value) for (row, labels), value in table.items() if row == name)


def _counter(metric: Metric, totals: Totals) -> Family:
    family = CounterMetricFamily(PREFIX + metric.name, metric.help, labels=metric.labels)
    for labels, count in _rows(totals.own.counts, metric.name):
        family.add_metric(labels, count)
    return family


def _gauge(metric: Metric, totals: Totals) -> Family:
    family = GaugeMetricFamily(PREFIX + metric.name, metric.help, labels=metric.labels)
    for labels, value in totals.gauges(metric.name).items():
        family.add_metric(labels, value)
    return family


def _histogram(metric: Metric, totals: Totals) -> Family:
    family = HistogramMetricFamily(PREFIX + metric.name, metric.help, labels=metric.labels)
    bounds = [*(str(bound) for bound in metric.buckets), "+Inf"]
    for labels, cell in _rows(totals.own.histograms, metric.name):
        family.add_metric(labels, _cumulative(bounds, cell), cell.total)
    return family


def _cumulative(bounds: list[str], cell: Histogram) -> list[tuple[str, float]]:
    return list(zip(bounds, map(float, accumulate(cell.counts)), strict=True))


_FAMILIES = {"counter": _counter, "gauge": _gauge, "histogram": _histogram}
