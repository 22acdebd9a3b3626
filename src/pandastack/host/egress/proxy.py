"""One connection of a guest: looked at, decided, dialled at an address that was checked, and passed on."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress

from pandastack.host.egress.authority import Issuer
from pandastack.host.egress.dial import Unreachable, dial
from pandastack.host.egress.head import Refused
from pandastack.host.egress.hello import ACCESS_DENIED, INTERNAL_ERROR, UNRECOGNIZED_NAME
from pandastack.host.egress.mask import Mask
from pandastack.host.egress.opening import HTTP, TLS, Opening, read_opening, read_words
from pandastack.host.egress.relay import Meter, Requests, pass_all, pass_back
from pandastack.host.egress.route import (
    Denied,
    Nowhere,
    Route,
    find_route,
    secrets_for,
    still_allowed,
    told_name,
)
from pandastack.host.egress.standing import Standing
from pandastack.host.egress.streams import Plain, Source, Stream, Tls
from pandastack.model.egress import BoundSecret, put_all_into
from pandastack.model.verdict import UNLISTED, Policy, decide_address, decide_name, is_bound

CLIENT_FIRST = frozenset({80, 443, 8080, 8443})
"""Ports on which no server speaks first."""
FAREWELL_SECONDS = 1.0
"""How long a guest may take to read why it was refused."""
FAREWELL_READS = 64


class Connection:
    """A connection from its first byte to its last. `route` and `address` are known once it is dialled."""

    def __init__(self, standing: Standing, guest: Plain, original: tuple[str, int]) -> None:
        self._standing = standing
        self._guest = guest
        self._source = Source(guest)
        self._original = original
        self._opening = Opening()
        self._route: Route | None = None
        self._address = ""
        self._secrets: tuple[BoundSecret, ...] = ()

    def may_stay(self, policy: Policy, secrets: tuple[BoundSecret, ...]) -> bool:
        """Whether another policy leaves it open; one that is not dialled yet asks the new policy itself."""
        if self._route is None:
            return True
        same = secrets_for(self._route, self._opening, secrets) == self._secrets
        return same and still_allowed(self._route, self._address, policy)

    async def run(self) -> None:
        """Until both ends are done with it. OSError when one of them breaks it off, TimeoutError when nobody
        speaks for too long; the caller closes the guest's end.
        """
        self._opening = await self._opened()
        try:
            upstream, route = await self._dialled()
        except Denied as denied:
            self._note(denied)
            await self._refuse(denied.rule, 403)
        except (Nowhere, Unreachable) as nowhere:
            await self._refuse(str(nowhere), 502)
        else:
            await self._serve(upstream, route)

    async def _opened(self) -> Opening:
        """The first words. A guest that is silent may be a slow one: it is believed to wait for its server
        only where the server's address is allowed, and such servers stand.
        """
        limits = self._standing.ground.limits
        address, port = self._original
        if port not in CLIENT_FIRST:
            opening = await read_opening(self._source, limits.server_first, limits)
            if not opening.silent or decide_address(self._standing.policy, address, port).allowed:
                return opening
        return await read_opening(self._source, limits.head, limits)

    async def _dialled(self) -> tuple[socket.socket, Route]:
        """A connection that the policy in force now allows: it may have changed while one was made."""
        standing = self._standing
        if self._opening.refusal:
            raise Denied(self._opening.refusal)
        while True:
            policy = standing.policy
            route = await find_route(self._opening, self._original, policy, standing.ground.upstream)
            upstream, address = await dial(route.addresses, route.port, standing.ground.limits.connect)
            if policy is standing.policy:
                self._route, self._address = route, address
                self._secrets = secrets_for(route, self._opening, standing.secrets)
                return upstream, route
            upstream.close()

    async def _serve(self, upstream: socket.socket, route: Route) -> None:
        server = Plain(upstream)
        try:
            if self._secrets and self._standing.ground.issuer and route.name:
                await self._ended_here(server, route.name, self._standing.ground.issuer)
            else:
                await self._relay(server, self._guest)
        finally:
            server.close()

    async def _ended_here(self, below: Plain, name: str, issuer: Issuer) -> None:
        """TLS ends here, and another begins: requests are read, and get their secrets."""
        ground = self._standing.ground
        guest = Tls(self._source, self._guest, issuer.context(name), None)
        async with asyncio.timeout(ground.limits.head):
            await guest.handshake()
        self._source = Source(guest)
        server = Tls(Source(below), below, ground.trust, name)
        try:
            async with asyncio.timeout(ground.limits.connect):
                await server.handshake()
        except ssl.SSLCertVerificationError as error:
            sentence = f"The certificate of {name} is not trusted: {error.verify_message}."
            await _farewell(guest, _sentence(502, sentence))
        else:
            await self._relay(server, guest)

    async def _relay(self, server: Stream, guest: Stream) -> None:
        standing = self._standing
        route = self._route
        key = (self._opening.protocol, route.name if route else None, self._address, self._original[1])
        tally = standing.ledger.tally((*key, route.rule if route else "", True))
        async with asyncio.timeout(standing.ground.limits.idle) as patience:
            meter = Meter(standing.bucket, standing.ledger, tally, patience, standing.ground.limits.idle)
            switched: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forth(server, meter, switched))
                mask = Mask([secret.value for secret in self._secrets])
                group.create_task(pass_back(server, guest, meter, switched, mask))

    async def _forth(self, server: Stream, meter: Meter, switched: asyncio.Future[bool]) -> None:
        """What the guest sends, read as far as something is decided by it."""
        opening = self._opening
        if opening.silent and await self._source.more():
            opening = await read_words(self._source, self._standing.ground.limits)
        try:
            if opening.silent is not self._opening.silent:
                self._check_late(opening)
            if opening.protocol == HTTP or self._secrets:
                requests = Requests(opening.name, self._fill if self._secrets else None, switched)
                await requests.pass_on(self._source, server, meter)
            else:
                await pass_all(self._source, server, meter)
        except Refused as refused:
            self._note(Denied(str(refused)))
            raise ConnectionAbortedError(str(refused)) from refused

    def _check_late(self, opening: Opening) -> None:
        """A guest that waited for its server to speak, and tells a name after all: no list may deny it."""
        policy = self._standing.policy
        name = told_name(opening, policy)
        verdict = decide_name(policy, name, self._original[1]) if name else None
        if opening.refusal:
            raise Refused(opening.refusal)
        if verdict and not verdict.allowed and verdict.rule != UNLISTED:
            raise Refused(verdict.rule)
        if name and is_bound(policy, name):
            raise Refused("The name of a host that a secret is bound to was told too late.")

    def _fill(self, header: str, value: str) -> str:
        return put_all_into(self._secrets, header, value)

    def _note(self, denied: Denied) -> None:
        address, port = self._original
        name = self._opening.name
        key = (self._opening.protocol, name, denied.address or address, port, denied.rule, False)
        self._standing.ledger.tally(key)

    async def _refuse(self, reason: str, status: int) -> None:
        if self._opening.protocol == HTTP:
            await _farewell(self._guest, _sentence(status, reason))
        elif self._opening.protocol == TLS:
            alert = UNRECOGNIZED_NAME if self._opening.name else ACCESS_DENIED
            await _farewell(self._guest, alert if status == 403 else INTERNAL_ERROR)


async def _farewell(guest: Stream, words: bytes) -> None:
    """Say why, and let the guest read it: what it sends meanwhile is dropped."""
    with suppress(TimeoutError):
        async with asyncio.timeout(FAREWELL_SECONDS):
            await guest.write(words)
            await guest.end()
            for _ in range(FAREWELL_READS):
                if not await guest.read():
                    return


def _sentence(status: int, reason: str) -> bytes:
    """An answer of HTTP that a person understands."""
    title = {403: "Forbidden", 502: "Bad Gateway"}[status]
    told = reason if status == 502 else f"The egress policy of this sandbox does not allow this: {reason}."
    body = f"{told}\n".encode("ascii", "replace")
    head = (
        f"HTTP/1.1 {status} {title}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + body
