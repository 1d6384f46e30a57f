"""One spelling per host, one reading per path."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.net.names import canonical_host, canonical_path, is_ip_literal, split_authority, split_host_port
from tests.shared_data import needs, rows

SAME = {
    "allowed.test": "allowed.test",
    "ALLOWED.test": "allowed.test",
    "allowed.test.": "allowed.test",
    "allowed_test": "allowed_test",
    "_dmarc.allowed.test": "_dmarc.allowed.test",
    "localhost": "localhost",
    "xn--xmple-gra7a.com": "xn--xmple-gra7a.com",
    "1.a": "1.a",
    "0x7f.com": "0x7f.com",
    "127.0.0.1": "127.0.0.1",
    "203.0.113.5": "203.0.113.5",
    "fd00::66": "fd00::66",
    "[fd00::66]": "fd00::66",
    "FD00:0:0::0066": "fd00::66",
    "::ffff:127.0.0.1": "::ffff:127.0.0.1",
    "[::FFFF:7f00:1]": "::ffff:127.0.0.1",
    f"{'a' * 63}.test": f"{'a' * 63}.test",
}
REFUSED = [
    "", ".", "..", "allowed.test..", ".allowed.test", "allowed..test", "allowed.test:80", "a b", "a\tb", "a\0b", "a/b",
    "a@b", "a#b", "a?b", "a\\b", "a,b", "a;b", "a%00b", "*", "*.allowed.test", "-a.test", "a-.test", f"{'a' * 64}.test",
    ".".join(["a" * 60] * 5), "a" * 100_000, "éxämple.com", "аllowed.test", "allowed。test", "allowed\u200b.test",
    "xn--allowed.test", "xn--.test", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0", "1.2.3", "1.2.3.4.",
    "1.2.3.4.5",
    "256.0.0.1", "01.2.3.4", "a.0x1f", "a.1", "[::1", "::1]", "[::1%25lo]", "fe80::1%eth0", "[127.0.0.1]", "1::2::3",
]  # fmt: skip


@pytest.mark.parametrize(("text", "host"), SAME.items())
def test_one_spelling(text: str, host: str) -> None:
    assert canonical_host(text) == host
    assert canonical_host(host) == host


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:20])
def test_what_two_programs_may_read_differently_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        canonical_host(text)


@pytest.mark.parametrize(
    ("text", "hint"), [("éxämple.com", "xn--xmple-gra7a.com"), ("аllowed.test", "xn--llowed-2nf.test")]
)
def test_international_names_are_refused_with_the_form_to_write(text: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        canonical_host(text)


@pytest.mark.parametrize(
    ("host", "literal"),
    [("203.0.113.5", True), ("fd00::66", True), ("a.test", False), ("1.a", False), ("1.2.3.a", False)],
)
def test_literals(host: str, literal: bool) -> None:
    assert is_ip_literal(host) is literal


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.test", ("a.test", 443)), ("a.test:80", ("a.test", 80)), ("A.TEST.:080", ("a.test", 80)),
        ("[fd00::66]", ("fd00::66", 443)), ("[fd00::66]:8443", ("fd00::66", 8443)),
        ("127.0.0.1:65535", ("127.0.0.1", 65535)),
    ],
)  # fmt: skip
def test_authorities(text: str, expected: tuple[str, int]) -> None:
    assert split_authority(text, 443) == expected


@pytest.mark.parametrize(
    "text",
    [
        "a.test:",
        "a.test:0",
        "a.test:000",
        "a.test:065536",
        "[a.test]:80",
        "[203.0.113.5]",
        "a.test:65536",
        "a.test:+80",
        "a.test: 80",
        "a.test:80x",
        "a.test:8\u0660",
        "::1",
        "fd00::66:80",
        "[fd00::66]x",
        "[fd00::66]:",
        "[fd00::66",
        "a.test:1:2",
        "u@a.test",
        "a.test/",
    ],
)
def test_no_authorities(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        split_authority(text, 443)


def test_a_port_that_is_not_written_is_not_made_up() -> None:
    assert split_host_port("a.test") == ("a.test", None)
    assert split_host_port("a.test:0443") == ("a.test", 443)


EXPECTED = {"same": ("allowed.test", 443), "same+port": ("allowed.test", 80)}


@needs("security/own/hostname_canonicalisation.jsonl")
@pytest.mark.parametrize(
    "row", rows("security/own/hostname_canonicalisation.jsonl"), ids=lambda row: repr(row["host"][:24])
)
def test_the_development_cases(row: dict[str, str]) -> None:
    expected = row["expect_vs_allowed_test"]
    try:
        host, port = split_authority(row["host"], 443)
    except ValueError:
        assert expected.startswith(("reject", "other (xn--"))
        return
    assert not expected.startswith("reject")
    if expected in EXPECTED:
        assert (host, port) == EXPECTED[expected]
    else:
        assert host != "allowed.test"
        assert is_ip_literal(host) is (expected == "ip")


PATHS = {
    "/": "/",
    "/v1/chat/completions": "/v1/chat/completions",
    "/v1/x?a=/../b//c;d": "/v1/x",
    "/a.b/..c/c..": "/a.b/..c/c..",
    "/a/": "/a/",
    "/caf%c3%a9": "/caf%C3%A9",
    "/a%20b": "/a%20b",
    "/@user/~me/x:y,z=1&2+3!$'()*": "/@user/~me/x:y,z=1&2+3!$'()*",
    "/...": "/...",
}
NO_PATHS = [
    "", "*", "v1", "//", "/a//b", "//a", "/a//", "/.", "/..", "/a/.", "/a/..", "/a/../b", "/a/./b", "/public/../secret",
    "/%2e%2e/a", "/a/%2E%2e/b", "/a/.%2e/b", "/%2f", "/a%2Fb", "/a%5cb", "/a\\b", "/a;b", "/a;/../b", "/a%3bb",
    "/a%00b",
    "/a\0b",
    "/a%", "/a%2", "/a%zz",
    "/a%252e%252e", "/a%252f", "/a#b", "/a%23b", "/a%3fb", "/a b", "/a\tb", "/a\r\nb", "/a%0ab", "/%61dmin",
    "/é",
    "/a%7f", "/a\"b", "/a<b", "/a{b}", "/a|b", "/a^b", "/a`b", "/a[b]", "http://a/b",
]  # fmt: skip


@pytest.mark.parametrize(("target", "path"), PATHS.items())
def test_one_reading(target: str, path: str) -> None:
    assert canonical_path(target) == path


@pytest.mark.parametrize("target", NO_PATHS, ids=repr)
def test_what_an_upstream_may_read_differently_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        canonical_path(target)


@given(st.text(max_size=60))
def test_canonical_forms_are_fixed_points(text: str) -> None:
    for canonical in (canonical_host, canonical_path):
        try:
            once = canonical(text)
        except ValueError:
            continue
        assert canonical(once) == once
