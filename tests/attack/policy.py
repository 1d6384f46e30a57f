"""The policy that every case meets: one app that may do much, and others for single questions. Plain dicts, as YAML."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LAB = ["203.0.113.0/24", "127.0.0.0/8"]
CA = "lab-root.pem"
SECRETS = {"rules": [{"entities": ["US_SSN"], "action": "block"}], "otherwise": "redact"}


@dataclass(frozen=True)
class Ports:
    """`http`: plain, `https`: TLS, `more`: another TLS port."""

    http: int = 80
    https: int = 443
    more: int = 8443


def _both(name: str, host: str, ports: Ports, *, wide: bool = False, **fields: Any) -> list[dict[str, Any]]:
    place = {"addresses": LAB} if not wide else {}
    secure = {"upstream_ca": CA, "protocols": ["http1", "websocket", "h2"], "ports": [ports.https, ports.more]}
    plain = {"scheme": "http", "ports": [ports.http], "protocols": ["http1", "websocket"]}
    return [
        {"id": f"{name}-s", "host": host, "reason": "lab", **place, **secure, **fields},
        {"id": f"{name}-p", "host": host, "reason": "lab", **place, **plain, **fields},
    ]


def entries(ports: Ports) -> list[dict[str, Any]]:
    """What app alpha may reach. Hosts under pub.test and internal.test have public addresses only."""
    allow = [
        *_both("allowed", "allowed.test", ports),
        *_both("wild", "*.allowed.test", ports),
        *_both("cdn", "cdn.test", ports),
        *_both("pub", "*.pub.test", ports, wide=True),
        *_both("internal", "internal.test", ports, wide=True),
        *_both("redact", "redact.test", ports, dlp={"rules": [{"entities": ["US_SSN"], "action": "redact"}]}),
        *_both("path", "path.test", ports, paths=["/public/**", "/legal"]),
        {"id": "bad", "host": "*.bad.test", "upstream_ca": CA, "addresses": LAB, "reason": "lab"},
        {"id": "pinned", "host": "pinned.test", "tls": "passthrough", "addresses": LAB, "reason": "lab"},
        {"id": "self", "host": "self.test", "scheme": "http", "ports": [ports.http, 8080, 8081, 9090],
         "addresses": ["10.77.0.0/16", "127.0.0.0/8"], "reason": "lab"},
    ]  # fmt: skip
    for entry in allow:
        if entry["id"] == "bad":
            entry["ports"] = [ports.https]
        if entry["id"] == "pinned":
            entry["ports"] = [ports.https]
    return allow


def llm(ports: Ports, **fields: Any) -> dict[str, Any]:
    """An entry for the look-alikes of the APIs of OpenAI (chat, responses) and Anthropic."""
    return {
        "id": "llm", "host": "llm.test", "scheme": "http", "ports": [ports.http], "addresses": LAB,
        "methods": ["POST"], "reason": "lab",
        "paths": ["/v1/chat/completions", "/v1/responses", "/v1/messages", "/legal"],
        "credentials": {"headers": ["authorization"]}, **fields,
    }  # fmt: skip


def app(name: str, allow: list[dict[str, Any]], identify: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    """An app's file."""
    return {
        "version": 1, "app": name, "owner": "lab@example.com", "cost_center": "CC-0001", "stage": "production",
        "identify": dict(identify), "allow": allow, "dlp": SECRETS, "limits": {"connections": 2000}, **fields,
    }  # fmt: skip


def host_of(number: int) -> list[str]:
    """Source networks of the app with this last octet, redirected or explicit."""
    return [f"10.77.1.{number}/32", f"10.77.3.{number}/32"]


def namespaces_policy(ports: Ports) -> dict[str, dict[str, Any]]:
    """All apps of the namespaces, each known by its address: 2 alpha, 3 token holder, 4 beta, 5 and 6 LLM callers,
    7 limited, 8 draft, 9 nobody."""
    short = _both("allowed", "allowed.test", ports)
    chat = {"cache": {"ttl": "10m"}, "budget": {"daily_usd": 100}}
    return {
        "alpha": app("alpha", entries(ports), {"networks": host_of(2)}),
        "holder": app("holder", short, {"networks": host_of(3), "token": True}),
        "beta": app("beta", short, {"networks": host_of(4)}),
        "caller": app("caller", [llm(ports), *short], {"networks": host_of(5)}, **chat),
        "other-caller": app("other-caller", [llm(ports), *short], {"networks": host_of(6)}, **chat),
        "limited": app(
            "limited", short, {"networks": host_of(7)}, limits={"requests_per_minute": 30, "connections": 20}
        ),
        "drafted": app("drafted", short, {"networks": host_of(8)}, stage="draft"),
    }


def loopback_policy(ports: Ports) -> dict[str, dict[str, Any]]:
    """The same apps where every client comes from 127.0.0.1: alpha by network, one by token."""
    short = _both("allowed", "allowed.test", ports)
    return {
        "alpha": app("alpha", entries(ports), {"networks": ["127.0.0.0/8"]}),
        "holder": app("holder", short, {"token": True}),
    }


def price(model: str, input_usd: float, output_usd: float, provider: str = "openai_compatible") -> dict[str, Any]:
    """The price of a model of a look-alike, per million tokens."""
    return {
        "provider": provider, "model": model, "input_usd_per_mtok": input_usd,
        "output_usd_per_mtok": output_usd, "source": "lab", "from": "2025-01-01",
    }  # fmt: skip


PLATFORM: dict[str, Any] = {
    "version": 1,
    "deny": ["metadata.google.internal", "metadata", "dns.google", "cloudflare-dns.com"],
    "prices": [
        price("gpt-4o-mini", 0.15, 0.60), price("gpt-4o", 2.5, 10), price("claude-lab", 3, 15, "anthropic_compatible"),
    ],
}  # fmt: skip


def write(directory: Path, apps: Mapping[str, Mapping[str, Any]], platform: Mapping[str, Any], root: bytes) -> Path:
    """The policy directory, from nothing."""
    folder = directory / "apps"
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.yaml"):
        stale.unlink()
    (directory / CA).write_bytes(root)
    (directory / "platform.yaml").write_text(json.dumps(platform, indent=2))
    for name, content in apps.items():
        (folder / f"{name}.yaml").write_text(json.dumps(content, indent=2))
    return directory
