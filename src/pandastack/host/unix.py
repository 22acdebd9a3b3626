"""Unix sockets at paths of any length: an address holds 107 bytes, a state directory may be deeper than
that.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def connect(path: Path) -> socket.socket:
    """A connected, non-blocking stream socket. OSError when nobody listens there; it never waits."""
    with _address(path) as address:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            connection.connect(address)
        except BaseException:
            connection.close()
            raise
    return connection


def listen(path: Path) -> socket.socket:
    """A listening socket, to be handed to a child by descriptor: a client may connect before the child
    runs.
    """
    with _address(path) as address:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(address)
            listener.listen(4)
        except BaseException:
            listener.close()
            raise
    return listener


@contextmanager
def _address(path: Path) -> Iterator[str]:
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
