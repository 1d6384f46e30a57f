"""Everything on with two inspectors against LiteLLM with its Presidio guardrail, on prompts that nobody sent before.

    python -m loadtests.dataplane.guard --data DIR

Each prompt is a chat call with 800 bytes of text of its own; rounds are interleaved and both servers get the same texts
within a round. The ratio is of CPU time per request, of all processes of each side, medians over the rounds: the client
here is written in Python and would weigh more on the faster side's requests per second. The last line is one JSON
object. `x` is null, with the reason, where the peer cannot be had.
"""

import argparse
import http.client
import json
import ssl
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

from loadtests.dataplane import bench, environments, litellm, namespace, processes, product
from loadtests.dataplane.cases import KEY
from loadtests.dataplane.load import Route
from loadtests.dataplane.peers import Running
from loadtests.dataplane.places import Missing
from loadtests.dataplane.scene import HOST, Scene
from loadtests.prompts import prompt, prose

PROMPT_BYTES: Final = 800
CONNECTIONS: Final = 8
_PATH: Final = "/v1/chat/completions"
_BLOCKED: Final = frozenset({"CREDIT_CARD", "IBAN_CODE"})
_PIECES_APART: Final = 20


def texts(data: Path, count: int) -> list[str]:
    """`count` different texts. Without what the benchmark's policy blocks: a denial is cheaper than an answer."""
    rows = json.loads((data / "dlp/pii_dev.json").read_text())
    rows = [row for row in rows if not _BLOCKED & {span["entity_type"] for span in row["spans"]}]
    plain = prose(json.loads((data / "fp/ordinary_text.json").read_text()))
    made = (prompt(rows, plain, PROMPT_BYTES, number * _PIECES_APART) for number in range(4 * count))
    found = list(dict.fromkeys(made))[:count]
    if len(found) < count:
        raise ValueError(f"{data} gives {len(found)} different prompts, {count} are needed")
    return found


def call(text: str) -> bytes:
    """The body of one chat call."""
    message = {"role": "user", "content": text}
    return json.dumps({"model": "gpt-4o-mini", "max_tokens": 64, "temperature": 0, "messages": [message]}).encode()


def connection(route: Route) -> http.client.HTTPConnection:
    """A client's connection along `route`; a CONNECT proxy is told with the tunnel."""
    host, _, port = route.target.partition(":")
    if route.plain:
        return http.client.HTTPConnection(host, int(port), timeout=60)
    made = http.client.HTTPSConnection(
        host, int(port), timeout=60, context=ssl.create_default_context(cafile=str(route.ca))
    )
    made.set_tunnel(HOST, 443, {"Proxy-Authorization": route.proxy_authorization or ""})
    return made


def send(route: Route, bodies: Sequence[bytes]) -> Counter[int]:
    """All of `bodies` one after the other on one connection; how often each status came."""
    seen: Counter[int] = Counter()
    client = connection(route)
    try:
        for body in bodies:
            headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
            client.request("POST", _PATH, body, headers)
            answer = client.getresponse()
            answer.read()
            seen[answer.status] += 1
    finally:
        client.close()
    return seen


def measured(server: Running, route: Route, bodies: Sequence[bytes]) -> dict[str, Any]:
    """One round: CPU microseconds per request of all of the server's processes, requests per second, statuses."""
    shares = [bodies[number::CONNECTIONS] for number in range(CONNECTIONS)]
    before, begun = server.sample(), time.perf_counter()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        statuses = sum(pool.map(partial(send, route), shares), Counter[int]())
    taken_s = time.perf_counter() - begun
    cpu_s = server.sample().cpu_since(before)
    return {
        "cpu_us": cpu_s / len(bodies) * 1e6,
        "requests_per_s": len(bodies) / taken_s,
        "statuses": dict(statuses),
    }


def report(rounds: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Medians of both sides and what they make. Pure."""
    figures: dict[str, Any] = {"absent": None, "x": None, "requests_per_s_x": None}
    for name, runs in rounds.items():
        statuses = sum((Counter(run["statuses"]) for run in runs), Counter[int]())
        figures[name] = {
            "cpu_us": round(median(run["cpu_us"] for run in runs)),
            "requests_per_s": round(median(run["requests_per_s"] for run in runs), 1),
            "statuses": {str(status): count for status, count in statuses.items()},
        }
    if "peer" in figures:
        ours, peer = figures["ours"], figures["peer"]
        figures["x"] = round(peer["cpu_us"] / ours["cpu_us"], 2)
        figures["requests_per_s_x"] = round(ours["requests_per_s"] / peer["requests_per_s"], 2)
    return figures


def run(scene: Scene, data: Path, count: int, prompts: int) -> dict[str, Any]:
    """`count` rounds of `prompts` texts each, after a warm-up round that does not count."""
    starters: dict[str, bench.Starter] = {
        "product": partial(product.start, inspectors=2),
        "litellm-presidio": litellm.litellm_presidio,
    }
    fresh = texts(data, prompts * count + CONNECTIONS)
    routes = {"product": ("ours", "bench-all"), "litellm-presidio": ("peer", "plain")}
    rounds: dict[str, list[dict[str, Any]]] = {}
    with bench.servers(scene, starters) as (running, absent):
        for number in range(count + 1):
            begin = CONNECTIONS + (number - 1) * prompts
            bodies = [call(text) for text in (fresh[begin : begin + prompts] if number else fresh[:CONNECTIONS])]
            for server in running:
                name, route = routes[server]
                figures = measured(running[server], running[server].routes[route], bodies)
                if number:
                    print(f"round {number} {server}: {figures}", flush=True)
                    rounds.setdefault(name, []).append(figures)
    return report(rounds) | {"absent": absent.get("litellm-presidio")}


def main() -> int:
    """Exit 0 when ours could be measured."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.dataplane.guard", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=120, help="of each round")
    args = parser.parse_args()
    for name in ("litellm", "presidio"):
        try:
            environments.environment(name)
        except Missing as missing:
            print(missing, file=sys.stderr)
    try:
        namespace.enter("loadtests.dataplane.guard")
    except Missing as missing:
        print(json.dumps({"absent": str(missing), "x": None}))
        return 0
    processes.end_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="egress-bench-") as folder:
        figures = run(Scene.prepare(Path(folder)), args.data.resolve(), args.rounds, args.prompts)
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
