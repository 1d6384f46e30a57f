"""The product, configured twice in one installation: an app with policy only, and apps with everything on."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Final

from loadtests.dataplane import processes
from loadtests.dataplane.load import Route
from loadtests.dataplane.peers import TRANSPARENT_MARKS, Running
from loadtests.dataplane.places import ROOT, SERVED_CORE
from loadtests.dataplane.scene import AUTHORITY, BURST_PORT, HOST, ORIGIN_PORT, PACED_PORT, PLAIN_PORT, Scene
from proxy.cli._admin import ask
from proxy.keys.root import RootKey
from proxy.keys.tokens import issue
from proxy.paths import Paths

PORT: Final = 9201
TRANSPARENT_PORT: Final = PORT + 1
WORKER: Final = b"proxy.dataplane.worker"
LANE_SOURCE: Final = "127.0.0.2"
_AMPLE: Final = {"requests_per_minute": 10_000_000, "connections": 1_000_000, "max_body": "4MiB"}


def policy(scene: Scene, directory: Path) -> Path:
    """Writes the policy directory.

    `bench-lane`: known by its network, an allowlist of host, port, method and path, bodies of a kind that policy lets
    pass unread; audited. `bench-all`: known by token; model rule, pinned key form, DLP on all texts, budget, metering,
    audit, no cache. `bench-cache`: the same with a cache.
    """
    entry = {
        "id": "origin", "host": HOST, "ports": [ORIGIN_PORT, PACED_PORT, BURST_PORT], "methods": ["POST", "GET"],
        "addresses": ["127.0.0.0/8"], "upstream_ca": scene.ca.file.name, "reason": "benchmark",
    }  # fmt: skip
    plain = {
        "id": "plain",
        "host": HOST,
        "scheme": "http",
        "ports": [PLAIN_PORT],
        "addresses": ["127.0.0.0/8"],
        "reason": "benchmark",
    }
    call = {
        **entry, "paths": ["/v1/chat/completions"], "models": ["gpt-4o-mini"],
        "credentials": {"headers": ["authorization"]},
    }  # fmt: skip
    base = {"version": 1, "owner": "bench@example.com", "stage": "production", "limits": _AMPLE}
    dlp = {
        "profile": "balanced", "otherwise": "redact",
        "rules": [
            {"classes": ["secret", "pci"], "action": "block"},
            {"entities": ["PERSON", "EMAIL_ADDRESS", "PHONE_NUMBER"], "action": "tokenize"},
        ],
    }  # fmt: skip
    budget = {"daily_usd": 1_000_000, "monthly_usd": 10_000_000}
    full = {"identify": {"token": True}, "allow": [call], "dlp": dlp, "budget": budget}
    apps: dict[str, dict[str, Any]] = {
        "bench-lane": {
            **base, "identify": {"networks": [f"{LANE_SOURCE}/32"]},
            "allow": [{**entry, "paths": ["/echo", "/download"]}, plain],
            "dlp": {"uninspectable": {"unknown": "allow"}},
        },
        "bench-all": {**base, **full},
        "bench-cache": {**base, **full, "cache": {"ttl": "1h"}},
    }  # fmt: skip
    platform = {
        "version": 1, "resolve": {HOST: "127.0.0.1"},
        "models": {"gpt-4o-mini": {"provider": "openai", "tier": "trusted"}},
        "classes": {"pci": ["CREDIT_CARD", "IBAN_CODE"], "secret": ["SECRET", "PRIVATE_KEY"]},
    }  # fmt: skip
    (directory / "apps").mkdir(parents=True)
    (directory / scene.ca.file.name).write_text(scene.ca.pem)
    (directory / "platform.yaml").write_text(json.dumps(platform))
    for name, fields in apps.items():
        (directory / "apps" / f"{name}.yaml").write_text(json.dumps({"app": name, **fields}))
    return directory


def start(
    scene: Scene,
    *,
    workers: int = 1,
    inspectors: int = 1,
    cores: str = str(SERVED_CORE),
    port: int = PORT,
    name: str = "",
) -> Running:
    """`egress run` with embedded store, inspector and all; ready when this returns."""
    name = name or f"product-{workers}"
    home = scene.folder / name
    paths = Paths(home / "state")
    paths.state_dir.mkdir(parents=True, mode=0o700)
    directory = policy(scene, home / "policy")
    transparent = port + 1
    # Another checkout can be measured with the same yardstick.
    source = Path(os.environ.get("EGRESS_BENCH_PRODUCT") or ROOT)
    log = scene.folder / f"{name}.log"
    process = processes.start(
        [sys.executable, "-m", "proxy.cli", "run", "--directory", str(directory), "--state", str(paths.state_dir),
         "--workers", str(workers), "--inspectors", str(inspectors), "--explicit", f"127.0.0.1:{port}",
         "--transparent", f"127.0.0.1:{transparent}", "--metrics", "off"],
        log, core=cores, cwd=source, environment={"PYTHONPATH": str(source)},
    )  # fmt: skip

    def ready() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"egress run ended with {process.returncode}:\n{log.read_text()[-4000:]}")
        try:
            status = ask(paths, "status")
        except Exception:  # noqa: BLE001 - not up yet, whatever the reason
            return False
        return bool(status["ready"]) and all(worker["state"] == "serving" for worker in status["workers"])

    processes.wait_for(ready, "egress run", 120)
    root = RootKey.load(paths.root_key)
    routes = {
        "lane": Route(f"127.0.0.1:{port}", "connect", AUTHORITY, ca=paths.ca_cert, source=LANE_SOURCE),
        "lane-transparent": Route(
            f"127.0.0.1:{ORIGIN_PORT}", "direct", AUTHORITY, ca=paths.ca_cert, source=LANE_SOURCE,
            mark=TRANSPARENT_MARKS["lane-transparent"],
        ),
        "lane-plain": Route(f"127.0.0.1:{port}", "absolute", f"{HOST}:{PLAIN_PORT}", source=LANE_SOURCE, plain=True),
    }  # fmt: skip
    for app in ("bench-all", "bench-cache"):
        token = issue(root, app, 7 * 86400 - 60, time.time())[0]
        routes[app] = Route(
            f"127.0.0.1:{port}", "connect", AUTHORITY, ca=paths.ca_cert, proxy_authorization=f"Bearer {token}"
        )
    return Running(name, process, routes, state_dir=paths.state_dir)
