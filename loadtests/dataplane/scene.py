"""What all cases share: the origin's certificate, prompts and answers, and the nginx that plays the provider."""

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from loadtests.dataplane import processes
from loadtests.dataplane.places import LOAD_CORE, ROOT, program, stream_server
from tests.lab.ca import LabCA

HOST: Final = "api.bench.test"
ORIGIN_PORT: Final = 443
PACED_PORT: Final = 9444
BURST_PORT: Final = 9445
PLAIN_PORT: Final = 8000
AUTHORITY: Final = f"{HOST}:{ORIGIN_PORT}"
DOWNLOAD_BYTES: Final = 200 << 20
MARKER: Final = "@UNIQUE_16_CHAR@"

_TALK: Final = (
    "Please look at the receipts of the last week and tell me which of them need a second approval. "
    "The travel policy allows hotel nights up to the usual limit, and meals only when the trip took longer than a day. "
)


def prompt(size_bytes: int, *, unique: bool = False, stream: bool = False) -> bytes:
    """A chat call of about `size_bytes`, in turns as a client resends them. `unique`: lg can make every one differ."""
    messages: list[dict[str, str]] = [{"role": "system", "content": "You sort receipts. Answer in one short sentence."}]
    while len(json.dumps(messages)) < size_bytes - 400:
        role = "user" if len(messages) % 2 else "assistant"
        messages.append({"role": role, "content": f"{_TALK}This was turn {len(messages)}."})
    last = f"And number {MARKER}?" if unique else "And the next one?"
    messages.append({"role": "user", "content": last})
    call: dict[str, Any] = {"model": "gpt-4o-mini", "max_tokens": 64, "temperature": 0, "messages": messages}
    if stream:
        call |= {"stream": True, "stream_options": {"include_usage": True}}
    short = size_bytes - len(json.dumps(call))
    if short > 0:
        messages[-1]["content"] = (_TALK * (short // len(_TALK) + 1))[:short] + last
    return json.dumps(call).encode()


def answer(finish: str = "stop") -> str:
    """A chat answer of about 950 bytes."""
    text = ("The hotel receipt of Tuesday is above the limit and needs a second approval; the others are fine. " * 6)[
        :560
    ]
    return json.dumps(
        {
            "id": "chatcmpl-bench0000000000000000000000",
            "object": "chat.completion",
            "created": 1790000000,
            "model": "gpt-4o-mini-2024-07-18",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "logprobs": None,
                    "finish_reason": finish,
                }
            ],
            "usage": {"prompt_tokens": 180, "completion_tokens": 96, "total_tokens": 276},
            "system_fingerprint": "fp_bench",
        }
    )


_NGINX: Final = """
daemon off; worker_processes 1; error_log {folder}/nginx-error.log; pid {folder}/nginx.pid;
events {{ worker_connections 30000; }}
worker_rlimit_nofile 60000;
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 3600s; client_body_buffer_size 64k;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  default_type application/json; client_max_body_size 64m; reset_timedout_connection on;
  ssl_certificate {leaf}; ssl_certificate_key {leaf}; ssl_session_cache shared:s:10m;
  map "" $answer {{ default '{answer}'; }}
  server {{
    listen 127.0.0.1:{port} ssl backlog=4096; listen 127.0.0.1:{plain} backlog=4096;
    location / {{ return 200 $answer; }}
    location = /download {{ default_type application/octet-stream; alias {folder}/download; }}
  }}
}}
"""


@dataclass
class Scene:
    """`folder` holds everything of one run. `ca` signs the origin's certificate."""

    folder: Path
    ca: LabCA
    leaf: Path
    origins: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    @classmethod
    def prepare(cls, folder: Path) -> "Scene":
        """Certificates, prompts and files; nothing is started."""
        folder.chmod(0o755)
        ca = LabCA(folder, "bench-ca")
        scene = cls(folder, ca, ca.leaf(HOST))
        scene.leaf.chmod(0o644)
        for name, content in {
            "small.json": prompt(800), "large.json": prompt(10_000),
            "small-unique.json": prompt(800, unique=True), "stream.json": prompt(800, stream=True),
        }.items():  # fmt: skip
            (folder / name).write_bytes(content)
        with (folder / "download").open("wb") as file:
            file.truncate(DOWNLOAD_BYTES)
        return scene

    def start(self) -> None:
        """Starts the origins on the load's core."""
        nginx = program("nginx", "nginx-light")
        config = self.folder / "origin.conf"
        config.write_text(
            _NGINX.format(folder=self.folder, leaf=self.leaf, answer=answer(), port=ORIGIN_PORT, plain=PLAIN_PORT)
        )
        log = self.folder / "origin.log"
        self.origins.append(processes.start([nginx, "-c", str(config)], log, core=LOAD_CORE))
        streams = [*stream_server(), str(self.leaf), str(PACED_PORT), str(BURST_PORT)]
        self.origins.append(processes.start(streams, log, core=LOAD_CORE, cwd=ROOT))
        for port in (ORIGIN_PORT, PACED_PORT, BURST_PORT):
            processes.wait_for(lambda port=port: processes.accepts(port), f"the origin: {log.read_text()[-500:]}")  # type: ignore[misc]

    def stop(self) -> None:
        """Ends the origins."""
        for origin in self.origins:
            processes.stop(origin)

    def body(self, name: str) -> Path:
        """A prompt by name: small, large, small-unique."""
        return self.folder / f"{name}.json"
