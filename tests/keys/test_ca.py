"""A CA rotation seen by clients: no handshake fails in the overlap (CRY-07)."""

import shutil
import ssl
import subprocess
import threading
import time
from pathlib import Path

import pytest

from proxy.keys.ca import CertificateAuthority, LeafStore
from proxy.keys.root import RootKey


def _serve(context: ssl.SSLContext) -> tuple[int, threading.Thread]:
    import socket

    listener = socket.create_server(("127.0.0.1", 0))

    def one() -> None:
        with listener, listener.accept()[0] as raw:
            try:
                with context.wrap_socket(raw, server_side=True) as tls:
                    tls.recv(4096)
                    tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
            except OSError:
                pass

    thread = threading.Thread(target=one)
    thread.start()
    return listener.getsockname()[1], thread


def _node(port: int, trust: Path) -> bool:
    script = (
        "require('https').get(process.argv[1], r => r.on('data', d => process.stdout.write(d)))"
        ".on('error', e => {process.stdout.write(String(e.code)); process.exit(1)})"
    )
    found = subprocess.run(
        ["node", "-e", script, f"https://localhost:{port}/"],
        env={"NODE_EXTRA_CA_CERTS": str(trust), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        timeout=30,
        check=False,
    )
    return found.stdout == b"ok"


def _curl(port: int, trust: Path) -> bool:
    found = subprocess.run(
        ["curl", "-sS", "--cacert", trust, f"https://localhost:{port}/"], capture_output=True, timeout=30, check=False
    )
    return found.stdout == b"ok"


@pytest.mark.parametrize("client", ["curl", "node"])
def test_clients_through_a_rotation(state_dir: Path, client: str) -> None:
    """The bundle exported in the overlap is good before and after the switch; the former one is not after it."""
    if shutil.which(client) is None:
        pytest.skip(f"{client} is not installed")
    call = {"curl": _curl, "node": _node}[client]
    root = RootKey.load_or_create(state_dir / "root.key")
    ca = CertificateAuthority.load_or_create(state_dir / "ca", root, time.time())
    former, both = state_dir / "former.pem", state_dir / "both.pem"
    former.write_bytes(ca.pem)
    ca.rotate(root, time.time(), overlap_s=3600)
    both.write_bytes((state_dir / "ca" / "ca.pem").read_bytes())
    outcomes = []
    for trust in (former, both):
        port, thread = _serve(LeafStore(ca).context("localhost"))
        outcomes.append(call(port, trust))
        thread.join(10)
    ca.switch_now(time.time())
    for trust in (both, former):
        port, thread = _serve(LeafStore(ca).context("localhost"))
        outcomes.append(call(port, trust))
        thread.join(10)
    assert outcomes == [True, True, True, False]
