"""From workers' deltas to the prometheus page."""

import json

import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxy.dataplane.counters import METRICS, OVERFLOW, SERIES_LIMIT_PER_METRIC, Counters
from proxy.supervisor.metrics import Totals, make_registry, render


def _page(totals: Totals) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = render(make_registry(totals)).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _sent(counters: Counters) -> dict[str, object]:
    delta = counters.take_delta()
    assert delta is not None
    sent: dict[str, object] = json.loads(json.dumps(delta))  # as it crosses the control channel
    return sent


def test_counts_of_workers_add_up_and_outlive_them() -> None:
    totals = Totals()
    for worker, count in (("w0", 2), ("w1", 3)):
        counters = Counters()
        counters.add("requests_total", ("alpha", "allowed"), count)
        totals.merge(worker, _sent(counters))
    totals.forget("w0")
    assert _page(totals)["egress_requests_total", (("app", "alpha"), ("outcome", "allowed"))] == 5


def test_gauges_are_summed_over_living_workers_only() -> None:
    totals = Totals()
    for worker, value in (("w0", 4), ("w1", 5)):
        counters = Counters()
        counters.set("connections_open", (), value)
        totals.merge(worker, _sent(counters))
    key = ("egress_connections_open", ())
    assert _page(totals)[key] == 9
    totals.forget("w1")
    assert _page(totals)[key] == 4


def test_a_gauge_that_is_set_again_replaces_itself() -> None:
    totals, counters = Totals(), Counters()
    for value in (7, 2):
        counters.set("tunnels_open", (), value)
        totals.merge("w0", _sent(counters))
    assert _page(totals)["egress_tunnels_open", ()] == 2


def test_histograms_are_cumulative_with_sum_and_count() -> None:
    totals, counters = Totals(), Counters()
    bounds = METRICS["inspect_seconds"].buckets
    for value in (0.0, bounds[0], bounds[0] * 1.01, 1e9):
        counters.observe("inspect_seconds", (), value)
    totals.merge("w0", _sent(counters))
    page = _page(totals)
    assert page["egress_inspect_seconds_bucket", (("le", str(bounds[0])),)] == 2
    assert page["egress_inspect_seconds_bucket", (("le", str(bounds[1])),)] == 3
    assert page["egress_inspect_seconds_bucket", (("le", "+Inf"),)] == 4
    assert page["egress_inspect_seconds_count", ()] == 4


def test_every_declared_metric_is_on_the_first_page() -> None:
    text = render(make_registry(Totals())).decode()
    for metric in METRICS.values():
        # The text format names a counter's family without its suffix only in OpenMetrics; here it keeps it.
        assert f"# TYPE egress_{metric.name} {metric.kind}" in text


def test_labels_are_escaped_and_cannot_forge_a_line() -> None:
    totals, counters = Totals(), Counters()
    evil = 'a"} 1\negress_forged 1'
    counters.add("denied_total", (evil, "alpha"))
    totals.merge("w0", _sent(counters))
    assert _page(totals)["egress_denied_total", (("app", "alpha"), ("reason", evil))] == 1
    assert not any(name == "egress_forged" for name, _ in _page(totals))


def test_series_are_bounded_and_the_rest_is_folded_not_lost() -> None:
    counters = Counters()
    for number in range(SERIES_LIMIT_PER_METRIC + 50):
        counters.add("cost_usd_nanos_total", ("alpha", "openai", f"model-{number}"))
    assert len(counters.counts) == SERIES_LIMIT_PER_METRIC + 1
    assert counters.counts["cost_usd_nanos_total", (OVERFLOW,) * 3] == 50


def test_a_delta_is_taken_once() -> None:
    counters = Counters()
    counters.add("ready")
    assert counters.take_delta() is not None
    assert counters.take_delta() is None


@pytest.mark.parametrize(
    "delta",
    [
        {"counts": [["unheard_of", [], 1]], "gauges": [], "histograms": []},
        {"counts": [["requests_total", ["alpha"], 1]], "gauges": [], "histograms": []},
        {"counts": [["requests_total", ["alpha", "allowed"]]], "gauges": [], "histograms": []},
        {"counts": [], "gauges": [], "histograms": [["inspect_seconds", [], [1, 2], 3.0]]},
        {"counts": [], "gauges": []},
    ],
    ids=["unknown", "labels", "short row", "buckets", "missing part"],
)  # fmt: skip
def test_a_malformed_delta_is_refused(delta: dict[str, object]) -> None:
    with pytest.raises((KeyError, ValueError)):
        Totals().merge("w0", delta)
