"""One run of the load generator: what it is told, and what it answers."""

import json
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from loadtests.dataplane.places import LOAD_CORE, load_generator

_PATIENCE_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Load:
    """Arguments of lg. `rate` 0 is a closed loop. `distinct`: see lg.h. `fields`: request header lines."""

    body: Path | None = None
    path: str = "/v1/chat/completions"
    method: str = "POST"
    connections: int = 1
    seconds: float = 3.0
    fresh: bool = False
    rate: float = 0.0
    warm: int = 1
    distinct: int = 0
    stream: bool = False
    fields: Sequence[str] = ()
    media_type: str = "application/json"
    deadline_s: float = 30.0

    def arguments(self) -> list[str]:
        """As a command line, without the target."""
        given = {
            "path": self.path, "method": self.method, "connections": self.connections, "seconds": self.seconds,
            "rate": self.rate, "warm": self.warm, "distinct": self.distinct, "deadline": self.deadline_s,
        }  # fmt: skip
        command = [part for name, value in given.items() for part in (f"--{name}", str(value))]
        command += [part for line in self.fields for part in ("--header", line)]
        if self.body is not None:
            command += ["--body", str(self.body), "--header", f"Content-Type: {self.media_type}"]
        return command + ["--fresh"] * self.fresh + ["--stream"] * self.stream


@dataclass(frozen=True, slots=True)
class Route:
    """How to get to the origin: straight, through a CONNECT or plain proxy, or redirected (`mark`).

    `source`: the loopback address the client comes from. `proxy_authorization`: the field's value.
    """

    target: str
    mode: str
    authority: str
    ca: Path | None = None
    mark: int = 0
    source: str | None = None
    plain: bool = False
    proxy_authorization: str | None = None

    def arguments(self) -> list[str]:
        """As a command line."""
        optional = {
            "ca": self.ca, "mark": self.mark or None, "source": self.source,
            "proxy-authorization": self.proxy_authorization,
        }  # fmt: skip
        command = ["--target", self.target, "--mode", self.mode, "--authority", self.authority]
        command += [part for name, value in optional.items() if value is not None for part in (f"--{name}", str(value))]
        return command + ["--plain"] * self.plain


class Generator:
    """A started lg that waits at its gate: connections are open and warm. `go` lets it run and returns its answer."""

    def __init__(self, route: Route, load: Load, *, hold: bool = False) -> None:
        command = [
            "taskset",
            "-c",
            str(LOAD_CORE),
            str(load_generator()),
            "--gate",
            *route.arguments(),
            *load.arguments(),
        ]
        if hold:
            command.append("--hold")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._seconds = load.seconds + load.deadline_s
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            self._process.kill()
            raise RuntimeError(f"the load generator gave up: {self._process.communicate()[1].strip()}")

    def go(self) -> dict[str, Any]:
        """Opens the gate. The answer is lg's JSON ({} when it only held)."""
        self.begin()
        return self.end()

    def begin(self) -> None:
        """Opens the gate and returns at once."""
        assert self._process.stdin is not None
        self._process.stdin.write("g")
        self._process.stdin.flush()

    def end(self, *, early: bool = False) -> dict[str, Any]:
        """Waits for the end (`early`: has it end now) and returns lg's JSON."""
        if early:
            self._process.send_signal(signal.SIGINT)
        try:
            output, errors = self._process.communicate(timeout=self._seconds + _PATIENCE_S)
        finally:
            self._process.kill()
        if self._process.returncode:
            raise RuntimeError(f"the load generator ended with {self._process.returncode}: {errors.strip()}")
        return dict(json.loads(output)) if output.strip() else {}
