"""Secrets at the edge: the value reaches the hosts that it is bound to, and nothing and nobody else."""

from __future__ import annotations

import asyncio
import base64
import ssl
from contextlib import suppress
from pathlib import Path

import pytest
from rich.pretty import pretty_repr

from pandastack.errors import InvalidRequest, MachineError
from pandastack.host.egress.orders import Attach, Limits
from pandastack.model.egress import BoundSecret, Egress, Receipt

from .wire import ECH, get, hello
from .world import OURS, SLOT, TRUSTED, Handler, World, all_of, server, world

pytestmark = [pytest.mark.anyio, pytest.mark.root]

BOUND, OTHER, PLAIN = "127.10.0.1", "127.10.0.2", "127.10.0.3"
ZONE = {
    "api.bound.test": [[BOUND]],
    "bound.test": [[OTHER]],
    "other.test": [[OTHER]],
    "plain.bound.test": [[PLAIN]],
    "false.bound.test": [[OTHER]],
    "local.bound.test": [["127.0.0.1"]],
}
PLACEHOLDER = "panda-placeholder-0001"
VALUE = "the.real=value/of+it"
SECRET = BoundSecret("token", ("*.bound.test",), PLACEHOLDER, VALUE)
AT_ONCE = Limits(server_first=0.02)
"""Whoever is silent for so long waits for its server."""
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def recording(heard: list[bytes]) -> Handler:
    """A server that notes what it hears, and repeats its last header in an answer of HTTP."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            heard.append(data)
            writer.write(OK)
            await writer.drain()

    return handle


def believing(*authorities: str) -> ssl.SSLContext:
    """A guest that believes these authorities alone."""
    context = ssl.create_default_context(cadata="".join(authorities))
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


async def fetched(made: World, name: str, port: int, words: bytes, trust: ssl.SSLContext) -> bytes:
    """What is answered to a request over TLS, sent to nowhere in particular."""
    connection = made.guest.tcp()
    await asyncio.get_running_loop().sock_connect(connection, ("203.0.113.9", port))
    reader, writer = await asyncio.open_connection(sock=connection, ssl=trust, server_hostname=name)
    try:
        writer.write(words)
        answer = await reader.readuntil(b"\r\n\r\n")
        return answer + await reader.readexactly(2)
    finally:
        writer.transport.abort()


def spoken(name: str) -> bytes:
    """A request with the placeholder in every place that a program may think of."""
    basic = base64.b64encode(f"me:{PLACEHOLDER}".encode()).decode()
    body = PLACEHOLDER.encode()
    lines = (
        f"Authorization: Bearer {PLACEHOLDER}",
        f"X-Key:{PLACEHOLDER}",
        f"Proxy-Authorization: Basic {basic}",
    )
    return get(name, f"/{PLACEHOLDER}", *lines, f"Content-Length: {len(body)}") + body


def expected(name: str) -> bytes:
    """The same as the host hears it: values of headers are filled in, and nothing else."""
    basic = base64.b64encode(f"me:{VALUE}".encode()).decode()
    body = PLACEHOLDER.encode()
    lines = (f"Authorization: Bearer {VALUE}", f"X-Key: {VALUE}", f"Proxy-Authorization: Basic {basic}")
    return get(name, f"/{PLACEHOLDER}", *lines, f"Content-Length: {len(body)}") + body


async def test_the_value_reaches_the_bound_host_and_nobody_else(tmp_path: Path) -> None:
    at_bound: list[bytes] = []
    at_other: list[bytes] = []
    ours, theirs = believing(OURS.certificate), believing(TRUSTED.certificate)
    async with (
        server(BOUND, 0, recording(at_bound), "api.bound.test") as port,
        server(OTHER, port, recording(at_other), "other.test"),
        world(ZONE, tmp_path) as made,
    ):
        await made.attach(Egress(), SECRET)
        words = spoken("api.bound.test")
        assert await fetched(made, "api.bound.test", port, words + words, ours) == OK
        while b"".join(at_bound) != expected("api.bound.test") * 2:
            await asyncio.sleep(0.01)
        assert await fetched(made, "other.test", port, spoken("other.test"), theirs) == OK
        assert b"".join(at_other) == spoken("other.test")
        report = await made.process.receipts(SLOT)
        assert ("tls", "api.bound.test", BOUND, len(expected("api.bound.test")) * 2) in {
            (each.protocol, each.name, each.address, each.bytes_out) for each in report.receipts
        }
        attach = Attach(SLOT, "vm", Egress(), (SECRET,))
        assert VALUE not in pretty_repr(attach) and OURS.key[40:80] not in pretty_repr(OURS) + repr(OURS)
        assert VALUE not in repr(report) + repr(SECRET) + str(attach)
        at_bound.clear()
        await made.process.change(SLOT, Egress())
        assert await fetched(made, "api.bound.test", port, words, theirs) == OK
        assert b"".join(at_bound) == words  # without the binding it arrives as it was written
    log = made.log.read_text()
    assert VALUE not in log and not log


async def test_the_value_does_not_travel_in_the_clear(tmp_path: Path) -> None:
    heard: list[bytes] = []
    async with server(PLAIN, 0, recording(heard)) as port, world(ZONE, tmp_path) as made:
        await made.attach(Egress(), SECRET)
        reader, writer = await made.connect(PLAIN, port)
        writer.write(spoken("plain.bound.test"))
        await reader.readexactly(len(OK))
        writer.transport.abort()
    assert b"".join(heard) == spoken("plain.bound.test")


async def test_the_value_does_not_go_to_who_cannot_prove_its_name(tmp_path: Path) -> None:
    """A name server that lies, an address of the host itself, a Host of somebody else, a second one."""
    heard: list[bytes] = []
    local: list[bytes] = []
    ours = believing(OURS.certificate)
    async with (
        server(OTHER, 0, recording(heard), "other.test") as port,
        server(BOUND, port, recording(heard), "api.bound.test"),
        server("127.0.0.1", port, recording(local), "local.bound.test"),
        world(ZONE, tmp_path) as made,
    ):
        await made.attach(Egress(), SECRET)
        answer = await fetched(made, "false.bound.test", port, spoken("false.bound.test"), ours)
        assert answer.startswith(b"HTTP/1.1 502 ")
        with pytest.raises(OSError):
            await fetched(made, "local.bound.test", port, spoken("local.bound.test"), ours)
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await fetched(made, "api.bound.test", port, spoken("other.test"), ours)
        with suppress(OSError, asyncio.IncompleteReadError):  # the first one may be answered yet
            await fetched(made, "api.bound.test", port, get("api.bound.test") + spoken("other.test"), ours)
        assert b"".join(heard).replace(get("api.bound.test"), b"") == b"" and not local
        receipts = (await made.process.receipts(SLOT)).receipts
        assert any("names another host" in each.rule for each in receipts)
    async with (
        server("127.0.0.1", port, recording(local), "local.bound.test"),
        world(ZONE, tmp_path, reachable=["127.0.0.0/8"]) as made,
    ):
        await made.attach(Egress(), SECRET)
        assert await fetched(made, "local.bound.test", port, spoken("local.bound.test"), ours) == OK
        assert b"".join(local) == expected("local.bound.test")


async def test_a_binding_allows_nothing_and_a_change_of_it_ends_connections(tmp_path: Path) -> None:
    heard: list[bytes] = []
    async with server(BOUND, 0, recording(heard), "api.bound.test") as port, world(ZONE, tmp_path) as made:
        await made.attach(Egress(allow_domains=("other.test",)), SECRET)
        with pytest.raises(OSError):
            await fetched(made, "api.bound.test", port, get("api.bound.test"), believing(OURS.certificate))
        await made.process.change(SLOT, Egress(), (SECRET,))
        connection = made.guest.tcp()
        await asyncio.get_running_loop().sock_connect(connection, (BOUND, port))
        reader, writer = await asyncio.open_connection(
            sock=connection, ssl=believing(OURS.certificate), server_hostname="api.bound.test"
        )
        writer.write(get("api.bound.test"))
        await reader.readexactly(len(OK))
        await made.process.change(SLOT, Egress(), (SECRET,))  # the same: it stays
        writer.write(get("api.bound.test"))
        await reader.readexactly(len(OK))
        other = BoundSecret("token", SECRET.hosts, PLACEHOLDER, "another")
        await made.process.change(SLOT, Egress(), (other,))
        assert await all_of(reader) == b""
        writer.transport.abort()


async def test_a_hidden_hello_hides_nothing_where_tls_ends_here(tmp_path: Path) -> None:
    """Browsers send such an extension always; the outer name is the one that is served."""
    heard: list[bytes] = []
    async with server(BOUND, 0, recording(heard), "api.bound.test") as port, world(ZONE, tmp_path) as made:
        await made.attach(Egress(allow_domains=("api.bound.test",)), SECRET)
        reader, writer = await made.connect("203.0.113.9", port)
        writer.write(hello("api.bound.test", ECH))
        answer = await all_of(reader)
        writer.transport.abort()
        assert answer[:1] == b"\x15" and answer[-1] not in (49, 112)  # it got as far as the handshake
        receipts: tuple[Receipt, ...] = (await made.process.receipts(SLOT)).receipts
        assert all(each.allowed for each in receipts)


async def test_who_tells_a_bound_name_too_late_is_refused(tmp_path: Path) -> None:
    """What is passed on already cannot get a value any more."""
    heard: list[bytes] = []
    async with server(BOUND, 0, recording(heard)) as port, world(ZONE, tmp_path, limits=AT_ONCE) as made:
        for policy, passes in ((Egress(), True), (Egress(), False)):
            await made.attach(policy, *([] if passes else [SECRET]))
            reader, writer = await made.connect(BOUND, port)
            await asyncio.sleep(0.1)
            writer.write(hello("api.bound.test"))
            writer.write_eof()
            await all_of(reader)
            writer.transport.abort()
            assert bool(heard) is passes
            heard.clear()


async def test_without_an_authority_no_value_goes_anywhere(tmp_path: Path) -> None:
    heard: list[bytes] = []
    async with (
        server(BOUND, 0, recording(heard), "api.bound.test") as port,
        world(ZONE, tmp_path, authority=None, limits=Limits(head=1)) as made,
    ):
        await made.attach(Egress(), SECRET)
        words = spoken("api.bound.test")
        assert await fetched(made, "api.bound.test", port, words, believing(TRUSTED.certificate)) == OK
    assert b"".join(heard) == words


@pytest.mark.parametrize("value", ["", "a\nb", "a\r\nX: y", "a\0b", " a", "ü", "x" * 9000])
def test_a_value_that_no_header_can_carry_is_refused_unseen(value: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        BoundSecret("token", ("a.test",), PLACEHOLDER, value)
    assert len(value) < 3 or value not in str(refused.value)


@pytest.mark.parametrize("placeholder", ["short", "with a space in it", "line\nbreak-is-not-one"])
def test_a_placeholder_is_like_nothing_else(placeholder: str) -> None:
    with pytest.raises(InvalidRequest):
        BoundSecret("token", ("a.test",), placeholder, VALUE)


async def test_a_refused_order_says_nothing_of_values(tmp_path: Path) -> None:
    async with world(ZONE, tmp_path) as made:
        with pytest.raises(MachineError) as refused:
            await made.process.change(99, Egress(), (SECRET,))
    assert VALUE not in str(refused.value) and "99" in str(refused.value)
