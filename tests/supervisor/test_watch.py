"""`egress run --watch`: saving a file is publishing it; a broken file changes nothing."""

import httpx
import pytest

from tests.lab.fixtures import Lab
from tests.lab.product import eventually
from tests.supervisor.test_processes import Factory


def _status(lab: Lab, path: str) -> int:
    with lab.product.httpx("alpha") as client:
        return client.get(lab.url + path).status_code


@pytest.fixture
def watched(lab_factory: Factory) -> Lab:
    return lab_factory(extra=["--watch"])


def test_a_saved_file_is_the_policy_and_a_broken_one_is_not(watched: Lab) -> None:
    app = watched.policy.apps["alpha"]
    assert _status(watched, "/open") == 200
    app["allow"][0]["paths"] = ["/only/this"]
    watched.policy.write()
    eventually(lambda: _status(watched, "/open") == 403, "the saved policy")
    assert _status(watched, "/only/this") == 200
    before = watched.product.status()["policy"]["seq"]
    app["allow"][0]["paths"] = ["no-slash"]
    watched.policy.write()
    eventually(lambda: "not pushed" in watched.product.log(), "the refusal in the log")
    assert watched.product.status()["policy"]["seq"] == before
    assert _status(watched, "/only/this") == 200
    with pytest.raises(httpx.ProxyError), watched.product.httpx("alpha") as client:
        client.get("https://evil.example/")
