"""LiteLLM's proxy, without and with its Presidio guardrail: the peer that also knows prompts.

It is no forward proxy: clients speak to it in the clear and it calls the provider. One worker, no database.
"""

import json
import subprocess
from dataclasses import replace
from typing import Final

from loadtests.dataplane import processes
from loadtests.dataplane.cases import KEY
from loadtests.dataplane.environments import environment
from loadtests.dataplane.load import Route
from loadtests.dataplane.peers import Running, home, start
from loadtests.dataplane.places import LOAD_CORE, PEER_LOCKS
from loadtests.dataplane.scene import HOST, Scene

_PRESIDIO_PORT: Final = 9111
_ENVIRONMENT: Final = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR", "NO_DOCS": "True", "DO_NOT_TRACK": "1",
}  # fmt: skip


def litellm(scene: Scene) -> Running:
    """Bare."""
    return _litellm(scene, "litellm", 9110, {})


def litellm_presidio(scene: Scene) -> Running:
    """With the guardrail before every call. Presidio has a process of its own, on the load's core; its CPU counts."""
    presidio = environment("presidio")
    log = scene.folder / "presidio.log"
    command = [str(presidio / "python"), str(PEER_LOCKS / "presidio_server.py"), str(_PRESIDIO_PORT)]
    server = processes.start(command, log, core=LOAD_CORE)

    def up() -> bool:
        if server.poll() is not None:
            raise RuntimeError(f"presidio ended with {server.returncode}: {log.read_text()[-2000:]}")
        return processes.accepts(_PRESIDIO_PORT)

    try:
        processes.wait_for(up, "presidio", 120)
        base = f"http://127.0.0.1:{_PRESIDIO_PORT}"
        guard = {
            "guardrail_name": "pii",
            "litellm_params": {
                "guardrail": "presidio", "mode": "pre_call", "default_on": True,
                "presidio_analyzer_api_base": base, "presidio_anonymizer_api_base": base,
            },
        }  # fmt: skip
        running = _litellm(scene, "litellm-presidio", 9112, {"guardrails": [guard]})
    except BaseException:
        processes.stop(server)
        raise

    def stop() -> None:
        processes.stop(server)
        if running.process is not None:
            processes.stop(running.process)

    return replace(running, also=(server,), stop_with=stop)


def _litellm(scene: Scene, name: str, port: int, more: dict[str, object]) -> Running:
    bin_dir = environment("litellm")
    folder = home(scene, name)
    config = folder / "config.yaml"
    model = {"model": "openai/gpt-4o-mini", "api_base": f"https://{HOST}/v1", "api_key": "sk-bench"}
    config.write_text(json.dumps({"model_list": [{"model_name": "gpt-4o-mini", "litellm_params": model}], **more}))
    bundle = folder / "bundle.pem"
    bundle.write_text(scene.ca.pem)
    process: subprocess.Popen[bytes] = start(
        scene, name,
        [str(bin_dir / "litellm"), "--config", str(config), "--host", "127.0.0.1", "--port", str(port),
         "--num_workers", "1", "--telemetry", "False"], port,
        environment={**_ENVIRONMENT, "SSL_CERT_FILE": str(bundle), "HOME": str(folder), "LITELLM_MASTER_KEY": KEY},
        deadline_s=180,
    )  # fmt: skip
    return Running(name, process, {"plain": Route(f"127.0.0.1:{port}", "direct", f"127.0.0.1:{port}", plain=True)})
