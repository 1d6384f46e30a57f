"""`egress ca show|export|rotate`: the certificate authority that the apps trust."""

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy.cli import Verb
from proxy.cli._keys import actions, as_cli_error, day, load_ca, load_root, parse_duration
from proxy.cli._out import show
from proxy.keys.files import KeyProblem

if TYPE_CHECKING:
    from proxy.keys.ca import Authority, CertificateAuthority


def _configure(parser: argparse.ArgumentParser) -> None:
    action = actions(parser)
    action("show", "authorities, their dates and fingerprints")
    export = action("export", "the certificates that clients should trust, as PEM")
    export.add_argument("--out", type=Path, metavar="FILE", help="write there instead of standard output")
    export.add_argument(
        "--with-public-roots",
        action="store_true",
        help="add the public roots, for variables that replace a client's trust (SSL_CERT_FILE, REQUESTS_CA_BUNDLE)",
    )
    rotate = action("rotate", "make the next authority; it signs after the overlap")
    rotate.add_argument("--overlap", default="7d", help="how long clients have to learn the new one (default: 7d)")
    rotate.add_argument(
        "--now", action="store_true", help="sign with the new one at once; clients must know it already"
    )
    rotate.add_argument("--lost", action="store_true", help="start over after a lost CA: every client must trust anew")


def _run(args: argparse.Namespace) -> int:
    return {"show": _show, "export": _export, "rotate": _rotate}[args.action](args)


def _facts(authority: "Authority", state: str) -> dict[str, Any]:
    return {
        "id": authority.id,
        "state": state,
        "subject": authority.certificate.subject.rfc4514_string(),
        "not_before_s": authority.not_before_s,
        "not_after_s": authority.not_after_s,
        "signs_from_s": authority.sign_from_s,
        "sha256": authority.fingerprint,
    }


def _all_facts(ca: "CertificateAuthority", now_s: float) -> list[dict[str, Any]]:
    signing, pending = ca.signing(now_s), ca.pending(now_s)
    return [
        _facts(each, "signing" if each is signing else "next" if each is pending else "former")
        for each in ca.authorities
    ]


def _text(facts: dict[str, Any]) -> str:
    signs = f"\n  signs from   {day(facts['signs_from_s'])}" if facts["state"] == "next" else ""
    return (
        f"{facts['id']}  {facts['state']}\n  subject      {facts['subject']}\n"
        f"  valid until  {day(facts['not_after_s'])}{signs}\n  SHA-256      {facts['sha256']}"
    )


def _show(args: argparse.Namespace) -> int:
    rows = _all_facts(load_ca(args.paths), time.time())
    show(args, rows, "\n".join(_text(row) for row in rows) + f"\ntrust file: {args.paths.ca_cert}")
    return 0


def trust_pem(ca: "CertificateAuthority", *, public_roots: bool) -> str:
    """Our certificates, and with `public_roots` those of certifi after them."""
    own = ca.pem.decode()
    if not public_roots:
        return own
    import certifi

    return own + "\n" + Path(certifi.where()).read_text(encoding="utf-8")


def _export(args: argparse.Namespace) -> int:
    pem = trust_pem(load_ca(args.paths), public_roots=args.with_public_roots)
    if args.out is None:
        if args.json:
            show(args, {"pem": pem}, "")
        else:
            sys.stdout.write(pem)
        return 0
    args.out.write_text(pem, encoding="ascii" if pem.isascii() else "utf-8")
    show(args, {"file": str(args.out)}, f"wrote {args.out}")
    return 0


def _rotate(args: argparse.Namespace) -> int:
    from proxy.keys.ca import start_over

    now_s = time.time()
    root = load_root(args.paths)
    if args.lost:
        try:
            start_over(args.paths.ca_dir, root, now_s)
        except KeyProblem as problem:
            raise as_cli_error(problem) from None
        return _done(args, "a new CA signs now; give clients the new trust file, and restart the proxy", now_s)
    ca = load_ca(args.paths)
    overlap_s = 0 if args.now else parse_duration(args.overlap)
    if args.now and ca.switch_now(now_s) is not None:
        return _done(args, "the next authority signs now; workers follow within seconds", now_s)
    try:
        fresh = ca.rotate(root, now_s, overlap_s=overlap_s)
    except KeyProblem as problem:
        raise as_cli_error(problem) from None
    return _done(args, f"{fresh.id} signs from {day(fresh.sign_from_s)}; give clients the new trust file before", now_s)


def _done(args: argparse.Namespace, text: str, now_s: float) -> int:
    rows = _all_facts(load_ca(args.paths), now_s)
    show(args, rows, f"{text}\ntrust file: {args.paths.ca_cert}\n" + "\n".join(_text(row) for row in rows))
    return 0


VERB = Verb("ca", "show, export and rotate the certificate authority", _configure, _run)
