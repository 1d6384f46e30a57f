"""A mitmproxy master with almost nothing in it: no servers, no own TLS, no CA, no logging, and a checked option set.

mitmproxy carries HTTP/2 framing here and hosts other people's addons. It reads no configuration directory; one that
asks for something dangerous is still refused, because somebody believes that it counts.
"""

import importlib
import logging
import os
import pkgutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from mitmproxy import ctx as mitmproxy_context
from mitmproxy import master as mitmproxy_master
from mitmproxy import options as mitmproxy_options
from mitmproxy.addons import core, proxyserver

# What must hold, whoever set it: reference "Minimum option set". Names that mitmproxy does not know here are fine.
REQUIRED: Final[Mapping[str, Any]] = {
    "server": False,
    "connection_strategy": "lazy",
    "rawtcp": False,
    "websocket": False,
    "http3": False,
    "onboarding": False,
    "validate_inbound_headers": True,
    "normalize_outbound_headers": True,
    "store_streamed_bodies": False,
    "stream_large_bodies": None,
    "ignore_hosts": [],
    "allow_hosts": [],
    "tcp_hosts": [],
    "udp_hosts": [],
    "ssl_insecure": False,
    "ssl_verify_upstream_trusted_confdir": None,
    "ssl_verify_upstream_trusted_ca": None,
    "client_certs": None,
    "certs": [],
    "add_upstream_certs_to_client_chain": False,
    "mode": ["regular"],
    "scripts": [],
    "map_local": [],
    "map_remote": [],
    "modify_body": [],
    "modify_headers": [],
    "save_stream_file": None,
    "hardump": "",
    "proxy_debug": False,
    "emudhra": False,
    "emudhra_old": False,
}
_TLS_FLOOR: Final = ("tls_version_client_min", "tls_version_server_min")
_SAFE_TLS: Final = frozenset({"TLS1_2", "TLS1_3"})
# mitmproxy and OpenSSL would write session keys there.
_KEY_LOGS: Final = ("MITMPROXY_SSLKEYLOGFILE", "SSLKEYLOGFILE")


class UnsafeOptions(Exception):
    """Options that would open a way round the proxy. `names` lists them all; the text says where and what to do."""

    def __init__(self, problems: Iterable[tuple[str, str]], where: str) -> None:
        self.problems = tuple(problems)
        self.names = tuple(name for name, _ in self.problems)
        listed = "; ".join(f"{name} must be {wanted}" for name, wanted in self.problems)
        super().__init__(f"{where}: {listed}. Remove the setting and start again.")


class Crashes(logging.Handler):
    """Counts what mitmproxy would have logged as an error, and keeps none of its text (it holds payloads and URLs)."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002 - the text is not wanted
        """One more."""
        self.count += 1


class Master(mitmproxy_master.Master):
    """`crashes.count`: errors inside mitmproxy since the start; 0 in a healthy worker. `own`: addons that drive the
    exchange; any others are foreign."""

    crashes: Crashes
    own: tuple[object, ...]


def current_master() -> Master:
    """The master that this worker built last; built now if there is none (mitmproxy itself knows only one)."""
    master = getattr(mitmproxy_context, "master", None)
    return master if isinstance(master, Master) else build_master()


def build_master(addons: Iterable[object] | None = None, *, confdir: Path | None = None) -> Master:
    """A master for this process's running loop, with `addons` (default: those that the package `addons` exports).

    Raises UnsafeOptions when the configuration directory or the environment asks for something dangerous.
    """
    check_environment(os.environ)
    check_confdir(confdir or Path(os.environ.get("MITMPROXY_CONFDIR", "~/.mitmproxy")).expanduser())
    options: Any = mitmproxy_options.Options()
    master = Master(options)
    chain: Any = master.addons  # neither is typed in mitmproxy
    # Forwards every log record of the process to addons; nothing of ours may reach a foreign addon that way.
    master._legacy_log_events.uninstall()
    master.crashes = _silence()
    make_proxyserver: Any = proxyserver.Proxyserver  # defines options; without `server` it never listens
    chain.add(core.Core(), make_proxyserver())
    options.update(**{name: value for name, value in REQUIRED.items() if name in options})
    master.own = tuple(own_addons() if addons is None else addons)
    chain.add(*master.own)
    check_options(options)
    return master


def own_addons() -> list[object]:
    """What each module of the package `addons` exports as ADDON, made anew."""
    # Found by name, as every plug-in is: the package imports ours, never the reverse.
    package = importlib.import_module("addons")
    modules = sorted(info.name for info in pkgutil.iter_modules(package.__path__))
    return [importlib.import_module(f"addons.{name}").ADDON() for name in modules if not name.startswith("_")]


def check_options(options: Any) -> None:
    """Raises UnsafeOptions naming each of mitmproxy's `options` that is not what it must be."""
    current = {name: getattr(options, name) for name in options.keys()}  # noqa: SIM118 - no mapping
    _check(current, "mitmproxy options")


def check_confdir(directory: Path) -> None:
    """Raises UnsafeOptions when a config.yaml (or config.yml) there sets a dangerous option."""
    for path in (directory / "config.yaml", directory / "config.yml"):
        try:
            settings = yaml.safe_load(path.read_text("utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            raise UnsafeOptions([(path.name, "readable YAML, or absent")], str(path)) from None
        if settings is None:
            continue
        if not isinstance(settings, dict):
            raise UnsafeOptions([(path.name, "a mapping of options, or absent")], str(path))
        _check(settings, str(path))


def check_environment(environment: Mapping[str, str]) -> None:
    """Raises UnsafeOptions when TLS session keys would be logged."""
    _raise_if([(name, "unset") for name in _KEY_LOGS if environment.get(name)], "environment")


def _check(settings: Mapping[str, Any], where: str) -> None:
    problems = [
        (name, repr(wanted))
        for name, wanted in REQUIRED.items()
        if name in settings and _plain(settings[name]) != wanted and not _same_nothing(settings[name], wanted)
    ]
    problems += [
        (name, "TLS1_2 or TLS1_3") for name in _TLS_FLOOR if name in settings and settings[name] not in _SAFE_TLS
    ]
    _raise_if(problems, where)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _same_nothing(value: Any, wanted: Any) -> bool:
    return not wanted and wanted is not False and value in (None, "", [], ())


def _raise_if(problems: list[tuple[str, str]], where: str) -> None:
    if problems:
        raise UnsafeOptions(problems, where)


def _silence() -> Crashes:
    logger = logging.getLogger("mitmproxy")
    crashes = Crashes()
    logger.handlers = [crashes]
    logger.propagate = False
    logger.setLevel(logging.ERROR)
    return crashes
