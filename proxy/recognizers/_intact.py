"""Whether a model's files are those that were installed. One that was altered may well load, and find nothing."""

import base64
import csv
import hashlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from proxy.recognizers.base import ModelUnavailable

FIX: Final = "install the locked requirements again"
OWN_FIX: Final = "install the product again"
# SHA-256 of the weights that are part of the product; what trains them anew changes the line too.
OWN: Final = {
    "gate.npy": "382f672272de6176cf65b1fbf6b7b018c13288295962d417f23784543ca511ca",
    "rampart_quick.npz": "f2ac1176dfdb24d918598d4adbdb05b2aaf2875e66abb3440d7d95938be55720",
}


def check(package: str, what: str) -> None:
    """Compares every file of an installed distribution with the digest in its RECORD (PEP 376, PEP 427). `what` names
    the model. Raises ModelUnavailable naming the first file that is missing or another one."""
    try:
        found = distribution(package)
        record = found.read_text("RECORD")
    except PackageNotFoundError:
        record = None
    if not record:
        raise ModelUnavailable(f"{what} {package} has no record of its files, so that none can be checked", FIX)
    # Its own list of files leaves out those that are gone.
    for name, digest, _ in csv.reader(record.splitlines()):
        if digest and _digest(Path(str(found.locate_file(name))), digest.partition("=")[0]) != digest:
            raise ModelUnavailable(f"{what} {package} is damaged: {Path(name).name} is not what was installed", FIX)


def check_own(folder: Path, names: Mapping[str, str] = OWN) -> None:
    """Compares the product's own weights with `names` (file -> SHA-256, hex). Raises ModelUnavailable."""
    for name, digest in names.items():
        try:
            same = hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
        except OSError:
            same = False
        if not same:
            raise ModelUnavailable(
                f"the detection model is damaged: {name} is not what belongs to this version", OWN_FIX
            )


def _digest(file: Path, mode: str) -> str:
    """As RECORD writes it; empty when the file cannot be read."""
    try:
        data = file.read_bytes()
    except OSError:
        return ""
    return f"{mode}={base64.urlsafe_b64encode(hashlib.new(mode, data).digest()).rstrip(b'=').decode()}"
