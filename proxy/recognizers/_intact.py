"""Whether a model's files are those that were installed. One that was altered may well load, and find nothing."""

import base64
import csv
import hashlib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from proxy.recognizers.base import ModelUnavailable

FIX: Final = "install the locked requirements again"


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


def _digest(file: Path, mode: str) -> str:
    """As RECORD writes it; empty when the file cannot be read."""
    try:
        data = file.read_bytes()
    except OSError:
        return ""
    return f"{mode}={base64.urlsafe_b64encode(hashlib.new(mode, data).digest()).rstrip(b'=').decode()}"
