"""Certificates: a flood of names to mint for, and what is not checked about an upstream's."""

import time

from tests.attack.measures import memory, neighbour, tunnel
from tests.attack.procedures import Bench, procedure
from tests.attack.procedures.config import check
from tests.lab.product import ROOT


@procedure("TLS-08", fresh=True)
def mint_flood(bench: Bench) -> None:
    """5,000 names under a wildcard: an app gets so many certificates a second; memory stays; others get theirs."""
    good = 0
    bad: set[str] = set()
    started_s = time.monotonic()
    with memory(bench, "mint flood"), neighbour(bench, "mint flood"):
        for at in range(5000):
            try:
                tunnel(bench, f"n{at}.allowed.test").close()
                good += 1
            except OSError as error:
                bad.add(type(error).__name__)
        with tunnel(bench, "allowed.test", source="4") as tls:
            tls.sendall(b"GET /legal HTTP/1.1\r\nHost: allowed.test\r\nConnection: close\r\n\r\n")
            bench.check(b" 200 " in tls.recv(100)[:20], "another app gets no certificate")
    most = 200 + 20 * (time.monotonic() - started_s) + 20
    bench.check(200 <= good <= most, f"{good} certificates, expected at most {most:.0f} ({', '.join(sorted(bad))})")


@procedure("TLS-11")
def revoked_upstream(bench: Bench) -> None:
    """No CRL can be configured, so none is silently ignored; that certificates are not checked against one is said."""
    done = check(bench, "crl", "version: 1\ncrl: revoked.pem\n", file="platform.yaml")
    bench.check(done.returncode != 0 and "crl" in done.stdout + done.stderr, "an unknown option `crl` is accepted")
    text = (ROOT / "docs" / "explanation" / "threat-model.md").read_text()
    bench.check("CRL" in text and "Revocation" in text, "the threat model does not say it")
