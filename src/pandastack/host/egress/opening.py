"""How a connection begins: what is spoken on it, and to whom it says that it goes."""

from __future__ import annotations

import asyncio

from msgspec import Struct

from pandastack.host.egress.head import Refused, could_be_request, read_head
from pandastack.host.egress.hello import HANDSHAKE, HELLO_LIMIT, Incomplete, read_hello
from pandastack.host.egress.orders import Limits
from pandastack.host.egress.streams import Source

TLS, HTTP, OTHER = "tls", "http", "tcp"


class Opening(Struct, frozen=True):
    """The first words of a connection. `silent` said nothing: its server is to speak first. `refusal` is a
    sentence for a request that is not passed on whoever it is for.
    """

    protocol: str = OTHER
    name: str | None = None
    encrypted: bool = False
    silent: bool = False
    refusal: str = ""


def recognise(data: bytes) -> Opening | None:
    """What a connection that begins so is; None when more bytes must tell. Never raises."""
    if data[0] == HANDSHAKE:
        try:
            hello = read_hello(data)
        except Incomplete:
            return None
        return Opening(TLS, hello.name, hello.encrypted)
    is_request = could_be_request(data)
    if not is_request:
        return Opening() if is_request is False else None
    try:
        head = read_head(data)
    except Refused as refused:
        return Opening(HTTP, refusal=str(refused))
    return Opening(HTTP, head.host) if head else None


async def read_opening(source: Source, patience: float, limits: Limits) -> Opening:
    """Look at the first bytes, which `source` still holds after it; they must begin to come within `patience`
    seconds. OSError.
    """
    try:
        async with asyncio.timeout(patience):
            await source.more()
    except TimeoutError:
        return Opening(silent=True)
    return await read_words(source, limits)


async def read_words(source: Source, limits: Limits) -> Opening:
    """The same of a connection whose first bytes are held already. What stops halfway has told no name."""
    try:
        async with asyncio.timeout(limits.head):
            while source.held:
                found = recognise(source.held)
                if found is not None:
                    return found
                if len(source.held) > 2 * HELLO_LIMIT or not await source.more():
                    break
    except TimeoutError:
        pass
    return Opening()
