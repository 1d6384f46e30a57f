"""Credential pins on the command line: they can be verified only where the root key is."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.paths import Paths


def credential_digest(paths: "Paths") -> Callable[[bytes], str]:
    """Field value -> pin. Without a root key no value matches any pin, so that pinned entries deny."""
    if not paths.root_key.exists():
        return lambda _value: ""
    import hashlib
    import hmac

    from proxy.cli._keys import load_root
    from proxy.keys.root import CREDENTIAL_PIN

    key = load_root(paths).derive(CREDENTIAL_PIN)
    return lambda value: "hmac-sha256:" + hmac.new(key, value, hashlib.sha256).hexdigest()
