"""The library that the program `nft` is made of, called directly.

It takes the same texts, in the same single transaction, and says the same words. It is no library for a
server: it keeps things for the whole process, whichever thread or namespace asks, and ends the process when a
descriptor of its own has a number above 1023. Hence a process that does nothing else. It is the machine's own
copy, as the program is.
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import Struct

NAME = "libnftables.so.1"
"""In the package that `nft` itself needs: libnftables1 of Debian and Ubuntu."""

_NETLINK_NETFILTER = 12


class Transaction(Struct):
    """One that was made, or refused in the words of `nft`. Its socket is the caller's to close: that waits
    until the kernel has forgotten all rules that were removed, for several milliseconds, or for none when it
    is done some time later. None when it has been closed already.
    """

    refused: str | None
    asked: socket.socket | None


class Library:
    """The library of this name. OSError when it is not there."""

    def __init__(self, name: str = NAME) -> None:
        self._nft = ctypes.CDLL(name)
        self._nft.nft_ctx_new.argtypes = (ctypes.c_uint32,)
        self._nft.nft_ctx_new.restype = ctypes.c_void_p
        for function in ("nft_ctx_buffer_output", "nft_ctx_buffer_error", "nft_ctx_get_error_buffer"):
            getattr(self._nft, function).argtypes = (ctypes.c_void_p,)
        self._nft.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
        self._nft.nft_run_cmd_from_filename.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
        self._nft.nft_ctx_free.argtypes = (ctypes.c_void_p,)
        self._nft.nft_ctx_free.restype = None

    def run(self, text: str) -> Transaction:
        """Have the kernel keep these rules in the namespace that this thread is in, all of them or none. They
        are kept when this returns. MemoryError.
        """
        with _written(text) as place:
            number = _lowest_free()
            context = self._nft.nft_ctx_new(0)
            if not context:
                raise MemoryError
            try:
                if self._nft.nft_ctx_buffer_output(context) or self._nft.nft_ctx_buffer_error(context):
                    raise MemoryError
                asked = _held(number)
                if self._nft.nft_run_cmd_from_filename(context, place) == 0:
                    return Transaction(None, asked)
                said: bytes = self._nft.nft_ctx_get_error_buffer(context) or b""
                return Transaction(said.decode(errors="replace") or "it does not say why", asked)
            finally:
                self._nft.nft_ctx_free(context)  # a megabyte, and its own descriptor of the socket


@contextmanager
def _written(text: str) -> Iterator[bytes]:
    """A file with it: of a text in memory the library shows wrong lines when it complains."""
    file = os.memfd_create("rules", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(file), "w") as rules:
            rules.write(text)
        yield f"/proc/self/fd/{file}".encode()
    finally:
        os.close(file)


def _lowest_free() -> int:
    """The number that the next descriptor has."""
    number = os.dup(0)
    os.close(number)
    return number


def _held(number: int) -> socket.socket | None:
    """A second descriptor of the socket that a context has opened, so that it stays open when that is freed.
    None when the number is another thing's: then the socket is closed with the context.
    """
    try:
        copy = os.dup(number)
    except OSError:
        return None
    try:
        asked = socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        return None
    if asked.family == socket.AF_NETLINK and asked.proto == _NETLINK_NETFILTER:
        return asked
    asked.close()
    return None
