"""What every test may rely on: a clean environment, short private state directories, Hypothesis profiles."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from proxy.paths import Paths
from tests.lab.fixtures import lab, lab_factory, lab_session

__all__ = ["lab", "lab_factory", "lab_session"]

# A developer's own proxy or trust settings must not reach the clients under test.
for _name in [name for name in os.environ if name.lower().endswith("_proxy") or name.startswith("EGRESS_")]:
    if _name != "EGRESS_SHARED_DATA":  # where development data lies is for the tests themselves
        del os.environ[_name]
for _name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"):
    os.environ.pop(_name, None)

# The gate says the same of the same code each time; `make fuzz` goes looking.
settings.register_profile(
    "fast", max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("deep", max_examples=5000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Compressed bytes hold the time of day; names made of them would differ from one test process to the other."""
    return argname if isinstance(val, bytes) and not val.isascii() else None


@pytest.fixture
def state_dir() -> Iterator[Path]:
    """A private directory whose path is short enough for unix sockets (pytest's own tmp_path may be too long)."""
    path = Path(tempfile.mkdtemp(prefix="egt-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def paths(state_dir: Path) -> Paths:
    return Paths(state_dir)
