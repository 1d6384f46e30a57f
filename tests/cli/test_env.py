"""`egress env`: variables that shells take and clients obey."""

import json
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from proxy.cli._client_env import LANGUAGES, VARIABLES
from proxy.keys.root import RootKey
from proxy.keys.tokens import verify
from proxy.paths import Paths
from tests.cli._trust import Run, runner, start_once


@pytest.fixture
def run(paths: Paths, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(paths, capsys)


@pytest.fixture(autouse=True)
def root(paths: Paths) -> RootKey:
    return start_once(paths)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_gets_proxy_and_trust(run: Run, language: str) -> None:
    """And only what its clients read."""
    values = run("env", "--lang", language, "--json").value
    contents = {each.content for each in VARIABLES if each.name in values}
    assert contents & {"proxy", "jvm"}
    assert contents & {"replace", "add", "jvm"}
    assert all(language in each.languages for each in VARIABLES if each.name in values)


def test_known_facts(run: Run) -> None:
    """The variables that people get wrong."""
    node = run("env", "--lang", "node", "--json").value
    assert {"NODE_EXTRA_CA_CERTS", "NODE_USE_ENV_PROXY"} <= set(node)
    assert "SSL_CERT_FILE" not in node
    assert "22.21" in run("env", "--lang", "node").out
    curl = run("env", "--lang", "curl", "--json").value
    assert "http_proxy" in curl
    python = run("env", "--lang", "python", "--json").value
    assert {"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "HTTPS_PROXY"} <= set(python)
    # Nothing goes round the proxy unless asked for: an inherited NO_PROXY is overwritten.
    assert python["NO_PROXY"] == python["no_proxy"] == ""
    assert run("env", "--no-proxy", "db.local", "--json").value["NO_PROXY"] == "db.local"


def test_trust_files_hold_what_their_variables_mean(run: Run, paths: Paths) -> None:
    """Replacing ones have the public roots too, adding ones only ours; no private key anywhere."""
    values = run("env", "--json").value
    assert Path(values["SSL_CERT_FILE"]).read_text().count("BEGIN CERTIFICATE") > 50
    assert Path(values["NODE_EXTRA_CA_CERTS"]).read_text().count("BEGIN CERTIFICATE") == 1
    assert "PRIVATE" not in Path(values["SSL_CERT_FILE"]).read_text()
    run("ca", "rotate")
    run("env")
    assert Path(values["SSL_CERT_FILE"]).read_text().startswith(paths.ca_cert.read_text())
    assert paths.ca_cert.read_text().count("BEGIN CERTIFICATE") == 2


def test_a_shell_takes_it(run: Run, paths: Paths) -> None:
    """`eval "$(egress env …)"`, with a token that is good."""
    text = run("env", "--app", "expense-triage", "--lang", "python").out
    script = f'eval {shlex.quote(text)}; printf %s "$HTTPS_PROXY"'
    url = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    user, _, token = url.removeprefix("http://").partition("@")[0].partition(":")
    assert user == "expense-triage"
    assert verify(RootKey.load(paths.root_key), token, time.time()).app == "expense-triage"
    assert "egress connect --app expense-triage" in text


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("127.0.0.1:4711", "http://127.0.0.1:4711"),
        ("0.0.0.0:4711", "http://127.0.0.1:4711"),
        ("[::]:4711", "http://[::1]:4711"),
        ("10.0.0.5:80", "http://10.0.0.5:80"),
    ],
)
def test_the_running_proxy_is_found(run: Run, paths: Paths, listen: str, url: str) -> None:
    """From the supervisor's status file; a given one wins."""
    paths.status_file.write_text(json.dumps({"pid": 1, "listen": {"explicit": listen}}))
    assert run("env", "--json").value["HTTPS_PROXY"] == url
    assert run("env", "--proxy", "proxy.corp:3128", "--json").value["HTTPS_PROXY"] == "http://proxy.corp:3128"


def test_a_damaged_status_file_is_no_obstacle(run: Run, paths: Paths) -> None:
    """The default is printed."""
    paths.status_file.write_text("{")
    assert run("env", "--json").value["HTTPS_PROXY"] == "http://127.0.0.1:8080"


def test_java_reads_the_trust_store(run: Run) -> None:
    """A PKCS #12 file that keytool opens."""
    if shutil.which("keytool") is None:
        pytest.skip("no JDK here")
    options = shlex.split(run("env", "--lang", "java", "--json").value["JAVA_TOOL_OPTIONS"])
    values = dict(option.removeprefix("-D").split("=", 1) for option in options)
    done = subprocess.run(
        ["keytool", "-list", "-keystore", values["javax.net.ssl.trustStore"], "-storetype", "PKCS12", "-storepass",
         values["javax.net.ssl.trustStorePassword"]],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "trustedCertEntry" in done.stdout
    assert "egress-0" in done.stdout


def test_a_lost_ca_is_told(run: Run, paths: Paths) -> None:
    """Variables that point nowhere would be worse."""
    next(paths.ca_dir.glob("*.key")).unlink()
    assert run("env").code == 2
