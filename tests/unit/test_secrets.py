"""Secrets as values: what is refused, what is shown, how they are sealed, and the stars in their place."""

from __future__ import annotations

import asyncio
import ssl
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.pretty import pretty_repr

from pandastack.errors import InternalError, InvalidRequest
from pandastack.host.egress.authority import Issuer, kept_authority, make_ca
from pandastack.host.egress.head import Refused, read_head
from pandastack.host.egress.mask import Mask, Masked
from pandastack.host.egress.orders import Authority
from pandastack.host.trust import SUBJECT_HASH, environment
from pandastack.model.clock import Clock
from pandastack.model.egress import BoundSecret, put_all_into
from pandastack.model.sandbox import SandboxCreate
from pandastack.model.secret import SECRETS, SecretWish, check_names, check_values
from pandastack.services.strongbox import Strongbox
from pandastack.services.suffixes import Suffixes

VALUE = "sk-live-0123456789"
PLACEHOLDER = "psk_0123456789abcdef"
PLACE = ("workspace", "sandbox", "TOKEN")


def box(key: int = 1) -> Strongbox:
    return Strongbox(bytes([key]) * 32, lambda count: b"\7" * count)


def test_a_sealed_value_opens_where_it_belongs_and_nowhere_else() -> None:
    sealed = box().seal(VALUE, *PLACE)
    assert box().open(sealed, *PLACE) == VALUE and VALUE.encode() not in sealed
    for place in (
        ("other", "sandbox", "TOKEN"),
        ("workspace", "fork", "TOKEN"),
        ("workspace", "sandbox", "B"),
    ):
        with pytest.raises(InternalError):
            box().open(sealed, *place)
    for damaged in (sealed[:-1], b"", sealed[:20] + bytes([sealed[20] ^ 1]) + sealed[21:]):
        with pytest.raises(InternalError):
            box().open(damaged, *PLACE)
    with pytest.raises(InternalError) as refused:
        box(2).open(sealed, *PLACE)
    assert VALUE not in str(refused.value)


def test_a_value_is_compared_by_a_mark_of_its_server_alone() -> None:
    assert box().mark(VALUE) == box().mark(VALUE) != box(2).mark(VALUE)
    assert box().mark(VALUE) != box().mark(VALUE + "0")


def test_no_form_of_a_request_shows_the_value() -> None:
    wish = SecretWish(VALUE, ("api.example.com",), ("x-api-key",))
    request = SandboxCreate(secrets={"TOKEN": wish})
    assert VALUE not in repr(request) + str(request) + pretty_repr(request) + f"{wish}"
    assert "api.example.com" in pretty_repr(request)


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A B", "A=B", "Ä", "A" * 129, "A/B", "A\n"])
def test_what_is_no_variable_is_no_name_of_a_secret(name: str) -> None:
    with pytest.raises(InvalidRequest):
        check_names({name: None}, {})


def test_a_variable_is_a_secret_or_not_and_there_are_not_too_many() -> None:
    check_names({"TOKEN": None}, {"OTHER": "x"})
    with pytest.raises(InvalidRequest, match="TOKEN"):
        check_names({"TOKEN": None}, {"TOKEN": "x"})
    with pytest.raises(InvalidRequest):
        check_names({f"A{number}": None for number in range(SECRETS + 1)}, {})


@pytest.mark.parametrize(
    ("hosts", "headers"),
    [((), ()), (("*",), ()), (("192.0.2.1",), ()), (("a.example",) * 33, ()), (("a.example",), ("a b",))],
)
def test_a_secret_is_bound_to_names_of_hosts(hosts: tuple[str, ...], headers: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest):
        BoundSecret("TOKEN", hosts, PLACEHOLDER, VALUE, headers)


@pytest.mark.anyio
async def test_it_is_not_bound_to_what_anybody_can_have_a_name_below() -> None:
    suffixes = Suffixes()
    for parent in ("com", "co.uk", "github.io", "xn--p1ai", "рф", "foo.ck", "intern", "COM"):
        with pytest.raises(InvalidRequest, match="anybody can have a name below"):
            await suffixes.check(("api.example.com", f"*.{parent}"))
    await suffixes.check(("com", "example.github.io", "*.example.co.uk", "*.www.ck", "*.example.intern"))
    with pytest.raises(InvalidRequest, match="no name of a host"):
        await suffixes.check(("*.a b",))


def test_with_headers_named_it_is_put_into_them_alone() -> None:
    anywhere = BoundSecret("TOKEN", ("a.example",), PLACEHOLDER, VALUE)
    named = BoundSecret("TOKEN", ("a.example",), PLACEHOLDER, VALUE, ("X-Api-Key",))
    assert anywhere.put_into("Origin", PLACEHOLDER) == VALUE
    assert named.put_into("Origin", PLACEHOLDER) == PLACEHOLDER
    assert named.put_into("x-api-KEY", f"a {PLACEHOLDER}") == f"a {VALUE}"


def test_commands_have_placeholders_and_nothing_without_secrets() -> None:
    given_to = environment([BoundSecret("TOKEN", ("a.example",), PLACEHOLDER, VALUE)])
    assert given_to["TOKEN"] == PLACEHOLDER and VALUE not in given_to.values()
    assert environment(()) == {}


@given(
    st.lists(st.sampled_from([b"x", b"sk-live", b"-0123", b"456789", b"sk-", VALUE.encode()]), max_size=12)
)
def test_stars_stand_for_a_value_however_it_is_cut(parts: list[bytes]) -> None:
    mask = Mask([VALUE])
    passed = b"".join(map(mask.feed, parts)) + mask.rest()
    assert passed == b"".join(parts).replace(VALUE.encode(), b"*" * len(VALUE))


def test_short_values_are_not_looked_for_and_none_holds_nothing_back() -> None:
    assert Mask(["short"]).feed(b"a short text") == b"a short text"
    assert Mask([]).feed(VALUE.encode()) == VALUE.encode()


class Parts:
    """A stream that brings these parts, and then nothing for a long time."""

    def __init__(self, *parts: bytes) -> None:
        self._parts = [*parts]

    async def read(self) -> bytes:
        if not self._parts:
            await asyncio.sleep(60)
        return self._parts.pop(0)

    async def write(self, data: bytes) -> None:
        raise OSError("nobody writes here")

    async def end(self) -> None:
        raise OSError("nobody writes here")

    def close(self) -> None:
        self._parts.clear()


@pytest.mark.anyio
async def test_what_only_begins_like_a_value_is_not_held_for_long() -> None:
    masked = Masked(Parts(b"yes sk-li", b"ve", b""), Mask([VALUE]))
    assert [await masked.read() for _ in range(2)] == [b"yes ", b"sk-live"]
    alone = Masked(Parts(b"yes"), Mask([VALUE[:1] + "y" * 9, "s" * 9]))
    async with asyncio.timeout(10):
        assert [await alone.read() for _ in range(2)] == [b"ye", b"s"]


def test_the_authority_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path, now = tmp_path / "egress.ca", datetime.now(UTC)
    made = kept_authority(path, now)
    assert kept_authority(path, now) == made and path.stat().st_mode & 0o777 == 0o600
    path.write_text("nothing")
    with pytest.raises(InvalidRequest):
        kept_authority(path, now)


def test_every_authority_is_found_by_the_same_link(tmp_path: Path) -> None:
    """OpenSSL looks for it by the hash of its name, here as in a guest."""
    one, other = make_ca(datetime.now(UTC)), make_ca(datetime.now(UTC))
    (tmp_path / f"{SUBJECT_HASH}.0").write_text(one.certificate)
    assert trusts(tmp_path, one)
    assert not trusts(tmp_path, other)


def trusts(folder: Path, authority: Authority) -> bool:
    """Whether a client that looks for authorities in a folder believes a server of this one."""
    serving = Issuer(authority, Clock(time.time, time.monotonic)).context("a.example")
    asking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    asking.load_verify_locations(capath=folder)
    forth, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = asking.wrap_bio(back, forth, server_hostname="a.example")
    server = serving.wrap_bio(forth, back, server_side=True)
    for end in (client, server, client, server, client):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError:
            return False
    return True


def test_values_that_hold_placeholders_of_others_are_put_in_as_they_are() -> None:
    """Else they would grow with each: a header of a few bytes would fill the memory of the host."""
    chain = [
        BoundSecret(f"S{number}", ("a.example.com",), f"psk_{number:032}", f"psk_{number + 1:032}" * 50)
        for number in range(6)
    ]
    told = put_all_into(chain, "authorization", f"Bearer {chain[0].placeholder}")
    assert told == f"Bearer {chain[0].value}"
    both = f"{chain[1].placeholder} {chain[3].placeholder}"
    assert put_all_into(chain, "x-api-key", both) == f"{chain[1].value} {chain[3].value}"


@pytest.mark.parametrize(
    "line", [b"A:" + b" " * 60_000 + b"\0", b"A:" + b"\t " * 30_000 + b"\x7f", b"A" * 60_000 + b"\0"]
)
def test_a_head_that_is_none_is_refused_in_no_time(line: bytes) -> None:
    began = time.perf_counter()
    with pytest.raises(Refused):
        read_head(b"GET / HTTP/1.1\r\nHost: a.example.com\r\n" + line + b"\r\n\r\n")
    assert time.perf_counter() - began < 0.2


def test_a_head_that_grows_too_long_with_its_secrets_is_refused() -> None:
    head = read_head(b"GET / HTTP/1.1\r\nHost: a.example.com\r\nX-Key: " + b"p" * 1000 + b"\r\n\r\n")
    assert head is not None
    assert b"X-Key: " + b"v" * 100_000 in head.with_values(lambda name, value: value.replace("p", "v" * 100))
    with pytest.raises(Refused):
        head.with_values(lambda name, value: value.replace("p", "v" * 200))


def test_chunks_of_an_old_request_are_refused() -> None:
    words = b"POST / HTTP/1.%d\r\nHost: a.example.com\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert read_head(words % 1) is not None
    with pytest.raises(Refused):
        read_head(words % 0)


def test_looking_for_many_alike_values_takes_time_by_their_length_alone() -> None:
    mask = Mask(["a" * 8000 + f"{number:04}" for number in range(8)])
    began = time.perf_counter()
    for _ in range(4):
        mask.feed(b"a" * 16_384)
    assert time.perf_counter() - began < 1.0


def test_a_value_that_begins_another_is_not_told_by_where_it_is_cut() -> None:
    mask = Mask(["abcdefgh", "abcdefghSECRET"])
    passed = mask.feed(b"it is abcdefgh") + mask.feed(b"SECRET.") + mask.rest()
    assert passed == b"it is " + b"*" * 14 + b"."


def test_all_values_of_a_sandbox_have_a_limit() -> None:
    check_values(["v" * 8192] * 8)
    with pytest.raises(InvalidRequest, match="65536") as refused:
        check_values(["v" * 8192] * 9)
    assert "vvv" not in refused.value.message
