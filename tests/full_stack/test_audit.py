"""Issue bullet 9: exactly one terminal record per exchange, chained, whatever happens."""

import json
import os
import re
import signal
import threading
from collections.abc import Callable

import httpx
import pytest

from tests.full_stack.kit import CARD, House, say
from tests.lab.fixtures import Lab
from tests.lab.product import eventually, read_head


def test_one_record_per_exchange_on_every_path(house: House) -> None:
    with house.product.httpx("strict") as client:
        client.get(house.url())
        client.post(house.url(), json={"card": CARD})
        client.get(house.url(), headers={"Host": "evil.example"})
        client.get(house.lab.plain_url)
        with pytest.raises(httpx.ProxyError):
            client.get("https://evil.example/")
    with house.product.dial() as bare:
        bare.sendall(b"GARBAGE\r\n\r\n")
        read_head(bare)
    house.openai("strict").chat.completions.create(**say("hi"))
    outcomes = sorted(f"{row['outcome']} {row.get('code', '')}".strip() for row in house.new(7))
    assert outcomes == sorted(
        ["allowed", "allowed", "allowed", "denied host_denied", "denied malformed", "denied pii",
         "denied target_mismatch"]
    )  # fmt: skip


def test_no_record_holds_what_was_sent(house: House) -> None:
    secret = "sk-proj-" + "Qx7" * 14
    with house.product.httpx("strict") as client:
        client.post(house.url() + f"/u/{CARD.replace(' ', '')}?q={CARD}", json={"key": secret}, headers={"X-A": CARD})
    house.new(1)
    trail = b"".join(file.read_bytes() for file in house.product.paths.audit_dir.rglob("*") if file.is_file())
    log = house.product.log().encode()
    for text in (secret, CARD, CARD.replace(" ", "")):
        assert text.encode() not in trail + log
    # A denial may say what a token looks like: `egp1.…`.
    assert not re.search(rb"egp1\.[A-Za-z0-9_-]", trail + log)


def test_the_chain_verifies_and_a_changed_byte_is_found(house: House) -> None:
    with house.product.httpx("open") as client:
        client.get(house.url())
    house.new(1)
    done = house.product.cli("audit", "verify", "--json")
    assert done.returncode == 0, done.stdout
    copy = house.lab.directory / "tampered"
    import shutil

    shutil.copytree(house.product.paths.audit_dir, copy)
    file = next(path for path in copy.glob("w*/*.jsonl") if b'"outcome":"allowed"' in path.read_bytes())
    file.write_bytes(file.read_bytes().replace(b'"outcome":"allowed"', b'"outcome":"allowex"', 1))
    bad = house.product.cli("audit", "verify", "--dir", str(copy), check=False)
    assert bad.returncode == 1
    assert file.parent.name in bad.stdout + bad.stderr
    shutil.rmtree(copy)


def test_denials_name_cause_count_and_fix(house: House) -> None:
    with house.product.httpx("narrow") as client:
        for _ in range(3):
            client.post(house.url() + "/v1/files/thrice")
    house.new(3)
    shown = house.product.cli("denials", "--app", "narrow").stdout
    assert "method_denied" in shown
    assert "3 times" in shown
    assert "apps/narrow.yaml:" in shown
    rows = json.loads(house.product.cli("denials", "--app", "narrow", "--json").stdout)
    assert all(row["remedy"] for row in rows)


def test_kill_minus_9_leaves_one_terminal_record_and_a_chain_that_verifies(lab_factory: Callable[..., Lab]) -> None:
    lab = lab_factory()
    gate = threading.Event()

    def wait(_: object) -> list[Callable[[], object]]:
        return [lambda: gate.wait(20)]

    lab.api.answer = wait  # type: ignore[assignment]
    thread = threading.Thread(target=_call_and_lose, args=(lab,), daemon=True)
    thread.start()
    lab.api.wait_for_requests(1)
    (worker,) = lab.product.status()["workers"]
    os.kill(worker["pid"], signal.SIGKILL)
    thread.join(20)
    gate.set()
    records = lab.product.wait_for_records(1, kind="terminal", app="alpha")
    eventually(lambda: not (lab.product.paths.living_dir / worker["id"]).exists(), "closed books")
    assert len(records) == 1
    assert records[0]["outcome"] in ("aborted", "error")
    assert lab.product.cli("audit", "verify").returncode == 0


def _call_and_lose(lab: Lab) -> None:
    with lab.product.httpx("alpha") as client, pytest.raises(httpx.HTTPError):
        client.post(lab.url, content=b"x")
