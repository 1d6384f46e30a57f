"""What the worker does for all its connections."""

import asyncio

from proxy.dataplane.channel import Channel
from proxy.dataplane.lane_server import SWEEP_TURN, end_overdue


def test_connections_that_are_overdue_together_end_one_after_the_other() -> None:
    async def check() -> None:
        ended_at: list[int] = []
        turn = 0

        async def wait(channel: Channel) -> None:
            try:
                await channel.more()
            except TimeoutError:
                ended_at.append(turn)

        channels = [Channel("client") for _ in range(10 * SWEEP_TURN)]
        patient = Channel("client")
        patient.deadline_s = 101.0
        waiting = [asyncio.ensure_future(wait(channel)) for channel in (*channels, patient)]
        await asyncio.sleep(0)
        for channel in channels:
            channel.deadline_s = 99.0
        sweeping = asyncio.ensure_future(end_overdue([*channels, patient], 100.0))
        while not sweeping.done() or len(ended_at) < len(channels):
            turn += 1
            await asyncio.sleep(0)
        assert max(map(ended_at.count, ended_at)) <= SWEEP_TURN
        assert len(ended_at) == len(channels)
        assert not waiting[-1].done()
        waiting[-1].cancel()

    asyncio.run(check())
