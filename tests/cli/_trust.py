"""An installation that was started once, and verbs called in this process."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from proxy.cli import main
from proxy.keys.ca import CertificateAuthority
from proxy.keys.root import RootKey
from proxy.paths import Paths


@dataclass(frozen=True)
class Outcome:
    """What a verb gave back and printed."""

    code: int
    out: str
    err: str

    @property
    def value(self) -> Any:
        """Of `--json`."""
        return json.loads(self.out)


type Run = Callable[..., Outcome]


def runner(paths: Paths, capsys: pytest.CaptureFixture[str]) -> Run:
    """Calls `egress ARGUMENTS --state …`."""

    def run(*arguments: str | Path) -> Outcome:
        code = main(["--state", str(paths.state_dir), *map(str, arguments)])
        return Outcome(code, *capsys.readouterr())

    return run


def start_once(paths: Paths, now_s: float | None = None) -> RootKey:
    """Root key and CA, as the first `egress run` makes them."""
    root = RootKey.load_or_create(paths.root_key)
    CertificateAuthority.load_or_create(paths.ca_dir, root, time.time() if now_s is None else now_s)
    return root
