"""Texts that make regular expressions slow: each unit is repeated to the size wanted."""

HOSTILE = {
    "dots": "a.a.",
    "numbers": "1.1.",
    "digits": "1",
    "digit pairs": "1 ",
    "cards": "4111 1111 ",
    "at signs": "a@",
    "long at": "a" * 63 + "@",
    "domains": "a@a.a.a.a.",
    "colons": "1:",
    "hex colons": "ab::",
    "plus": "+1",
    "brackets": "((",
    "phones": "(415) 555-2671 ",
    "dashes": "1-",
    "begin": "-----BEGIN " + "PRIVATE KEY-----",  # in two parts: no scanner takes this file for a key
    "base58": "5K" + "z" * 48 + " ",
    "prefixes": "sk-AKIAghp_xoxb-",
    "jwt": "eyJa.",
    "jwt long": "eyJ" + "a" * 200 + ".",
    "keyword": "password=",
    "keyword space": "token is ",
    "quotes": "password='",
    "urls": "http://a:b",
    "scheme": "a://",
    "iban": "GB82 ",
    "iban letters": "G B 8 2 W ",
    "punctuation": "!?",
    "parens": "(",
    "names": "Jane Roe ",
    "blank": " ",
    "newlines": "\n",
    "letters": "a",
    "wide": "\u4e00",
    "addresses": "12 Main Street ",
}


def hostile(unit: str, size: int) -> str:
    """`size` characters of the unit."""
    return (unit * (size // len(unit) + 1))[:size]
