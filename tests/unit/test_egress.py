"""An egress policy as a value, what it says of a destination, and the parsers that find out which it is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pandastack.errors import InvalidRequest
from pandastack.host.egress.body import Body
from pandastack.host.egress.bucket import Bucket
from pandastack.host.egress.head import Head, Refused, read_head
from pandastack.host.egress.hello import Incomplete, read_hello
from pandastack.host.egress.ledger import Ledger
from pandastack.host.egress.opening import HTTP, OTHER, TLS, Opening, recognise
from pandastack.host.egress.orders import Answer, Receipts
from pandastack.host.egress.server import REPORT_LIMIT, fitting
from pandastack.model.clock import Clock
from pandastack.model.egress import BoundSecret, Egress, Internet, Receipt
from pandastack.model.hostname import canonical_name, matches
from pandastack.model.verdict import (
    ALWAYS_DENIED,
    UNLISTED,
    decide_address,
    decide_name,
    decide_resolved,
    policy_of,
    suggest,
    would_block,
)

SECRET = BoundSecret("token", ("api.example.com",), "placeholder-000001", "value")
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"internet": "some"}, "Invalid enum"),
        ({"allow_everything": True}, "unknown field"),
        ({"allow_cidrs": ["10.0.0.1/8"]}, "10.0.0.0/8 was probably meant"),
        ({"deny_cidrs": ["192.0.2.1"]}, "192.0.2.1/32 was probably meant"),
        ({"allow_cidrs": ["2001:db8::/32"]}, "IPv6 is off"),
        ({"allow_cidrs": ["::ffff:1.2.3.4/128"]}, "IPv6 is off"),
        ({"allow_cidrs": ["0x7f.1/32"]}, "no network"),
        ({"allow_cidrs": ["example.com"]}, "no network"),
        ({"allow_domains": [""]}, "no name"),
        ({"allow_domains": ["a..b"]}, "no name"),
        ({"allow_domains": ["192.0.2.1"]}, "no name"),
        ({"allow_domains": ["https://example.com"]}, "no name"),
        ({"allow_domains": ["example.com:443"]}, "no name"),
        ({"allow_domains": ["a.*.example.com"]}, "no name"),
        ({"allow_domains": ["*example.com"]}, "no name"),
        ({"allow_domains": ["faß.example"]}, "no name"),
        ({"allow_domains": ["x" * 64 + ".example"]}, "no name"),
        ({"ports": [0]}, "no port"),
        ({"ports": ["443"]}, "no port"),
        ({"ports": ["90-80"]}, "no port"),
        ({"ports": [70000]}, "no port"),
        ({"max_connections": 2501}, "2500"),
        ({"max_connections": 0}, "1"),
        ({"bandwidth_mbps": 0}, "> 0"),
        (
            {"allow_domains": [f"{n}.example" for n in range(400)], "ports": list(range(1, 102))},
            "at most 500",
        ),
    ],
)
def test_what_cannot_be_understood_is_refused(body: dict[str, object], sentence: str) -> None:
    with pytest.raises((InvalidRequest, msgspec.ValidationError), match=sentence):
        msgspec.json.decode(msgspec.json.encode(body), type=Egress)


def test_names_are_kept_in_one_spelling() -> None:
    egress = Egress(allow_domains=("Example.COM.", "*.BÜCHER.example", "*"), ports=(443, "8000-8100"))
    assert egress.allow_domains == ("example.com", "*.xn--bcher-kva.example", "*")
    assert msgspec.json.decode(msgspec.json.encode(egress), type=Egress) == egress
    assert [canonical_name(text) for text in ("1.2.3.4", "0x7f000001", "127.1", "a.b-", "-a.b", "::1")] == [
        None
    ] * 6


@pytest.mark.parametrize(
    ("pattern", "name", "meant"),
    [
        ("a.test", "a.test", True),
        ("a.test", "b.a.test", False),
        ("*.a.test", "b.a.test", True),
        ("*.a.test", "c.b.a.test", True),
        ("*.a.test", "a.test", False),
        ("*.a.test", "ba.test", False),
        ("*.a.test", "b.a.test.evil", False),
        ("*", "anything.at.all", True),
    ],
)
def test_patterns(pattern: str, name: str, meant: bool) -> None:
    assert matches(pattern, name) is meant


NETWORKS = {
    "0.1.2.3": False,
    "10.1.2.3": False,
    "100.64.0.1": False,
    "100.63.0.1": True,
    "100.128.0.1": True,
    "127.0.0.1": False,
    "169.254.169.254": False,
    "172.15.0.1": True,
    "172.16.0.1": False,
    "172.31.255.255": False,
    "172.32.0.1": True,
    "192.0.0.1": False,
    "192.168.1.1": False,
    "198.18.0.1": False,
    "198.19.255.255": False,
    "224.0.0.251": False,
    "239.255.255.250": False,
    "240.0.0.1": False,
    "255.255.255.255": False,
    "1.1.1.1": True,
    "203.0.113.7": False,
    "2001:db8::1": False,
    "::1": False,
    "::ffff:1.1.1.1": False,
    "fe80::1": False,
    "017700000001": False,
    "": False,
}


@pytest.mark.parametrize(
    "egress",
    [
        Egress(),
        Egress(allow_cidrs=("0.0.0.0/0",)),
        Egress(allow_cidrs=(*ALWAYS_DENIED, "0.0.0.0/0")),
        Egress(allow_cidrs=("0.0.0.0/0",), allow_domains=("*",)),
    ],
)
def test_what_nobody_may_reach_no_policy_opens(egress: Egress) -> None:
    policy = policy_of(egress, own=["203.0.113.0/24", "2001:db8::/64"])
    assert {address: decide_address(policy, address, 443).allowed for address in NETWORKS} == NETWORKS
    assert {address: decide_resolved(policy, address) is None for address in NETWORKS} == NETWORKS
    opened = policy_of(egress, own=["203.0.113.0/24"], reachable=["10.1.2.0/24", "203.0.113.7/32"])
    assert (
        decide_address(opened, "10.1.2.3", 443).allowed
        and not decide_address(opened, "10.1.3.3", 443).allowed
    )
    assert decide_address(opened, "203.0.113.7", 443).allowed


def test_deny_wins_and_an_allow_list_denies_the_rest() -> None:
    policy = policy_of(
        Egress(
            allow_cidrs=("198.51.100.0/24",),
            deny_cidrs=("198.51.100.128/25",),
            allow_domains=("*.example.com", "example.com"),
            deny_domains=("bad.example.com",),
        )
    )
    assert decide_address(policy, "198.51.100.1", 80).rule == "allow_cidrs: 198.51.100.0/24"
    assert decide_address(policy, "198.51.100.129", 80).rule == "deny_cidrs: 198.51.100.128/25"
    assert decide_address(policy, "1.1.1.1", 80).rule == UNLISTED
    assert decide_name(policy, "a.example.com", 443).rule == "allow_domains: *.example.com"
    assert decide_name(policy, "bad.example.com", 443).rule == "deny_domains: bad.example.com"
    assert decide_name(policy, "example.org", 443).rule == UNLISTED
    assert not decide_name(policy_of(Egress(allow_cidrs=("0.0.0.0/0",))), "example.org", 443).allowed


def test_ports() -> None:
    open_to_all, named = policy_of(Egress()), policy_of(Egress(ports=(443, 25, "8000-8100")))
    ports = (1, 25, 443, 465, 587, 7999, 8000, 8100, 8101)
    assert [port for port in ports if not decide_name(open_to_all, "a.test", port).allowed] == [25, 465, 587]
    assert [port for port in ports if not decide_address(open_to_all, "1.1.1.1", port).allowed] == [
        25,
        465,
        587,
    ]
    assert [port for port in ports if decide_name(named, "a.test", port).allowed] == [25, 443, 8000, 8100]
    assert [port for port in ports if decide_address(named, "1.1.1.1", port).allowed] == [25, 443, 8000, 8100]


def test_names_decide_where_a_list_of_them_or_a_secret_is() -> None:
    assert not policy_of(Egress(allow_cidrs=("1.0.0.0/8",))).by_name
    assert policy_of(Egress(deny_domains=("a.test",))).by_name
    assert policy_of(Egress(allow_domains=("a.test",))).by_name
    assert policy_of(Egress(), [SECRET]).by_name
    off = policy_of(Egress(internet=Internet.OFF, allow_domains=("*",), allow_cidrs=("0.0.0.0/0",)))
    assert not decide_name(off, "a.test", 443).allowed and not decide_address(off, "1.1.1.1", 443).allowed


def receipt(name: str | None, address: str | None, port: int = 443, *, protocol: str = "tls") -> Receipt:
    return Receipt(protocol, name, address, port, "default", True, BEGAN, BEGAN, connections=1)


def test_a_suggestion_allows_what_was_used_and_nothing_else() -> None:
    used = [
        *(receipt(f"n{number}.cdn.example.com", "1.1.1.1") for number in range(6)),
        receipt("example.com", "1.1.1.1"),
        *(receipt(f"{name}.example.co.uk", "1.1.1.2") for name in "abcde"),
        receipt(None, "1.1.1.3", 8443, protocol="tcp"),
        receipt("asked.example.org", None, 53, protocol="dns"),
    ]
    denied = msgspec.structs.replace(receipt("denied.test", "1.1.1.4", 22), allowed=False)
    egress = suggest([*used, denied])
    assert egress.allow_domains[:2] == ("*.example.com", "a.example.co.uk")
    assert "example.com" in egress.allow_domains and "asked.example.org" in egress.allow_domains
    assert (egress.allow_cidrs, egress.ports) == (("1.1.1.3/32",), (443, 8443))
    policy = policy_of(egress)
    assert would_block(policy, [*used, denied]) == []
    strangers = [
        receipt("example.net", "1.1.1.1"),
        receipt(None, "1.1.1.9"),
        receipt("example.com", "1.1.1.1", 22),
    ]
    blocked = would_block(policy, strangers)
    assert [each.rule for each in blocked] == [UNLISTED, UNLISTED, "ports: 22 is not among them"]
    assert not any(each.allowed for each in blocked)
    assert suggest([denied]) == Egress(internet=Internet.OFF)


def test_a_suggestion_of_very_many_destinations_is_a_policy() -> None:
    many = [receipt(None, f"1.1.{number // 250}.{number % 250}", 1000 + number) for number in range(3000)]
    assert len(suggest(many).allow_cidrs) <= 500


def name_to_hello(name: bytes) -> bytes:
    sni = b"\x00" + len(name).to_bytes(2, "big") + name
    sni = len(sni).to_bytes(2, "big") + sni
    extensions = b"\x00\x00" + len(sni).to_bytes(2, "big") + sni
    body = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00"
    body += len(extensions).to_bytes(2, "big") + extensions
    return b"\x01" + len(body).to_bytes(3, "big") + body


names = st.lists(
    st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True), min_size=1, max_size=4
).map(lambda labels: ".".join([*labels, "test"]))


@given(names, st.data())
def test_a_hello_tells_its_name_however_it_is_cut(name: str, data: st.DataObject) -> None:
    message = name_to_hello(name.encode())
    cuts = sorted({0, len(message), *data.draw(st.lists(st.integers(1, len(message) - 1), max_size=5))})
    parts = [message[first:last] for first, last in pairwise(cuts)]
    wire = b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in parts)
    assert read_hello(wire).name == name
    for end in range(len(wire)):
        with pytest.raises(Incomplete):
            read_hello(wire[:end])


@given(names, st.data())
def test_a_damaged_hello_tells_no_other_name(name: str, data: st.DataObject) -> None:
    """Whatever is cut out or put in, it tells a name that stands there, or none; it never fails."""
    message = name_to_hello(name.encode())
    wire = bytearray(b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message)
    at = data.draw(st.integers(0, len(wire) - 1))
    wire[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    try:
        found = read_hello(bytes(wire))
    except Incomplete:
        return
    assert found.name is None or found.name.encode() in bytes(wire).lower()


@given(st.binary(min_size=1, max_size=400))
def test_no_first_words_are_too_strange(data: bytes) -> None:
    for words in (data, b"\x16\x03\x01" + data, b"GET / HTTP/1.1\r\n" + data, data + b"\r\n\r\n"):
        found = recognise(words)
        assert found is None or isinstance(found, Opening)


@given(st.text("ab:[]@.*%/\\ \t\r\n0\x00é", max_size=12), st.sampled_from(("Host", "host ", " Host", "X")))
def test_a_host_is_one_name_or_none(value: str, field: str) -> None:
    words = f"GET / HTTP/1.1\r\n{field}: {value}\r\nHost: good.test\r\n\r\n".encode("latin-1")
    found = recognise(words)
    assert found is not None and found.protocol == HTTP
    assert found.refusal or (found.name == "good.test" and (field == "X"))


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (b"\x16", None),
        (b"\x16\x03", None),
        (b"\x17\x03\x03", Opening(OTHER)),
        (b"\x16\x02\x00", Opening(TLS)),
        (b"G", None),
        (b"GET / HT", None),
        (b"GET / HTTP/1.1\r\n", None),
        (b"EHLO me\r\n", Opening(OTHER)),
        (b"SSH-2.0-OpenSSH\r\n", Opening(OTHER)),
        (b"\x00\x01", Opening(OTHER)),
        (b"get / http/1.1\r\nhost: a.test\r\n\r\n", Opening(HTTP, refusal="This is no request of HTTP/1.")),
    ],
)
def test_first_words(words: bytes, found: Opening | None) -> None:
    assert recognise(words) == found


def head_of(*lines: str) -> Head:
    head = read_head("\r\n".join(["POST / HTTP/1.1", "Host: a.test", *lines, "", ""]).encode())
    assert head is not None
    return head


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.data())
def test_a_body_ends_where_it_says_however_it_is_cut(chunks: list[bytes], data: st.DataObject) -> None:
    after = b"GET / HTTP/1.1\r\n"
    chunked = b"".join(b"%x;a=b\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\nT: x\r\n\r\n"
    plain = b"".join(chunks)
    for head, body in (
        (head_of("Transfer-Encoding: chunked"), chunked),
        (head_of(f"Content-Length: {len(plain)}"), plain),
    ):
        wire, passed, following = body + after, 0, Body(head)
        while passed < len(wire) and not following.done:
            part = wire[passed : passed + data.draw(st.integers(1, 30))]
            passed += following.take(part)
        assert following.done and wire[passed:] == after


@pytest.mark.parametrize(
    "wire",
    [
        b"x\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b"0x1\r\n",
        b"1 \r\n",
        b"1\n",
        b"1\r\nab\r\n",
        b"1\r\na\n",
        b"\r\n",
        b"f" * 17 + b"\r\n",
    ],
)
def test_a_chunk_that_can_be_read_in_two_ways_is_refused(wire: bytes) -> None:
    with pytest.raises(Refused):
        Body(head_of("Transfer-Encoding: chunked")).take(wire + b"0\r\n\r\n")


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: +1",),
        ("Content-Length: 1, 1",),
        ("Content-Length: 1", "Content-Length: 1"),
        ("Transfer-Encoding: gzip, chunked",),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: xchunked",),
        ("Transfer-Encoding:\x0bchunked",),
        ("Content-Length : 1",),
        *((f"X-{number}: y" for number in range(201)),),
        ("X: " + "y" * (1 << 16),),
    ],
)
def test_a_head_that_can_be_read_in_two_ways_is_refused(lines: tuple[str, ...]) -> None:
    with pytest.raises(Refused):
        head_of(*lines)


def test_receipts_are_bounded() -> None:
    """A guest that makes names up cannot make this process grow."""
    ledger = Ledger(Clock(lambda: 1.0, lambda: 1.0), limit=10)
    for number in range(1000):
        ledger.tally(("dns", f"{number}.test", None, 53, UNLISTED, False))
        ledger.resolved(f"{number}.test", [f"1.{number // 250}.0.{number % 250}"])
    for number in range(10_000):
        ledger.resolved("a.test", [f"2.{number // 250}.0.{number % 250}"])
    receipts = ledger.receipts()
    assert len(receipts) == 11 and sum(each.connections for each in receipts) == 1000
    ledger.tally(("tls", "a.test", "1.1.1.1", 443, "default", True))
    assert ledger.receipts()[-1].name == "a.test"
    assert len(ledger.names()) <= 4096


def test_a_report_fits_into_a_message_and_flows_go_last() -> None:
    long = "x" * 60 + ".test"
    flows = tuple(receipt(f"{number}.{long}", "1.1.1.1") for number in range(500))
    questions = tuple(receipt(f"{number}.{long}", None, 53, protocol="dns") for number in range(9000))
    names = {f"1.1.{number}.1": long for number in range(250)}
    for receipts, kept in (((*questions, *flows), len(flows)), (flows * 20, None), (flows, len(flows))):
        wire = fitting(Answer(1, receipts=Receipts("vm", receipts, names)))
        found = msgspec.json.decode(wire, type=Answer).receipts
        assert len(wire) <= REPORT_LIMIT and found and found.receipts[-1] == receipts[-1]
        assert kept is None or len(found.receipts) == kept


def test_a_bucket_fills_with_time_and_no_further_than_its_brim() -> None:
    now = timedelta()
    bucket = Bucket(10, 5, lambda: now.total_seconds())
    assert [bucket.try_take() for _ in range(6)] == [True] * 5 + [False]
    now += timedelta(seconds=0.2)
    assert [bucket.try_take() for _ in range(3)] == [True, True, False]
    now += timedelta(hours=1)
    assert [bucket.try_take() for _ in range(6)] == [True] * 5 + [False]
