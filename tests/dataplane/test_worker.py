"""The worker process: what its log says of a fault."""

import asyncio
from typing import Any

import pytest

from proxy.dataplane.worker import log_fault


def test_a_fault_is_logged_without_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    async def fails() -> None:
        raise ValueError("card 4111 1111 1111 1111")

    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(log_fault)
        task: Any = asyncio.ensure_future(fails())
        await asyncio.wait([task])
        del task

    asyncio.run(run())
    said = capsys.readouterr().err
    assert "ValueError at test_worker.py:" in said
    assert "4111" not in said
