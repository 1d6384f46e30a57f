"""The audit trail: what a thief or a fault does to its files, and what an attacker writes into it."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.attack.llm import KEY, Model, ask, contents
from tests.attack.procedures import Bench, procedure
from tests.attack.procedures.faults import request, status
from tests.attack.procedures.keys import copy_of_state, start_once
from tests.attack.wire import SSN
from tests.attack.world import wait_until
from tests.lab.product import ROOT

_MOST_BYTES = 8192


def _written(bench: Bench, count: int) -> None:
    """`count` exchanges whose records are on the disk."""
    trail = bench.world.trail
    if trail is None:
        raise RuntimeError("no product")
    trail.more()
    for _ in range(count):
        bench.check(status(bench) == 200, "a legal request fails")
    seen: list[object] = []

    def enough() -> bool:
        seen.extend(one for one, _ in trail.more() if one["kind"] == "terminal")
        return len(seen) >= count

    bench.check(wait_until(enough, 8), f"{len(seen)} records of {count} requests")


def audit_dir(bench: Bench) -> Path:
    """Where the trail is."""
    if bench.world.product is None:
        raise RuntimeError("no product")
    return bench.world.product.paths.audit_dir


def verify(bench: Bench, directory: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """`egress audit verify` on the proxy's machine."""
    return bench.world.cli("audit", "verify", "--json", "--dir", str(directory), *more, check=False)


def _copy(bench: Bench, name: str) -> tuple[Path, Path]:
    """A copy of the trail, and the longest file of a worker in it."""
    copy = bench.world.directory / "trails" / name
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(audit_dir(bench), copy)
    files = [file for file in copy.glob("*/*.jsonl") if file.parent.name != "supervisor"]
    return copy, max(files, key=lambda file: file.stat().st_size)


def _edited(bench: Bench, name: str, edit: Callable[[list[bytes]], list[bytes]]) -> subprocess.CompletedProcess[str]:
    """The verdict on a copy in which one file's lines were edited."""
    copy, file = _copy(bench, name)
    file.write_bytes(b"".join(edit(file.read_bytes().splitlines(keepends=True))))
    return verify(bench, copy)


def _sound(bench: Bench) -> None:
    copy, _ = _copy(bench, "sound")
    done = verify(bench, copy)
    bench.check(done.returncode == 0, f"an untouched copy does not verify: {done.stdout[:300]}")


@procedure("AUD-01")
def bit_flip(bench: Bench) -> None:
    """One bit of record n: exit 1, and n is named."""
    _written(bench, 6)
    _sound(bench)
    for at in (0, 2, 4):

        def flip(lines: list[bytes], at: int = at) -> list[bytes]:
            line = lines[at]
            middle = line.index(b'"time":"') + 10
            return [*lines[:at], line[:middle] + bytes([line[middle] ^ 1]) + line[middle + 1 :], *lines[at + 1 :]]

        done = _edited(bench, "flip", flip)
        bench.check(done.returncode == 1, f"record {at + 1}: exit {done.returncode}")
        wheres = [one["where"] for one in json.loads(done.stdout)["problems"]]
        bench.check(any(re.search(rf":{at + 1}\b", one) for one in wheres), f"names {wheres}")


@procedure("AUD-02")
def moved_lines(bench: Bench) -> None:
    """Deletion, reordering, duplication and insertion are found."""
    _written(bench, 6)
    _sound(bench)
    edits: dict[str, Callable[[list[bytes]], list[bytes]]] = {
        "deleted": lambda lines: lines[:2] + lines[3:],
        "reordered": lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]],
        "duplicated": lambda lines: [*lines[:3], lines[2], *lines[3:]],
        "inserted": lambda lines: [*lines[:3], lines[2].replace(b'"seq":3', b'"seq":4', 1), *lines[3:]],
        "first deleted": lambda lines: lines[1:],
    }
    for name, edit in edits.items():
        done = _edited(bench, "moved", edit)
        bench.check(done.returncode == 1, f"{name}: exit {done.returncode}")


@procedure("AUD-03")
def cut_tail(bench: Bench) -> None:
    """The last k records are gone: found against a head that was kept elsewhere."""
    _written(bench, 6)
    copy, _ = _copy(bench, "whole")
    chains = json.loads(verify(bench, copy).stdout)["chains"]
    heads = [part for chain in chains for part in ("--head", chain["head"])]
    bench.check(verify(bench, copy, *heads).returncode == 0, "the untouched copy does not fit its own heads")
    for count in (1, 3):
        copy, file = _copy(bench, "cut")
        file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-count]))
        done = verify(bench, copy, *heads)
        bench.check(done.returncode == 1, f"{count} records less: exit {done.returncode}")


_ODD_PATHS: dict[str, bytes] = {
    "crlf": b"/a%0d%0a{%22kind%22:%22terminal%22}",
    "escape": b"/\x1b[31mred",
    "escaped escape": b"/%1b[31mred",
    "override": "/\u202egnp.exe".encode(),
    "escaped override": b"/%e2%80%aegnp.exe",
    "not UTF-8": b"/\xff\xfe",
    "escaped not UTF-8": b"/%ff%fe",
    "quote": b'/"},{"kind":"terminal"',
    "1 MB": b"/" + b"a" * (1 << 20),
    "7 KB": b"/" + b"a/" * 3500,
}


@procedure("AUD-06")
def injection(bench: Bench) -> None:
    """Whatever a path or a field holds: one line of ASCII JSON without control characters, at most 8 KB."""
    trail = bench.world.trail
    if trail is None:
        return
    for name, path in _ODD_PATHS.items():
        trail.more()
        # Latin-1 text stands for its octets in what `request` sends.
        text = path.decode("latin-1")
        request(
            bench,
            f"GET http://${{A}}{text} HTTP/1.1\r\nHost: ${{A}}\r\nUser-Agent: {text[:99]}\r\nConnection: close\r\n\r\n",
        )
        lines: list[tuple[dict[str, object], str]] = []

        def seen(lines: list[tuple[dict[str, object], str]] = lines) -> bool:
            lines.extend(pair for pair in trail.more() if pair[0]["kind"] == "terminal")
            return bool(lines)

        bench.check(wait_until(seen, 5), f"{name}: no record")
        bench.check(len(lines) == 1, f"{name}: {len(lines)} records")
        for _, line in lines:
            bench.check(len(line) <= _MOST_BYTES, f"{name}: a line of {len(line)} bytes")
            bench.check(line.isascii() and line.isprintable(), f"{name}: not printable ASCII")
            bench.check("\\u001b" not in line and "\\u202e" not in line, f"{name}: control characters for a viewer")


@procedure("AUD-07")
def no_secret(bench: Bench) -> None:
    """SSN, API key and proxy token stand in no file, page or store entry of the product after they were sent."""
    world, product = bench.world, bench.world.product
    if product is None or world.wires is None:
        return
    Model(bench)
    fields = "Host: ${A}\r\nConnection: close\r\n"
    post = (
        f"POST http://${{A}}/x HTTP/1.1\r\n{fields}Content-Type: text/plain\r\nContent-Length: {len(SSN)}\r\n\r\n{SSN}"
    )
    for text in (f"GET http://${{A}}/{SSN}?q={SSN} HTTP/1.1\r\n{fields}X-Number: {SSN}\r\n\r\n", post):
        observed = request(bench, text)
        bench.check([one.status for one in observed.answers] == [403], "the SSN was not denied: nothing is shown")
        bench.check(SSN.encode() not in bytes(observed.received), "the denial repeats the SSN")
    good = request(
        bench,
        "GET http://${A}/legal HTTP/1.1\r\nHost: ${A}\r\nProxy-Authorization: Bearer ${TOKEN}\r\n\r\n",
        source="3",
    )
    bench.check([one.status for one in good.answers] == [200], "the token is not accepted: nothing is shown")
    bench.check(ask(bench, f"hello {world.token()}").status == 200, "the key is not accepted: nothing is shown")
    _written(bench, 1)
    secrets = {"SSN": SSN.encode(), "API key": KEY.encode(), "token": str(world.values["TOKEN"]).encode()}
    places = {str(file): file.read_bytes() for file in product.paths.state_dir.rglob("*") if file.is_file()}
    places |= {"metrics": world.page("/metrics").encode(), "store": b"\n".join(contents(bench))}
    places["status"] = world.cli("status", "--json", check=False).stdout.encode()
    bench.check(len(places) > 8, f"only {len(places)} places were searched")
    for name, data in places.items():
        for what, secret in secrets.items():
            if secret in data:
                bench.leak(f"the {what} stands in {name}")


@procedure("AUD-09")
def one_record(bench: Bench) -> None:
    """Each request has one terminal record; ids are unique and numbers without gaps in every chain."""
    _written(bench, 3)
    for host in ("evil.test", "allowed.test"):
        request(bench, f"GET http://{host}/x HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
    _written(bench, 3)
    ids: list[str] = []
    for directory in audit_dir(bench).iterdir():
        lines = [line for file in sorted(directory.glob("*.jsonl")) for line in file.read_bytes().split(b"\n")[:-1]]
        records = [json.loads(line) for line in lines]
        numbers = [one["seq"] for one in records]
        bench.check(numbers == list(range(1, len(numbers) + 1)), f"{directory.name}: gaps in {numbers[:9]}")
        ids += [one["id"] for one in records if one["kind"] == "terminal"]
        outcomes = {one.get("outcome") for one in records if one["kind"] == "terminal"}
        bench.check(outcomes <= {"allowed", "denied", "aborted", "error"}, f"outcomes {outcomes}")
    bench.check(len(ids) >= 8, f"only {len(ids)} terminal records")
    bench.check(len(ids) == len(set(ids)), "an id has two terminal records")


@procedure("AUD-10")
def proofs(bench: Bench) -> None:
    """Where no secret is, the trail verifies with the public key, a changed record is found, and one record is proved
    without the others."""
    _written(bench, 6)
    world, product = bench.world, bench.world.product
    if product is None:
        return
    key = world.cli("audit", "public-key").stdout.strip()
    last = json.loads(world.cli("audit", "export", "--format", "json").stdout.splitlines()[-1])["id"]
    proved = wait_until(lambda: world.cli("audit", "prove", last, check=False).returncode == 0, 10)
    bench.check(proved, "no checkpoint covers a record that is seconds old")
    proof = bench.world.directory / "proof.json"
    proof.write_text(world.cli("audit", "prove", last, check=False).stdout)
    copy, file = _copy(bench, "public")

    def auditor(*more: str) -> subprocess.CompletedProcess[str]:
        nowhere = ["--dir", str(copy), "--state", str(bench.world.directory / "no-state"), "--public-key", key]
        command = [sys.executable, "-m", "proxy.cli", "audit", "verify", *nowhere, *more]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=ROOT)

    done = auditor()
    bench.check(done.returncode == 0, f"no check without the root secret: {(done.stdout + done.stderr)[:300]!r}")
    bench.check(auditor("--proof", str(proof)).returncode == 0, "the proof of a record does not hold")
    proof.write_text(proof.read_text().replace("allowed", "denied "))
    bench.check(auditor("--proof", str(proof)).returncode == 1, "a changed record is proved, too")
    file.write_bytes(file.read_bytes().replace(b'"allowed"', b'"denied" ', 1))
    bench.check(auditor().returncode == 1, "a changed record is not noticed")


@procedure("AUD-12")
def ocsf(bench: Bench) -> None:
    """Every exchange is exported as an OCSF HTTP Activity with the outcome that it had (schema: tests/audit)."""
    _written(bench, 2)
    request(bench, "GET http://evil.test/x HTTP/1.1\r\nHost: evil.test\r\nConnection: close\r\n\r\n")
    _written(bench, 1)
    stored = [json.loads(line) for line in bench.world.cli("audit", "export", "--format", "json").stdout.splitlines()]
    events = [json.loads(line) for line in bench.world.cli("audit", "export").stdout.splitlines()]
    outcomes = {one["id"]: one["outcome"] for one in stored}
    bench.check(len(stored) >= 4 and "denied" in outcomes.values(), f"only {len(stored)} records are exported")
    bench.check([one["metadata"]["uid"] for one in events] == list(outcomes), "other exchanges are exported")
    for one in events:
        kind = one["class_uid"], one["category_uid"], one["type_uid"]
        bench.check(kind == (4002, 4, 400200 + one["activity_id"]), f"no HTTP Activity: {kind}")
        wanted = {"allowed": {(1, 1), (4, 11)}, "denied": {(2, 2)}, "aborted": {(1, 1)}, "error": {(2, 27)}}
        told = one["action_id"], one["disposition_id"]
        bench.check(told in wanted[outcomes[one["metadata"]["uid"]]], f"{outcomes[one['metadata']['uid']]} is {told}")


@procedure("AUD-13")
def file_safety(bench: Bench) -> None:
    """An audit directory that is a link, or that others may write to, is a reason not to start."""
    for name in ("linked", "open"):
        state = copy_of_state(bench, f"audit-{name}")
        if name == "linked":
            (bench.world.directory / "elsewhere").mkdir(mode=0o700, exist_ok=True)
            (state / "audit").symlink_to(bench.world.directory / "elsewhere")
        else:
            (state / "audit").mkdir()
            (state / "audit").chmod(0o770)
        try:
            done = start_once(bench, state)
        except subprocess.TimeoutExpired:
            bench.problems.append(f"{name}: starts")
            continue
        bench.check(done.returncode != 0, f"{name}: exit {done.returncode}")
        bench.check("audit" in done.stderr, f"{name}: does not say why: {done.stderr[:200]}")
