"""Connections that a policy allows: passed on exactly, counted, held to limits, ended when it changes."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from pandastack.host.egress.orders import Limits
from pandastack.model.egress import Egress, Receipt
from pandastack.model.verdict import policy_of, would_block

from .wire import get, hello
from .world import PUBLIC, SLOT, Handler, World, all_of, server, world

pytestmark = [pytest.mark.anyio, pytest.mark.root]

PLACE = "127.10.0.1"
ELSEWHERE = "127.10.0.2"
ZONE = {"good.test": [[PLACE]], "other.test": [[PLACE]], "far.test": [[ELSEWHERE]]}
ONE = Egress(allow_domains=("good.test",))
BOTH = Egress(allow_domains=("good.test", "other.test"))
MANY = 2500


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Give back what comes, and then the end."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


def answering(answer: bytes, heard: list[bytes]) -> Handler:
    """A server that notes all that it hears, and answers each part of it."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            heard.append(data)
            writer.write(answer)
            await writer.drain()

    return handle


async def receipts(made: World, *, allowed: bool = True) -> list[Receipt]:
    found = (await made.process.receipts(SLOT)).receipts
    return [each for each in found if each.allowed is allowed and each.protocol != "dns"]


async def test_bytes_pass_exactly_and_are_counted(tmp_path: Path) -> None:
    """8 MiB there and back while both directions are busy, with a half-close; the receipt says just that."""
    sent = hello("good.test") + bytes(range(256)) * (1 << 15)
    async with server(PLACE, 0, echo) as port, world(ZONE, tmp_path) as made:
        await made.attach(ONE)
        reader, writer = await made.connect(ELSEWHERE, port)

        async def send() -> None:
            writer.write(sent)
            await writer.drain()
            writer.write_eof()

        _, back = await asyncio.gather(send(), all_of(reader, 30))
        assert hashlib.sha256(back).digest() == hashlib.sha256(sent).digest()
        writer.close()
        (receipt,) = await receipts(made)
    assert (receipt.protocol, receipt.name, receipt.address, receipt.port) == (
        "tls",
        "good.test",
        PLACE,
        port,
    )
    assert (receipt.bytes_out, receipt.bytes_in, receipt.connections) == (len(sent), len(sent), 1)
    assert receipt.rule == "allow_domains: good.test"
    assert receipt.first_at <= receipt.last_at


async def test_requests_on_one_connection_stay_with_its_host(tmp_path: Path) -> None:
    heard: list[bytes] = []
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    chunks = b"4\r\nabcd\r\n5;x=y\r\n\r\nab\r\r\n0\r\nTrailer: x\r\n\r\n"
    first = get("good.test", "/1", "Transfer-Encoding: chunked") + chunks
    second = get("good.test", "/2", "Content-Length: 5") + b"GET /"
    async with server(PLACE, 0, answering(ok, heard)) as port, world(ZONE, tmp_path) as made:
        for policy in (ONE, BOTH):  # the other name may be allowed: a connection has one host all the same
            heard.clear()
            await made.attach(policy)
            reader, writer = await made.connect(PLACE, port)
            writer.write(first + second[:-7])
            await asyncio.sleep(0)
            writer.write(second[-7:] + get("good.test", "/3"))
            await reader.readexactly(len(ok))
            writer.write(get("other.test", "/4"))
            await all_of(reader)
            writer.transport.abort()
            assert b"".join(heard) == first + second + get("good.test", "/3")
            (denied,) = await receipts(made, allowed=False)
            assert "names another host" in denied.rule


@pytest.mark.parametrize(
    ("upgrade", "answer", "passes"),
    [
        ("websocket", b"HTTP/1.1 101 Switching Protocols\r\n\r\n", True),
        ("websocket", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", False),
        ("h2c", b"HTTP/1.1 101 Switching Protocols\r\n\r\n", False),
    ],
)
async def test_another_protocol_begins_only_when_the_server_agrees(
    tmp_path: Path, upgrade: str, answer: bytes, passes: bool
) -> None:
    heard: list[bytes] = []
    words = get("other.test", "/behind")
    async with server(PLACE, 0, answering(answer, heard)) as port, world(ZONE, tmp_path) as made:
        await made.attach(ONE)
        reader, writer = await made.connect(PLACE, port)
        writer.write(get("good.test", "/", f"Upgrade: {upgrade}", "Connection: Upgrade") + words)
        writer.write_eof()
        await all_of(reader)
        writer.transport.abort()
    assert (words in b"".join(heard)) is passes


async def test_who_is_refused_is_told_why(tmp_path: Path) -> None:
    async with server(PLACE, 0, echo) as port, world(ZONE, tmp_path) as made:
        await made.attach(ONE)
        reader, writer = await made.connect(PLACE, port)
        writer.write(get("evil.test"))
        answer = (await all_of(reader)).decode()
        writer.close()
        assert answer.startswith("HTTP/1.1 403 ") and "no allow list names it" in answer
        reader, writer = await made.connect(PLACE, port)
        writer.write(hello("evil.test"))
        assert await all_of(reader) == bytes.fromhex("15030300020270")  # unrecognized_name
        writer.close()
        denied = await receipts(made, allowed=False)
        assert {(each.protocol, each.name, each.address) for each in denied} == {
            ("http", "evil.test", PLACE),
            ("tls", "evil.test", PLACE),
        }


async def test_a_server_that_speaks_first_is_decided_by_its_address(tmp_path: Path) -> None:
    """And a denied name that is told late is refused then."""
    heard: list[bytes] = []

    async def greeting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hello\r\n")
        await answering(b"more", heard)(reader, writer)

    policy = Egress(deny_domains=("other.test",))
    async with server(PLACE, 0, greeting) as port, world(ZONE, tmp_path) as made:
        await made.attach(policy)
        for words, passes in (
            (b"HELO x\r\n", True),
            (hello("other.test"), False),
            (get("other.test"), False),
        ):
            heard.clear()
            reader, writer = await made.connect(PLACE, port)
            assert await reader.readexactly(11) == b"220 hello\r\n"
            writer.write(words)
            writer.write_eof()
            await all_of(reader)
            writer.transport.abort()
            assert (b"".join(heard) == words) is passes


async def test_a_slow_guest_is_not_taken_for_a_silent_one(tmp_path: Path) -> None:
    """Where its address is not allowed there is no hurry to say so."""
    limits = Limits(server_first=0.02, head=1)
    async with server(PLACE, 0, echo) as port, world(ZONE, tmp_path, limits=limits) as made:
        await made.attach(ONE)
        reader, writer = await made.connect(PLACE, port)
        await asyncio.sleep(0.1)
        writer.write(get("good.test"))
        assert await reader.readexactly(len(get("good.test"))) == get("good.test")
        writer.transport.abort()
        reader, writer = await made.connect(PLACE, port)
        assert await all_of(reader) == b""
        writer.transport.abort()


async def test_a_change_closes_what_it_forbids_and_nothing_else(tmp_path: Path) -> None:
    async with server(PLACE, 0, echo) as port, world(ZONE, tmp_path) as made:
        await made.attach(BOTH)
        flows = {}
        for name in ("good.test", "other.test"):
            reader, writer = await made.connect(ELSEWHERE, port)
            writer.write(hello(name))
            await reader.readexactly(len(hello(name)))
            flows[name] = reader, writer
        await made.process.change(SLOT, ONE)
        assert await all_of(flows["other.test"][0]) == b""
        reader, writer = flows["good.test"]
        writer.write(b"still here")
        assert await reader.readexactly(10) == b"still here"
        await made.process.change(SLOT, Egress(allow_domains=("good.test",), deny_cidrs=(f"{PLACE}/32",)))
        assert await all_of(reader) == b""
        for _, writer in flows.values():
            writer.transport.abort()
        would = would_block(policy_of(ONE, reachable=[PUBLIC]), (await made.process.receipts(SLOT)).receipts)
        assert [(each.name, each.rule) for each in would] == [("other.test", "no allow list names it")]


@pytest.mark.parametrize("limit", [50, MANY])
async def test_connections_are_held_up_to_their_limit_and_not_one_more(tmp_path: Path, limit: int) -> None:
    words = get("good.test")

    async def opened() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await made.connect(PLACE, port)
        writer.write(words)
        return reader, writer

    async def turned_away() -> bool:
        try:
            reader, writer = await opened()
        except ConnectionError:
            return True
        try:
            return not await reader.read(1)
        except ConnectionError:
            return True
        finally:
            writer.transport.abort()

    async with server(PLACE, 0, echo) as port, world(ZONE, tmp_path) as made:
        await made.attach(Egress(allow_domains=("good.test",), max_connections=limit))
        held = [await opened() for _ in range(limit)]
        for reader, _ in held:
            assert await reader.readexactly(len(words)) == words
        assert await turned_away()
        (denied,) = await receipts(made, allowed=False)
        assert denied.rule == f"max_connections: {limit}"
        held.pop()[1].transport.abort()
        async with asyncio.timeout(10):
            while await turned_away():
                pass  # until the place is free
        for _, writer in held:
            writer.transport.abort()


async def test_bandwidth_is_one_for_both_directions(tmp_path: Path) -> None:
    """4 MiB in all at 16 Mbit/s take 2 s, less what may pass at once; without a limit they do not."""
    data = hello("good.test") + bytes(2 << 20)
    clock = asyncio.get_running_loop().time
    async with server(PLACE, 0, echo) as port, world(ZONE, tmp_path) as made:
        took = []
        for megabits in (16.0, None):
            await made.attach(Egress(allow_domains=("good.test",), bandwidth_mbps=megabits))
            began = clock()
            reader, writer = await made.connect(PLACE, port)
            writer.write(data)
            await reader.readexactly(len(data))
            took.append(clock() - began)
            writer.transport.abort()
    assert 1.7 < took[0] < 4 and took[1] < took[0] / 2


async def test_silence_ends_a_connection(tmp_path: Path) -> None:
    async with (
        server(PLACE, 0, echo) as port,
        world(ZONE, tmp_path, limits=Limits(idle=0.3, head=0.3)) as made,
    ):
        await made.attach(ONE)
        for words in (hello("good.test"), hello("good.test")[:40], b"GET / HTTP/1.1\r\nHost: go"):
            reader, writer = await made.connect(PLACE, port)
            writer.write(words)
            assert len(await all_of(reader)) in (0, len(words))
            writer.transport.abort()


async def test_nobody_there_is_said(tmp_path: Path) -> None:
    async with server(ELSEWHERE, 0, echo) as port, world(ZONE, tmp_path) as made:
        await made.attach(ONE)
        reader, writer = await made.connect(ELSEWHERE, port)
        writer.write(get("good.test"))
        assert (await all_of(reader)).startswith(b"HTTP/1.1 502 ")
        writer.close()


async def test_a_policy_that_changes_while_a_connection_is_made_holds_for_it(tmp_path: Path) -> None:
    async with (
        server(PLACE, 0, echo) as port,
        world(ZONE, tmp_path, limits=Limits(upstream_dns=1)) as made,
    ):
        for then, arrives in ((BOTH, True), (Egress(allow_domains=("other.test",)), False)):
            await made.attach(ONE)
            made.names.silent = True
            reader, writer = await made.connect(PLACE, port)
            writer.write(hello("good.test"))
            while not made.names.unanswered:
                await asyncio.sleep(0.01)
            await made.process.change(SLOT, then)
            made.names.silent, made.names.unanswered = False, 0
            answer = await reader.read(100)
            assert (answer == hello("good.test")[:100]) is arrives
            writer.transport.abort()


async def test_who_never_reads_costs_little(tmp_path: Path) -> None:
    """300 connections that are filled to the brim: process and kernel keep little of each."""
    stuck, part = 300, bytes(1 << 16)
    with socket.socket() as deaf, ExitStack() as held:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        deaf.bind((PLACE, 0))
        deaf.listen(stuck)
        async with world(ZONE, tmp_path) as made:
            await made.attach(ONE)
            before = resident(made.process.pid)
            guests = [held.enter_context(made.guest.tcp()) for _ in range(stuck)]
            for guest in guests:
                guest.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)
                await asyncio.get_running_loop().sock_connect(guest, deaf.getsockname())
                guest.send(hello("good.test"))
            passed, moved = 0, 1
            while moved:
                await asyncio.sleep(0.3)
                moved = sum(filled(guest, part) for guest in guests)
                passed += moved
            grown = resident(made.process.pid) - before
    assert stuck << 16 < passed < stuck << 20 and grown < stuck * 100_000


def filled(connection: socket.socket, part: bytes) -> int:
    """How many bytes it takes now."""
    taken = 0
    with suppress(BlockingIOError):
        while True:
            taken += connection.send(part)
    return taken


def resident(pid: int) -> int:
    """Bytes of memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
