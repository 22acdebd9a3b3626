"""Questions of a guest: who is asked about what, and what is never asked at all."""

from __future__ import annotations

import asyncio
import base64
import random
import socket
from contextlib import suppress
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from pandastack.host.egress.orders import Limits
from pandastack.model.egress import Egress

from .world import SLOT, World, world

pytestmark = [pytest.mark.anyio, pytest.mark.root]

ZONE = {
    "good.test": [["127.10.0.1"]],
    "alias.test": [["good.test"]],
    "mixed.test": [["127.10.0.1", "10.0.0.1", "127.0.0.1", "169.254.169.254"]],
    "private.test": [["10.0.0.1"]],
    "own.test": [["127.10.9.9"]],
}
NAMES = Egress(allow_domains=("good.test", "*.good.test", "alias.test", "mixed.test", "private.test"))
OPEN = Egress()


async def addresses(made: World, name: str, kind: str = "A") -> tuple[str, list[str]]:
    """How it was answered, and with what."""
    reply = await made.ask(dns.message.make_query(name, kind))
    return dns.rcode.to_text(reply.rcode()), [item.to_text() for rrset in reply.answer for item in rrset]


async def test_only_allowed_names_and_addresses_are_told(tmp_path: Path) -> None:
    async with world(ZONE, tmp_path) as made:
        await made.attach(NAMES)
        assert await addresses(made, "GOOD.test.") == ("NOERROR", ["127.10.0.1"])
        assert await addresses(made, "alias.test") == ("NOERROR", ["127.10.0.1"])
        assert await addresses(made, "mixed.test") == ("NOERROR", ["127.10.0.1"])
        assert await addresses(made, "private.test") == ("NOERROR", [])
        assert await addresses(made, "missing.good.test") == ("NXDOMAIN", [])
        made.names.asked.clear()
        for kind in ("AAAA", "HTTPS", "SVCB"):
            assert await addresses(made, "good.test", kind) == ("NOERROR", [])
        for kind in ("TXT", "NULL", "MX", "CNAME", "ANY", "PTR", "NS", "SRV", "TYPE65280"):
            assert await addresses(made, "good.test", kind) == ("REFUSED", [])
        assert await addresses(made, "evil.test") == ("REFUSED", [])
        assert not made.names.asked
        report = await made.process.receipts(SLOT)
        assert report.names == {"127.10.0.1": "mixed.test"}
        assert ("evil.test", False) in {(each.name, each.allowed) for each in report.receipts}


async def test_nothing_leaves_in_questions(tmp_path: Path) -> None:
    """A tunnel: secrets in names below a name whose server listens. Where nothing is restricted it works."""
    secret = base64.b32encode(b"a secret" * 8).decode().rstrip("=").lower()
    questions = [f"{secret[at : at + 30]}.t.evil.test" for at in range(0, 90, 30)]
    async with world(ZONE, tmp_path) as made:
        for policy in (NAMES, Egress(deny_domains=("*.evil.test",)), Egress(allow_cidrs=("127.10.0.0/16",))):
            await made.attach(policy)
            for name in questions:
                assert (await addresses(made, name))[0] == "REFUSED"
            assert not made.names.asked
        await made.attach(OPEN)
        for name in questions:
            assert (await addresses(made, name))[0] == "NXDOMAIN"
        assert set(made.names.asked) == set(questions)


async def test_without_names_questions_are_passed_on(tmp_path: Path) -> None:
    async with world(ZONE, tmp_path, own=["127.10.9.0/24"]) as made:
        await made.attach(OPEN)
        assert await addresses(made, "good.test", "TXT") == ("NOERROR", ['"127.10.0.1"'])
        assert await addresses(made, "mixed.test") == ("NOERROR", ["127.10.0.1"])
        assert await addresses(made, "4.3.2.1.in-addr.arpa", "PTR") == ("REFUSED", [])
        assert await addresses(made, "good.test", "AAAA") == ("NOERROR", [])
        assert await addresses(made, "own.test") == (
            "NOERROR",
            ["127.10.9.9"],
        )  # made reachable by the operator
    async with world(ZONE, tmp_path, reachable=["127.10.0.0/24"], own=["127.10.9.0/24"]) as made:
        await made.attach(OPEN)
        assert await addresses(made, "own.test") == ("NOERROR", [])


async def test_questions_are_limited(tmp_path: Path) -> None:
    """1,000 at once: as many are answered as one second's, and a few for the time that it takes."""
    async with world(ZONE, tmp_path, limits=Limits(questions_per_second=20)) as made:
        await made.attach(OPEN)
        wire = dns.message.make_query("good.test", "AAAA").to_wire()
        connection = made.guest.do(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        answered = 0
        with connection:
            connection.setblocking(False)
            connection.connect(("127.0.0.1", 53))
            loop = asyncio.get_running_loop()
            began = last = loop.time()
            for _ in range(50):
                for _ in range(20):
                    connection.send(wire)
                await asyncio.sleep(0.005)  # no more than a socket holds
            with suppress(TimeoutError):
                while await asyncio.wait_for(loop.sock_recv(connection, 512), 0.5):
                    answered, last = answered + 1, loop.time()
        assert 20 <= answered <= 20 * (1 + last - began) + 1 < 500


def forged_id(reply: dns.message.Message) -> None:
    reply.id ^= 1


def forged_name(reply: dns.message.Message) -> None:
    reply.question = dns.message.make_query("other.test", "A").question


def forged_case(reply: dns.message.Message) -> None:
    reply.question = dns.message.make_query("gOOD.test", "A").question


@pytest.mark.parametrize("lie", [forged_id, forged_name])
async def test_an_answer_that_does_not_belong_is_dropped(tmp_path: Path, lie: object) -> None:
    def forge(reply: dns.message.Message) -> None:
        assert callable(lie)
        lie(reply)
        reply.answer = [dns.rrset.from_text("good.test.", 30, "IN", "A", "127.10.6.6")]

    async with world(ZONE, tmp_path) as made:
        made.names.lies.append(forge)
        await made.attach(NAMES)
        assert await addresses(made, "good.test") == ("NOERROR", ["127.10.0.1"])

    def believed(reply: dns.message.Message) -> None:
        reply.answer = [dns.rrset.from_text(reply.question[0].name, 30, "IN", "A", "127.10.6.6")]

    async with world(ZONE, tmp_path) as made:  # one that belongs is believed: it comes first
        made.names.lies.append(believed)
        await made.attach(NAMES)
        assert await addresses(made, "good.test") == ("NOERROR", ["127.10.6.6"])


async def test_no_name_server_is_a_failure_in_time(tmp_path: Path) -> None:
    async with world({}, tmp_path, limits=Limits(upstream_dns=0.4)) as made:
        made.names.silent = True
        await made.attach(OPEN)
        assert await addresses(made, "good.test") == ("SERVFAIL", [])


async def test_garbage_is_dropped_and_long_answers_come_by_tcp(tmp_path: Path) -> None:
    many = [f"127.10.1.{number}" for number in range(1, 60)]
    zone = {**ZONE, "many.good.test": [many]}
    chance = random.Random(1)  # noqa: S311 - the same garbage each time
    async with world(zone, tmp_path, limits=Limits(questions_per_second=10_000)) as made:
        await made.attach(NAMES)
        connection = made.guest.do(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        with connection:
            connection.connect(("127.0.0.1", 53))
            for size in range(1, 120):
                connection.send(chance.randbytes(size))
                question = bytearray(dns.message.make_query("good.test", "A").to_wire())
                question[size % len(question)] ^= 1 << chance.randrange(8)
                connection.send(question)
        query = dns.message.make_query("many.good.test", "A")
        assert (await made.ask(query)).flags & dns.flags.TC
        reader, writer = await made.connect("127.0.0.1", 53)
        wire = query.to_wire()
        writer.write(len(wire).to_bytes(2, "big") + wire)
        size = int.from_bytes(await reader.readexactly(2), "big")
        reply = dns.message.from_wire(await reader.readexactly(size))
        assert len(reply.answer[0]) == len(many)
        writer.transport.abort()
        assert made.log.read_text() == ""
