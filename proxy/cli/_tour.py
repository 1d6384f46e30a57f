"""The three calls that `make run` offers: allowed, blocked, and one whose personal data never leaves."""

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

APP: Final = "demo"
URL: Final = "https://openai.demo.test:9443"
KEY: Final = "authorization: Bearer sk-demo-not-a-real-key"

# Without `--json`, which curl knows since 7.82 only (Ubuntu 22.04 and RHEL 9 have older ones).
_CALL: Final = """curl -sS {url}/v1/chat/completions -H '{key}' \
-H 'content-type: application/json' -d '{{"model": "gpt-4o-mini", "messages": \
[{{"role": "user", "content": "{prompt}"}}]}}'"""


def tour(state_dir: Path) -> Iterator[str]:
    """Lines that begin with `try: `; each is a complete command for a second terminal in this directory."""
    run = f"{_program()} connect{_state(state_dir)} --app {APP} --"
    end = "-w '\\n'"  # an answer ends where its JSON ends; the prompt belongs on a line of its own
    yield f"try: {run} {_call('Say hello to the proxy')} {end}"
    yield f"try: {run} {_call('My card is 4111 1111 1111 1111, is it valid?')} {end}"
    mail = _call("Write to Maria Schneider, maria.schneider@example.com")
    yield f"try: {run} {mail} -w '\\n\\nThe upstream saw:\\n' --next -sS {URL}/_seen {end}"


def _call(prompt: str) -> str:
    return _CALL.format(url=URL, key=KEY, prompt=prompt)


def _program() -> str:
    """As typed from here: `.venv/bin/egress`."""
    program = Path(sys.argv[0]).absolute()
    if program.name != "egress":
        return f"{shlex.quote(sys.executable)} -m proxy.cli"
    here = Path.cwd()
    return shlex.quote(str(program.relative_to(here) if program.is_relative_to(here) else program))


def _state(state_dir: Path) -> str:
    return "" if state_dir == Path("state").absolute() else f" --state {shlex.quote(str(state_dir))}"
