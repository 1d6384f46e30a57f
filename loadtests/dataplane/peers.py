"""The peers: how each is set up for the same task, and started on the measured core.

A peer is a function from the scene to a `Running`; it raises Missing when it cannot be had here.
"""

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from loadtests.dataplane import processes
from loadtests.dataplane.environments import closure, environment, subset
from loadtests.dataplane.load import Route
from loadtests.dataplane.places import SERVED_CORE, program
from loadtests.dataplane.scene import AUTHORITY, HOST, ORIGIN_PORT, Scene

TRANSPARENT_MARKS: Final = {"mitmdump-transparent": 11, "lane-transparent": 12, "lane-transparent-2": 13}


@dataclass
class Running:
    """A started server. `routes`: the ways to it, by name. `process` None: nothing to measure (the origin itself)."""

    name: str
    process: "subprocess.Popen[bytes] | None"
    routes: Mapping[str, Route]
    stop_with: Callable[[], None] | None = None
    extra: dict[str, str] = field(default_factory=dict)

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
    port, home = 9101, _home(scene, "mitmproxy")
    process = _start(
        scene, "mitmdump",
        [str(bin_dir / "mitmdump"), "-q", "--listen-host", "127.0.0.1", "--listen-port", str(port),
         "--set", f"confdir={home}", "--set", f"ssl_verify_upstream_trusted_ca={scene.ca.file}"], port,
    )  # fmt: skip
    return Running("mitmdump", process, {"explicit": explicit(port)})


def mitmdump_transparent(scene: Scene) -> Running:
    """The same, for redirected connections."""
    bin_dir = environment("mitmproxy", subset(closure("mitmproxy")))
    port, home = 9102, _home(scene, "mitmproxy-transparent")
    process = _start(
        scene, "mitmdump-transparent",
        [str(bin_dir / "mitmdump"), "-q", "--mode", "transparent", "--listen-host", "127.0.0.1", "--listen-port",
         str(port), "--set", f"confdir={home}", "--set", f"ssl_verify_upstream_trusted_ca={scene.ca.file}"], port,
    )  # fmt: skip
    mark = TRANSPARENT_MARKS["mitmdump-transparent"]
    return Running("mitmdump-transparent", process, {"transparent": _redirected(mark)})


def proxy_py(scene: Scene) -> Running:
    """proxy.py with TLS interception: it relays answers without looking at them."""
    bin_dir = environment("proxy-py")
    home = _home(scene, "proxy-py")
    _own_ca(home)
    key = home / "leaf.key"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    port = 9103
    process = _start(
        scene, "proxy-py",
        [str(bin_dir / "proxy"), "--hostname", "127.0.0.1", "--port", str(port), "--num-workers", "1",
         "--num-acceptors", "1", "--log-level", "ERROR", "--ca-key-file", str(home / "ca.key"), "--ca-cert-file",
         str(home / "ca.pem"), "--ca-signing-key-file", str(key), "--ca-cert-dir", str(home / "leaves"),
         "--ca-file", str(scene.ca.file), "--data-dir", str(home / "data")], port,
    )  # fmt: skip
    return Running("proxy-py", process, {"explicit": explicit(port)})


_SQUID: Final = """
http_port 127.0.0.1:{port} ssl-bump generate-host-certificates=on dynamic_cert_mem_cache_size=8MB tls-cert={home}/both.pem
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
        from loadtests.dataplane.places import Missing

        raise Missing("no ssl-bump in this squid: apt install squid-openssl")
    port, home = 9104, _home(scene, "squid")
    _own_ca(home)
    (home / "both.pem").write_bytes((home / "ca.pem").read_bytes() + (home / "ca.key").read_bytes())
    subprocess.run([str(certgen), "-c", "-s", str(home / "certificates"), "-M", "8MB"], check=True, capture_output=True)
    config = home / "squid.conf"
    config.write_text(_SQUID.format(port=port, home=home, certgen=certgen, ca=scene.ca.file, user="proxy"))
    subprocess.run(["chown", "-R", "proxy", str(home)], check=False, capture_output=True)
    process = _start(scene, "squid", [binary, "-N", "-f", str(config)], port)
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
    port, home = 9105, _home(scene, "nginx")
    config = home / "nginx.conf"
    config.write_text(
        _NGINX.format(home=home, leaf=scene.leaf, port=port, origin=ORIGIN_PORT, host=HOST, ca=scene.ca.file)
    )
    process = _start(scene, "nginx", [binary, "-c", str(config)], port)
    return Running("nginx", process, {"reverse": Route(f"127.0.0.1:{port}", "direct", AUTHORITY)})


_HAPROXY: Final = """
global
  nbthread 1
  maxconn 20000
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
    port, home = 9106, _home(scene, "haproxy")
    config = home / "haproxy.cfg"
    config.write_text(_HAPROXY.format(leaf=scene.leaf, port=port, origin=ORIGIN_PORT, host=HOST, ca=scene.ca.file))
    process = _start(scene, "haproxy", [binary, "-db", "-f", str(config)], port)
    return Running("haproxy", process, {"reverse": Route(f"127.0.0.1:{port}", "direct", AUTHORITY)})


def _redirected(mark: int) -> Route:
    return Route(f"127.0.0.1:{ORIGIN_PORT}", "direct", AUTHORITY, mark=mark)


def _home(scene: Scene, name: str) -> Path:
    home = scene.folder / name
    home.mkdir()
    home.chmod(0o755)
    return home


def _start(scene: Scene, name: str, command: list[str], port: int) -> "subprocess.Popen[bytes]":
    log = scene.folder / f"{name}.log"
    process = processes.start(command, log, core=SERVED_CORE)

    def up() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"{name} ended with {process.returncode}: {log.read_text()[-2000:]}")
        return processes.accepts(port)

    processes.wait_for(up, name)
    return process


def _own_ca(home: Path) -> None:
    """An RSA CA, as these peers' guides make it."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "7", "-subj", "/CN=peer",
         "-keyout", str(home / "ca.key"), "-out", str(home / "ca.pem")], check=True, capture_output=True,
    )  # fmt: skip
