"""Connections to addresses that were checked: what is dialled is an address, never a name."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Sequence

SO_ORIGINAL_DST = 80
TRIED = 4
"""So many addresses of a name are tried."""


class Unreachable(Exception):
    """Nobody answers there; the message is a sentence."""


def original_destination(connection: socket.socket) -> tuple[str, int]:
    """Where the guest meant to connect before the kernel redirected it."""
    try:
        raw = connection.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
    except OSError:  # it was not redirected: it meant us, which the policy never allows
        address, port = connection.getsockname()[:2]
        return str(address), int(port)
    port, packed = struct.unpack("!2xH4s8x", raw)
    return socket.inet_ntoa(packed), port


async def dial(addresses: Sequence[str], port: int, deadline: float) -> tuple[socket.socket, str]:
    """A connected socket to the first of the addresses that answers. Unreachable."""
    loop = asyncio.get_running_loop()
    tried = addresses[:TRIED]
    for address in tried:
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            async with asyncio.timeout(deadline / len(tried)):
                await loop.sock_connect(connection, (address, port))
        except (OSError, TimeoutError):
            connection.close()
        except BaseException:
            connection.close()
            raise
        else:
            return connection, address
    raise Unreachable("Nobody answers at the addresses of this name.")
