"""The CA and its key: files, shape, start-up refusals."""

import datetime
import shutil
import ssl
import stat
import subprocess
import sys
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.attack.net import GW_EXPLICIT
from tests.attack.procedures import Bench, procedure
from tests.attack.world import EXPLICIT, wait_until
from tests.lab.product import ROOT


def _files(bench: Bench) -> tuple[Path, Path]:
    """(certificate, key) as they stand on the disk."""
    world = bench.world
    if world.product is None:
        return world.confdir / "mitmproxy-ca-cert.pem", world.confdir / "mitmproxy-ca.pem"
    directory = world.product.paths.ca_dir
    keys = [file for file in directory.iterdir() if b"PRIVATE KEY" in file.read_bytes()]
    return world.product.paths.ca_cert, keys[0]


def _leaf(bench: Bench) -> x509.Certificate:
    world = bench.world
    with world.dial((GW_EXPLICIT, EXPLICIT)) as sock:
        sock.sendall(b"CONNECT allowed.test:443 HTTP/1.1\r\nHost: allowed.test:443\r\n\r\n")
        sock.recv(500)
        context = world.trust()
        with context.wrap_socket(sock, server_hostname="allowed.test") as tls:
            return x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"")


def _public(key: object) -> bytes:
    encoded: bytes = key.public_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded


@procedure("CRY-02", baseline=True)
def key_at_rest(bench: Bench) -> None:
    """The CA key is encrypted on the disk."""
    _, key = _files(bench)
    try:
        load_pem_private_key(key.read_bytes(), None)
    except (TypeError, ValueError):
        return
    bench.leak(f"{key.name} loads without a passphrase")


@procedure("CRY-03", baseline=True)
def leaf_key(bench: Bench) -> None:
    """A minted leaf has another key than the CA."""
    certificate, _ = _files(bench)
    ca = x509.load_pem_x509_certificate(certificate.read_bytes())
    if _public(_leaf(bench).public_key()) == _public(ca.public_key()):
        bench.leak("the leaf has the CA's key")


@procedure("CRY-04", baseline=True)
def shape(bench: Bench) -> None:
    """pathlen 0, at most a year; leaves at most a week."""
    certificate, _ = _files(bench)
    ca = x509.load_pem_x509_certificate(certificate.read_bytes())
    constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints).value
    if constraints.path_length != 0:
        bench.leak(f"pathlen is {constraints.path_length}")
    if ca.not_valid_after_utc - ca.not_valid_before_utc > datetime.timedelta(days=367):
        bench.leak(f"valid until {ca.not_valid_after_utc}")
    leaf = _leaf(bench)
    if leaf.not_valid_after_utc - leaf.not_valid_before_utc > datetime.timedelta(days=8):
        bench.leak(f"the leaf is valid until {leaf.not_valid_after_utc}")


def start_once(bench: Bench, state: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """`egress run` on a state directory of its own; it is expected to end by itself (else: TimeoutExpired)."""
    command = [
        sys.executable, "-m", "proxy.cli", "run", "--state", str(state), "--directory", str(bench.world.policy_dir),
        "--workers", "1", "--inspectors", "1", "--explicit", "127.0.0.1:0", "--metrics", "127.0.0.1:0",
        "--transparent", "off", *more,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=15)


def copy_of_state(bench: Bench, name: str) -> Path:
    """The keys of the running product, in a new state directory."""
    if bench.world.product is None:
        raise RuntimeError("no product")
    source = bench.world.product.paths.state_dir
    state = bench.world.directory / name
    state.mkdir(mode=0o700)
    shutil.copy2(source / "root.key", state / "root.key")
    shutil.copytree(source / "ca", state / "ca")
    (state / "ca").chmod(0o700)
    return state


@procedure("CRY-01")
def modes(bench: Bench) -> None:
    """A key that others may read is a reason not to start."""
    for name, target, mode in (("m1", "root.key", 0o644), ("m2", "ca", 0o777), ("m3", "key", 0o644)):
        state = copy_of_state(bench, name)
        file = state / target
        if target == "key":
            file = next(one for one in (state / "ca").iterdir() if b"PRIVATE KEY" in one.read_bytes())
        file.chmod(mode)
        try:
            done = start_once(bench, state)
        except subprocess.TimeoutExpired:
            bench.problems.append(f"{target} with mode {mode:o}: starts")
            continue
        bench.check(done.returncode == 2, f"{target} with mode {mode:o}: exit {done.returncode}")
        bench.check(done.stderr.count("\n") >= 3, f"no three-line refusal: {done.stderr[:200]}")


@procedure("FLT-12")
def missing_ca(bench: Bench) -> None:
    """A key that is gone or another's is no reason to make a new CA in silence."""
    for name in ("gone", "wrong"):
        state = copy_of_state(bench, f"ca-{name}")
        key = next(one for one in (state / "ca").iterdir() if b"PRIVATE KEY" in one.read_bytes())
        before = (state / "ca" / "ca.pem").read_bytes()
        if name == "gone":
            key.unlink()
        else:
            data = bytearray(key.read_bytes())
            data[len(data) // 2] ^= 1
            key.write_bytes(bytes(data))
        try:
            done = start_once(bench, state)
        except subprocess.TimeoutExpired:
            bench.leak(f"{name}: starts")
            continue
        bench.check(done.returncode == 2, f"{name}: exit {done.returncode}")
        bench.check((state / "ca" / "ca.pem").read_bytes() == before, f"{name}: the certificate was replaced")


@procedure("FLT-12", fresh=True, baseline=True)
def missing_ca_elsewhere(bench: Bench) -> None:
    """A baseline makes a new CA in silence."""
    world = bench.world
    if not world.baseline:
        return
    from tests.attack.baseline.launch import command

    confdir = world.directory / "second"
    run = command(confdir, "127.0.0.1:18999", 18998, world.authorities.file)
    process = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        if wait_until((confdir / "mitmproxy-ca.pem").exists, 15):
            bench.leak("a new CA was made in silence")
    finally:
        process.kill()
        process.wait()


@procedure("CRY-05")
def exposure(bench: Bench) -> None:
    """No key in environments, logs or metrics; no core dumps."""
    product = bench.world.product
    if product is None or product.process is None:
        return
    pids = descendants(product.process.pid)
    root = (product.paths.root_key).read_bytes().strip()
    for pid in pids:
        proc = Path(f"/proc/{pid}")
        bench.check(root[:24] not in (proc / "environ").read_bytes(), f"the root secret is in the environment of {pid}")
        bench.check(root[:24] not in (proc / "cmdline").read_bytes(), f"the root secret is in the arguments of {pid}")
        limits = (proc / "limits").read_text()
        core = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
        name = (proc / "comm").read_text().strip()
        bench.check(core.split()[4] == "0", f"{name} ({pid}) may dump core: {core}")
    shown = product.log() + bench.world.page("/metrics")
    bench.check("PRIVATE KEY" not in shown and root.decode("latin-1") not in shown, "a key is in logs or metrics")
    for file in product.paths.ca_dir.iterdir():
        if b"PRIVATE" in file.read_bytes():
            bench.check(stat.S_IMODE(file.stat().st_mode) == 0o600, f"{file.name} has mode {file.stat().st_mode:o}")


def descendants(pid: int) -> list[int]:
    """The process and all below it."""
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            waiting += [int(child) for child in task.read_text().split()]
    return found


@procedure("CRY-07", fresh=True)
def rotation(bench: Bench) -> None:
    """`egress ca rotate`: clients that trust the bundle never fail a handshake."""
    world, product = bench.world, bench.world.product
    if product is None:
        return
    old = product.paths.ca_cert.read_bytes()
    done = world.cli("ca", "rotate", check=False)
    bench.check(done.returncode == 0, f"egress ca rotate: {done.stderr[:200]}")
    until_s, failures = time.monotonic() + 4, 0
    while time.monotonic() < until_s:
        context = ssl.create_default_context(cadata=old.decode())
        with world.dial((GW_EXPLICIT, EXPLICIT)) as sock:
            sock.sendall(b"CONNECT allowed.test:443 HTTP/1.1\r\nHost: allowed.test:443\r\n\r\n")
            sock.recv(500)
            try:
                context.wrap_socket(sock, server_hostname="allowed.test").close()
            except ssl.SSLError:
                failures += 1
        time.sleep(0.2)
    bench.check(failures == 0, f"{failures} handshakes failed for clients that trust the old CA")
