"""The comparison beside LiteLLM: what it sends is new, what it reports is the medians'."""

import json
from pathlib import Path

import pytest

from loadtests.dataplane import guard
from loadtests.dataplane.load import Route


def data(folder: Path, rows: int) -> Path:
    (folder / "dlp").mkdir()
    (folder / "fp").mkdir()
    kinds = ("PERSON", "CREDIT_CARD")
    written = [
        {"full_text": f"Row {n} of {kinds[n % 2]}. ", "spans": [{"entity_type": kinds[n % 2]}]} for n in range(rows)
    ]
    (folder / "dlp/pii_dev.json").write_text(json.dumps(written))
    (folder / "fp/ordinary_text.json").write_text(json.dumps({"debian": ["plain prose"], "docstrings": ["a doc"]}))
    return folder


def test_every_prompt_is_new_of_one_size_and_nothing_that_policy_blocks(tmp_path: Path) -> None:
    found = guard.texts(data(tmp_path, 400), 30)
    assert len(set(found)) == 30
    assert {len(text) for text in found} <= {guard.PROMPT_BYTES - 1, guard.PROMPT_BYTES}
    assert not [text for text in found if "CREDIT_CARD" in text]
    assert any("PERSON" in text for text in found)


def test_too_little_data_is_said_and_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="different prompts"):
        guard.texts(data(tmp_path, 2), 5_000)


def run(cpu_us: float, rate: float, status: int = 200) -> dict[str, object]:
    return {"cpu_us": cpu_us, "requests_per_s": rate, "statuses": {status: 10}}


def test_the_ratio_is_of_medians() -> None:
    ours = [run(1_000, 50), run(9_000, 10), run(2_000, 40, 403)]
    peer = [run(20_000, 4), run(10_000, 8), run(90_000, 1)]
    found = guard.report({"ours": ours, "peer": peer})
    assert (found["x"], found["requests_per_s_x"]) == (10.0, 10.0)
    assert found["ours"]["statuses"] == {"200": 20, "403": 10}


def test_without_the_peer_there_is_no_ratio() -> None:
    assert guard.report({"ours": [run(1_000, 50)]})["x"] is None


def test_a_plain_server_gets_no_tunnel_and_a_proxy_its_credential(tmp_path: Path) -> None:
    plain = guard.connection(Route("127.0.0.1:9", "direct", "127.0.0.1:9", plain=True))
    assert plain._tunnel_host is None  # type: ignore[attr-defined]  # http.client shows it nowhere else
    from tests.lab.ca import LabCA

    ca = LabCA(tmp_path, "guard-ca").file
    proxied = guard.connection(Route("127.0.0.1:9", "connect", "h:443", ca=ca, proxy_authorization="Bearer x"))
    assert proxied._tunnel_headers["Proxy-Authorization"] == "Bearer x"  # type: ignore[attr-defined]  # nor this
