"""A raw client of the guest protocol: frames and fields, written from the page alone, so that the product's
own link is not its own judge. Every wait has a deadline."""

import socket
import struct
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from enum import IntEnum
from types import TracebackType
from typing import Self


class Kind(IntEnum):
    """What a frame is."""

    HELLO = 0x01
    WELCOME = 0x02
    GATE = 0x03
    GATED = 0x04
    SEAL = 0x05
    SEALED = 0x06
    PING = 0x07
    PONG = 0x08
    FREEZE = 0x09
    FROZEN = 0x0A
    THAW = 0x0B
    THAWED = 0x0C
    STILL = 0x0D
    STILLED = 0x0E
    GO = 0x0F
    OPEN = 0x10
    OPENED = 0x11
    DATA = 0x12
    EOF = 0x13
    CREDIT = 0x14
    RESIZE = 0x15
    SIGNAL = 0x16
    ITEMS = 0x17
    DONE = 0x18
    CLOSE = 0x19


class Op(IntEnum):
    """What an OPEN asks for."""

    EXEC = 1
    ATTACH = 2
    PROCESSES = 3
    KILL = 4
    READ = 5
    WRITE = 6
    LIST = 7
    STAT = 8
    MKDIR = 9
    MOVE = 10
    REMOVE = 11
    CHMOD = 12
    WATCH = 13
    METRICS = 14
    INPUT = 15
    DIAL = 16
    PORTS = 17


TAGS = {
    "ERRNO": 0x01,
    "MESSAGE": 0x02,
    "AGENT": 0x03,
    "GATE_OPEN": 0x04,
    "KERNEL": 0x05,
    "ENTROPY": 0x06,
    "CLOCK_NS": 0x07,
    "HOSTNAME": 0x08,
    "MACHINE_ID": 0x09,
    "NET_ADDRESS": 0x0A,
    "NET_GATEWAY": 0x0B,
    "NET_DNS": 0x0C,
    "NET_MAC": 0x0D,
    "SPENT_US": 0x0E,
    "ITEM": 0x0F,
    "FRESH": 0x10,
    "HOOK_MS": 0x11,
    "BOOT_ID": 0x12,
    "CLOCK_STEP_US": 0x13,
    "CLOCK_BACK": 0x14,
    "HOOKS_RUN": 0x15,
    "HOOKS_FAILED": 0x16,
    "ENTROPY_BYTES": 0x17,
    "PROCESS_ID": 0x20,
    "ARG": 0x21,
    "SHELL": 0x22,
    "CWD": 0x23,
    "ENV": 0x24,
    "USER": 0x25,
    "TIMEOUT_MS": 0x26,
    "STDIN": 0x27,
    "ROWS": 0x28,
    "COLS": 0x29,
    "DETACHED": 0x2A,
    "PID": 0x2B,
    "EXIT_CODE": 0x2C,
    "DURATION_US": 0x2D,
    "TIMED_OUT": 0x2E,
    "SIGNAL_NUMBER": 0x2F,
    "COMMAND": 0x30,
    "STARTED_NS": 0x31,
    "RUNNING": 0x32,
    "TTY": 0x33,
    "QUIET": 0x34,
    "LAST": 0x35,
    "PATH": 0x40,
    "TARGET": 0x41,
    "FILE_MODE": 0x42,
    "OFFSET": 0x43,
    "LENGTH": 0x44,
    "DEPTH": 0x45,
    "RECURSIVE": 0x46,
    "NOFOLLOW": 0x47,
    "NAME": 0x48,
    "KIND": 0x49,
    "SIZE": 0x4A,
    "MODE": 0x4B,
    "MTIME_NS": 0x4C,
    "UID": 0x4D,
    "GID": 0x4E,
    "LINK": 0x4F,
    "UPTIME_MS": 0x50,
    "LOAD1": 0x51,
    "MEMORY_TOTAL": 0x52,
    "MEMORY_AVAILABLE": 0x53,
    "DISK_TOTAL": 0x54,
    "DISK_FREE": 0x55,
    "PROCESS_COUNT": 0x56,
    "CPU_BUSY_MS": 0x57,
    "EVENT": 0x58,
    "CTIME_NS": 0x59,
    "PORT": 0x5A,
    "LOOPBACK": 0x5B,
}
NAMES = {number: name for name, number in TAGS.items()}
NUMBERS = frozenset(
    [
        "ERRNO",
        "GATE_OPEN",
        "CLOCK_NS",
        "SPENT_US",
        "FRESH",
        "HOOK_MS",
        "CLOCK_STEP_US",
        "CLOCK_BACK",
        "HOOKS_RUN",
        "ENTROPY_BYTES",
        "TIMEOUT_MS",
        "STDIN",
        "ROWS",
        "COLS",
        "DETACHED",
        "PID",
        "EXIT_CODE",
        "DURATION_US",
        "TIMED_OUT",
        "SIGNAL_NUMBER",
        "STARTED_NS",
        "RUNNING",
        "TTY",
        "QUIET",
        "LAST",
        "FILE_MODE",
        "OFFSET",
        "LENGTH",
        "DEPTH",
        "RECURSIVE",
        "NOFOLLOW",
        "SIZE",
        "MODE",
        "MTIME_NS",
        "CTIME_NS",
        "UID",
        "GID",
        "UPTIME_MS",
        "LOAD1",
        "MEMORY_TOTAL",
        "MEMORY_AVAILABLE",
        "DISK_TOTAL",
        "DISK_FREE",
        "PROCESS_COUNT",
        "CPU_BUSY_MS",
        "PORT",
        "LOOPBACK",
    ]
)
WINDOW = 262_144
NONCE = bytes(range(16))
PATIENCE = 20.0

Value = int | str | bytes
Fields = dict[str, bytes]


def pack_field(name: str, value: Value) -> bytes:
    if isinstance(value, int):
        value = struct.pack("<Q", value)
    elif isinstance(value, str):
        value = value.encode()
    return struct.pack("<BI", TAGS[name], len(value)) + value


def pack_fields(fields: list[tuple[str, Value]]) -> bytes:
    return b"".join(pack_field(name, value) for name, value in fields)


def pack_frame(kind: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack("<IBI", len(payload) + 5, kind, stream) + payload


def walk_fields(payload: bytes) -> list[tuple[str, bytes]]:
    fields = []
    while payload:
        tag, size = struct.unpack_from("<BI", payload)
        assert len(payload) >= 5 + size, "a field ends behind its payload"
        fields.append((NAMES[tag], payload[5 : 5 + size]))
        payload = payload[5 + size :]
    return fields


def unpack_fields(payload: bytes) -> Fields:
    """The fields of a payload that repeats none; numbers must have their width."""
    fields: Fields = {}
    for name, value in walk_fields(payload):
        assert name not in fields, f"{name} twice"
        assert name not in NUMBERS or len(value) == 8, f"{name} is no number"
        fields[name] = value
    return fields


def number(value: bytes) -> int:
    return int.from_bytes(value, "little")


@dataclass(frozen=True)
class Frame:
    kind: int
    stream: int
    payload: bytes


@dataclass
class Outcome:
    """What a stream said from its start to DONE."""

    opened: Fields | None = None
    order: list[tuple[int, bytes]] = field(default_factory=list)
    items: list[Fields] = field(default_factory=list)
    ended: bool = False
    done: Fields = field(default_factory=dict)

    def number(self, name: str) -> int:
        return number(self.done[name])

    @property
    def out(self) -> bytes:
        return b"".join(content for channel, content in self.order if channel == 1)

    @property
    def err(self) -> bytes:
        return b"".join(content for channel, content in self.order if channel == 2)

    @property
    def errno(self) -> int:
        return self.number("ERRNO")

    def take(self, frame: Frame) -> None:
        if frame.kind == Kind.OPENED:
            assert self.opened is None, "OPENED twice"
            self.opened = unpack_fields(frame.payload)
        elif frame.kind == Kind.DATA:
            channel, content = frame.payload[0], frame.payload[1:]
            assert channel in (1, 2) and content and not self.ended
            self.order.append((channel, content))
        elif frame.kind == Kind.EOF:
            assert frame.payload == b"\x01" and not self.ended
            self.ended = True
        elif frame.kind == Kind.ITEMS:
            for name, item in walk_fields(frame.payload):
                assert name == "ITEM"
                self.items.append(unpack_fields(item))
        elif frame.kind == Kind.DONE:
            self.done = unpack_fields(frame.payload)
        else:
            assert frame.kind == Kind.CREDIT, f"frame {frame.kind:#x} on a stream"


class Wire:
    """One connection. `credit` off leaves the guest with the first window of every stream."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.connection.settimeout(PATIENCE)
        self.next_stream = 1
        self.buffer = bytearray()
        self.waiting: dict[int, deque[Frame]] = defaultdict(deque)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()

    def send(self, kind: int, stream: int, payload: bytes = b"") -> None:
        self.connection.sendall(pack_frame(kind, stream, payload))

    def receive(self, patience: float = PATIENCE) -> Frame:
        """The next frame off the wire. TimeoutError when none is whole in time."""
        deadline = time.monotonic() + patience
        while len(self.buffer) < 4 or len(self.buffer) < 4 + (
            length := struct.unpack_from("<I", self.buffer)[0]
        ):
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("no frame")
            self.connection.settimeout(left)
            got = self.connection.recv(1 << 18)
            if not got:
                raise ConnectionResetError("the agent hung up")
            self.buffer += got
        assert 5 <= length <= 1_048_576
        kind, stream = struct.unpack_from("<BI", self.buffer, 4)
        payload = bytes(self.buffer[9 : 4 + length])
        del self.buffer[: 4 + length]
        return Frame(kind, stream, payload)

    def receive_on(self, stream: int, patience: float = PATIENCE) -> Frame:
        """The next frame of one stream; those of others wait for their own turn."""
        if self.waiting[stream]:
            return self.waiting[stream].popleft()
        deadline = time.monotonic() + patience
        while True:
            frame = self.receive(deadline - time.monotonic())
            if frame.stream == stream:
                return frame
            self.waiting[frame.stream].append(frame)

    def silent(self, seconds: float) -> bool:
        """True when nothing came on any stream for so long."""
        try:
            self.waiting[0].append(self.receive(seconds))
        except TimeoutError:
            return True
        return False

    def hello(self, nonce: bytes = NONCE) -> Fields:
        self.send(Kind.HELLO, 0, nonce + struct.pack("<I", 1))
        while (frame := self.receive()).kind != Kind.WELCOME:
            continue
        assert frame.stream == 0 and frame.payload[:16] == nonce
        assert struct.unpack_from("<I", frame.payload, 16) == (1,)
        self.waiting.clear()
        return unpack_fields(frame.payload[20:])

    def gate(self, *fields: tuple[str, Value]) -> Fields:
        return self.gate_with([*GATE_FIELDS, *fields])

    def gate_with(self, fields: list[tuple[str, Value]]) -> Fields:
        self.send(Kind.GATE, 0, pack_fields(fields))
        frame = self.receive_on(0)
        assert frame.kind == Kind.GATED
        return unpack_fields(frame.payload)

    def seal(self) -> None:
        self.send(Kind.SEAL, 0)
        assert self.receive_on(0) == Frame(Kind.SEALED, 0, b"")

    def ping(self, patience: float = PATIENCE) -> None:
        self.send(Kind.PING, 0, b"12345678")
        assert self.receive_on(0, patience) == Frame(Kind.PONG, 0, b"12345678")

    def open(self, operation: int, *fields: tuple[str, Value]) -> int:
        stream = self.next_stream
        self.next_stream += 1
        self.send(Kind.OPEN, stream, bytes([operation]) + pack_fields(list(fields)))
        return stream

    def allow(self, stream: int, count: int) -> None:
        self.send(Kind.CREDIT, stream, struct.pack("<I", count))

    def finish(self, stream: int, patience: float = PATIENCE) -> Outcome:
        """Everything up to DONE, with credit for what came."""
        outcome = Outcome()
        deadline = time.monotonic() + patience
        while not outcome.done:
            frame = self.receive_on(stream, deadline - time.monotonic())
            outcome.take(frame)
            if frame.kind == Kind.DATA:
                self.allow(stream, len(frame.payload) - 1)
        return outcome

    def finish_opened(self, stream: int) -> Fields:
        """The fields of OPENED, which must be the next word on the stream."""
        frame = self.receive_on(stream)
        assert frame.kind == Kind.OPENED
        return unpack_fields(frame.payload)

    def run(self, operation: int, *fields: tuple[str, Value]) -> Outcome:
        return self.finish(self.open(operation, *fields))

    def shell(self, text: str, *fields: tuple[str, Value], name: str | None = None) -> Outcome:
        return self.finish(self.start(text, *fields, name=name))

    def start(self, text: str, *fields: tuple[str, Value], name: str | None = None) -> int:
        identity = name if name is not None else f"p{self.next_stream}"
        return self.open(Op.EXEC, ("PROCESS_ID", identity), ("SHELL", text), *fields)


GATE_FIELDS: list[tuple[str, Value]] = [
    ("ENTROPY", bytes(64)),
    ("CLOCK_NS", 1_700_000_000_000_000_000),
    ("HOSTNAME", "sandbox"),
    ("MACHINE_ID", "0123456789abcdef" * 2),
]
