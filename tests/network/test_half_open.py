"""TCP connections of a sandbox that is forked: its own go on, and its children have no part in them."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import pytest

from pandastack.host.network import namespace
from pandastack.host.readiness import run_to_end
from tests.api.conftest import World
from tests.network.test_policies import world
from tests.network.world import SERVERS, sniffer, space_of

__all__ = ["world"]

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(300)]

HOLD = f"""
import os, socket
s = socket.create_connection(("{SERVERS[0]}", 7), timeout=5)
os.mkfifo("/dev/shm/ask"), os.mkfifo("/dev/shm/say")
while True:
    with open("/dev/shm/ask") as asked:
        word = asked.read()
    try:
        s.sendall(word.encode())
        got = s.recv(100).decode() or "ended"
    except OSError:
        got = "broken"
    with open("/dev/shm/say", "w") as said:
        said.write(got)
"""
"""Has a connection to a server outside, and says over it what it is told."""

SERVE = """
import os, socket
listener = socket.create_server(("127.0.0.1", 8000))
s = listener.accept()[0]
try:
    while data := s.recv(100):
        s.sendall(data)
        open("/dev/shm/served", "w").close()
finally:
    open("/dev/shm/ended", "w").close()
"""
"""Takes one connection from outside and echoes."""

LOOSE = "/proc/sys/net/netfilter/nf_conntrack_tcp_loose"


async def run(world: World, box: str, code: str, ready: str) -> None:
    """A program that goes on in a sandbox, ready when this file is there."""
    text = base64.b64encode(code.encode()).decode()
    line = f"python3 -c \"import base64; exec(base64.b64decode('{text}'))\""
    began = await world.http.post(f"/v1/sandboxes/{box}/processes", json={"cmd": line})
    assert began.status_code == 201, began.text
    await say(world, box, f"until {ready}; do sleep 0.05; done")


async def say(world: World, box: str, line: str) -> str:
    told = await world.exec(box, ["timeout", "15", "sh", "-c", line])
    assert told["exit_code"] == 0, told
    return str(told["stdout"]).strip()


async def over_it(world: World, box: str, word: str) -> str:
    """What comes back when a sandbox says a word over the connection that it has."""
    return await say(world, box, f"echo '{word} ' > /dev/shm/ask; cat /dev/shm/say")


async def forked(world: World, box: str, count: int) -> list[str]:
    answer = await world.http.post(f"/v1/sandboxes/{box}/fork", json={"count": count})
    assert answer.status_code == 201, answer.text
    return list(answer.json()["children"])


async def test_a_child_says_nothing_over_a_connection_of_its_parents(world: World) -> None:
    """Out of a sandbox. The last child shows that it would be heard: its kernel lets in what it never saw."""
    with sniffer("eth0") as heard:
        box = (await world.create())["id"]
        await run(world, box, HOLD, "test -p /dev/shm/say")
        assert await over_it(world, box, "pandastack-parent") == "pandastack-parent"
        first, loose = await forked(world, box, 2)
        assert await over_it(world, first, "pandastack-child") == "broken", "at once"
        assert await over_it(world, box, "pandastack-again") == "pandastack-again"
        with namespace.inside(space_of(world.host, loose)):
            Path(LOOSE).write_text("1")
        assert await over_it(world, loose, "pandastack-loose") == "broken", "the server knows of none"
        assert await over_it(world, box, "pandastack-last") == "pandastack-last"
        words = heard()
        assert {"pandastack-parent", "pandastack-again", "pandastack-last"} <= words
        assert "pandastack-child" not in words
        assert "pandastack-loose" in words, "the negative control"
        fresh = await say(world, first, f'python3 -c "{FRESH}"')
        assert fresh == "fresh", "a child has connections of its own"


FRESH = (
    f"import socket; s = socket.create_connection(('{SERVERS[0]}', 7), 5); s.sendall(b'fresh'); "
    "print(s.recv(9).decode())"
)


async def test_a_child_has_no_part_in_who_is_connected_to_its_parent(world: World) -> None:
    """Into a sandbox: its service's end is broken in the child, where nobody is at the other one."""
    box = (await world.create())["id"]
    await run(world, box, SERVE, "grep -q ':1F40 ' /proc/net/tcp")
    async with world.host.guest(box).dial(8000) as connection:
        await connection.write(b"before")
        assert await connection.read() == b"before"
        (child,) = await forked(world, box, 1)
        await say(world, child, "until test -e /dev/shm/ended; do sleep 0.05; done")
        await connection.write(b"after")
        async with asyncio.timeout(10):
            assert await connection.read() == b"after", "of the parent, and nothing of the child"
        assert await say(world, box, "test -e /dev/shm/ended || echo open") == "open"
    await say(world, box, "until test -e /dev/shm/ended; do sleep 0.05; done")
    code, _ = await run_to_end(world.host.guest(child), "test -e /dev/shm/served", "served")
    assert code == 0, "the child had it once"
