"""One authority from every way a request can name its target."""

import pytest

from proxy.dataplane import targets
from proxy.dataplane.h1 import RawHead
from proxy.errors import Denied
from proxy.model import Authority

A = Authority("https", "allowed.test", 443)


def raw(target: str, *hosts: str, method: str = "GET") -> RawHead:
    return RawHead(method, target, "1.1", tuple((b"Host", host.encode()) for host in hosts))


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (raw("allowed.test:443", method="CONNECT"), A),
        (raw("ALLOWED.test.:443", "allowed.test:443", method="CONNECT"), A),
        (raw("allowed.test:443", "allowed.test", method="CONNECT"), A),
        (raw("allowed.test:0443", "allowed.test:00443", method="CONNECT"), A),
        (raw("allowed.test:80", method="CONNECT"), Authority("http", "allowed.test", 80)),
        (RawHead("CONNECT", "allowed.test:443", "1.1", ((b"Content-Length", b"0"),)), A),
        (raw("[2001:db8::1]:443", method="CONNECT"), Authority("https", "2001:db8::1", 443)),
    ],
)
def test_connect(head: RawHead, expected: Authority) -> None:
    assert targets.connect_authority(head) == expected


@pytest.mark.parametrize(
    ("head", "code"),
    [
        (raw("allowed.test", method="CONNECT"), "malformed"),
        (raw("allowed.test:0", method="CONNECT"), "malformed"),
        (raw("allowed.test:65616", method="CONNECT"), "malformed"),
        (raw("allowed.test:00", method="CONNECT"), "malformed"),
        (raw("allowed.test:065536", method="CONNECT"), "malformed"),
        (raw("allowed.test:0x1bb", method="CONNECT"), "malformed"),
        (raw("[allowed.test]:443", method="CONNECT"), "malformed"),
        (raw("[203.0.113.5]:443", method="CONNECT"), "malformed"),
        (raw("allowed.test:443x", method="CONNECT"), "malformed"),
        (raw("user@allowed.test:443", method="CONNECT"), "malformed"),
        (raw("[::1:443", method="CONNECT"), "malformed"),
        (raw("127.1:443", method="CONNECT"), "malformed"),
        (raw("0x7f000001:443", method="CONNECT"), "malformed"),
        (raw("allowed.test:443", "allowed.test:443", "allowed.test:443", method="CONNECT"), "malformed"),
        (raw("allowed.test:443", "allowed.test:443", "evil.test:443", method="CONNECT"), "malformed"),
        (RawHead("CONNECT", "allowed.test:443", "1.1", ((b"Content-Length", b"5"),)), "malformed"),
        (RawHead("CONNECT", "allowed.test:443", "1.1", ((b"Transfer-Encoding", b"chunked"),)), "malformed"),
        (raw("allowed.test:443", "evil.test:443", method="CONNECT"), "target_mismatch"),
        (raw("allowed.test:443", "allowed.test:444", method="CONNECT"), "target_mismatch"),
    ],
)
def test_connect_refused(head: RawHead, code: str) -> None:
    with pytest.raises(Denied) as caught:
        targets.connect_authority(head)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (raw("http://allowed.test/a?b", "allowed.test"), (Authority("http", "allowed.test", 80), "/a?b")),
        (raw("HTTP://ALLOWED.TEST", "allowed.test"), (Authority("http", "allowed.test", 80), "/")),
        (raw("http://allowed.test?b", "allowed.test:80"), (Authority("http", "allowed.test", 80), "/?b")),
        (raw("http://allowed.test:080/", "allowed.test"), (Authority("http", "allowed.test", 80), "/")),
        (raw("http://allowed.test/", "allowed.test:0080"), (Authority("http", "allowed.test", 80), "/")),
        (raw("http://allowed.test:8080/", "allowed.test:8080"), (Authority("http", "allowed.test", 8080), "/")),
    ],
)
def test_absolute(head: RawHead, expected: tuple[Authority, str]) -> None:
    assert targets.absolute_target(head) == expected


@pytest.mark.parametrize(
    ("head", "code"),
    [
        (raw("http://evil.test/T", "allowed.test"), "target_mismatch"),
        (raw("http://203.0.113.66/T", "allowed.test"), "target_mismatch"),
        (raw("http://allowed.test@evil.test/", "evil.test"), "malformed"),
        (raw("http://2130706433/", "2130706433"), "malformed"),
        (raw("ftp://allowed.test/", "allowed.test"), "malformed"),
        (raw("/T", "allowed.test"), "malformed"),
        (raw("http:///T", "allowed.test"), "malformed"),
        (raw("http://allowed.test/"), "malformed"),
        (raw("http://allowed.test/", "allowed.test", "allowed.test"), "malformed"),
        (raw("http://allowed.test/", ""), "malformed"),
        (raw("http://allowed.test/", "allowed.test, evil.test"), "malformed"),
        (raw("http://allowed.test/", "allowed.test:80x"), "malformed"),
        (raw("http://allowed.test/", "allowed.test/evil"), "malformed"),
        (raw("http://allowed.test/", "allowed.test:22"), "target_mismatch"),
    ],
)
def test_absolute_refused(head: RawHead, code: str) -> None:
    with pytest.raises(Denied) as caught:
        targets.absolute_target(head)
    assert caught.value.code == code


def test_inside_a_tunnel() -> None:
    assert targets.origin_target(raw("/a", "allowed.test"), A) == "/a"
    assert targets.origin_target(raw("/a", "ALLOWED.TEST.:443"), A) == "/a"
    assert targets.origin_target(raw("https://allowed.test/a", "allowed.test"), A) == "/a"
    assert targets.origin_target(raw("*", "allowed.test", method="OPTIONS"), A) == "*"


@pytest.mark.parametrize(
    ("head", "code"),
    [
        (raw("/a", "evil.test"), "target_mismatch"),
        (raw("/a", "allowed.test:8443"), "target_mismatch"),
        (raw("https://evil.test/a", "evil.test"), "target_mismatch"),
        (raw("http://allowed.test/a", "allowed.test"), "target_mismatch"),
        (raw("*", "allowed.test"), "malformed"),
        (raw("a", "allowed.test"), "malformed"),
    ],
)
def test_inside_a_tunnel_refused(head: RawHead, code: str) -> None:
    with pytest.raises(Denied) as caught:
        targets.origin_target(head, A)
    assert caught.value.code == code


def test_redirected_plain_http() -> None:
    assert targets.host_authority(raw("/", "allowed.test"), "http", 80) == Authority("http", "allowed.test", 80)
    for head in (raw("/", "allowed.test:22"), raw("http://allowed.test/", "allowed.test"), raw("/", "a", "b")):
        with pytest.raises(Denied):
            targets.host_authority(head, "http", 80)
