"""One loaded engine for all tests of this folder: loading the models is what costs time here."""

import pytest

from proxy.recognizers.engine import Engine


@pytest.fixture(scope="session")
def engine() -> Engine:
    return Engine.load()
