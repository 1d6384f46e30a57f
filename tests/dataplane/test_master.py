"""The mitmproxy master: few addons, silent loggers, and no option that opens a way round."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxy.dataplane import master as module
from proxy.dataplane.master import (
    REQUIRED,
    UnsafeOptions,
    build_master,
    check_confdir,
    check_environment,
    check_options,
)

NOWHERE = Path("/nonexistent")


def with_master(check: Callable[[Any], None], *addons: object) -> None:
    async def run() -> None:
        check(build_master(addons, confdir=NOWHERE))

    asyncio.run(run())


# every option of the minimum set, with a value that would open a way round
DANGEROUS: dict[str, Any] = {
    "server": True,
    "connection_strategy": "eager",
    "rawtcp": True,
    "websocket": True,
    "http3": True,
    "validate_inbound_headers": False,
    "normalize_outbound_headers": False,
    "store_streamed_bodies": True,
    "stream_large_bodies": "1",
    "ignore_hosts": [r"pinned\.test"],
    "allow_hosts": ["x"],
    "tcp_hosts": ["x"],
    "udp_hosts": ["x"],
    "ssl_insecure": True,
    "ssl_verify_upstream_trusted_confdir": "/tmp",
    "ssl_verify_upstream_trusted_ca": "/tmp/ca.pem",
    "certs": ["*=/tmp/x.pem"],
    "add_upstream_certs_to_client_chain": True,
    "mode": ["socks5"],
    "proxy_debug": True,
}


def test_a_built_master_satisfies_its_own_check() -> None:
    with_master(lambda master: check_options(master.options))


@pytest.mark.parametrize("name", DANGEROUS)
def test_each_dangerous_option_is_refused_by_name(name: str) -> None:
    def check(master: Any) -> None:
        setattr(master.options, name, DANGEROUS[name])
        with pytest.raises(UnsafeOptions, match=name) as caught:
            check_options(master.options)
        assert caught.value.names == (name,)

    with_master(check)


def test_all_dangerous_options_are_named_at_once() -> None:
    def check(master: Any) -> None:
        master.options.update(rawtcp=True, ssl_insecure=True)
        with pytest.raises(UnsafeOptions) as caught:
            check_options(master.options)
        assert set(caught.value.names) == {"rawtcp", "ssl_insecure"}

    with_master(check)


@pytest.mark.parametrize("file", ["config.yaml", "config.yml"])
@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("ssl_insecure: true\n", {"ssl_insecure"}),
        ("ignore_hosts: ['x']\nmode: [upstream:http://x]\n", {"ignore_hosts", "mode"}),
        ("tls_version_client_min: TLS1\n", {"tls_version_client_min"}),
        ("tls_version_server_min: UNBOUNDED\n", {"tls_version_server_min"}),
        ("scripts: [/tmp/x.py]\n", {"scripts"}),
        ("onboarding: true\n", {"onboarding"}),
        ("- a list\n", {"config"}),
        ("a: b: c\n", {"config"}),
    ],
)
def test_a_configuration_directory_that_asks_for_danger_stops_the_start(
    tmp_path: Path, file: str, text: str, names: set[str]
) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(UnsafeOptions) as caught:
        check_confdir(tmp_path)
    assert {name.partition(".")[0] for name in caught.value.names} == names
    assert str(tmp_path) in str(caught.value)
    assert "Remove the setting" in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "ssl_insecure: false\n", "view_order: time\n", "ignore_hosts: []\n"]
)
def test_harmless_configuration_is_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    check_confdir(tmp_path)
    check_confdir(tmp_path / "absent")


@pytest.mark.parametrize("name", ["SSLKEYLOGFILE", "MITMPROXY_SSLKEYLOGFILE"])
def test_logging_of_session_keys_stops_the_start(name: str) -> None:
    with pytest.raises(UnsafeOptions, match=name):
        check_environment({name: "/tmp/keys"})
    check_environment({name: ""})


def test_build_looks_at_the_configuration_directory(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("rawtcp: true\n")

    async def run() -> None:
        with pytest.raises(UnsafeOptions, match="rawtcp"):
            build_master([], confdir=tmp_path)

    asyncio.run(run())


def test_mitmproxy_says_nothing_and_its_errors_are_counted(capfd: pytest.CaptureFixture[str]) -> None:
    def check(master: Any) -> None:
        logger = logging.getLogger("mitmproxy.proxy.server")
        logger.info("GET https://a.test/?secret")
        logger.error("mitmproxy has crashed! payload=secret")
        assert master.crashes.count == 1

    with_master(check)
    printed = capfd.readouterr()
    assert "secret" not in printed.out + printed.err


def test_no_log_record_of_the_process_reaches_an_addon() -> None:
    class Nosy:
        def __init__(self) -> None:
            self.heard: list[str] = []

        def add_log(self, entry: Any) -> None:
            self.heard.append(entry.msg)

    nosy = Nosy()
    with_master(lambda _: logging.getLogger("any").error("secret"), nosy)
    assert nosy.heard == []


def test_only_what_is_needed_is_loaded_and_no_ca_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    def check(master: Any) -> None:
        assert set(master.addons.lookup) == {"core", "proxyserver"}

    with_master(check)
    assert list(tmp_path.iterdir()) == []


def test_our_addons_are_found_by_listing_their_package_and_collide_with_nothing() -> None:
    async def run() -> None:
        master = build_master(confdir=NOWHERE)
        assert "egressexchange" in master.addons.lookup
        assert module.current_master() is master

    asyncio.run(run())


def test_every_hook_of_our_addons_is_one_that_mitmproxy_fires() -> None:
    from mitmproxy import hooks

    for addon in module.own_addons():
        named = {name for name in vars(type(addon)) if not name.startswith("_")}
        assert named <= set(hooks.all_hooks), "a misspelt hook is silently ignored"


def test_required_names_the_minimum_set() -> None:
    assert set(DANGEROUS) <= set(REQUIRED)
