"""What is measured: which server, by which way, under which load."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from loadtests.dataplane.load import Load
from loadtests.dataplane.scene import Scene

# Of the form that the provider's keys have; it opens nothing.
KEY: Final = "Authorization: Bearer sk-proj-" + "Bench0" * 8
LANE_PATH: Final = "/echo"


@dataclass(frozen=True, slots=True)
class Case:
    """`server` and `route` name a started server and a way to it; `load` is one round's."""

    name: str
    server: str
    route: str
    load: Load


def loads(scene: Scene, seconds: float) -> dict[str, Load]:
    """The kinds of load by name."""
    chat = Load(body=scene.body("small"), fields=(KEY,), connections=16, seconds=seconds)
    large = replace(chat, body=scene.body("large"))
    # Bytes of a kind that the policy lets pass unread: identity, policy and audit are what is measured.
    lane = replace(chat, path=LANE_PATH, fields=(), media_type="application/octet-stream")
    return {
        "keepalive": chat,
        "keepalive-10k": large,
        "keepalive-1": replace(chat, connections=1),
        "keepalive-256": replace(chat, connections=256),
        "fresh": replace(chat, fresh=True),
        "fresh-10k": replace(large, fresh=True),
        "rate": replace(chat, connections=64, rate=100.0, seconds=seconds * 4 / 3),
        "rate-10k": replace(large, connections=64, rate=100.0, seconds=seconds * 4 / 3),
        "miss": replace(chat, fields=(KEY, "Cache-Control: no-cache")),
        "lane-keepalive": lane,
        "lane-keepalive-1": replace(lane, connections=1),
        "lane-keepalive-256": replace(lane, connections=256),
        "lane-fresh": replace(lane, fresh=True),
        "lane-rate": replace(lane, connections=64, rate=100.0, seconds=seconds * 4 / 3),
    }


def quick(scene: Scene, seconds: float = 3.0) -> Sequence[Case]:
    """The cases behind the keys of `QUICK=1`."""
    kinds = loads(scene, seconds)
    table = (
        ("direct keepalive", "direct", "direct", "keepalive"),
        ("mitmdump keepalive", "mitmdump", "explicit", "keepalive"),
        ("lane keepalive", "product", "lane", "lane-keepalive"),
        ("all keepalive", "product", "bench-all", "keepalive"),
        ("all keepalive-10k", "product", "bench-all", "keepalive-10k"),
        ("cache hit", "product", "bench-cache", "keepalive"),
        ("cache miss", "product", "bench-cache", "miss"),
        # With 16 busy connections squid 5.7 closes most of them: one connection is its best case.
        ("squid keepalive-1", "squid", "explicit", "keepalive-1"),
        ("mitmdump fresh", "mitmdump", "explicit", "fresh"),
        ("lane fresh", "product", "lane", "lane-fresh"),
        ("all fresh", "product", "bench-all", "fresh"),
        ("squid fresh", "squid", "explicit", "fresh"),
        ("direct rate", "direct", "direct", "rate"),
        ("mitmdump rate", "mitmdump", "explicit", "rate"),
        ("all rate", "product", "bench-all", "rate"),
    )
    return [Case(name, server, route, kinds[kind]) for name, server, route, kind in table]
