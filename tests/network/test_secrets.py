"""Secrets of real guests: their hosts hear the values, and nothing that a guest can read has them."""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import re
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pandastack.host import procfs
from pandastack.host.app import open_host
from pandastack.host.egress.authority import Issuer, make_ca
from pandastack.host.network import namespace
from pandastack.host.readiness import run_to_end
from pandastack.host.trust import TRUSTING
from pandastack.model.clock import Clock
from pandastack.model.egress import BoundSecret, Egress
from pandastack.model.host import VmSpec
from pandastack.testing.fixtures import LeakCheck
from pandastack.testing.real import small_host
from pandastack.testing.server import PROGRAM, running_server
from tests.api.conftest import World
from tests.host.egress.test_process import NOBODY, looked_into
from tests.network.test_names import others
from tests.network.world import INTERNET, ROUTER, SERVERS, name_server
from tests.shape.checkout import ROOT
from tests.vm.conftest import quiet

__all__ = ["others"]

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.root]

BOUND, OTHER = "api.bound.example", "other.example"
GUIDED = "api.example.com"
TABLE = {BOUND: SERVERS[0], OTHER: SERVERS[1], GUIDED: SERVERS[2]}
VALUE = "sk-live-value.that/no=guest+has"
PLAIN = "sk-live-value.that/every=guest+has"
SECRETS = {"TOKEN": {"value": VALUE, "hosts": ["*.bound.example"]}}
CURL = "curl -sS --max-time 20"
STARS = "*" * len(VALUE)

GUIDE = ROOT / "docs" / "how-to" / "secrets.md"
CONSOLE = re.compile(r"^\$ .*$", re.MULTILINE)

NODE = (
    'fetch("https://api.bound.example/node", {headers: {"x-api-key": process.env.TOKEN}})'
    ".then(answer => answer.text()).then(console.log)"
)
PYTHON = (
    "import os, urllib.request; "
    'asked = urllib.request.Request("https://api.bound.example/python"); '
    'asked.add_header("x-api-key", os.environ["TOKEN"]); '
    "print(urllib.request.urlopen(asked, timeout=20).read().decode())"
)

KEPT = """
import http.client, os, time
made = http.client.HTTPSConnection("api.bound.example", timeout=20)
for path in ("/first", "/second"):
    try:
        made.request("GET", path, headers={"x-api-key": os.environ["TOKEN"]})
        made.getresponse().read()
    except OSError:
        print("ended")
    while not os.path.exists("/tmp/go"):
        time.sleep(0.05)
"""
"""Two requests on one connection."""
BY_HASH = (
    'import socket, ssl; context = ssl.create_default_context(capath="/etc/ssl/certs"); '
    'made = socket.create_connection(("api.bound.example", 443)); '
    'context.wrap_socket(made, server_hostname="api.bound.example")'
)

QUIC = """
import socket
made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
made.settimeout(5)
made.connect(("198.51.100.10", 443))
try:
    made.send(b"x")
    made.recv(1)
except OSError as error:
    print(type(error).__name__, error.errno)
"""


class Internet:
    """Two web servers with certificates that this world trusts, which note what they hear."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, dict[str, str]]] = []
        """The name of the server, the path, and the headers in lower case."""

    async def answer(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Note every request, and repeat what it was authorized by, in a header and in the body."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().strip().split("\r\n")
                pairs = (line.partition(":") for line in lines)
                headers = {key.lower(): value.strip() for key, _, value in pairs}
                self.heard.append((name, first.split()[1], headers))
                said = headers.get("authorization", "")
                body = f"{said}\n".encode()
                words = f"HTTP/1.1 200 OK\r\nX-Said: {said}\r\nContent-Length: {len(body)}\r\n\r\n"
                writer.write(words.encode() + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.transport.abort()

    def said(self, path: str) -> list[tuple[str, str | None]]:
        """Which servers were asked for a path, and what was in the headers that carry secrets."""
        return [
            (name, headers.get("authorization") or headers.get("x-api-key"))
            for name, asked, headers in self.heard
            if asked == path
        ]


@pytest.fixture
async def internet(ground: None, tmp_path: Path) -> AsyncIterator[Internet]:
    """A name server and two web servers; the authority that signs them is in `trusted.pem`."""
    clock = Clock(time.time, time.monotonic)
    authority = make_ca(datetime.now(UTC), "a public authority")
    (tmp_path / "trusted.pem").write_text(authority.certificate)
    issuer, made = Issuer(authority, clock), Internet()
    async with AsyncExitStack() as stack:
        stack.enter_context(name_server(TABLE))
        for name, address in TABLE.items():
            with namespace.inside(INTERNET):
                listener = await asyncio.start_server(
                    partial(made.answer, name), address, 443, ssl=issuer.context(name)
                )
            stack.callback(listener.close)
        yield made


@pytest.fixture
async def world(
    leak_check: LeakCheck, images: None, internet: Internet, tmp_path: Path
) -> AsyncIterator[World]:
    """A server over real machines in that world, which can be stopped and started again."""
    settings = {"name_servers": (f"{ROUTER}:53",), "trusted_certificates": tmp_path / "trusted.pem"}
    world = World(tmp_path, lambda state: open_host(small_host(state, **settings), quiet))
    await world.start()
    try:
        yield world
    finally:
        await world.host.end_all()
        await world.stop()


async def create(world: World, **body: object) -> str:
    """A sandbox that resolves names: the egress process of a server that has just begun takes a moment."""
    box = str((await world.create(persistent=True, **body))["id"])
    await run(world, box, f"for n in $(seq 100); do getent hosts {BOUND} && exit; sleep 0.2; done; exit 1")
    return box


async def run(world: World, box: str, line: str) -> str:
    """What a command says that ends well."""
    answer = await world.http.post(
        f"/v1/sandboxes/{box}/exec", json={"cmd": line, "timeout_seconds": 60}, timeout=90
    )
    told = answer.json()
    assert answer.status_code == 200 and told["exit_code"] == 0, told
    return str(told["stdout"])


async def bearer(world: World, box: str, path: str, placeholder: str = "$TOKEN", name: str = BOUND) -> str:
    """Ask a server, by curl, as a program does that has the secret; what it says."""
    insecure = "-k" if name == OTHER else ""
    line = f'{CURL} {insecure} -i -H "Authorization: Bearer {placeholder}" https://{name}{path}'
    return await run(world, box, line)


async def patiently(world: World, box: str, path: str) -> None:
    """Ask until there is an answer: the egress process starts anew, and until then nobody resolves names."""
    ask = f'{CURL} -H "x-api-key: $TOKEN" https://{BOUND}{path}'
    await run(world, box, f"for n in $(seq 20); do {ask} && exit 0; sleep 0.5; done; exit 1")


async def secrets(world: World, box: str) -> dict[str, dict[str, Any]]:
    answer = await world.http.get(f"/v1/sandboxes/{box}/secrets")
    assert answer.status_code == 200, answer.text
    return {each["name"]: each for each in answer.json()["secrets"]}


def egress_processes(others: set[int]) -> list[int]:
    """Those that this program started, and none of the `others`, of servers that run all the time."""
    found = procfs.children(os.getpid()) - others
    return [pid for pid in found if b"host.egress" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def user_of(pid: int) -> int:
    words = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"^Uid:\t(\d+)", words, re.MULTILINE)[0])


def holding(folder: Path, words: str) -> set[str]:
    """Which files below a folder have these bytes in them."""
    found = set()
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_size:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                if data.find(words.encode()) >= 0:
                    found.add(path.name)
    return found


async def test_hosts_hear_the_value_and_the_guest_never_has_it(
    world: World, internet: Internet, tmp_path: Path
) -> None:
    box = await create(world, secrets=SECRETS, env={"PLAIN": PLAIN})
    placeholder = (await secrets(world, box))["TOKEN"]["placeholder"]
    assert (await run(world, box, "echo $TOKEN")).strip() == placeholder and placeholder.startswith("psk_")
    answer = await bearer(world, box, "/bearer")
    assert internet.said("/bearer") == [(BOUND, f"Bearer {VALUE}")]
    assert answer.count(STARS) == 2 and VALUE not in answer  # in a header and in the body
    await run(world, box, f'{CURL} -u "me:$TOKEN" https://{BOUND}/basic')
    assert internet.said("/basic") == [(BOUND, "Basic bWU6c2stbGl2ZS12YWx1ZS50aGF0L25vPWd1ZXN0K2hhcw==")]
    await bearer(world, box, "/elsewhere", name=OTHER)
    assert internet.said("/elsewhere") == [(OTHER, f"Bearer {placeholder}")]
    trace = await run(world, box, f'{CURL} -X TRACE -H "X: $TOKEN" https://{BOUND}/trace || echo refused')
    assert "refused" in trace and internet.said("/trace") == []
    everywhere = await run(world, box, "cat /proc/[0-9]*/environ | tr '\\0' '\\n'; env; ls /")
    assert placeholder in everywhere and PLAIN in everywhere and VALUE not in everywhere
    taken = await world.http.post(f"/v1/sandboxes/{box}/snapshots", json={}, timeout=90)
    assert taken.is_success, taken.text
    assert {"pages", "vm.json"} <= holding(tmp_path, PLAIN)  # the negative control
    assert holding(tmp_path, VALUE) == set() != holding(tmp_path, placeholder)
    for part in ("/egress/receipts", "/events", "/secrets", ""):
        told = (await world.http.get(f"/v1/sandboxes/{box}{part}")).text
        assert VALUE not in told, part


async def test_programs_of_a_guest_trust_whoever_puts_it_in(world: World, internet: Internet) -> None:
    plain = await create(world)
    refused = await run(world, plain, f"{CURL} https://{OTHER}/ 2>&1 || true")
    assert "certificate" in refused and not set(TRUSTING) & set((await run(world, plain, "env")).split("="))
    box = await create(world, secrets=SECRETS)
    await run(world, box, f"python3 -c '{PYTHON}'")
    await run(world, box, f"node -e '{NODE}'")
    assert internet.said("/python") == internet.said("/node") == [(BOUND, VALUE)]
    assert "certificate" in await run(world, box, f"{CURL} https://{OTHER}/ 2>&1 || true"), (
        "only for its hosts"
    )
    await run(world, box, f"python3 -c '{BY_HASH}'")


async def test_the_process_that_has_values_has_a_user_that_no_machine_has(
    others: set[int], world: World
) -> None:
    """Also when its server has been started anew; and no user but root's looks into it."""
    box = await create(world, secrets=SECRETS)
    (process,) = egress_processes(others)
    own, machine = (user_of(pid) for pid in (process, world.host.vms.find(box).machine.pid))
    assert own not in (0, NOBODY, machine) and machine not in (0, NOBODY)
    assert [looked_into(process, user) for user in (NOBODY, machine, own)] == ["", "", ""]
    assert looked_into(process, 0) == "read trace"
    await world.stop()
    await world.start()
    await run(world, box, f"for n in $(seq 100); do getent hosts {BOUND} && exit; sleep 0.2; done; exit 1")
    (another,) = egress_processes(others)
    assert user_of(another) not in (0, NOBODY, machine), "its machine has run on"


async def test_there_is_no_quic_while_there_are_secrets(world: World) -> None:
    """Else a host's own server says that nobody listens there."""
    box = await create(world, secrets=SECRETS)
    assert "ConnectionRefused" not in await run(world, box, f"python3 -c '{QUIC}'")
    await world.http.delete(f"/v1/sandboxes/{box}/secrets/TOKEN")
    assert "ConnectionRefused" in await run(world, box, f"python3 -c '{QUIC}'")


async def test_a_fork_has_placeholders_of_its_own(world: World, internet: Internet) -> None:
    parent = await create(world, secrets=SECRETS)
    answer = await world.http.post(f"/v1/sandboxes/{parent}/fork", json={}, timeout=90)
    assert answer.is_success, answer.text
    child = str(answer.json()["children"][0])
    own = {box: (await secrets(world, box))["TOKEN"]["placeholder"] for box in (parent, child)}
    assert own[parent] != own[child]
    for box, other in ((parent, child), (child, parent)):
        assert (await run(world, box, "echo $TOKEN")).strip() == own[box]
        await bearer(world, box, f"/{box}/own")
        assert internet.said(f"/{box}/own") == [(BOUND, f"Bearer {VALUE}")]
        await bearer(world, box, f"/{box}/other", own[other])
        assert internet.said(f"/{box}/other") == [(BOUND, f"Bearer {own[other]}")], "it is nothing here"
    taken = await world.http.post(f"/v1/sandboxes/{parent}/snapshots", json={}, timeout=90)
    anew = await create(world, from_snapshot=taken.json()["id"])
    assert await secrets(world, anew) == {}
    assert (await run(world, anew, "echo $TOKEN")).strip() == ""


async def test_a_fork_keeps_what_its_source_loses_and_the_other_way_round(
    world: World, internet: Internet
) -> None:
    """Whose secret is changed or removed, and who is deleted, changes nothing for the other."""
    parent = await create(world, secrets={**SECRETS, "SECOND": SECRETS["TOKEN"]})
    answer = await world.http.post(f"/v1/sandboxes/{parent}/fork", json={}, timeout=90)
    child = str(answer.json()["children"][0])
    held = await secrets(world, child)
    assert (await world.http.delete(f"/v1/sandboxes/{child}/secrets/SECOND")).status_code == 204
    assert set(await secrets(world, parent)) == {"TOKEN", "SECOND"}
    another = {**SECRETS["TOKEN"], "value": "sk-live-another.value"}
    assert (await world.http.put(f"/v1/sandboxes/{parent}/secrets/TOKEN", json=another)).is_success
    await bearer(world, child, "/changed")
    assert (await world.http.delete(f"/v1/sandboxes/{parent}/secrets/TOKEN")).status_code == 204
    await bearer(world, child, "/removed")
    assert (await world.http.delete(f"/v1/sandboxes/{parent}")).is_success
    await bearer(world, child, "/deleted")
    for path in ("/changed", "/removed", "/deleted"):
        assert internet.said(path) == [(BOUND, f"Bearer {VALUE}")], path
    assert await secrets(world, child) == {"TOKEN": held["TOKEN"]}


async def test_names_below_which_are_strangers_are_refused(world: World) -> None:
    wish = {**SECRETS["TOKEN"], "hosts": [BOUND, "*.co.uk"]}
    refused = await world.http.post("/v1/sandboxes", json={"template": "base", "secrets": {"TOKEN": wish}})
    box = str((await world.create())["id"])
    for answer in (refused, await world.http.put(f"/v1/sandboxes/{box}/secrets/TOKEN", json=wish)):
        assert answer.status_code == 400 and "*.co.uk" in answer.text, answer.text
    assert await secrets(world, box) == {}


async def test_it_outlives_the_server_the_egress_process_and_sleep(world: World, internet: Internet) -> None:
    others = procfs.children(os.getpid())
    box = await create(world, secrets=SECRETS)
    held = await secrets(world, box)
    ask = f'curl -sk -m 2 --resolve {BOUND}:443:{TABLE[BOUND]} -H "x-api-key: $TOKEN"'
    always = f"while :; do {ask} https://{BOUND}/always; done"  # whoever answers, and however it is resolved
    await run(world, box, f"nohup sh -c '{always}' > /dev/null 2>&1 < /dev/null &")
    while not internet.said("/always"):
        await asyncio.sleep(0.05)
    await world.stop()
    await world.start()
    await patiently(world, box, "/restarted")
    (process,) = egress_processes(others)
    os.kill(process, signal.SIGKILL)
    await patiently(world, box, "/killed")
    assert (await world.http.post(f"/v1/sandboxes/{box}/hibernate", timeout=90)).is_success
    await bearer(world, box, "/woken")
    assert internet.said("/woken") == [(BOUND, f"Bearer {VALUE}")]
    for path in ("/restarted", "/killed", "/always"):
        assert {value for _, value in internet.said(path)} == {VALUE}, "no placeholder left in its place"
    assert await secrets(world, box) == held


async def test_a_host_that_was_not_told_yet_lets_no_placeholder_out(
    images: None, internet: Internet, state: Path, tmp_path: Path
) -> None:
    """It notes that there are secrets, and not which. Of a guest without any it lets requests through."""
    config = small_host(state, name_servers=(f"{ROUTER}:53",), trusted_certificates=tmp_path / "trusted.pem")
    bound = BoundSecret("TOKEN", (BOUND,), "psk_0123456789abcdef", VALUE)
    async with open_host(config, quiet) as host:
        for name, given in (("told", (bound,)), ("plain", ())):
            await host.start(VmSpec(name, "base", secrets=given))
            ask = f"curl -sk -m 2 --resolve {BOUND}:443:{TABLE[BOUND]} -H x-api-key:{bound.placeholder}"
            line = f"while :; do {ask} https://{BOUND}/{name}; sleep 0.1; done"
            code, words = await run_to_end(
                host.guest(name), f"({line}) > /dev/null 2>&1 < /dev/null &", "ask"
            )
            assert code == 0, words
        while len({path for _, path, _ in internet.heard}) < 2:
            await asyncio.sleep(0.05)
    assert (BOUND, VALUE) in internet.said("/told") and VALUE not in (state / "v/told/vm.json").read_text()
    async with open_host(config, quiet) as host:
        try:
            internet.heard.clear()
            while len(internet.said("/plain")) < 5:
                await asyncio.sleep(0.05)
            assert internet.said("/told") == []
            await host.set_egress("told", Egress(), (bound,))
            while not internet.said("/told"):
                await asyncio.sleep(0.05)
            assert set(internet.said("/told")) == {(BOUND, VALUE)}
        finally:
            await host.end_all()


async def test_what_is_set_and_removed_while_it_runs_holds_at_once(
    world: World, internet: Internet, tmp_path: Path
) -> None:
    box = await create(world)
    one = f"/v1/sandboxes/{box}/secrets/TOKEN"
    wish = SECRETS["TOKEN"]
    made = (await world.http.put(one, json=wish)).json()
    assert VALUE not in json.dumps(made)
    await bearer(world, box, "/set")
    another = "sk-live-another.value"
    assert (await world.http.put(one, json={**wish, "value": another})).json()["placeholder"] == made[
        "placeholder"
    ]
    await bearer(world, box, "/another")
    assert internet.said("/set") + internet.said("/another") == [
        (BOUND, f"Bearer {VALUE}"),
        (BOUND, f"Bearer {another}"),
    ]
    denied = {"deny_domains": ["*.bound.example"]}
    assert (await world.http.put(f"/v1/sandboxes/{box}/egress", json=denied)).is_success
    assert "denied" in await run(world, box, f"{CURL} https://{BOUND}/denied >&2 || echo denied")
    assert (await world.http.put(f"/v1/sandboxes/{box}/egress", json={})).is_success
    await bearer(world, box, "/allowed")
    assert internet.said("/denied") == [] and internet.said("/allowed") == [(BOUND, f"Bearer {another}")]
    kept = asyncio.create_task(run(world, box, f"python3 -c '{KEPT}'"))
    while not internet.said("/first"):
        await asyncio.sleep(0.05)
    for _ in range(2):
        assert (await world.http.delete(one)).status_code == 204
    await run(world, box, "touch /tmp/go")
    assert "ended" in await kept
    assert internet.said("/first") == [(BOUND, another)] and internet.said("/second") == []
    assert await secrets(world, box) == {}
    await run(world, box, f'{CURL} -k -H "x-api-key: {made["placeholder"]}" https://{BOUND}/removed')
    assert internet.said("/removed") == [(BOUND, made["placeholder"])]
    assert holding(tmp_path, another) == holding(tmp_path, VALUE) == set()


async def test_the_guide_does_what_it_says(
    leak_check: LeakCheck, images: None, internet: Internet, tmp_path: Path
) -> None:
    """Line by line, in a shell, against a server of its own."""
    config = tmp_path / "config.toml"
    trusted = f'trusted_certificates = "{tmp_path}/trusted.pem"'
    config.write_text(
        f'[host]\nname_servers = ["{ROUTER}:53"]\nnetworks_ready = 2\nrehearse = false\n{trusted}\n'
    )
    typed = [line.removeprefix("$ ") for line in CONSOLE.findall(GUIDE.read_text("utf-8"))]
    script = "set -euo pipefail\n" + "\n".join(typed)
    with running_server(tmp_path, "--driver", "qemu", "--config", str(config)) as server:
        shell = await asyncio.create_subprocess_exec(
            "bash",
            "-c",
            script,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={
                **os.environ,
                "PATH": f"{PROGRAM.parent}:{os.environ['PATH']}",
                "PANDASTACK_API": server.url,
                "PANDASTACK_API_KEY": server.token,
            },
        )
        told = (await shell.communicate(f"{VALUE}\n".encode()))[0].decode()
        assert shell.returncode == 0, told
        assert internet.said("/v1/models") == [(GUIDED, f"Bearer {VALUE}")]
        assert told.count("psk_") >= 4 and VALUE not in told + server.log.read_text("utf-8")
