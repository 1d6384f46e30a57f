"""Which variable makes which client use the proxy and trust its CA. The one table behind `env` and `connect`."""

import json
import shlex
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import urlsplit

from proxy.paths import Paths

if TYPE_CHECKING:
    from proxy.keys.ca import CertificateAuthority

# What a variable holds: the proxy URL; hosts to go round it; a file that replaces the client's trust (so it holds the
# public roots too); a file that adds to it; a switch; JVM options.
type Content = Literal["proxy", "no_proxy", "replace", "add", "switch", "jvm"]

LANGUAGES: Final = ("python", "node", "go", "java", "curl", "ruby", "rust", "dotnet", "deno", "shell")
_JAVA_PASSWORD: Final = "changeit"  # noqa: S105 - the JDK's own default; a trust store holds no secret
DEFAULT_PROXY: Final = "http://127.0.0.1:8080"


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable, the languages whose clients read it, and which clients those are."""

    name: str
    content: Content
    languages: frozenset[str]
    read_by: str


def _row(name: str, content: Content, languages: str, read_by: str) -> Variable:
    return Variable(name, content, frozenset(languages.split()) | {"shell"}, read_by)


VARIABLES: Final = (
    _row("HTTPS_PROXY", "proxy", "python go curl ruby rust dotnet node deno", "most clients; Node from 24 or 22.21"),
    _row("https_proxy", "proxy", "python curl ruby", "wget and older tools read only the lower-case name"),
    _row("HTTP_PROXY", "proxy", "python go rust dotnet node deno", "plain http URLs; curl ignores this spelling"),
    _row("http_proxy", "proxy", "python curl ruby", "plain http URLs; the only spelling curl honours"),
    _row("NO_PROXY", "no_proxy", "python go curl ruby rust dotnet node deno", "hosts that go round the proxy"),
    _row("no_proxy", "no_proxy", "python curl ruby", "hosts that go round the proxy"),
    _row("NODE_USE_ENV_PROXY", "switch", "node", "Node 24 or 22.21 and up: fetch and http(s) then read HTTPS_PROXY"),
    _row("SSL_CERT_FILE", "replace", "python go curl ruby rust dotnet", "OpenSSL, httpx and so the openai and "
         "anthropic SDKs, Go on Linux, rustls-native-certs"),
    _row("REQUESTS_CA_BUNDLE", "replace", "python", "requests"),
    _row("CURL_CA_BUNDLE", "replace", "curl python", "curl, and requests without REQUESTS_CA_BUNDLE"),
    _row("AWS_CA_BUNDLE", "replace", "python", "boto3 and the AWS CLI"),
    _row("PIP_CERT", "replace", "python", "pip"),
    _row("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "replace", "python node go", "gRPC"),
    _row("GIT_SSL_CAINFO", "replace", "curl", "git"),
    _row("CARGO_HTTP_CAINFO", "replace", "rust", "cargo"),
    _row("NODE_EXTRA_CA_CERTS", "add", "node", "Node: adds to its built-in roots"),
    _row("DENO_CERT", "add", "deno", "Deno: adds to its built-in roots"),
    _row("JAVA_TOOL_OPTIONS", "jvm", "java", "every JVM; Java reads no proxy variable"),
)  # fmt: skip

NOTES: Final = {
    "node": "Node before 22.21 reads no proxy variable in fetch: run under Node 24, or pass "
    "`new EnvHttpProxyAgent()` of undici to setGlobalDispatcher.",
    "java": "A JVM sends no proxy credentials from a URL: start it under `egress connect --app APP -- java …`.",
    "go": "Go reads SSL_CERT_FILE on Linux only, and never proxies localhost.",
    "python": "aiohttp reads the proxy variables only with ClientSession(trust_env=True).",
}


@dataclass(frozen=True, slots=True)
class TrustFiles:
    """`own`: our CA alone. `full`: with the public roots. `java`: a PKCS #12 trust store of the same."""

    own: Path
    full: Path
    java: Path


def trust_files(paths: Paths) -> TrustFiles:
    """Where they are; `write_trust_files` brings them up to date."""
    return TrustFiles(paths.ca_cert, paths.ca_dir / "trust.pem", paths.ca_dir / "trust.p12")


def write_trust_files(paths: Paths, ca: "CertificateAuthority", *, java: bool) -> TrustFiles:
    """Writes the trust files that differ from what they should be."""
    from proxy.cli.ca import trust_pem
    from proxy.keys.files import replace_file

    files = trust_files(paths)
    full = trust_pem(ca, public_roots=True).encode()
    if not files.full.exists() or files.full.read_bytes() != full:
        replace_file(files.full, full, mode=0o644)
        files.java.unlink(missing_ok=True)
    if java and not files.java.exists():
        replace_file(files.java, java_trust_store(full), mode=0o644)
    return files


def java_trust_store(pem: bytes) -> bytes:
    """All certificates of a PEM text as a PKCS #12 trust store that keytool and the JVM read."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption
    from cryptography.hazmat.primitives.serialization.pkcs12 import PKCS12Certificate, serialize_java_truststore

    with warnings.catch_warnings():
        # A public root or two have a serial that RFC 5280 forbids; they are trusted all the same.
        warnings.simplefilter("ignore")
        certificates = x509.load_pem_x509_certificates(pem)
    named = [PKCS12Certificate(each, f"egress-{number}".encode()) for number, each in enumerate(certificates)]
    return serialize_java_truststore(named, BestAvailableEncryption(_JAVA_PASSWORD.encode()))


def proxy_url(paths: Paths, given: str | None) -> str:
    """`given`, else where the running supervisor's explicit listener is, else the default."""
    if given:
        return given if "://" in given else f"http://{given}"
    try:
        listen = json.loads(paths.status_file.read_text())["listen"]["explicit"]
    except (OSError, ValueError, KeyError, TypeError):
        return DEFAULT_PROXY
    host, _, port = str(listen).rpartition(":")
    local = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    return f"http://{local}:{port}"


def variables(url: str, files: TrustFiles, *, language: str, no_proxy: str = "") -> dict[str, str]:
    """Name -> value for one language's clients (`shell` = all)."""
    values: dict[Content, str] = {
        "proxy": url,
        "no_proxy": no_proxy,
        "replace": str(files.full),
        "add": str(files.own),
        "switch": "1",
        "jvm": _jvm_options(url, files.java, no_proxy),
    }
    return {each.name: values[each.content] for each in VARIABLES if language in each.languages}


def _jvm_options(url: str, trust_store: Path, no_proxy: str) -> str:
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 80
    around = no_proxy.replace(",", "|")
    options = [
        f"-Dhttps.proxyHost={host}",
        f"-Dhttps.proxyPort={port}",
        f"-Dhttp.proxyHost={host}",
        f"-Dhttp.proxyPort={port}",
        # Empty on purpose: the JVM's default list sends localhost round the proxy.
        f"-Dhttp.nonProxyHosts={around}",
        f"-Djavax.net.ssl.trustStore={trust_store}",
        "-Djavax.net.ssl.trustStoreType=PKCS12",
        f"-Djavax.net.ssl.trustStorePassword={_JAVA_PASSWORD}",
    ]
    # The JVM splits JAVA_TOOL_OPTIONS at blanks and understands quotes.
    return " ".join(f'"{option}"' if " " in option else option for option in options)


def exports(values: dict[str, str]) -> str:
    """POSIX shell lines."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in values.items())
