import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.full_stack.kit import House, build_house
from tests.full_stack.plane import Bench


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


@pytest.fixture(scope="module")
def bench_module() -> Iterator[Bench]:
    directory = Path(tempfile.mkdtemp(prefix="egd-", dir="/tmp"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        yield Bench(stack, directory)


@pytest.fixture
def bench(bench_module: Bench) -> Bench:
    """The data plane in this process; nothing has been seen yet."""
    bench_module.fresh()
    return bench_module
