"""A policy's own data through a real inspector process: the index by digest, the key from the worker."""

import asyncio
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from proxy.config.snapshot import DlpDictionary, DlpPattern, DlpPolicy, DlpRule
from proxy.errors import Denied
from proxy.inspector.client import InspectorClient
from proxy.model import Inspection, InspectJob
from tests.customdata.kit import KEY_ID, MASTER, built, rule
from tests.inspector.conftest import Process

DATA, DIGEST = built()
POLICY = DlpPolicy(
    "balanced",
    (
        DlpRule(frozenset({"CODE_NAME"}), "hash"),
        DlpRule(frozenset({"TICKET"}), "tokenize", tiers=frozenset({"trusted"})),
        DlpRule(frozenset({"CUSTOMER_RECORD"}), "redact"),
    ),
    "allow",
    dictionaries=(DlpDictionary("CODE_NAME", ("Bluebird",)),),
    patterns=(DlpPattern("TICKET", "ACME-[0-9]{6}"),),
    exact_match=(replace(rule(), index=DIGEST),),
)


def job(text: str, dlp: DlpPolicy = POLICY, tier: str = "unlisted") -> InspectJob:
    headers = ((b"content-type", b"text/plain"),)
    return InspectJob("a", dlp, "POST", "/", headers, text.encode(), b"k" * 32, tier=tier)


async def ask(path: str, keys: dict[str, bytes], *jobs: InspectJob) -> list[Inspection | str]:
    client = InspectorClient(path, deadline_s=20.0, index_keys=keys)
    await client.start()
    out: list[Inspection | str] = []
    try:
        for one in jobs:
            try:
                out.append(await client.inspect(one))
            except Denied as denied:
                out.append(denied.code)
    finally:
        await client.aclose()
    return out


@pytest.mark.timeout(180)
def test_through_the_process() -> None:
    with TemporaryDirectory(prefix="egress-") as directory:
        path = str(Path(directory) / "i.sock")
        process = Process(path, "--data", directory)
        try:
            process.wait_ready()
            record = job("Jane Roe: jane.roe@corp.example")
            missing = asyncio.run(ask(path, {}, record))
            (Path(directory) / "customers.edm").write_bytes(DATA)
            without_key = asyncio.run(ask(path, {}, record))
            text = "bluebird, ACME-123456, Jane Roe"
            jobs = [record, job(text), job(text, tier="trusted")]
            found = asyncio.run(ask(path, {KEY_ID: MASTER}, *jobs))
        finally:
            process.end()
    assert [verdict if isinstance(verdict, str) else verdict.code for verdict in missing] == ["inspector_unavailable"]
    assert [verdict if isinstance(verdict, str) else verdict.code for verdict in without_key] == [
        "inspector_unavailable"
    ]
    bodies = [verdict if isinstance(verdict, str) else (verdict.body or b"").decode() for verdict in found]
    assert bodies[0] == "<CUSTOMER_RECORD>: <CUSTOMER_RECORD>"
    assert bodies[1].startswith("<CODE_NAME#")
    assert bodies[1].endswith(", ACME-123456, Jane Roe")
    assert "<TICKET_" in bodies[2]
    assert isinstance(found[2], Inspection)
    assert list(found[2].restore.values()) == ["ACME-123456"]
