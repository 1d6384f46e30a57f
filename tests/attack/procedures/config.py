"""Policy files and options: poisoned, unsigned, old, dangerous."""

import json
import resource
import shutil
import subprocess
import sys

from tests.attack import policyrows
from tests.attack.procedures import Bench, procedure
from tests.lab.product import ROOT


def check(bench: Bench, name: str, text: str, *, file: str = "apps/a.yaml") -> subprocess.CompletedProcess[str]:
    """`egress check` on a directory with one app file of this text."""
    directory = bench.world.directory / "checks" / name
    shutil.rmtree(directory, ignore_errors=True)
    (directory / "apps").mkdir(parents=True)
    (directory / "platform.yaml").write_text("version: 1\n")
    (directory / file).write_text(text)
    command = [sys.executable, "-m", "proxy.cli", "check", str(directory)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=60)


@procedure("CFG-05")
def poisoned(bench: Bench) -> None:
    """The rows of other products said in our schema: each is refused for its own fault at its line; one that is pushed
    changes nothing."""
    for row in policyrows.ROWS:
        directory = bench.world.directory / "rows" / row["of"] / row["name"]
        shutil.rmtree(directory, ignore_errors=True)
        wrong = policyrows.misjudged(row, directory)
        bench.check(not wrong, f"{row['name']}: {wrong}")
    before = json.loads(bench.world.cli("status", "--json").stdout)["policy"]
    pushed = bench.world.cli("push", str(bench.world.directory / "rows/own/dup-key"), "--yes", check=False)
    bench.check(pushed.returncode == 2 and "second time" in pushed.stderr, f"the push: {pushed.stderr[:200]}")
    after = json.loads(bench.world.cli("status", "--json").stdout)["policy"]
    bench.check(before == after, f"the policy went from {before} to {after}")


@procedure("DST-17")
def unicode_entry(bench: Bench) -> None:
    """A U-label in the allowlist is refused with its A-label."""
    done = check(bench, "ulabel", f"{policyrows.HEAD}  - {{id: one, host: 'éxämple.com'}}\n")
    bench.check("xn--xmple-gra7a.com" in done.stdout + done.stderr, f"no hint: {(done.stdout + done.stderr)[:200]}")


@procedure("CFG-06")
def bombs(bench: Bench) -> None:
    """Billion laughs, deep nests, long scalars, many entries: refused or read within seconds."""
    laughs = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(8)
    )
    for name, text, refused in (
        ("laughs", laughs, True),
        ("deep", "{a: " * 3000 + "1" + "}" * 3000, True),
        ("scalar", f"owner: {'x' * 5_000_000}\n", True),
        ("many", policyrows.HEAD + "".join(f"  - {{id: e{i}, host: h{i}.test}}\n" for i in range(100_000)), None),
    ):
        # Processor time, because the machine may have other work.
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = check(bench, name, text)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        if refused:
            bench.check(done.returncode != 0, f"{name}: accepted")
        bench.check("Traceback" not in done.stderr, f"{name}: {done.stderr[-200:]}")
        bench.check(took_s < 5, f"{name}: {took_s:.1f} s")


@procedure("CFG-14")
def torn(bench: Bench) -> None:
    """Half of a good file is refused, whatever the cut."""
    whole = f"{policyrows.HEAD}  - {{id: one, host: a.com, ports: [443], methods: [GET]}}\nlimits: {{max_body: 4MiB}}\n"
    for cut in range(10, len(whole) - 40, 9):
        if whole[:cut].endswith("\n") or whole[:cut].count("\n") < 6:
            continue
        done = check(bench, "torn", whole[:cut])
        bench.check("Traceback" not in done.stderr, f"cut at {cut}: {done.stderr[-200:]}")


@procedure("CFG-12", "TLS-03")
def dangerous_options(bench: Bench) -> None:
    """Options that open the gate do not exist in files, and no argument brings them back."""
    for option in (
        "ssl_insecure", "rawtcp", "ignore_hosts", "allow_hosts", "tcp_hosts", "validate_inbound_headers",
        "stream_large_bodies", "connection_strategy", "onboarding", "http3", "keep_host_header",
    ):  # fmt: skip
        done = check(bench, "option", f"version: 1\n{option}: true\n", file="platform.yaml")
        bench.check(
            done.returncode != 0 and option in done.stdout + done.stderr, f"{option}: accepted in platform.yaml"
        )
    command = [sys.executable, "-m", "proxy.cli", "run", "--ssl-insecure"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=20)
    bench.check(done.returncode == 2, f"--ssl-insecure: exit {done.returncode}")


@procedure("CFG-09")
def precedence(bench: Bench) -> None:
    """Deny overrides allow; default is deny; an app may only tighten."""
    directory = bench.world.directory / "precedence"
    (directory / "apps").mkdir(parents=True, exist_ok=True)
    (directory / "platform.yaml").write_text("version: 1\ndeny: [bad.example.com, '*.evil.example']\n")
    (directory / "apps" / "a.yaml").write_text(
        f"{policyrows.HEAD}  - {{id: wild, host: '*.example.com'}}\n  - {{id: evil, host: x.evil.example}}\n"
    )
    for host, allowed in (
        ("good.example.com", True), ("a.b.example.com", True), ("example.com", False), ("bad.example.com", False),
        ("x.evil.example", False), ("other.test", False), ("badexample.com", False),
    ):  # fmt: skip
        command = [
            sys.executable, "-m", "proxy.cli", "explain", "--json", "--directory", str(directory), "--app", "a",
            "--url", f"https://{host}/",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=60)
        said = (done.returncode == 0) == allowed
        bench.check(said, f"{host}: exit {done.returncode}: {(done.stdout + done.stderr)[:160]}")


@procedure("DST-16")
def wildcard_base(bench: Bench) -> None:
    """`*.example.com` never covers example.com itself (see also CFG-09)."""
    precedence(bench)
