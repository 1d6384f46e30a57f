"""From rounds to the closing line: every key the bars are set on, and nothing guessed."""

import xml.etree.ElementTree as ElementTree

import pytest

from loadtests.dataplane import figures, picture, report
from loadtests.dataplane.cases import MORE, QUICK, Case
from loadtests.dataplane.load import Load
from loadtests.dataplane.rounds import Result
from loadtests.dataplane.soak import slope
from loadtests.dataplane.steps import OTHER, by_step

KEYS = [
    "mitmdump_cpu_us",
    "lane_keepalive_x",
    "lane_fresh_x",
    "all_on_seen_keepalive_x",
    "all_on_seen_fresh_x",
    "lane_fresh_vs_squid_x",
    "cpu_2_workers_x",
    "cache_hit_vs_miss_x",
    "added_p50_ms",
    "added_p50_vs_mitmdump_x",
    "added_p99_ms",
    "idle_connection_kb",
    "download_200mb_rss_mb",
    "failed_requests",
]


def _result(name: str, server: str, cpu_us: float, *, p50: float = 100.0, failed: int = 0) -> Result:
    run = {
        "failed": failed, "requests_per_s": 10.0, "failures": {"closed": failed} if failed else {}, "other_status": 0,
        "latency_us": {"p50": p50, "p99": 10 * p50},
    }  # fmt: skip
    return Result(Case(name, server, "way", Load(fresh=name.endswith("fresh"))), [cpu_us, cpu_us * 3, cpu_us], [run])


@pytest.fixture
def results() -> dict[str, Result]:
    made = [
        _result("mitmdump keepalive", "mitmdump", 1500), _result("lane keepalive", "product", 150),
        _result("all keepalive", "product", 300), _result("mitmdump fresh", "mitmdump", 8000),
        _result("lane fresh", "product", 800), _result("all fresh", "product", 1600),
        _result("squid fresh", "squid", 3200, failed=7), _result("cache hit", "product", 200),
        _result("cache miss", "product", 310), _result("direct rate", "direct", 1, p50=100),
        _result("mitmdump rate", "mitmdump", 1, p50=2100), _result("all rate", "product", 1, p50=600, failed=2),
    ]  # fmt: skip
    return {result.case.name: result for result in made}


def test_every_key_is_there_and_what_was_not_measured_is_null() -> None:
    line = figures.key_figures({}, {})
    assert set(KEYS) <= set(line)
    assert {key for key in KEYS if line[key] is not None} == {"failed_requests"}


def test_ratios_compare_medians(results: dict[str, Result]) -> None:
    line = figures.key_figures(results, {"two_workers": {"cpu_2_workers_x": 1.02}, "restarts": {"failed_fresh": 3}})
    assert line["mitmdump_cpu_us"] == 1500
    assert (line["lane_keepalive_x"], line["lane_fresh_x"]) == (10, 10)
    assert (line["all_on_seen_keepalive_x"], line["all_on_seen_fresh_x"]) == (5, 5)
    assert line["lane_fresh_vs_squid_x"] == 4
    assert line["cache_hit_vs_miss_x"] == 1.55
    assert (line["added_p50_ms"], line["added_p99_ms"]) == (0.5, 5.0)
    assert line["added_p50_vs_mitmdump_x"] == 0.25
    assert line["cpu_2_workers_x"] == 1.02
    assert line["failed_requests"] == 5  # the product's own two and three under restarts; not squid's


def test_missed_bars_are_named_in_both_directions(results: dict[str, Result]) -> None:
    line = figures.key_figures(results, {})
    assert figures.missed(line) == ["all_on_seen_fresh_x", "added_p99_ms", "failed_requests"]
    assert set(figures.BARS) <= set(line)


def test_the_table_names_failures_and_the_absent(results: dict[str, Result]) -> None:
    text = "\n".join(report.lines(results, {"haproxy": "no haproxy: apt install haproxy"}, {}))
    assert "absent: haproxy: no haproxy" in text
    assert "closed 7" in text


def test_the_picture_is_xml_with_a_bar_per_measured_case(results: dict[str, Result]) -> None:
    root = ElementTree.fromstring(picture.draw(results, {"litellm": "not installed"}))
    bars = root.findall("{http://www.w3.org/2000/svg}rect")
    assert len(bars) == 8
    assert "litellm" in "".join(root.itertext())


def test_case_names_are_unique() -> None:
    names = [row[0] for row in QUICK + MORE]
    assert len(names) == len(set(names))


def test_slope_of_a_line_is_the_line_s() -> None:
    assert slope([(float(x), 3.0 * x + 7) for x in range(10)]) == pytest.approx(3)
    assert slope([(1.0, 1.0)]) == 0


def test_a_sample_belongs_to_the_innermost_step_of_ours() -> None:
    stacks = "\n".join(
        [
            "<module> (proxy/dataplane/worker.py:1);Lane._requests (proxy/dataplane/lane.py:9);dumps (json/x.py:2) 3",
            "_requests (proxy/dataplane/lane.py:9);rule_on (proxy/policy.py:8);admits (proxy/rules/path.py:1) 6",
            "run (asyncio/x.py:1) 1",
        ]
    )
    assert by_step(stacks) == {"policy": 0.6, "connection and exchange": 0.3, OTHER: 0.1}
