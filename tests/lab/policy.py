"""Writes a policy directory: the ordinary files, in JSON (which is YAML too, without anchors)."""

import json
from pathlib import Path
from typing import Any

from tests.lab.ca import LabCA
from tests.lab.upstream import Upstream

LOOPBACK = ["127.0.0.0/8"]


class PolicyDirectory:
    """`platform` and `apps` are plain dicts in the shape of the YAML files; `write` puts them on disk.

    Names of upstreams are resolved by `resolve:` of platform.yaml, so no test depends on DNS.
    """

    def __init__(self, directory: Path, ca: LabCA) -> None:
        self.directory = directory
        self.platform: dict[str, Any] = {"version": 1, "resolve": {}}
        self.apps: dict[str, dict[str, Any]] = {}
        self._ca = ca

    def app(self, name: str, *entries: dict[str, Any], **fields: Any) -> dict[str, Any]:
        """Adds an app known by token; `fields` are added or replace what it begins with."""
        self.apps[name] = {
            "version": 1,
            "app": name,
            "owner": "lab@example.com",
            "cost_center": "CC-0001",
            "stage": "production",
            "identify": {"token": True},
            "allow": list(entries),
            **fields,
        }
        return self.apps[name]

    def entry(self, entry_id: str, upstream: Upstream, *, host: str | None = None, **fields: Any) -> dict[str, Any]:
        """An allowlist entry for an upstream of the lab, reachable by its (first) name on loopback."""
        name = host or upstream.names[0]
        self.platform["resolve"][name] = upstream.host
        tls = {"upstream_ca": self._ca.file.name} if upstream.tls else {"scheme": "http"}
        return {
            "id": entry_id,
            "host": name,
            "ports": [upstream.port],
            "addresses": LOOPBACK,
            "reason": "test lab",
            **tls,
            **fields,
        }

    def write(self) -> Path:
        """Writes everything anew (files of apps that are gone are removed) and returns the directory."""
        folder = self.directory / "apps"
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob("*.yaml"):
            stale.unlink()
        (self.directory / self._ca.file.name).write_text(self._ca.pem)
        (self.directory / "platform.yaml").write_text(json.dumps(self.platform, indent=2))
        for name, app in self.apps.items():
            (folder / f"{name}.yaml").write_text(json.dumps(app, indent=2))
        return self.directory
