"""The benchmark runs in network and mount namespaces of its own.

Nothing it starts can reach any network (LiteLLM must not phone home), well-known ports are free, names come from an own
hosts file, and transparent redirection touches no other traffic.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from loadtests.dataplane.places import Missing
from loadtests.dataplane.scene import HOST

_INSIDE: Final = "EGRESS_BENCH_INSIDE"
_MAKE_PRIVATE: Final = 'mount --make-rprivate / && mount --bind "$0" /etc/hosts && ip link set lo up && exec "$@"'


def enter(module: str) -> None:
    """Runs `python -m module` again inside the namespaces, once, and exits with its code. Missing without the right."""
    if os.environ.get(_INSIDE) == "1":
        return
    hosts = Path(tempfile.gettempdir()) / f"egress-bench-hosts-{os.getuid()}"
    hosts.write_text(f"127.0.0.1 localhost {HOST}\n")
    for tool in ("unshare", "ip", "mount"):
        if shutil.which(tool) is None:
            raise Missing(f"no {tool}: apt install util-linux iproute2 mount")
    unshare = ["unshare", "--net", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        raise Missing("no right to make namespaces: run as root, or allow unprivileged user namespaces")
    command = [*unshare, "sh", "-c", _MAKE_PRIVATE, str(hosts), sys.executable, "-m", module, *sys.argv[1:]]
    os.environ[_INSIDE] = "1"
    os.execvp(command[0], command)


def redirect(marks: dict[int, int]) -> None:
    """Redirects connections to port 443 that carry a mark to that mark's local port, as a gateway would do.

    Missing without nft or its kernel support.
    """
    nft = shutil.which("nft") or shutil.which("nft", path="/usr/sbin")
    if nft is None:
        raise Missing("no nft: apt install nftables")
    rules = "".join(f"meta mark {mark} tcp dport 443 redirect to :{port}\n" for mark, port in marks.items())
    table = f"table ip egress_bench {{ chain out {{ type nat hook output priority -100;\n{rules}}}\n}}\n"
    done = subprocess.run([nft, "-f", "-"], input=table, text=True, capture_output=True, check=False)
    if done.returncode:
        raise Missing(f"nft: {done.stderr.strip()}")
