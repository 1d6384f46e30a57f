"""The exit code tells whether everything of this run was settled (MTR-09)."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

from tests.lab.fixtures import Lab
from tests.lab.product import eventually
from tests.lab.upstream import reply_json

type Factory = Callable[..., Lab]

CALL = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
COST_NANOS = 10 * 150 + 5 * 600


def _one_priced_app(lab: Lab) -> None:
    lab.policy.platform["models"] = {"gpt-4o-mini": {"provider": "openai", "tier": "trusted"}}
    lab.policy.app("alpha", lab.policy.entry("api", lab.api), budget={"daily_usd": 5}, dlp={"otherwise": "allow"})
    lab.api.answer = reply_json({"choices": [], "usage": USAGE})


def _store_pid(lab: Lab) -> int:
    """Of the embedded store: the supervisor's child that is no Python of ours."""
    process = lab.product.process
    assert process is not None
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        if b"valkey" in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    raise AssertionError("no store process")


def _spent(lab: Lab) -> int:
    rows = json.loads(lab.product.cli("usage", "--format", "json").stdout)["rows"]
    return sum(row["cost_usd_nanos"] for row in rows)


def test_money_that_the_store_did_not_take_makes_another_exit_code(lab_factory: Factory) -> None:
    lab = lab_factory(_one_priced_app)
    product = lab.product
    with product.httpx("alpha") as client:
        assert client.post(f"{lab.url}/v1/chat/completions", json=CALL).status_code == 200
        eventually(lambda: _spent(lab) == COST_NANOS, "the first call's cost")
        os.kill(_store_pid(lab), signal.SIGSTOP)
        assert client.post(f"{lab.url}/v1/chat/completions", json={**CALL, "max_tokens": 4}).status_code == 200
    assert product.stop() == 1
    assert "the books of 1 workers stay open" in product.log()
    product.start()
    eventually(lambda: _spent(lab) == 2 * COST_NANOS, "the second call's cost")
    assert product.stop() == 0
    assert not list(product.paths.living_dir.iterdir())
