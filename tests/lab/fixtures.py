"""Fixtures of the lab. `lab` runs one product for the whole session; tests that change it use `lab_factory`."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.lab.ca import LabCA
from tests.lab.policy import PolicyDirectory
from tests.lab.product import Product
from tests.lab.upstream import Upstream

type Setup = Callable[["Lab"], None]


@dataclass
class Lab:
    """A product with the upstreams that its policy names. `api` speaks TLS, `plain` does not."""

    directory: Path
    ca: LabCA
    policy: PolicyDirectory
    api: Upstream
    plain: Upstream
    product: Product

    @property
    def url(self) -> str:
        """Base URL of the TLS upstream."""
        return f"https://{self.api.names[0]}:{self.api.port}"

    @property
    def plain_url(self) -> str:
        """Base URL of the plain upstream."""
        return f"http://{self.plain.names[0]}:{self.plain.port}"

    def push(self) -> None:
        """Writes the policy and publishes it with `egress push`; returns when every worker uses it."""
        self.policy.write()
        self.product.cli("push", str(self.policy.directory), "--yes", "--reason", "test")


def default_setup(lab: Lab) -> None:
    """App `alpha` may call both upstreams with any method and path; `beta` too; nothing else is allowed."""
    for name in ("alpha", "beta"):
        lab.policy.app(name, lab.policy.entry("api", lab.api), lab.policy.entry("plain", lab.plain))


def build_lab(stack: ExitStack, setup: Setup = default_setup, **options: Any) -> Lab:
    """Upstreams, policy and a product that is not started yet."""
    directory = Path(tempfile.mkdtemp(prefix="egl-", dir="/tmp"))
    stack.callback(shutil.rmtree, directory, ignore_errors=True)
    ca = LabCA(directory)
    api = stack.enter_context(Upstream(ca, "api.lab.test", "openai.lab.test", "anthropic.lab.test", "*.wild.lab.test"))
    plain = stack.enter_context(Upstream(None, "plain.lab.test"))
    policy = PolicyDirectory(directory / "allowlists", ca)
    state = directory / "state"
    state.mkdir(mode=0o700)
    lab = Lab(directory, ca, policy, api, plain, Product(state, policy.directory, **options))
    setup(lab)
    policy.write()
    return lab


@pytest.fixture(scope="session")
def lab_session() -> Iterator[Lab]:
    """The session's product with the default policy (apps alpha and beta)."""
    with ExitStack() as stack:
        lab = build_lab(stack)
        stack.enter_context(lab.product)
        yield lab


@pytest.fixture
def lab(lab_session: Lab) -> Lab:
    """The session's product, its upstreams answering `200 ok` and their records empty."""
    from tests.lab.upstream import reply

    for upstream in (lab_session.api, lab_session.plain):
        upstream.forget()
        upstream.answer = reply()
    return lab_session


@pytest.fixture
def lab_factory() -> Iterator[Callable[..., Lab]]:
    """Starts products of a test's own: `lab_factory(setup, workers=2)`; all are stopped after the test."""
    with ExitStack() as stack:

        def make(setup: Setup = default_setup, *, start: bool = True, **options: Any) -> Lab:
            lab = build_lab(stack, setup, **options)
            if start:
                stack.enter_context(lab.product)
            else:
                stack.callback(lab.product.kill)
            return lab

        yield make
