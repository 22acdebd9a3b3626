"""The resolver of a slot: what a guest may know of the names of the world.

Where names decide, only allowed names are answered, with addresses alone; for all others no packet leaves
this host. Elsewhere questions are passed on, and answers lose the addresses that nobody may reach.
"""

from __future__ import annotations

import asyncio
from typing import cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from pandastack.host.egress.bucket import Bucket
from pandastack.host.egress.ledger import Ledger
from pandastack.host.egress.upstream import NoAnswer, Upstream, addresses_in
from pandastack.model.hostname import name_on_the_wire
from pandastack.model.verdict import Policy, Verdict, decide_resolved, name_allowed

AT_ONCE = 64
"""Most questions of a slot that wait for an answer at a time; more are dropped, and asked again."""

UDP_LIMIT = 512

EMPTY = frozenset({dns.rdatatype.AAAA, dns.rdatatype.HTTPS, dns.rdatatype.SVCB})
"""Answered with nothing: there is no IPv6, and hints to QUIC and to hidden names are of no use here."""

PASSED_ON = frozenset(
    {
        *(dns.rdatatype.A, dns.rdatatype.CNAME, dns.rdatatype.MX, dns.rdatatype.TXT, dns.rdatatype.SRV),
        *(dns.rdatatype.NS, dns.rdatatype.SOA, dns.rdatatype.CAA, dns.rdatatype.NAPTR),
    }
)
"""What may be asked for where names do not decide."""


class Resolver:
    """Answers the questions of one guest. `policy` may be put in the place of another at any time."""

    def __init__(self, policy: Policy, upstream: Upstream, ledger: Ledger, bucket: Bucket) -> None:
        self.policy = policy
        self._upstream = upstream
        self._ledger = ledger
        self._bucket = bucket
        self._waiting = 0

    def admits(self) -> bool:
        """Whether one more question may be asked now; one that is not admitted costs nothing more."""
        return self._waiting < AT_ONCE and self._bucket.try_take()

    async def answer(self, wire: bytes, limit: int = UDP_LIMIT) -> bytes | None:
        """The answer to one admitted question, of at most `limit` bytes or what the question says it takes;
        None when it is malformed.
        """
        self._waiting += 1
        try:
            query = _read(wire)
            return _written(await self._reply(query), max(limit, query.payload)) if query else None
        except Exception:  # a question that a library stumbles over must not end the others
            return None
        finally:
            self._waiting -= 1

    async def _reply(self, query: dns.message.Message) -> dns.message.Message:
        reply = dns.message.make_response(query, recursion_available=True)
        if query.opcode() != 0 or len(query.question) != 1 or query.answer or query.authority:
            reply.set_rcode(dns.rcode.REFUSED)
            return reply
        question = query.question[0]
        name = name_on_the_wire(question.name.to_text(omit_final_dot=True).encode())
        verdict = self._verdict(name, question)
        if not verdict.allowed or name is None:
            self._ledger.tally(("dns", name, None, 53, verdict.rule, False))
            reply.set_rcode(dns.rcode.REFUSED)
        elif question.rdtype not in EMPTY:
            await self._ask(reply, name, question)
        return reply

    def _verdict(self, name: str | None, question: dns.rrset.RRset) -> Verdict:
        """Whether anything may be said to this question."""
        kind = question.rdtype
        kinds = set(EMPTY) | ({dns.rdatatype.A} if self._names_only() else set(PASSED_ON))
        if name is None or question.rdclass != dns.rdataclass.IN:
            return Verdict(allowed=False, rule="dns: no name of a host")
        verdict = name_allowed(self.policy, name)
        if verdict.allowed and kind not in kinds:
            return Verdict(allowed=False, rule=f"dns: {dns.rdatatype.to_text(kind)} is not asked for")
        return verdict

    def _names_only(self) -> bool:
        return self.policy.by_name or self.policy.egress.restricted

    async def _ask(self, reply: dns.message.Message, name: str, question: dns.rrset.RRset) -> None:
        policy = self.policy
        try:
            answer = await self._upstream.ask(dns.name.from_text(name), question.rdtype)
        except NoAnswer:
            reply.set_rcode(dns.rcode.SERVFAIL)
            return
        if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            reply.set_rcode(dns.rcode.SERVFAIL)
            return
        reply.set_rcode(answer.rcode())
        addresses, ttl = addresses_in(answer) if question.rdtype == dns.rdatatype.A else ([], 0)
        addresses = [address for address in addresses if decide_resolved(policy, address) is None]
        self._ledger.tally(("dns", name, None, 53, name_allowed(policy, name).rule, True))
        self._ledger.resolved(name, addresses)
        if addresses:
            reply.answer = [dns.rrset.from_text_list(question.name, ttl, "IN", "A", addresses)]
        elif question.rdtype != dns.rdatatype.A:
            reply.answer = [_renamed(rrset, name, question.name) for rrset in answer.answer]


class Questions(asyncio.DatagramProtocol):
    """The UDP socket of a slot's resolver."""

    def __init__(self, resolver: Resolver, group: asyncio.TaskGroup) -> None:
        self._resolver = resolver
        self._group = group
        self._transport: asyncio.DatagramTransport | None = None
        self.closed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is read from now on."""
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str | int, int]) -> None:
        """A question has come."""
        if self._resolver.admits():
            self._group.create_task(self._serve(data, addr))

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        self.closed.set()

    def error_received(self, exc: Exception) -> None:
        """The guest does not want an answer any more."""

    async def _serve(self, data: bytes, addr: tuple[str | int, int]) -> None:
        answer = await self._resolver.answer(data)
        if answer is not None and self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(answer, addr)


def _read(wire: bytes) -> dns.message.Message | None:
    try:
        query = dns.message.from_wire(wire)
    except (dns.exception.DNSException, ValueError):
        return None
    return None if query.flags & dns.flags.QR else query


def _written(reply: dns.message.Message, limit: int) -> bytes:
    try:
        return reply.to_wire(max_size=limit)
    except dns.exception.TooBig:
        reply.answer = []
        reply.flags |= dns.flags.TC
        return reply.to_wire()


def _renamed(rrset: dns.rrset.RRset, asked: str, name: dns.name.Name) -> dns.rrset.RRset:
    """The records in the case in which the guest has asked: it may compare."""
    if rrset.name != dns.name.from_text(asked):
        return rrset
    found = dns.rrset.RRset(name, rrset.rdclass, rrset.rdtype)
    for item in rrset:
        found.add(item)
    return found
