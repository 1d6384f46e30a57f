"""The peers: how each is set up for the same task, and started on the measured core.

A peer is a function from the scene to a `Running`; it raises Missing when it cannot be had here.
"""

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadtests.dataplane import processes
from loadtests.dataplane.environments import closure, environment, subset
from loadtests.dataplane.load import Route
from loadtests.dataplane.places import SERVED_CORE, Missing, program
from loadtests.dataplane.processes import Sample
from loadtests.dataplane.scene import AUTHORITY, HOST, ORIGIN_PORT, PLAIN_PORT, Scene

MITMDUMP_TRANSPARENT_PORT: Final = 9102
TRANSPARENT_MARKS: Final = {"mitmdump-transparent": 11, "lane-transparent": 12}


@dataclass
class Running:
    """A started server. `routes`: the ways to it, by name. `process` None: nothing to measure (the origin
    itself). `also`: helpers that are measured with it."""

    name: str
    process: "subprocess.Popen[bytes] | None"
    routes: Mapping[str, Route]
    stop_with: Callable[[], None] | None = None
    also: tuple["subprocess.Popen[bytes]", ...] = ()
    state_dir: Path | None = None

    def sample(self) -> Sample:
        """CPU, memory and descriptors of all its processes now."""
        every = (self.process, *self.also) if self.process is not None else self.also
        return processes.sample(*(process.pid for process in every))

    @property
    def route(self) -> Route:
        """The main one."""
        return next(iter(self.routes.values()))

    def stop(self) -> None:
        """Ends it."""
        if self.stop_with is not None:
            self.stop_with()
        elif self.process is not None:
            processes.stop(self.process)


def explicit(port: int) -> Route:
    """Through a CONNECT proxy on loopback."""
    return Route(f"127.0.0.1:{port}", "connect", AUTHORITY)


def direct(_scene: Scene) -> Running:
    """The origin itself: what no proxy can beat."""
    return Running("direct", None, {"direct": Route(f"127.0.0.1:{ORIGIN_PORT}", "direct", AUTHORITY)})


def mitmdump(scene: Scene) -> Running:
    """`mitmdump -q` of the product's own mitmproxy version, in an environment of its own."""
    bin_dir = environment("mitmproxy", subset(closure("mitmproxy")))
    port, folder = 9101, home(scene, "mitmproxy")
    process = start(
        scene, "mitmdump",
        [str(bin_dir / "mitmdump"), "-q", "--listen-host", "127.0.0.1", "--listen-port", str(port),
         "--set", f"confdir={folder}", "--set", f"ssl_verify_upstream_trusted_ca={scene.ca.file}"], port,
    )  # fmt: skip
    plain = Route(f"127.0.0.1:{port}", "absolute", f"{HOST}:{PLAIN_PORT}", plain=True)
    return Running("mitmdump", process, {"explicit": explicit(port), "plain": plain})


def mitmdump_transparent(scene: Scene) -> Running:
    """The same, for redirected connections."""
    bin_dir = environment("mitmproxy", subset(closure("mitmproxy")))
    port, folder = MITMDUMP_TRANSPARENT_PORT, home(scene, "mitmproxy-transparent")
    process = start(
        scene, "mitmdump-transparent",
        [str(bin_dir / "mitmdump"), "-q", "--mode", "transparent", "--listen-host", "127.0.0.1", "--listen-port",
         str(port), "--set", f"confdir={folder}", "--set", f"ssl_verify_upstream_trusted_ca={scene.ca.file}"], port,
    )  # fmt: skip
    mark = TRANSPARENT_MARKS["mitmdump-transparent"]
    return Running("mitmdump-transparent", process, {"transparent": _redirected(mark)})


def proxy_py(scene: Scene) -> Running:
    """proxy.py with TLS interception: it relays answers without looking at them."""
    bin_dir = environment("proxy-py")
    folder = home(scene, "proxy-py")
    _own_ca(folder)
    key = folder / "leaf.key"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    port = 9103
    process = start(
        scene, "proxy-py",
        [str(bin_dir / "proxy"), "--hostname", "127.0.0.1", "--port", str(port), "--num-workers", "1",
         "--num-acceptors", "1", "--log-level", "ERROR", "--ca-key-file", str(folder / "ca.key"), "--ca-cert-file",
         str(folder / "ca.pem"), "--ca-signing-key-file", str(key), "--ca-cert-dir", str(folder / "leaves"),
         "--ca-file", str(scene.ca.file), "--data-dir", str(folder / "data")], port,
    )  # fmt: skip
    return Running("proxy-py", process, {"explicit": explicit(port)})


_SQUID: Final = """
http_port 127.0.0.1:{port} ssl-bump generate-host-certificates=on tls-cert={home}/both.pem
sslcrtd_program {certgen} -s {home}/certificates -M 8MB
sslcrtd_children 2
acl first at_step SslBump1
ssl_bump peek first
ssl_bump bump all
tls_outgoing_options cafile={ca}
http_access allow all
cache deny all
access_log none
cache_log {home}/cache.log
cache_store_log none
pid_filename {home}/squid.pid
coredump_dir {home}
hosts_file /etc/hosts
dns_nameservers 127.0.0.1
client_persistent_connections on
server_persistent_connections on
shutdown_lifetime 1 second
max_filedescriptors 30000
cache_effective_user {user}
pinger_enable off
via off
forwarded_for delete
"""


def squid(scene: Scene) -> Running:
    """Debian's squid-openssl, peek and bump, no cache, no log."""
    binary = program("squid", "squid-openssl")
    certgen = Path("/usr/lib/squid/security_file_certgen")
    if not certgen.exists():
        raise Missing("no ssl-bump in this squid: apt install squid-openssl")
    port, folder = 9104, home(scene, "squid")
    _own_ca(folder)
    (folder / "both.pem").write_bytes((folder / "ca.pem").read_bytes() + (folder / "ca.key").read_bytes())
    subprocess.run(
        [str(certgen), "-c", "-s", str(folder / "certificates"), "-M", "8MB"], check=True, capture_output=True
    )
    config = folder / "squid.conf"
    config.write_text(_SQUID.format(port=port, home=folder, certgen=certgen, ca=scene.ca.file, user="proxy"))
    subprocess.run(["chown", "-R", "proxy", str(folder)], check=False, capture_output=True)
    process = start(scene, "squid", [binary, "-N", "-f", str(config)], port)
    return Running("squid", process, {"explicit": explicit(port)})


_NGINX: Final = """
daemon off; worker_processes 1; error_log {home}/error.log; pid {home}/nginx.pid;
events {{ worker_connections 30000; }}
worker_rlimit_nofile 60000;
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 3600s; client_body_buffer_size 64k;
  client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
  ssl_certificate {leaf}; ssl_certificate_key {leaf};
  upstream origin {{ server 127.0.0.1:{origin}; keepalive 256; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} ssl backlog=4096;
    location / {{
      proxy_pass https://origin; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host {host};
      proxy_ssl_verify on; proxy_ssl_trusted_certificate {ca}; proxy_ssl_name {host}; proxy_ssl_server_name on;
    }}
  }}
}}
"""


def nginx(scene: Scene) -> Running:
    """TLS in, TLS out, HTTP parsed, nothing decided: the physical limit."""
    binary = program("nginx", "nginx-light")
    port, folder = 9105, home(scene, "nginx")
    config = folder / "nginx.conf"
    config.write_text(
        _NGINX.format(home=folder, leaf=scene.leaf, port=port, origin=ORIGIN_PORT, host=HOST, ca=scene.ca.file)
    )
    process = start(scene, "nginx", [binary, "-c", str(config)], port)
    return Running("nginx", process, {"reverse": Route(f"127.0.0.1:{port}", "direct", AUTHORITY)})


_HAPROXY: Final = """
global
  nbthread 1
  maxconn 4000
  tune.ssl.default-dh-param 2048
defaults
  mode http
  timeout connect 5s
  timeout client 3600s
  timeout server 3600s
  http-reuse always
frontend in
  bind 127.0.0.1:{port} ssl crt {leaf}
  default_backend origin
backend origin
  server origin 127.0.0.1:{origin} ssl verify required ca-file {ca} sni str({host}) verifyhost {host}
"""


def haproxy(scene: Scene) -> Running:
    """The same limit, by haproxy."""
    binary = program("haproxy", "haproxy")
    port, folder = 9106, home(scene, "haproxy")
    config = folder / "haproxy.cfg"
    config.write_text(_HAPROXY.format(leaf=scene.leaf, port=port, origin=ORIGIN_PORT, host=HOST, ca=scene.ca.file))
    process = start(scene, "haproxy", [binary, "-db", "-f", str(config)], port)
    return Running("haproxy", process, {"reverse": Route(f"127.0.0.1:{port}", "direct", AUTHORITY)})


def _redirected(mark: int) -> Route:
    return Route(f"127.0.0.1:{ORIGIN_PORT}", "direct", AUTHORITY, mark=mark)


def home(scene: Scene, name: str) -> Path:
    """A folder of the peer's own within the run's."""
    folder = scene.folder / name
    folder.mkdir()
    folder.chmod(0o755)
    return folder


def start(
    scene: Scene, name: str, command: list[str], port: int, *, environment: Mapping[str, str] | None = None,
    deadline_s: float = 60.0,
) -> "subprocess.Popen[bytes]":  # fmt: skip
    """Starts a peer on the measured core; returns when it accepts connections."""
    log = scene.folder / f"{name}.log"
    process = processes.start(command, log, core=SERVED_CORE, environment=environment)

    def up() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"{name} ended with {process.returncode}: {log.read_text()[-2000:]}")
        return processes.accepts(port)

    try:
        processes.wait_for(up, name, deadline_s)
    except BaseException:
        processes.stop(process)
        raise
    return process


def _own_ca(home: Path) -> None:
    """An RSA CA, as these peers' guides make it."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "7", "-subj", "/CN=peer",
         "-keyout", str(home / "ca.key"), "-out", str(home / "ca.pem")], check=True, capture_output=True,
    )  # fmt: skip
