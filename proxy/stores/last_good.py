"""What this machine accepted last, on disk: the manifest and its content in one file, written in one step.

Workers of one machine share the file; a lock makes sure that a slow one never puts an older revision back.
"""

import contextlib
import fcntl
import hashlib
import hmac
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from proxy.config.manifest import Accepted, Manifest, ManifestRefused, check_content, parse
from proxy.paths import private_dir

_FILE: Final = "policy"


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Exclusive among the processes of this machine; held for the few milliseconds of one write."""
    fd = os.open(private_dir(directory) / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def replace_file(path: Path, data: bytes) -> None:
    """All or nothing, also over a power cut: temporary file, fsync, rename, fsync of the directory."""
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105 - beside the other os calls of this step
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)  # noqa: PTH108
        raise
    directory_fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory_fd)
    finally:
        os.close(directory_fd)


class LastGood:
    """In the directory `Paths.last_good`. `seed` is the installation's manifest seed: it seals the file, because the
    publisher who signed a revision may no longer be among those that the revision itself names. `older`: seeds of root
    secrets that were rotated out and still count."""

    def __init__(self, directory: Path, seed: bytes, older: Sequence[bytes] = ()) -> None:
        self._directory = directory
        self._path = directory / _FILE
        self._keys = [hmac.digest(each, b"last good revision", "sha256") for each in (seed, *older)]

    def read(self) -> tuple[Manifest, bytes] | None:
        """What was accepted last, or None. Raises ManifestRefused when the file is damaged or not ours."""
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            return None
        seal, _, sealed = raw.partition(b"\n")
        if not any(hmac.compare_digest(seal, _seal(key, sealed)) for key in self._keys):
            raise ManifestRefused("signature", "the file of the last good revision is damaged")
        line, _, content = sealed.partition(b"\n")
        manifest = parse(line)
        check_content(manifest, content)
        return manifest, content

    def accepted(self) -> Accepted | None:
        """The state to number on from; None when there is none that can be read."""
        try:
            found = self.read()
        except ManifestRefused:
            return None
        return Accepted.of(found[0]) if found else None

    def write(self, manifest: Manifest, content: bytes) -> None:
        """Keeps it unless another worker has written the same or a newer one. Raises OSError (disk full)."""
        with locked(self._directory):
            last = self.accepted()
            if last is None or last.seq < manifest.seq:
                sealed = manifest.to_bytes() + b"\n" + content
                replace_file(self._path, _seal(self._keys[0], sealed) + b"\n" + sealed)


def _seal(key: bytes, sealed: bytes) -> bytes:
    return hmac.new(key, sealed, hashlib.sha256).hexdigest().encode()
