"""Addresses of crypto currencies: Base58Check (Bitcoin and kin), bech32 and bech32m (BIP 173, BIP 350), Ethereum."""

import re
from collections.abc import Iterator
from typing import Final

from proxy.model import Finding
from proxy.recognizers.base import SURE, WITH_CONTEXT_ONLY, Recognizer, has_digit
from proxy.recognizers.private_key import base58check

_RUN: Final = re.compile(r"(?<![A-Za-z0-9])[A-Za-z0-9]{26,}")
_BASE58: Final = re.compile(r"[13LMDTrtX][1-9A-HJ-NP-Za-km-z]{25,34}")
_BECH32: Final = re.compile(r"((?:bc|tb|ltc)1)([02-9ac-hj-np-z]{38,87})", re.IGNORECASE)
_ETHEREUM: Final = re.compile(r"0x[0-9a-fA-F]{40}")
_CHARSET: Final = {char: value for value, char in enumerate("qpzry9x8gf2tvdw0s3jn54khce6mua7l")}
_GENERATOR: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_CONSTANTS: Final = frozenset({1, 0x2BC830A3})
"""bech32 and bech32m."""


def bech32(prefix: str, data: str) -> bool:
    """Whether the six-character checksum fits (BIP 173 `bech32_verify_checksum`). Lower case."""
    values = [ord(char) >> 5 for char in prefix] + [0] + [ord(char) & 31 for char in prefix]
    checksum = 1
    for value in [*values, *(_CHARSET[char] for char in data)]:
        top = checksum >> 25
        checksum = (checksum & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(_GENERATOR):
            checksum ^= generator if top >> bit & 1 else 0
    return checksum in _CONSTANTS


def _find(text: str) -> Iterator[Finding]:
    for run in _RUN.finditer(text):
        if _wallet(run[0]):
            yield Finding("CRYPTO", run.start(), run.end(), SURE, "crypto_wallet")
        elif _ETHEREUM.fullmatch(run[0]) and len(set(run[0][2:].lower())) > 4:
            yield Finding("CRYPTO", run.start(), run.end(), WITH_CONTEXT_ONLY, "crypto_wallet")


def _wallet(run: str) -> bool:
    """Whether its checksum is right."""
    if _BASE58.fullmatch(run):
        return base58check(run)
    match = _BECH32.fullmatch(run)
    one_case = run in {run.lower(), run.upper()}
    return match is not None and one_case and bech32(match[1][:-1].lower(), match[2].lower())


RECOGNIZER: Final = Recognizer(
    name="crypto_wallet",
    entities=frozenset({"CRYPTO"}),
    layer="checksum",
    find=_find,
    trigger=has_digit,
    context=frozenset(
        {
            "wallet",
            "btc",
            "bitcoin",
            "crypto",
            "ethereum",
            "eth",
            "ether",
            "address",
            "litecoin",
            "erc20",
            "usdt",
            "usdc",
        }
    ),
)
