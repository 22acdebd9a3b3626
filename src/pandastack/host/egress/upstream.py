"""Questions to the host's own name servers, with answers that belong to them or none.

Random numbers, source ports and letter cases; an answer that does not repeat all of them is somebody else's.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rdatatype

Chance = Callable[[int], bytes]
"""So many random bytes."""

ATTEMPTS = 4
PAYLOAD = 1232
TTL_LIMIT = 60
"""Seconds that an answer is good for at most."""


class NoAnswer(Exception):
    """No name server has answered in time."""


Addresses = tuple[list[str], int]
"""And for how many seconds they are."""


class _Turn:
    """Those who ask for one name at the same time, and the last answer that one of them got."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiting = 0
        self.asked = -math.inf
        self.outcome: Addresses | NoAnswer = ([], 0)


class Upstream:
    """The name servers, asked in turn. `deadline` is for all of a question, in seconds."""

    def __init__(self, servers: Sequence[str], deadline: float, chance: Chance) -> None:
        self._servers = [_place(server) for server in servers]
        self._deadline = deadline
        self._chance = chance
        self._turns: dict[str, _Turn] = {}

    async def ask(self, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> dns.message.Message:
        """The answer to one question, whatever it says. NoAnswer."""
        servers = (self._servers * ATTEMPTS)[: max(ATTEMPTS // 2, len(self._servers))]
        try:
            async with asyncio.timeout(self._deadline):
                for server in servers:
                    answer = await self._attempt(server, name, kind, self._deadline / len(servers))
                    if answer is not None:
                        return answer
        except TimeoutError:
            pass
        raise NoAnswer(f"no name server has answered within {self._deadline:g} seconds")

    async def addresses(self, name: str) -> Addresses:
        """The IPv4 addresses of a canonical name, and for how many seconds. There are none when there is no
        such name. NoAnswer.

        Nothing is kept for later; but who asks for a name while others do takes the answer to a question that
        was sent after its own call.
        """
        turn = self._turns.setdefault(name, _Turn())
        turn.waiting += 1
        called = asyncio.get_running_loop().time()
        try:
            async with turn.lock:
                if turn.asked < called:
                    await self._take_turn(turn, name)
        finally:
            turn.waiting -= 1
            if not turn.waiting:
                del self._turns[name]
        if isinstance(turn.outcome, NoAnswer):
            raise NoAnswer(str(turn.outcome)) from turn.outcome
        return turn.outcome

    async def _take_turn(self, turn: _Turn, name: str) -> None:
        asked = asyncio.get_running_loop().time()
        try:
            turn.outcome = addresses_in(await self.ask(dns.name.from_text(name), dns.rdatatype.A))
        except NoAnswer as error:
            turn.outcome = error
        turn.asked = asked

    async def _attempt(
        self, server: tuple[str, int], name: dns.name.Name, kind: dns.rdatatype.RdataType, seconds: float
    ) -> dns.message.Message | None:
        query = dns.message.make_query(
            self._mixed(name), kind, use_edns=0, payload=PAYLOAD, id=int.from_bytes(self._chance(2), "big")
        )
        try:
            async with asyncio.timeout(seconds):
                answer = await _over_udp(server, query)
                if answer is None or answer.flags & dns.flags.TC:
                    answer = await _over_tcp(server, query)
                return answer
        except (OSError, asyncio.IncompleteReadError, dns.exception.DNSException):
            return None

    def _mixed(self, name: dns.name.Name) -> dns.name.Name:
        """The name with random cases: more for a forger to guess."""
        labels = []
        for label in name.labels:
            coins = self._chance(len(label))
            labels.append(bytes(_flipped(byte, coin) for byte, coin in zip(label, coins, strict=True)))
        return dns.name.Name(labels)


def addresses_in(answer: dns.message.Message) -> Addresses:
    """The addresses that the chain of an answer ends in, and the least time to live of it."""
    if not isinstance(answer, dns.message.QueryMessage):
        return [], 0
    try:
        chain = answer.resolve_chaining()
    except dns.exception.DNSException:
        return [], 0
    if chain.answer is None:
        return [], 0
    return [item.address for item in chain.answer], max(0, min(TTL_LIMIT, chain.minimum_ttl))


async def _over_udp(server: tuple[str, int], query: dns.message.Message) -> dns.message.Message | None:
    """The answer; None when one came that mixes the case up, which some honest servers do."""
    loop = asyncio.get_running_loop()
    wire = query.to_wire()
    transport, waiting = await loop.create_datagram_endpoint(lambda: _Waiting(query), remote_addr=server)
    try:
        transport.sendto(wire)
        return await waiting.answer
    finally:
        transport.close()


async def _over_tcp(server: tuple[str, int], query: dns.message.Message) -> dns.message.Message:
    reader, writer = await asyncio.open_connection(*server)
    try:
        wire = query.to_wire()
        writer.write(len(wire).to_bytes(2, "big") + wire)
        size = int.from_bytes(await reader.readexactly(2), "big")
        answer = dns.message.from_wire(await reader.readexactly(size))
    finally:
        writer.transport.abort()
    if not _belongs(query, answer):
        raise ConnectionAbortedError("the answer is to another question")
    return answer


class _Waiting(asyncio.DatagramProtocol):
    """Waits for the answer to one query; whatever else arrives is dropped."""

    def __init__(self, query: dns.message.Message) -> None:
        self._query = query
        self.answer: asyncio.Future[dns.message.Message | None] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: tuple[str | int, int]) -> None:
        """Take it if it belongs to the query."""
        try:
            answer = dns.message.from_wire(data, ignore_trailing=True, raise_on_truncation=False)
        except (dns.exception.DNSException, ValueError):
            return
        if not _belongs(self._query, answer) or self.answer.done():
            return
        same_case = answer.question[0].name.labels == self._query.question[0].name.labels
        self.answer.set_result(answer if same_case else None)

    def error_received(self, exc: Exception) -> None:
        """Nobody listens there."""
        if not self.answer.done():
            self.answer.set_exception(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody waits any more, or the socket has failed."""
        if not self.answer.done():
            self.answer.cancel()


def _belongs(query: dns.message.Message, answer: dns.message.Message) -> bool:
    return bool(answer.id == query.id and answer.flags & dns.flags.QR and answer.question == query.question)


def _flipped(byte: int, coin: int) -> int:
    letter = 0x41 <= byte & 0xDF <= 0x5A
    return byte ^ 0x20 if letter and coin & 1 else byte


def _place(server: str) -> tuple[str, int]:
    address, _, port = server.partition(":")
    return address, int(port or 53)
