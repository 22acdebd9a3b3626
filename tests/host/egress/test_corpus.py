"""Tricks to reach what a policy forbids: where each of them ends, and that it is the policy that ends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec import Struct

from pandastack.host.egress.orders import Limits
from pandastack.model.egress import Egress

from .wire import ECH, PADDING, get, hello, record, server_name
from .world import Handler, World, all_of, server, world

pytestmark = [pytest.mark.anyio, pytest.mark.root]

GOOD, EVIL, LOCAL = "127.10.0.1", "127.10.0.2", "127.0.0.1"
"""Where the good server, an evil one and one of the host itself stand: the first two are reachable."""
FAR = "203.0.113.9"
"""Where nobody is."""

ZONE: dict[str, list[list[str]]] = {
    "good.test": [[GOOD]],
    "www.good.test": [[GOOD]],
    "deep.down.good.test": [[GOOD]],
    "notgood.test": [[EVIL]],
    "good.test.evil.test": [[EVIL]],
    "evil.test": [[EVIL]],
    "www.evil.test": [[EVIL]],
    "xn--bcher-kva.test": [[GOOD]],
    "alias.test": [["good.test"]],
    "alias-local.test": [["local.test"]],
    "local.test": [[LOCAL]],
    "mixed.test": [[GOOD, LOCAL]],
    "metadata.test": [["169.254.169.254"]],
    "private.test": [["10.0.0.1"]],
    "zero.test": [["0.0.0.0"]],  # noqa: S104 - where a name leads
    "empty.test": [[]],
}

ONE = Egress(allow_domains=("good.test",))
BELOW = Egress(allow_domains=("*.good.test",))
DENY = Egress(deny_domains=("evil.test", "*.evil.test"))
ANY = Egress(allow_domains=("*",))
ADDRESS = Egress(allow_cidrs=(f"{EVIL}/32",))
BOTH = Egress(allow_cidrs=(f"{EVIL}/32",), allow_domains=("good.test",))
OFF = Egress(internet="off")  # type: ignore[arg-type]  # as it is written
OPEN = Egress()


class Case(Struct, frozen=True):
    """What the guest sends to `to`, and where it arrives under a policy; `otherwise` is where it arrives
    under none at all, on a host that denies nothing (None: nowhere, since it is malformed).
    """

    what: str
    words: bytes
    policy: Egress
    reached: str | None
    to: str = FAR
    otherwise: str | None = None
    pieces: int = 0


def http(*lines: str, start: str = "GET / HTTP/1.1") -> bytes:
    """A head as it is."""
    return "\r\n".join([start, *lines, "", ""]).encode()


def absolute(authority: str) -> str:
    """A request as it is written to a proxy."""
    return f"GET http://{authority}/ HTTP/1.1"


SPLIT_HELLO = hello("good.test")
TWO_NAMES = hello(None, (0, b"\x00\x1a" + (b"\x00\x00\x09good.test" + b"\x00\x00\x09evil.test")[:24] + b"xx"))

CASES = (
    # The name that is told, and what it resolves to.
    Case("an allowed name", hello("good.test"), ONE, "good"),
    Case("an allowed name in HTTP", get("good.test"), ONE, "good"),
    Case("another name", hello("evil.test"), ONE, None, otherwise="evil"),
    Case("another name in HTTP", get("evil.test"), ONE, None, otherwise="evil"),
    Case("a forged hosts file: the address is not where it goes", hello("good.test"), ONE, "good", to=EVIL),
    Case("the same in HTTP", get("good.test"), ONE, "good", to=EVIL),
    Case(
        "a name that is not allowed at an allowed name's address", hello("evil.test"), ONE, None, GOOD, "evil"
    ),
    Case("an allowed name, sent to the host itself", hello("good.test"), ONE, "good", to=LOCAL),
    Case("upper case", hello("GOOD.Test"), ONE, "good"),
    Case("a dot at the end", hello("good.test."), ONE, "good"),
    Case("upper case in HTTP, with a port", get("Good.TEST:80"), ONE, "good"),
    Case("a dot at the end in HTTP", get("good.test."), ONE, "good"),
    Case("a denied name in upper case", hello("EVIL.test"), DENY, None, otherwise="evil"),
    Case("a denied name with a dot at the end", hello("evil.test."), DENY, None, otherwise="evil"),
    Case("two dots at the end", hello("good.test.."), ONE, None, GOOD, "good"),
    Case("a name in IDNA form", hello("xn--bcher-kva.test"), Egress(allow_domains=("Bücher.test",)), "good"),
    Case(
        "a name in letters beyond ASCII",
        hello("bücher.test"),
        Egress(allow_domains=("bücher.test",)),
        None,
        GOOD,
        "good",
    ),
    Case("a name that only looks the same", hello("xn--gd-tlcc.test"), ONE, None),
    Case("NUL in a name", hello(b"good.test\x00.evil.test"), ONE, None, EVIL, "evil"),
    Case("a longer name", hello("good.test.evil.test"), ONE, None, otherwise="evil"),
    Case("a name that ends alike", hello("notgood.test"), BELOW, None, otherwise="evil"),
    Case("below a wildcard", hello("www.good.test"), BELOW, "good"),
    Case("deep below a wildcard", hello("deep.down.good.test"), BELOW, "good"),
    Case("what a wildcard is below of", hello("good.test"), BELOW, None, otherwise="good"),
    Case("below a denied wildcard", get("www.evil.test"), DENY, None, otherwise="evil"),
    Case("any name", hello("evil.test"), ANY, "evil"),
    Case("an address as a name", hello(EVIL), ANY, None, EVIL, "evil"),
    Case("an address as a number", get("2130706433"), ANY, None, EVIL, "evil"),
    Case("no name", hello(None), ONE, None, EVIL, "evil"),
    Case("no name, to an allowed name's address", hello(None), ONE, None, GOOD, "good"),
    Case(
        "deny wins",
        hello("good.test"),
        Egress(allow_domains=("*",), deny_domains=("good.test",)),
        None,
        otherwise="good",
    ),
    # What it resolves to.
    Case("a name of the host itself", hello("local.test"), ANY, None, otherwise="local"),
    Case("one of them is the host itself", hello("mixed.test"), ANY, None, otherwise="good"),
    Case("an alias", hello("alias.test"), ANY, "good"),
    Case("an alias of the host itself", hello("alias-local.test"), ANY, None, otherwise="local"),
    Case("metadata by name", get("metadata.test"), ANY, None),
    Case("a private network by name", get("private.test"), ANY, None),
    Case("0.0.0.0 by name", get("zero.test"), ANY, None, otherwise="local"),
    Case("no such name", get("nowhere.test"), ANY, None),
    Case("a name without an address", hello("empty.test"), ANY, None),
    Case(
        "a denied address by an allowed name",
        hello("evil.test"),
        Egress(allow_domains=("*",), deny_cidrs=(f"{EVIL}/32",)),
        None,
        otherwise="evil",
    ),
    # Addresses.
    Case("an allowed address", b"hello\r\n", ADDRESS, "evil", to=EVIL),
    Case("another address", b"hello\r\n", ADDRESS, None, GOOD, "good"),
    Case("an allowed address that tells a name of no list", hello("good.test"), ADDRESS, "evil", to=EVIL),
    Case("the same beside names", hello("www.evil.test"), BOTH, "evil", to=EVIL),
    Case("the same beside names, elsewhere", hello("www.evil.test"), BOTH, None, GOOD, "evil"),
    Case("a denied address", b"hello\r\n", Egress(deny_cidrs=(f"{EVIL}/32",)), None, EVIL, "evil"),
    Case("the host itself", b"hello\r\n", OPEN, None, LOCAL, "local"),
    Case(
        "the host itself, allowed", b"hello\r\n", Egress(allow_cidrs=("127.0.0.0/8",)), None, LOCAL, "local"
    ),
    Case(
        "everything allowed, the host itself",
        get(LOCAL),
        Egress(allow_cidrs=("0.0.0.0/0",)),
        None,
        LOCAL,
        "local",
    ),
    Case("metadata", b"hello\r\n", Egress(allow_cidrs=("169.254.0.0/16",)), None, "169.254.169.254"),
    Case("a private network, allowed", b"hello\r\n", Egress(allow_cidrs=("10.0.0.0/8",)), None, "10.0.0.1"),
    Case("no internet", hello("good.test"), OFF, None, GOOD, "good"),
    Case("no internet by address", b"hello\r\n", OFF, None, GOOD, "good"),
    Case("another port", hello("good.test"), Egress(ports=(1,)), None, GOOD, "good"),
    # How it is told.
    Case("a hello in single bytes", SPLIT_HELLO, ONE, "good", pieces=1),
    Case("a denied hello in single bytes", hello("evil.test"), DENY, None, otherwise="evil", pieces=1),
    Case("a hello with 4 KiB of padding", hello("good.test", PADDING), ONE, "good"),
    Case(
        "a denied one with padding in pieces",
        hello("evil.test", PADDING),
        DENY,
        None,
        otherwise="evil",
        pieces=500,
    ),
    Case("a hello in 40 records", hello("good.test", records=40), ONE, "good"),
    Case("a denied hello in 40 records", hello("evil.test", records=40), DENY, None, otherwise="evil"),
    Case("a request in single bytes", get("evil.test"), DENY, None, otherwise="evil", pieces=1),
    Case("a hidden hello below an allowed name", hello("good.test", ECH), ONE, None, GOOD, "good"),
    Case("two extensions of names", hello("good.test", server_name(b"evil.test")), ONE, None, EVIL, "evil"),
    Case("two names in one", TWO_NAMES, ONE, None, EVIL, "evil"),
    Case("a hello that is cut short", record(hello("good.test")[5:60]), ONE, None, EVIL),
    Case("garbage", bytes(range(256)), ONE, None, EVIL, "evil"),
    Case("garbage in a record", record(b"\xff" * 300), ONE, None, EVIL, "evil"),
    Case("another protocol", b"SSH-2.0-x\r\n", ONE, None, EVIL, "evil"),
    Case("who lets the server speak first", b"", ONE, None, EVIL, "evil"),
    # Requests that can be read in two ways.
    Case("two Hosts", http("Host: good.test", "Host: evil.test"), ONE, None, EVIL),
    Case("two Hosts that agree", http("Host: good.test", "host: good.test"), ONE, None, GOOD),
    Case("no Host", http("X: y"), ONE, None, EVIL),
    Case("a request of HTTP/1.0 without a Host", http(start="GET / HTTP/1.0"), ONE, None, EVIL, "evil"),
    Case("a target elsewhere", http("Host: good.test", start=absolute("evil.test")), ONE, None, EVIL),
    Case("a target there", http("Host: good.test", start=absolute("GOOD.test")), ONE, "good"),
    Case(
        "credentials in a target",
        http("Host: good.test", start=absolute("good.test@evil.test")),
        ONE,
        None,
    ),
    Case("a tunnel", http("Host: good.test", start="CONNECT evil.test:443 HTTP/1.1"), ONE, None, GOOD),
    Case("a Host with a space", http("Host: good.test evil.test"), ONE, None, GOOD),
    Case("a folded header", http("Host: good.test", " .evil.test"), ONE, None, GOOD),
    Case("a space before the colon", http("Host : evil.test", "Host: good.test"), ONE, None, GOOD),
    Case("lines that end in LF alone", b"GET / HTTP/1.1\nHost: evil.test\n\n", ONE, None, EVIL),
    Case("LF within a header", http("Host: good.test", "X: y\nHost: evil.test"), ONE, None, GOOD),
    Case("a line before the request", b"\r\n" + get("good.test"), ONE, None, GOOD),
    Case(
        "two lengths of a body",
        http("Host: good.test", "Content-Length: 1", "Transfer-Encoding: chunked"),
        ONE,
        None,
        GOOD,
    ),
    Case("HTTP/2 without TLS", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ONE, None, GOOD),
)


@asynccontextmanager
async def stage(folder: Path, *reachable: str) -> AsyncIterator[tuple[World, int]]:
    """A slot, and three servers on one port that say who they are to whoever speaks, or waits."""

    def named(name: str) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                async with asyncio.timeout(0.5):
                    await reader.read(1)
            except TimeoutError:
                pass
            writer.write(f"I am {name}.".encode())

        return handle

    async with (
        server(GOOD, 0, named("good")) as port,
        server(EVIL, port, named("evil")),
        server(LOCAL, port, named("local")),
        world(ZONE, folder, reachable=reachable, limits=Limits(head=1)) as made,
    ):
        await made.attach(OPEN)
        yield made, port


async def arrived(made: World, port: int, case: Case) -> str | None:
    """Who answers."""
    reader, writer = await made.connect(case.to, port)
    try:
        size = case.pieces or max(1, len(case.words))
        for at in range(0, len(case.words), size):
            writer.write(case.words[at : at + size])
            await writer.drain()
            if case.pieces:
                await asyncio.sleep(0)
        if not case.otherwise and not case.reached:
            writer.write_eof()  # it may be waited for
        answer = await all_of(reader)
    except ConnectionError:
        return None
    finally:
        writer.transport.abort()
    who = answer.partition(b"I am ")[2]
    return who.decode().rstrip(".") or None


async def test_each_case_arrives_where_its_policy_says(tmp_path: Path) -> None:
    assert len(CASES) >= 60
    wrong = []
    async with stage(tmp_path, "127.10.0.0/16") as (made, port):
        for case in CASES:
            await made.process.change(7, case.policy)
            found = await arrived(made, port, case)
            if found != case.reached:
                wrong.append(f"{case.what}: {found}")
        assert made.log.read_text() == ""
    assert not wrong


async def test_without_rules_the_same_arrives(tmp_path: Path) -> None:
    """What shows that it is the policy, and not the trick's own weakness, that stops it."""
    wrong = []
    async with stage(tmp_path, "0.0.0.0/0") as (made, port):
        for case in CASES:
            if case.reached is None and case.otherwise:
                found = await arrived(made, port, case)
                if found != case.otherwise:
                    wrong.append(f"{case.what}: {found}")
    assert not wrong


async def test_a_name_that_turns_to_the_host_is_refused_then(tmp_path: Path) -> None:
    async with stage(tmp_path, "127.10.0.0/16") as (made, port):
        made.names.zone = {**ZONE, "turning.test": [[GOOD], [LOCAL]]}
        case = Case("turning", hello("turning.test"), ANY, "good")
        await made.process.change(7, ANY)
        assert await arrived(made, port, case) == "good"
        assert await arrived(made, port, case) is None
        assert made.names.asked["turning.test"] == 2
    async with stage(tmp_path, "0.0.0.0/0") as (made, port):
        made.names.zone = {**ZONE, "turning.test": [[GOOD], [LOCAL]]}
        await made.process.change(7, ANY)
        assert [await arrived(made, port, case) for _ in range(2)] == ["good", "local"]


async def test_a_name_that_is_not_allowed_is_told_to_nobody(tmp_path: Path) -> None:
    """A question to a name server would carry it out, and so would a connection by that name."""
    async with stage(tmp_path, "127.10.0.0/16") as (made, port):
        case = Case("", hello("secret.evil.test"), ONE, None)
        for policy in (ONE, DENY, BOTH, ADDRESS):
            await made.process.change(7, policy)
            await arrived(made, port, case)
        assert not made.names.asked
        await made.process.change(7, OPEN)
        await arrived(made, port, case)
        assert made.names.asked
