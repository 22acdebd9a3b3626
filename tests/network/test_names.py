"""Policies of names, kept for a real guest: by the resolver, by the proxy, and by the kernel behind them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pandastack.host import procfs
from pandastack.host.app import LocalHost
from pandastack.host.readiness import run_to_end
from pandastack.model.egress import Egress
from tests.network.probe import reach
from tests.network.test_reach import OPEN, start
from tests.network.world import SERVE, SERVERS, name_server, program

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.root]

FIRST, SECOND, _ = SERVERS
TABLE = {
    "allowed.example": FIRST,
    "other.example": SECOND,
    "inside.example": "10.77.0.1",
    "both.example": f"{FIRST}+169.254.169.254",
}
FETCH = """
import sys, urllib.request
request = urllib.request.Request(sys.argv[1], headers={"Host": sys.argv[2]} if sys.argv[2:] else {})
try:
    print(urllib.request.urlopen(request, timeout=8).read().decode())
except Exception as error:
    print("failed:", error)
"""


@pytest.fixture
def asked(ground: None) -> Iterator[Callable[[], set[str]]]:
    """The names that the world's name server was asked for; web servers are there too."""
    with name_server(TABLE) as asked, program(SERVE):
        yield asked


@pytest.fixture
def others() -> set[int]:
    """Servers that other tests share, and theirs."""
    return procfs.children(os.getpid())


def cmdline(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


async def fetch(host: LocalHost, *arguments: str) -> str:
    line = f"python3 -c '{FETCH}' {' '.join(arguments)}"
    code, words = await run_to_end(host.guest("guest"), line, f"fetch-{time.time_ns()}")
    assert code == 0, words
    return words.strip()


async def test_a_guest_of_an_open_policy_resolves_and_reaches_names(
    asked: Callable[[], set[str]], host: LocalHost
) -> None:
    """The negative control of the others."""
    await start(host)
    assert await fetch(host, "http://other.example/") == "served other.example"
    assert await fetch(host, f"http://{SECOND}/", "allowed.example") == "served allowed.example"
    assert "failed" in await fetch(host, "http://inside.example/")
    named = {each.name: each for each in (await host.receipts("guest")).receipts if each.address == SECOND}
    assert named["other.example"].allowed and named["other.example"].bytes_in > 100
    assert "other.example" in asked()


async def test_only_allowed_names_are_resolved_and_reached(
    asked: Callable[[], set[str]], host: LocalHost
) -> None:
    await start(host, egress=Egress(allow_domains=("allowed.example", "inside.example", "both.example")))
    assert await fetch(host, "http://allowed.example/") == "served allowed.example"
    assert "failed" in await fetch(host, "http://other.example/")
    assert "failed" in await fetch(host, "http://secret-in-a-label.other.example/")
    assert "failed" in await fetch(host, "http://inside.example/")
    assert "failed" in await fetch(host, "http://both.example/")
    assert "403" in await fetch(host, f"http://{FIRST}/", "other.example")
    assert await fetch(host, f"http://{SECOND}/", "allowed.example") == "served allowed.example", (
        "where we resolve it"
    )
    assert {name for name in asked() if "other" in name} == set(), "nobody is asked for names that are denied"
    assert await reach(host, "guest", FIRST, SECOND) == {FIRST: set(), SECOND: set()}
    told = [
        (each.name, each.allowed)
        for each in (await host.receipts("guest")).by_name
        if each.protocol == "http"
    ]
    assert ("allowed.example", True) in told and ("other.example", False) in told


async def test_a_policy_of_names_can_be_changed_while_it_runs(
    asked: Callable[[], set[str]], host: LocalHost
) -> None:
    await start(host)
    assert await fetch(host, "http://other.example/") == "served other.example"
    await host.set_egress("guest", Egress(deny_domains=("*.example", "other.example")))
    assert "failed" in await fetch(host, "http://other.example/")
    assert (await reach(host, "guest", FIRST, patience=8.0))[FIRST] == OPEN
    await host.set_egress("guest", Egress(allow_domains=("other.example",)))
    assert await fetch(host, "http://other.example/") == "served other.example"


async def test_an_egress_process_that_dies_is_started_anew(
    others: set[int], asked: Callable[[], set[str]], host: LocalHost
) -> None:
    await start(host, egress=Egress(allow_domains=("allowed.example",)))
    assert await fetch(host, "http://allowed.example/") == "served allowed.example"
    processes = [pid for pid in procfs.children(os.getpid()) - others if b"host.egress" in cmdline(pid)]
    assert len(processes) == 1
    os.kill(processes[0], signal.SIGKILL)
    for _ in range(20):
        if (words := await fetch(host, "http://allowed.example/")) == "served allowed.example":
            break
        assert "failed" in words
    assert words == "served allowed.example"
    assert "failed" in await fetch(host, "http://other.example/")
