"""Every h2spec description of the sections that matter here has a check, and the running proxy passes it."""

import json
from collections.abc import Iterator

import pytest

from tests import shared_data
from tests.attack.client import Observed, connected
from tests.attack.h2peer import Peer
from tests.attack.h2spec import CHECKS
from tests.attack.wire import Run
from tests.attack.world import LoopWorld

LIST = "security/h2spec/h2spec_cases.json"
SECTIONS = ("5.1", "6.5", "6.9", "6.10", "8.1.2")


@pytest.fixture(scope="module")
def world() -> Iterator[LoopWorld]:
    with LoopWorld() as world:
        yield world


def test_the_table_says_each_description_once() -> None:
    assert len(CHECKS) == 57
    assert {section for section, _ in CHECKS} >= set(SECTIONS)


@shared_data.needs(LIST)
def test_every_description_has_its_check() -> None:
    listed = json.loads((shared_data.ROOT / LIST).read_text())
    wanted = {
        (row["section"], row["desc"].replace('\\"', '"'))
        for row in listed
        if any(row["section"] == one or row["section"].startswith(f"{one}.") for one in SECTIONS)
    }
    assert wanted == set(CHECKS)


@pytest.mark.parametrize("key", CHECKS, ids=lambda key: f"{key[0]} {key[1]}")
def test_check(world: LoopWorld, key: tuple[str, str]) -> None:
    world.upstreams.plain()
    world.upstreams.h2_body = b"an answer of some length"
    token = world.token()
    run = Run("h2spec", "", "h2", {})
    pipe = connected(run, world.gate(run), world.values, Observed())
    assert pipe is not None, "no HTTP/2 connection"
    with pipe.sock:
        CHECKS[key](Peer(pipe.sock, str(world.values["AS"]), f"/{token}"))
    if key[0].startswith("8.1.2"):
        assert not [one for one in world.upstreams.accepted if token.encode() in one.all], "a malformed request left"
