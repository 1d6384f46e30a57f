from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.full_stack.kit import House, build_house


@pytest.fixture(scope="session")
def house_session() -> Iterator[House]:
    with ExitStack() as stack:
        house = build_house(stack)
        stack.enter_context(house.product)
        yield house


@pytest.fixture
def house(house_session: House) -> House:
    """The session's product; its upstreams have seen nothing yet."""
    house_session.fresh()
    return house_session
