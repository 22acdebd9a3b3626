"""A world of a guest: a network namespace of its own, a name server that notes questions, and servers.

Whatever the guest connects to is redirected to the proxy, as the rules of a slot do it. Servers stand on
loopback addresses of this machine; those of `PUBLIC` are made reachable, the others are not.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar, cast

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from pandastack.host.egress.authority import Issuer, make_ca
from pandastack.host.egress.client import Account, EgressProcess
from pandastack.host.egress.orders import Attach, Authority, Begin, Limits
from pandastack.model.clock import Clock
from pandastack.model.egress import BoundSecret, Egress

T = TypeVar("T")

PUBLIC = "127.10.0.0/16"
PROXY_PORT = 3129
SLOT = 7
OWN = Account(231_007, 231_007)
"""Whom the process runs as, and nobody else."""
CLOCK = Clock(lambda: datetime.now(UTC).timestamp(), lambda: 0.0)
TRUSTED = make_ca(datetime.now(UTC), "a public authority")
"""Who signs the servers of this world."""
OURS = make_ca(datetime.now(UTC))

RULES = f"""
table ip redirecting {{
  chain output {{
    type nat hook output priority -100
    tcp dport != {{ 53, {PROXY_PORT} }} redirect to :{PROXY_PORT}
  }}
}}
"""
CLONE_NEWNET = 0x40000000


class Namespace:
    """A network namespace of a guest; sockets are made in it and used from anywhere."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread = ThreadPoolExecutor(1, initializer=self._enter)

    def do(self, act: Callable[[], T]) -> T:
        """Do something in it."""
        return self._thread.submit(act).result(10)

    def tcp(self) -> socket.socket:
        """A TCP socket of the guest."""
        return self.do(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))

    def listeners(self) -> list[socket.socket]:
        """What a host binds in a slot: questions over UDP and TCP, and connections."""
        return self.do(
            lambda: [
                _bound(socket.SOCK_DGRAM, ("127.0.0.1", 53)),
                _bound(socket.SOCK_STREAM, ("127.0.0.1", 53)),
                _bound(socket.SOCK_STREAM, ("0.0.0.0", PROXY_PORT)),  # noqa: S104 - of a namespace that has no network
            ]
        )

    def close(self) -> None:
        """Its thread ends."""
        self._thread.shutdown()

    def _enter(self) -> None:
        descriptor = os.open(f"/run/netns/{self._name}", os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(descriptor)


@contextmanager
def namespace() -> Iterator[Namespace]:
    """A namespace that has routes to everywhere, and all of them lead to the proxy."""
    name = f"egress{os.getpid()}"
    _run("ip", "netns", "add", name)
    inside = Namespace(name)
    try:
        for command in (
            "link set lo up",
            "link add up0 type veth peer name up1",
            "addr add 192.0.2.1/24 dev up0",
            "link set up0 up",
            "link set up1 up",
            "route add default via 192.0.2.2 dev up0",
        ):
            _run("ip", "-n", name, *command.split())
        _run("ip", "netns", "exec", name, "nft", "-f", "-", given=RULES)
        yield inside
    finally:
        inside.close()
        _run("ip", "netns", "del", name)


class NameServer(asyncio.DatagramProtocol):
    """Answers from `zone`, a list of addresses a name; of several lists one after the other, the last for
    ever. A text that is no address is a canonical name. Every question is noted.
    """

    def __init__(self, zone: Mapping[str, Sequence[Sequence[str]]]) -> None:
        self.zone = zone
        self.asked: Counter[str] = Counter()
        self.lies: list[Callable[[dns.message.Message], None]] = []
        self.address = ""
        self.silent = False
        self.unanswered = 0
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Told by asyncio."""
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str | int, int]) -> None:
        """Told by asyncio."""
        assert self._transport
        if self.silent:
            self.unanswered += 1
            return
        query = dns.message.from_wire(data)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        answers = self.zone.get(name)
        reply = dns.message.make_response(query)
        if answers is None:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        else:
            for lie in self.lies:
                forged = dns.message.make_response(query)
                lie(forged)
                self._transport.sendto(forged.to_wire(), addr)
            found = answers[min(self.asked[name], len(answers) - 1)]
            self._fill(reply, question, found)
        self.asked[name] += 1
        self._transport.sendto(reply.to_wire(), addr)

    def _fill(self, reply: dns.message.Message, question: dns.rrset.RRset, found: Sequence[str]) -> None:
        owner = question.name
        for entry in found:
            if question.rdtype == dns.rdatatype.TXT:
                reply.answer.append(dns.rrset.from_text(owner, 30, "IN", "TXT", f'"{entry}"'))
            elif entry[0].isdigit():
                reply.answer.append(dns.rrset.from_text(owner, 30, "IN", "A", entry))
            else:
                reply.answer.append(dns.rrset.from_text(owner, 30, "IN", "CNAME", f"{entry}."))
                for address in self.zone[entry][-1]:
                    reply.answer.append(dns.rrset.from_text(f"{entry}.", 30, "IN", "A", address))


@asynccontextmanager
async def name_server(zone: Mapping[str, Sequence[Sequence[str]]]) -> AsyncIterator[NameServer]:
    """One that listens on a port of its own."""
    loop = asyncio.get_running_loop()
    transport, served = await loop.create_datagram_endpoint(
        lambda: NameServer(zone), local_addr=("127.0.0.1", 0)
    )
    served.address = "127.0.0.1:{}".format(transport.get_extra_info("sockname")[1])
    try:
        yield served
    finally:
        transport.close()


class World:
    """What a test has: the guest's namespace, the name server, and the process."""

    def __init__(self, guest: Namespace, names: NameServer, process: EgressProcess, log: Path) -> None:
        self.guest = guest
        self.names = names
        self.process = process
        self.log = log

    async def attach(self, egress: Egress, *secrets: BoundSecret) -> None:
        """Serve the guest under this policy, from the beginning."""
        await self.process.detach(SLOT)
        sockets = self.guest.listeners()
        try:
            await self.process.attach(Attach(SLOT, "vm-1", egress, secrets), sockets)
        finally:
            for each in sockets:
                each.close()

    async def connect(self, address: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection of the guest."""
        connection = self.guest.tcp()
        try:
            async with asyncio.timeout(10):
                await asyncio.get_running_loop().sock_connect(connection, (address, port))
                return await asyncio.open_connection(sock=connection)
        except BaseException:
            connection.close()
            raise

    async def ask(self, question: dns.message.Message, seconds: float = 5.0) -> dns.message.Message:
        """Ask the resolver of the slot."""
        connection = self.guest.do(
            lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        )
        with connection:
            connection.connect(("127.0.0.1", 53))
            connection.send(question.to_wire())
            async with asyncio.timeout(seconds):
                return dns.message.from_wire(await asyncio.get_running_loop().sock_recv(connection, 65535))


@asynccontextmanager
async def world(
    zone: Mapping[str, Sequence[Sequence[str]]],
    folder: Path,
    *,
    reachable: Sequence[str] = (PUBLIC,),
    limits: Limits | None = None,
    own: Sequence[str] = (),
    authority: Authority | None = OURS,
) -> AsyncIterator[World]:
    """Everything, begun and with no slot attached."""
    quick = limits or Limits(server_first=0.15)
    log = folder / "egress.log"
    with namespace() as guest:
        async with name_server(zone) as names, EgressProcess(log, account=OWN) as process:
            begin = Begin(
                (names.address,), tuple(own), tuple(reachable), authority, TRUSTED.certificate, quick
            )
            await process.begin(begin)
            yield World(guest, names, process, log)


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(address: str, port: int, handler: Handler, tls_name: str = "") -> AsyncIterator[int]:
    """A server; the block is given its port. With `tls_name` it proves to be that name. With the block all
    its connections end.
    """
    tls = Issuer(TRUSTED, CLOCK).context(tls_name) if tls_name else None
    handling: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        current = asyncio.current_task()
        assert current
        handling.add(current)
        try:
            await handler(reader, writer)
            writer.close()
            await writer.wait_closed()
        except (ConnectionError, asyncio.CancelledError):
            pass  # the client, or the block, has ended
        finally:
            writer.transport.abort()
            handling.discard(current)

    served = await asyncio.start_server(handle, address, port, ssl=tls)
    try:
        yield served.sockets[0].getsockname()[1]
    finally:
        served.close()
        for each in handling:
            each.cancel()
        await asyncio.gather(*handling, return_exceptions=True)
        await asyncio.sleep(0)  # transports close with the next turn of the loop


async def all_of(reader: asyncio.StreamReader, seconds: float = 3.0) -> bytes:
    """What comes until the end, however the connection ends. TimeoutError when it does not end."""
    found = b""
    try:
        async with asyncio.timeout(seconds):
            while data := await reader.read(65536):
                found += data
    except ConnectionError:
        pass
    return found


def _bound(kind: int, place: tuple[str, int]) -> socket.socket:
    made = socket.socket(socket.AF_INET, kind)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(place)
    if kind == socket.SOCK_STREAM:
        made.listen(4096)
    return made


def _run(*argv: str, given: str | None = None) -> None:
    subprocess.run(argv, check=True, input=given, text=True, timeout=10)
