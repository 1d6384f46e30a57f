"""What is measured: which server, by which way, under which load."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from loadtests.dataplane.load import Load
from loadtests.dataplane.scene import Scene

# Of the form that the provider's keys have; it opens nothing.
KEY: Final = "sk-proj-" + "Bench0" * 8
AUTHORIZATION: Final = f"Authorization: Bearer {KEY}"
LANE_PATH: Final = "/echo"


@dataclass(frozen=True, slots=True)
class Case:
    """`server` and `route` name a started server and a way to it; `load` is one round's."""

    name: str
    server: str
    route: str
    load: Load


def loads(scene: Scene, seconds: float) -> dict[str, Load]:
    """The kinds of load by name. `lane-…`: bytes of a kind that the policy lets pass unread."""
    chat = Load(body=scene.body("small"), fields=(AUTHORIZATION,), connections=16, seconds=seconds)
    lane = replace(chat, path=LANE_PATH, fields=(), media_type="application/octet-stream")
    found = {
        "keepalive-10k": replace(chat, body=scene.body("large")),
        "fresh-10k": replace(chat, body=scene.body("large"), fresh=True),
        # The prompt was seen, its answer may not come from the cache, and is stored anew.
        "miss": replace(chat, fields=(AUTHORIZATION, "Cache-Control: no-cache")),
    }
    for prefix, base in (("", chat), ("lane-", lane)):
        found |= {
            f"{prefix}keepalive": base,
            f"{prefix}keepalive-1": replace(base, connections=1),
            f"{prefix}keepalive-256": replace(base, connections=256),
            f"{prefix}fresh": replace(base, fresh=True),
            f"{prefix}fresh-1": replace(base, fresh=True, connections=1),
            f"{prefix}fresh-256": replace(base, fresh=True, connections=256),
            # The tail needs samples: 100 requests a second give few.
            f"{prefix}rate": replace(base, connections=64, rate=100.0, seconds=2 * seconds),
        }
    return found


# name, server, route, load
QUICK: Final = (
    ("direct keepalive", "direct", "direct", "keepalive"),
    ("mitmdump keepalive", "mitmdump", "explicit", "keepalive"),
    ("lane keepalive", "product", "lane", "lane-keepalive"),
    ("all keepalive", "product", "bench-all", "keepalive"),
    ("all keepalive-10k", "product", "bench-all", "keepalive-10k"),
    ("cache hit", "product", "bench-cache", "keepalive"),
    ("cache miss", "product", "bench-cache", "miss"),
    # With 16 busy connections squid 5.7 closes most of them: one connection is its best case.
    ("squid keepalive-1", "squid", "explicit", "keepalive-1"),
    ("direct fresh", "direct", "direct", "fresh"),
    ("mitmdump fresh", "mitmdump", "explicit", "fresh"),
    ("lane fresh", "product", "lane", "lane-fresh"),
    ("all fresh", "product", "bench-all", "fresh"),
    ("squid fresh", "squid", "explicit", "fresh"),
    ("direct rate", "direct", "direct", "rate"),
    ("mitmdump rate", "mitmdump", "explicit", "rate"),
    ("all rate", "product", "bench-all", "rate"),
)
MORE: Final = (
    ("mitmdump keepalive-10k", "mitmdump", "explicit", "keepalive-10k"),
    ("all fresh-10k", "product", "bench-all", "fresh-10k"),
    ("mitmdump keepalive-1", "mitmdump", "explicit", "keepalive-1"),
    ("lane keepalive-1", "product", "lane", "lane-keepalive-1"),
    ("all keepalive-1", "product", "bench-all", "keepalive-1"),
    ("mitmdump keepalive-256", "mitmdump", "explicit", "keepalive-256"),
    ("lane keepalive-256", "product", "lane", "lane-keepalive-256"),
    ("all keepalive-256", "product", "bench-all", "keepalive-256"),
    ("squid keepalive", "squid", "explicit", "keepalive"),
    ("lane rate", "product", "lane", "lane-rate"),
    ("proxy-py keepalive", "proxy-py", "explicit", "keepalive"),
    ("proxy-py fresh", "proxy-py", "explicit", "fresh"),
    ("nginx keepalive", "nginx", "reverse", "keepalive"),
    ("nginx fresh", "nginx", "reverse", "fresh"),
    ("haproxy keepalive", "haproxy", "reverse", "keepalive"),
    ("haproxy fresh", "haproxy", "reverse", "fresh"),
    ("litellm keepalive", "litellm", "plain", "keepalive"),
    ("litellm-presidio keepalive", "litellm-presidio", "plain", "keepalive"),
    ("mitmdump transparent", "mitmdump-transparent", "transparent", "keepalive"),
    ("lane transparent", "product", "lane-transparent", "lane-keepalive"),
    ("mitmdump transparent fresh", "mitmdump-transparent", "transparent", "fresh"),
    ("lane transparent fresh", "product", "lane-transparent", "lane-fresh"),
    ("mitmdump plain", "mitmdump", "plain", "lane-keepalive"),
    ("lane plain", "product", "lane-plain", "lane-keepalive"),
)


def table(rows: Sequence[tuple[str, str, str, str]], scene: Scene, seconds: float) -> list[Case]:
    """Rows as cases."""
    kinds = loads(scene, seconds)
    return [Case(name, server, route, kinds[kind]) for name, server, route, kind in rows]
