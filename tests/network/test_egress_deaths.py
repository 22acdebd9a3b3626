"""The process that knows names, killed: while it carries bytes, and while it is told another policy."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator

import pytest

from pandastack.host import procfs
from pandastack.host.app import LocalHost
from pandastack.model.egress import Egress
from pandastack.testing.fixtures import eventually
from tests.network.test_names import TABLE, cmdline, fetch, others
from tests.network.test_reach import start
from tests.network.world import SERVE, SERVERS, name_server, program

__all__ = ["others"]

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(180)]

ALLOWED, OTHER = "http://allowed.example/", "http://other.example/"
ENDLESS = """
import socket, threading
def pour(s):
    try:
        s.recv(4096)
        s.sendall(b"HTTP/1.1 200 OK\\r\\ncontent-length: 999999999\\r\\n\\r\\n")
        while True:
            s.sendall(b"x" * 1000)
            threading.Event().wait(0.01)
    except OSError:
        s.close()
listener = socket.create_server(("0.0.0.0", 8080))
print("ready")
while True:
    threading.Thread(target=pour, args=(listener.accept()[0],), daemon=True).start()
"""
"""Answers for ever."""


@pytest.fixture
def servers(ground: None) -> Iterator[Callable[[], set[str]]]:
    with name_server(TABLE) as asked, program(SERVE), program(ENDLESS):
        yield asked


def the_process(others: set[int]) -> int:
    """The egress process of this test's host, which is one."""
    found = [pid for pid in procfs.children(os.getpid()) - others if b"host.egress" in cmdline(pid)]
    assert len(found) == 1
    return found[0]


async def settled(host: LocalHost, url: str, wanted: str) -> None:
    """It is fetched as wanted, soon: a process that has ended is started anew."""
    for _ in range(20):
        words = await fetch(host, url)
        if wanted in words:
            return
        assert "failed" in words
    pytest.fail(words)


async def test_a_transfer_ends_with_its_process_and_nothing_is_let_through_without_one(
    others: set[int], servers: Callable[[], set[str]], host: LocalHost
) -> None:
    await start(host, egress=Egress(allow_domains=("allowed.example",)))
    assert await fetch(host, ALLOWED) == "served allowed.example"
    before = the_process(others)
    transfer = asyncio.create_task(fetch(host, "http://allowed.example:8080/"))
    await asyncio.sleep(2.0)
    assert not transfer.done()
    os.kill(before, signal.SIGKILL)
    assert "failed" in await asyncio.wait_for(transfer, 15)
    for url in (OTHER, f"http://{SERVERS[1]}/"):
        assert "failed" in await fetch(host, url), "there may be no process just now"
    await settled(host, ALLOWED, "served")
    assert the_process(others) != before
    assert "failed" in await fetch(host, OTHER)
    assert "other.example" not in servers(), "nobody was asked for it"


@pytest.mark.parametrize("stopped", [True, False])
async def test_a_process_that_dies_while_it_is_told_another_policy(
    stopped: bool, others: set[int], servers: Callable[[], set[str]], host: LocalHost
) -> None:
    """The next process is told the new one, and the change is done."""
    await start(host, egress=Egress(allow_domains=("allowed.example",)))
    assert await fetch(host, ALLOWED) == "served allowed.example"
    process = the_process(others)
    if stopped:
        os.kill(process, signal.SIGSTOP)
    change = asyncio.create_task(host.set_egress("guest", Egress(allow_domains=("other.example",))))
    await asyncio.sleep(0.5)
    assert change.done() is not stopped, "the negative control: it is the process that it waits for"
    os.kill(process, signal.SIGKILL)
    await asyncio.wait_for(change, 5)
    await settled(host, OTHER, "served")
    assert "failed" in await fetch(host, ALLOWED)
    await host.set_egress("guest", Egress(allow_domains=("allowed.example",)))
    await settled(host, ALLOWED, "served")
    await eventually(lambda: the_process(others) > 0)
