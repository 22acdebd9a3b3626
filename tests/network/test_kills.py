"""Servers and machines that are killed in the middle: of a change of policy, of a connection from outside."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
import websockets
from msgspec import Struct
from websockets.exceptions import ConnectionClosed

from pandastack.cli.state import holder
from pandastack.host.network import namespace
from tests.api.conftest import TOKEN
from tests.api.test_kills import ALL
from tests.network import probe
from tests.network.test_slots import links
from tests.network.world import SERVERS, sniffer
from tests.vm.yard import Yard

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(300)]

FIRST, SECOND, THIRD = SERVERS
Policy = dict[str, Any]
ONLY_FIRST: Policy = {"allow_cidrs": [f"{FIRST}/32"]}
ONLY_SECOND: Policy = {"allow_cidrs": [f"{SECOND}/32"]}
BY_NAME: Policy = {"allow_cidrs": [f"{FIRST}/32"], "allow_domains": ["nobody.example"]}
NOTHING: Policy = {"internet": "off"}

GNAW = """
import os, socket, time
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
n = 0
while True:
    n += 1
    for attempt in (sent, tried):
        try:
            attempt(b"pandastack-gnaws ")
        except OSError:
            pass
    with open("/dev/shm/gnaws", "w") as file:
        file.write(str(n))
    os.replace("/dev/shm/gnaws", "/dev/shm/gnawed")
    time.sleep(0.002)
"""
"""Tries without end to reach an address that no policy here allows, by UDP and TCP."""

TRIED = f"""
def sent(word):
    udp.sendto(word, ("{THIRD}", 7))
def tried(word):
    with socket.socket() as s:
        s.settimeout(0.3)
        s.connect(("{THIRD}", 7))
        s.send(word)
"""
CHAINS = ("most", "pace", "decide", "lead")
"""What is a policy's of a slot's rules."""


@pytest.fixture
def heard(ground: None) -> Iterator[Callable[[], set[str]]]:
    """The words of guests that have come out to the internet."""
    with sniffer("eth0") as heard:
        yield heard


@pytest.fixture
async def town(heard: Callable[[], set[str]], yard: Yard) -> AsyncIterator[Yard]:
    """A yard in a network of the test's own, of which nothing is left."""
    yield yard
    assert any((yard.state / "v").iterdir()) or links() == set(), (
        "machines keep their networks, nobody else does"
    )


def kept(yard: Yard, box: str) -> dict[str, list[str]]:
    """What the kernel keeps of a sandbox's policy, as its rules are listed."""
    slot = msgspec.json.decode((yard.state / "v" / box / "vm.json").read_bytes())["slot"]
    within = ["nsenter", f"--net={namespace.path_of(f'panda{slot}')}"]
    told = subprocess.run(
        [*within, "nft", "list", "table", "inet", "sandbox"], capture_output=True, check=True
    )
    found: dict[str, list[str]] = {}
    chain = ""
    for line in map(str.strip, told.stdout.decode().splitlines()):
        if line.startswith("chain "):
            chain = line.split()[1]
        elif line != "}" and chain in CHAINS:
            found.setdefault(chain, []).append(line)
    return found


async def reached(yard: Yard, box: str) -> list[str]:
    """Which servers answer it by UDP, which no proxy comes between."""
    listed = json.dumps([FIRST, SECOND, THIRD])
    told = json.loads(await yard.say(box, f"python3 -c '{probe.PROGRAM}' '{listed}' 7 1.5"))
    return [name for name, how in told.items() if "udp" in how]


async def agree(yard: Yard, box: str) -> Policy:
    """The row of a sandbox and its kernel say the same: what a sandbox has that is made so. The row."""
    row: Policy = await yard.call("GET", f"{ALL}/{box}/egress")
    twin = (await yard.call("POST", ALL, {"template": "base", "egress": row}, 201))["id"]
    assert kept(yard, box) == kept(yard, twin), row
    await yard.call("DELETE", f"{ALL}/{twin}", status=204)
    return row


async def gnawing(yard: Yard, egress: Policy) -> str:
    """A sandbox with this policy that tries without end what it may not."""
    box = await yard.make("gnaws")
    await yard.call("PUT", f"{ALL}/{box}/egress", egress)
    program = GNAW.replace("udp =", f"{TRIED}\nudp =")
    code = base64.b64encode(program.encode()).decode()
    line = f"python3 -c \"import base64; exec(base64.b64decode('{code}'))\""
    await yard.call("POST", f"{ALL}/{box}/processes", {"cmd": line}, 201)
    return box


async def gnawed(yard: Yard, box: str) -> int:
    """How often it has tried so far."""
    return int(await yard.say(box, "until test -s /dev/shm/gnawed; do sleep 0.05; done; cat /dev/shm/gnawed"))


def same(policy: Policy, row: Policy) -> bool:
    """Whether a row says what was asked for."""
    return all(row[name] == value for name, value in policy.items())


CUTS = (
    ("egress.ordered", ONLY_FIRST, ONLY_SECOND),
    ("egress.written", ONLY_FIRST, BY_NAME),
    ("egress.ordered", BY_NAME, ONLY_SECOND),
    ("egress.written", BY_NAME, NOTHING),
    ("egress.ordered", NOTHING, ONLY_FIRST),
)
"""Where the server dies in the change from one policy to another. What was written down holds."""


async def test_a_server_that_dies_in_a_change_of_policy_lets_nothing_through_and_keeps_to_its_row(
    town: Yard, heard: Callable[[], set[str]]
) -> None:
    """Whatever both policies deny is denied all the time; the last change shows that it would be heard."""
    async with town.life():
        box = await gnawing(town, ONLY_FIRST)
    for number, (point, before, after) in enumerate(CUTS, 1):
        async with town.life(f"{point}=sleep:600"):
            tried = await gnawed(town, box)
            asking = town.ask("PUT", f"{ALL}/{box}/egress", after)
            await town.reached(point)
            town.kill()
            (outcome,) = await asyncio.gather(asking, return_exceptions=True)
            assert isinstance(outcome, httpx2.TransportError)
        async with town.life():
            expected = after if point == "egress.written" else before
            assert same(expected, await agree(town, box)), (point, before, after)
            servers = [] if expected is NOTHING else [SECOND if expected is ONLY_SECOND else FIRST]
            assert await reached(town, box) == servers
            assert await gnawed(town, box) > tried, "it has tried all the while"
            await town.check()
            for _, following, _ in CUTS[number : number + 1]:
                await town.call("PUT", f"{ALL}/{box}/egress", following)
    assert "pandastack-gnaws" not in heard()
    async with town.life(leave="destroy"):
        await town.call("PUT", f"{ALL}/{box}/egress", {})
        await gnawed(town, box)
        await asyncio.sleep(0.5)
        await town.call("PUT", f"{ALL}/{box}/egress", NOTHING)
        assert "pandastack-gnaws" in heard(), "the negative control: what comes out is heard"


DELAYS = (0.0, 0.004, 0.008, 0.012, 0.016, 0.024, 0.04, 0.08)
"""Seconds from an order to the server's end."""


async def test_a_server_that_dies_at_any_moment_of_a_change_of_policy(
    town: Yard, heard: Callable[[], set[str]]
) -> None:
    """Between the host's own steps too: its note, the kernel's rules, the process that knows names."""
    policies = (ONLY_FIRST, BY_NAME, ONLY_SECOND, NOTHING)
    async with town.life():
        box = await gnawing(town, ONLY_FIRST)
    rows, outcome = [ONLY_FIRST], None

    async def look() -> None:
        """What was asked last holds, or what was before; what was answered holds."""
        now, asked = await agree(town, box), policies[len(rows) % len(policies)]
        told = not isinstance(outcome, BaseException)
        assert same(asked, now) or (same(rows[-1], now) and not told), (rows[-1], asked, now)
        rows.append(now)
        await town.check()
        assert "pandastack-gnaws" not in heard()

    for turn, delay in enumerate(DELAYS, 1):
        async with town.life():
            if turn > 1:
                await look()
            asking = town.ask("PUT", f"{ALL}/{box}/egress", policies[turn % len(policies)])
            await asyncio.sleep(delay)
            town.kill()
            (outcome,) = await asyncio.gather(asking, return_exceptions=True)
    async with town.life(leave="destroy"):
        await look()
    outcomes = {same(policies[turn % len(policies)], row) for turn, row in enumerate(rows) if turn}
    assert outcomes == {True, False}, "some came too early, some too late"


# -- reaching in

SERVICE = """
import base64, hashlib, socket, threading
def serve(s):
    head = b""
    while b"\\r\\n\\r\\n" not in head:
        piece = s.recv(4096)
        if not piece:
            return
        head += piece
    key = [l.split(b": ")[1] for l in head.split(b"\\r\\n") if l.lower().startswith(b"sec-websocket-key")]
    if head.startswith(b"GET /begun"):
        s.sendall(b"HTTP/1.1 200 OK\\r\\ncontent-length: 1000\\r\\n\\r\\nbegun")
    elif key:
        digest = hashlib.sha1(key[0] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        s.sendall(b"HTTP/1.1 101 Switching Protocols\\r\\nupgrade: websocket\\r\\nconnection: Upgrade\\r\\n"
                  b"sec-websocket-accept: " + base64.b64encode(digest) + b"\\r\\n\\r\\n")
    elif head.startswith(b"GET /fine"):
        s.sendall(b"HTTP/1.1 200 OK\\r\\ncontent-length: 4\\r\\nconnection: close\\r\\n\\r\\nfine")
    while s.recv(4096):
        pass
    s.close()
def run(s):
    try:
        serve(s)
    except OSError:
        s.close()
listener = socket.create_server(("127.0.0.1", 8000))
while True:
    threading.Thread(target=run, args=(listener.accept()[0],), daemon=True).start()
"""
"""Answers `/fine`, begins to answer `/begun`, agrees to a WebSocket, and else holds its tongue."""

OPEN = "grep -cE '^ *[0-9]+: [0-9A-F]{8}:1F40 [0-9A-F:]+ 01 ' /proc/net/tcp || true"
"""How many connections to port 8000 stand, at the service's end."""
PROMPT_SECONDS = 10.0


class Visitors(Struct):
    """Whoever is connected to the service of a sandbox, by every way there is."""

    silent: list[asyncio.Task[httpx2.Response]]
    begun: list[asyncio.Task[httpx2.Response]]
    sockets: list[websockets.ClientConnection]

    async def ends(self) -> list[object]:
        """What each of them was told in the end, which comes promptly."""
        async with asyncio.timeout(PROMPT_SECONDS):
            waiting = [*self.silent, *self.begun, *(socket.recv() for socket in self.sockets)]
            return list(await asyncio.gather(*waiting, return_exceptions=True))


async def serving(yard: Yard) -> str:
    """A sandbox with the service."""
    box = await yard.make("serves")
    code = base64.b64encode(SERVICE.encode()).decode()
    line = f"python3 -c \"import base64; exec(base64.b64decode('{code}'))\""
    await yard.call("POST", f"{ALL}/{box}/processes", {"cmd": line}, 201)
    async with asyncio.timeout(20):
        while not (await yard.http.get(f"{ALL}/{box}/proxy/8000/fine")).is_success:
            await asyncio.sleep(0.1)
    return box


async def visited(yard: Yard, box: str, stack: AsyncExitStack) -> Visitors:
    """Connected by the API and by the gateway: plain requests, a forward, WebSockets."""
    name = f"8000-{box}.localhost"
    key = {"authorization": f"Bearer {TOKEN}"}
    address, port = yard.gateway()
    outside = httpx2.AsyncClient(base_url=f"http://{address}:{port}", headers={"host": name})
    visitor = await stack.enter_async_context(outside)
    path = f"{ALL}/{box}/proxy/8000"
    base = str(yard.http.base_url).replace("http", "ws").rstrip("/")
    asked = {
        kind: [
            asyncio.create_task(yard.http.get(f"{path}/{kind}")),
            asyncio.create_task(visitor.get(f"/{kind}")),
        ]
        for kind in ("silent", "begun")
    }
    sockets = [
        websockets.connect(f"{base}{ALL}/{box}/tcp/8000", additional_headers=key, proxy=None),
        websockets.connect(f"{base}{path}/", additional_headers=key, proxy=None),
        websockets.connect(f"ws://{name}:{port}/", host=address, proxy=None),
    ]
    opened = [await stack.enter_async_context(socket) for socket in sockets]
    async with asyncio.timeout(PROMPT_SECONDS):
        while int(await yard.say(box, OPEN)) < 7:
            await asyncio.sleep(0.1)
    return Visitors(asked["silent"], asked["begun"], opened)


def held(yard: Yard) -> int:
    """How many descriptors the server has open."""
    return len([*Path(f"/proc/{holder(yard.state)}/fd").iterdir()])


async def test_a_server_that_dies_lets_go_of_all_that_it_had_connected(town: Yard) -> None:
    async with town.life():
        box = await serving(town)
    async with town.life(), AsyncExitStack() as stack:
        visitors = await visited(town, box, stack)
        town.kill()
        for end in await visitors.ends():
            assert isinstance(end, httpx2.TransportError | ConnectionClosed), end
    async with town.life(leave="destroy"):
        assert (await town.http.get(f"{ALL}/{box}/proxy/8000/fine")).text == "fine"
        async with asyncio.timeout(PROMPT_SECONDS):
            while int(await town.say(box, OPEN)):
                await asyncio.sleep(0.1)
        await town.look_into(box)
        await town.check()


async def test_visitors_of_a_machine_that_dies_are_told_at_once(town: Yard) -> None:
    """Who waits for an answer gets one, who was being answered is cut off, and nothing is held for either."""
    async with town.life(leave="destroy"):
        other, box = await serving(town), await serving(town)
        before = held(town)
        async with AsyncExitStack() as stack:
            visitors = await visited(town, box, stack)
            assert held(town) > before
            town.kill_machine(box)
            ends = await visitors.ends()
        answers = [end for end in ends if isinstance(end, httpx2.Response)]
        assert [answer.status_code for answer in answers] == [502, 502], answers
        assert all("SIGKILL" in answer.text for answer in answers)
        cut = [end for end in ends if not isinstance(end, httpx2.Response)]
        assert all(isinstance(end, httpx2.TransportError | ConnectionClosed) for end in cut), cut
        late = await town.http.get(f"{ALL}/{box}/proxy/8000/fine")
        assert late.status_code == 409 and "SIGKILL" in late.text
        assert (await town.http.get(f"{ALL}/{other}/proxy/8000/fine")).text == "fine"
        await town.give_up(box)
        async with asyncio.timeout(PROMPT_SECONDS):
            while held(town) > before:
                await asyncio.sleep(0.1)
        await town.check()
