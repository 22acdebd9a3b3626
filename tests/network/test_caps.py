"""Caps of a real guest: so many connections and no more, and so much a second whichever way it goes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from msgspec import Struct

from pandastack.host.app import LocalHost
from pandastack.host.network import namespace
from pandastack.host.network.rules import BURST
from pandastack.host.readiness import run_to_end
from pandastack.model.egress import Egress
from pandastack.model.host import VmSpec
from tests.network.world import INTERNET, SERVERS

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.root]

FIRST, SECOND, _ = SERVERS
FLOOD = 9
"""The port of a server that sends for ever, and takes in what comes by UDP."""
BY_NAME = ("denied.example",)
"""A name that is denied: then TCP is led to the process that knows names."""

OPEN = """
import json, socket, sys, time
made, told = [], []
def connect():
    s = socket.socket()
    s.settimeout(10)
    try:
        s.connect((sys.argv[1], 7))
        s.send(bytes(1))
        told.append("open" if s.recv(1) else "ended")
    except ConnectionError:
        told.append("refused")
    made.append(s)
for _ in range(int(sys.argv[2])):
    connect()
if sys.argv[3:4] == ["again"]:
    made[0].close()
    time.sleep(1)  # the last words of that connection are said, and it is counted no more
    connect()
for _ in range(int(sys.argv[4]) if sys.argv[4:] else 0):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(2)
    s.connect((sys.argv[1], 7))
    try:
        s.send(bytes(1))
        told.append("open" if s.recv(1) else "")
    except OSError:
        told.append("refused")
    made.append(s)
print(json.dumps(told))
"""
"""Connections to a server that echoes, each held; with `again` one more, in the place of the first; and then
some by UDP.
"""

FILL = """
import json, select, socket, sys, time
tcp = socket.create_connection((sys.argv[1], 9), timeout=20)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.connect((sys.argv[2], 9)) if sys.argv[3] == "both" else None
got, begun = 0, time.monotonic()
while time.monotonic() < begun + 5:
    if select.select([tcp], [], [], 0.001)[0]:
        got += len(tcp.recv(1 << 16))
    if sys.argv[3] == "both":
        try:
            udp.send(bytes(1200))
        except OSError:
            pass
print(json.dumps([got, time.monotonic() - begun]))
"""
"""Takes what a server sends for five seconds, and sends to another one meanwhile."""


class Passed(Struct, frozen=True):
    """What a guest has moved in so many seconds, bytes."""

    got: int
    sent: int
    seconds: float

    def most(self, megabits: float) -> float:
        """What a cap lets through: so much a second, and what may come at once."""
        return megabits * 125_000 * (self.seconds + 1 + BURST)


class Sink(asyncio.DatagramProtocol):
    """What has come by UDP."""

    def __init__(self) -> None:
        self.size = 0

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.size += len(data)


@asynccontextmanager
async def flood() -> AsyncIterator[Sink]:
    """One server that sends for ever to whoever connects, and another one that takes in what comes by UDP."""

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(bytes(1 << 14))
                await writer.drain()
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()

    async with AsyncExitStack() as stack:
        with namespace.inside(INTERNET):
            listener = await asyncio.start_server(pour, FIRST, FLOOD)
        stack.callback(listener.close)
        with namespace.inside(INTERNET):
            transport, sink = await asyncio.get_running_loop().create_datagram_endpoint(
                Sink, local_addr=(SECOND, FLOOD)
            )
        stack.callback(transport.close)
        yield sink


async def ran(host: LocalHost, program: str, *words: object) -> str:
    line = f"python3 -c '{program}' {' '.join(map(str, words))}"
    code, said = await run_to_end(host.guest("guest"), line, f"caps-{time.time_ns()}")
    assert code == 0, said
    return said


async def filled(host: LocalHost, egress: Egress, ways: str) -> Passed:
    """What a guest moves under a policy, one way or `both`."""
    await host.set_egress("guest", egress)
    async with flood() as sink:
        got, seconds = json.loads(await ran(host, FILL, FIRST, SECOND, ways))
        return Passed(got, sink.size, seconds)


@pytest.mark.parametrize("names", [(), BY_NAME], ids=["direct", "by name"])
async def test_connections_are_refused_beyond_the_cap_and_not_before(
    host: LocalHost, names: tuple[str, ...]
) -> None:
    await host.start(VmSpec("guest", "base", egress=Egress(deny_domains=names, max_connections=5)))
    told = json.loads(await ran(host, OPEN, FIRST, 9))
    assert told == ["open"] * 5 + ["refused"] * 4
    assert json.loads(await ran(host, OPEN, FIRST, 5, "again")) == ["open"] * 6, "one that has ended is none"
    await host.set_egress("guest", Egress(deny_domains=names, max_connections=8))
    assert json.loads(await ran(host, OPEN, FIRST, 9)) == ["open"] * 8 + ["refused"]


async def test_one_cap_holds_for_connections_of_both_ways(host: LocalHost) -> None:
    """TCP is led to the process that knows names, UDP goes past it."""
    await host.start(VmSpec("guest", "base", egress=Egress(deny_domains=BY_NAME, max_connections=5)))
    assert json.loads(await ran(host, OPEN, FIRST, 3, "-", 4)) == ["open"] * 5 + ["refused"] * 2
    await host.set_egress("guest", Egress(deny_domains=BY_NAME, max_connections=8))
    assert json.loads(await ran(host, OPEN, FIRST, 3, "-", 4)) == ["open"] * 7


@pytest.mark.parametrize("names", [(), BY_NAME], ids=["direct", "by name"])
async def test_what_comes_stays_under_the_cap(host: LocalHost, names: tuple[str, ...]) -> None:
    await host.start(VmSpec("guest", "base"))
    slow = await filled(host, Egress(deny_domains=names, bandwidth_mbps=2), "one")
    assert slow.most(0.6) < slow.got <= slow.most(2), slow
    fast = await filled(host, Egress(deny_domains=names, bandwidth_mbps=16), "one")
    assert 2 * fast.most(2) < fast.got <= fast.most(16), fast


async def test_one_cap_holds_for_both_ways_together(host: LocalHost) -> None:
    """TCP by the process that knows names, and UDP past it: together they have no more than either alone."""
    await host.start(VmSpec("guest", "base"))
    slow = await filled(host, Egress(deny_domains=BY_NAME, bandwidth_mbps=2), "both")
    assert slow.most(0.6) < slow.got + slow.sent <= slow.most(2), slow
    fast = await filled(host, Egress(deny_domains=BY_NAME, bandwidth_mbps=16), "both")
    assert 2 * fast.most(2) < fast.got + fast.sent and min(fast.got, fast.sent) > 0, fast
