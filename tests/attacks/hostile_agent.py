"""A guest's agent in the hands of a tenant: it keeps the protocol until it is asked for something, and then
does one misdeed. A program of its own, written from the page of the protocol alone.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

HELLO, WELCOME, GATE, GATED, SEALED, PONG, FROZEN = 0x01, 0x02, 0x03, 0x04, 0x06, 0x08, 0x0A
OPEN, OPENED, DATA, EOF, CREDIT, ITEMS, DONE = 0x10, 0x11, 0x12, 0x13, 0x14, 0x17, 0x18
ERRNO, AGENT, GATE_OPEN, KERNEL, SPENT_US, ITEM = 0x01, 0x03, 0x04, 0x05, 0x0E, 0x0F
STDIN, PID, EXIT_CODE, DURATION_US, TIMED_OUT, NAME, KIND, SIZE, MODE = (
    0x27, 0x2B, 0x2C, 0x2D, 0x2E, 0x48, 0x49, 0x4A, 0x4B,
)  # fmt: skip
MTIME_NS, UID, GID = 0x4C, 0x4D, 0x4E
EVERY_ID = (1, 2, 77, 1 << 16, (1 << 31) + 1, (1 << 32) - 1)


def frame(kind: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack("<IBI", 5 + len(payload), kind, stream) + payload


def field(tag: int, value: bytes | int) -> bytes:
    content = value.to_bytes(8, "little") if isinstance(value, int) else value
    return struct.pack("<BI", tag, len(content)) + content


def started(stream: int) -> bytes:
    """The command runs."""
    return frame(OPENED, stream, field(PID, 7) + field(STDIN, 0))


def ended(stream: int) -> bytes:
    """And has ended well."""
    told = {ERRNO: 0, EXIT_CODE: 0, DURATION_US: 5, TIMED_OUT: 0}
    return frame(DONE, stream, b"".join(field(tag, value) for tag, value in told.items()))


def length(line: socket.socket, stream: int) -> None:
    """A frame of 4 GiB, and as much of it as is taken."""
    line.sendall(struct.pack("<IBI", (1 << 32) - 1, DONE, stream))
    for _ in range(64):
        line.sendall(bytes(1 << 20))


def half(line: socket.socket, stream: int) -> None:
    """Half of the largest frame there is, and silence."""
    line.sendall(struct.pack("<IBI", 1 << 20, OPENED, stream) + bytes(1 << 19))
    time.sleep(3600)


def drip(line: socket.socket, stream: int) -> None:
    """The same, byte by byte, for ever."""
    line.sendall(struct.pack("<IBI", 1 << 20, OPENED, stream))
    while True:
        line.sendall(b"x")
        time.sleep(0.01)


def tiny(line: socket.socket, stream: int) -> None:
    """A million of the smallest frames, for streams of which nobody knows."""
    for _ in range(1000):
        line.sendall((frame(CREDIT, 1 << 20, bytes(4)) + frame(OPENED, 1 << 20)) * 500)
    line.sendall(started(stream) + ended(stream))


def ids(line: socket.socket, stream: int) -> None:
    """Answers to what was never asked, on streams that never were, and then the right one."""
    for other in EVERY_ID:
        if other != stream:
            piece = frame(DATA, other, b"\1" + bytes(1000))
            line.sendall(started(other) + piece * 300 + frame(EOF, other, b"\1") + ended(other) * 2)
    passed = field(ERRNO, 0) + field(SPENT_US, 1)
    unasked = [(GATED, passed), (SEALED, b""), (PONG, bytes(8)), (FROZEN, passed), (WELCOME, bytes(20))]
    line.sendall(b"".join(frame(kind, 0, payload) for kind, payload in unasked) * 1000)
    line.sendall(started(stream) + ended(stream))


def credit(line: socket.socket, stream: int) -> None:
    """More output than was allowed, all of it at once."""
    line.sendall(started(stream))
    for _ in range(100):
        line.sendall(frame(DATA, stream, b"\1" + bytes((1 << 20) - 6)))


def stderr(line: socket.socket, stream: int) -> None:
    """Output without end, byte by byte on both channels, within what was allowed."""
    line.sendall(started(stream))
    allowed = 1 << 18
    pair = frame(DATA, stream, b"\2x") + frame(DATA, stream, b"\1y")
    while True:
        while allowed < 2000:
            allowed += sum(
                int.from_bytes(payload, "little")
                for kind, _, payload in frames(line, once=True)
                if kind == CREDIT
            )
        line.sendall(pair * 1000)
        allowed -= 2000


def items(line: socket.socket, stream: int) -> None:
    """A folder without end, of names as long as a frame."""
    told = {SIZE: 1, MODE: 0o644, MTIME_NS: 1, UID: 0, GID: 0, 0x59: 1}
    about = b"".join(field(tag, value) for tag, value in told.items()) + field(KIND, b"f")
    for _ in range(100):
        line.sendall(frame(ITEMS, stream, field(ITEM, about + field(NAME, b"n" * 1_000_000))))


def crowd(line: socket.socket, stream: int) -> None:
    """As many empty items as a frame can hold, again and again."""
    for _ in range(100):
        line.sendall(frame(ITEMS, stream, field(ITEM, b"") * 200_000))


def deaf(line: socket.socket, stream: int) -> None:
    """Nothing is read any more."""
    time.sleep(3600)


def leave(line: socket.socket, stream: int) -> None:
    """It hangs up on every question."""
    line.sendall(started(stream))
    line.shutdown(socket.SHUT_RDWR)


MISDEEDS: dict[str, Callable[[socket.socket, int], None]] = {
    each.__name__: each for each in (length, half, drip, tiny, ids, credit, stderr, items, crowd, deaf, leave)
}


def frames(line: socket.socket, *, once: bool = False) -> Iterator[tuple[int, int, bytes]]:
    """What the host sends; with `once` what one read gives."""
    unread = b""
    while more := line.recv(1 << 16):
        unread += more
        while len(unread) >= 9 and len(unread) >= 4 + int.from_bytes(unread[:4], "little"):
            size, kind, stream = struct.unpack_from("<IBI", unread)
            yield kind, stream, unread[9 : 4 + size]
            unread = unread[4 + size :]
        if once and not unread:
            return


def serve(line: socket.socket, misdeed: Callable[[socket.socket, int], None]) -> None:
    """One session."""
    for kind, stream, payload in frames(line):
        if kind == HELLO:
            about = field(AGENT, b"hostile") + field(GATE_OPEN, 1) + field(KERNEL, b"6")
            line.sendall(frame(WELCOME, 0, payload[:16] + struct.pack("<I", 1) + about))
        elif kind == GATE:
            line.sendall(frame(GATED, 0, field(ERRNO, 0) + field(SPENT_US, 1)))
        elif kind == OPEN:
            misdeed(line, stream)


def main() -> None:
    """`hostile_agent.py MISDEED --socket PATH …`."""
    misdeed = MISDEEDS[sys.argv[1]]
    listening = socket.socket(socket.AF_UNIX)
    path = Path(sys.argv[sys.argv.index("--socket") + 1])
    listening.bind(f"{path}.new")
    listening.listen()
    Path(f"{path}.new").rename(path)
    while True:
        line, _ = listening.accept()
        try:
            serve(line, misdeed)
        except OSError as error:
            print(f"the host has hung up: {os.strerror(error.errno or 0)}", flush=True)
        line.close()


if __name__ == "__main__":
    main()
