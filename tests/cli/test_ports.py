"""`pandastack ports`, `preview` and `forward`, and the same of the SDK, against a whole server."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
import pytest
from tests.cli.conftest import Run
from tests.wire.conftest import PROGRAM, Server

from pandastack import AsyncClient, Client
from pandastack.errors import PandastackError

SERVE = (
    "nohup python3 -m http.server --bind 127.0.0.1 --directory /etc {} >/dev/null 2>&1 & "
    "for n in $(seq 100); do python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", {}))' "
    "2>/dev/null && break; sleep 0.1; done"
)


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(api_url=server.url, api_key=server.token) as client:
        yield client


@pytest.fixture
def port() -> int:
    """One that is free here, where machines of the process driver listen too."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def box(client: Client, port: int) -> Iterator[str]:
    """A sandbox with a web server on its loopback."""
    with client.sandboxes.create("base") as sandbox:
        sandbox.exec(SERVE.format(port, port), check=True)
        yield sandbox.id


@contextmanager
def forwarding(server: Server, box: str, *pairs: str) -> Iterator[list[int]]:
    """The ports here that lead to those of the sandbox."""
    command = [PROGRAM, "forward", box, *pairs]
    with subprocess.Popen(command, env=server.environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in pairs]
            yield [int(found[1]) for line in lines if (found := re.match(r"127\.0\.0\.1:(\d+) ", line))]
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130


def fetch(url: str, host: str | None = None) -> int:
    """The status of an answer."""
    headers = {} if host is None else {"host": host}
    with httpx2.Client(trust_env=False, timeout=20) as visitor:
        return visitor.get(url, headers=headers).status_code


def test_ports_links_and_connections(server: Server, pandastack: Run, box: str, port: int) -> None:
    ports = {each["port"]: each for each in json.loads(pandastack("ports", box, "--json").stdout)}
    assert ports[port]["listening"] is True
    assert f"{port}-{box}.localhost" in pandastack("ports", box).stdout
    link = pandastack("preview", box, str(port), "--path", "/hostname").stdout.strip()
    assert (fetch(f"{link}hostname"), fetch(f"{link}passwd")) == (200, 403)
    with forwarding(server, box, f"0:{port}", f"0:{port}") as here:
        assert len(set(here)) == 2
        for each in here:
            assert fetch(f"http://127.0.0.1:{each}/hostname") == 200


@pytest.mark.parametrize("word", ["", "x", "0:0", "1:2:3", "65536", "1:65536", "-1"])
def test_what_is_no_pair_of_ports(pandastack: Run, word: str) -> None:
    assert "ports" in pandastack("forward", "any", "--", word, status=2).stderr


def test_the_blocking_client(client: Client, box: str, port: int) -> None:
    sandbox = client.sandboxes.get(box)
    assert sandbox.expose(port, "web")["label"] == "web"
    assert sandbox.preview_urls()[port] == f"http://{port}-{box}.localhost:8081"
    sandbox.hide(port)
    assert {each["port"]: each["label"] for each in sandbox.ports()}[port] is None
    client.preview_host = "p.example.com"
    assert sandbox.preview_url(port) == f"https://{port}-{box}.p.example.com"
    with pytest.raises(ValueError, match="65536"):
        sandbox.preview_url(65_536)
    with sandbox.connect(port) as connection:
        connection.write(b"GET /hostname HTTP/1.0\r\n\r\n")
        got = b""
        while piece := connection.read():
            got += piece
    assert got.startswith(b"HTTP/1.0 200")
    with pytest.raises(PandastackError, match="nothing listens"), sandbox.connect(1):
        pass


@pytest.mark.anyio
async def test_the_asynchronous_client(server: Server, box: str, port: int) -> None:
    async with AsyncClient(api_url=server.url, api_key=server.token) as client:
        sandbox = await client.sandboxes.get(box)
        made = await sandbox.preview(port, ttl_seconds=60)
        assert made["port"] == port
        async with sandbox.connect(port) as connection:
            await connection.write(b"GET /hostname HTTP/1.0\r\n\r\n")
            await connection.end()
            assert (await connection.read()).startswith(b"HTTP/1.0 200")


def test_the_gateway_of_a_server(server: Server, box: str, port: int) -> None:
    """The whole way in, on the loop that servers run on: the log tells where the gateway is."""
    deadline = time.monotonic() + 10
    found = None
    while found is None:
        found = re.search(r"previews: http://127\.0\.0\.1:(\d+)", server.log())
        assert time.monotonic() < deadline
    url = f"http://127.0.0.1:{found[1]}/hostname"
    assert fetch(url, f"{port}-{box}.localhost") == 200
    assert fetch(url, "other.localhost") == 421
