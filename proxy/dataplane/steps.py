"""Steps of which none may keep the others from being taken."""

from collections.abc import Awaitable, Callable


async def first_fault(*steps: Callable[[], Awaitable[None]]) -> Exception | None:
    """Takes them all, in turn; the first fault of any."""
    faults: list[Exception] = []
    for step in steps:
        try:
            await step()
        except Exception as fault:  # noqa: BLE001 - handed to the caller when all is done
            faults.append(fault)
    return faults[0] if faults else None
