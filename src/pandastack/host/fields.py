"""Fields: what the payloads of most frames of the guest protocol are made of. Decoding is strict."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum

from msgspec import Struct

from pandastack.errors import InvalidRequest
from pandastack.host.frames import malformed


class Tag(IntEnum):
    """What a field is."""

    ERRNO = 0x01
    MESSAGE = 0x02
    AGENT = 0x03
    GATE_OPEN = 0x04
    KERNEL = 0x05
    ENTROPY = 0x06
    CLOCK_NS = 0x07
    HOSTNAME = 0x08
    MACHINE_ID = 0x09
    NET_ADDRESS = 0x0A
    NET_GATEWAY = 0x0B
    NET_DNS = 0x0C
    NET_MAC = 0x0D
    SPENT_US = 0x0E
    ITEM = 0x0F
    FRESH = 0x10
    HOOK_MS = 0x11
    BOOT_ID = 0x12
    CLOCK_STEP_US = 0x13
    CLOCK_BACK = 0x14
    HOOKS_RUN = 0x15
    HOOKS_FAILED = 0x16
    ENTROPY_BYTES = 0x17
    PROCESS_ID = 0x20
    ARG = 0x21
    SHELL = 0x22
    CWD = 0x23
    ENV = 0x24
    USER = 0x25
    TIMEOUT_MS = 0x26
    STDIN = 0x27
    ROWS = 0x28
    COLS = 0x29
    DETACHED = 0x2A
    PID = 0x2B
    EXIT_CODE = 0x2C
    DURATION_US = 0x2D
    TIMED_OUT = 0x2E
    SIGNAL_NUMBER = 0x2F
    COMMAND = 0x30
    STARTED_NS = 0x31
    RUNNING = 0x32
    TTY = 0x33
    QUIET = 0x34
    LAST = 0x35
    PATH = 0x40
    TARGET = 0x41
    FILE_MODE = 0x42
    OFFSET = 0x43
    LENGTH = 0x44
    DEPTH = 0x45
    RECURSIVE = 0x46
    NOFOLLOW = 0x47
    NAME = 0x48
    KIND = 0x49
    SIZE = 0x4A
    MODE = 0x4B
    MTIME_NS = 0x4C
    UID = 0x4D
    GID = 0x4E
    LINK = 0x4F
    UPTIME_MS = 0x50
    LOAD1 = 0x51
    MEMORY_TOTAL = 0x52
    MEMORY_AVAILABLE = 0x53
    DISK_TOTAL = 0x54
    DISK_FREE = 0x55
    PROCESS_COUNT = 0x56
    CPU_BUSY_MS = 0x57
    EVENT = 0x58
    CTIME_NS = 0x59
    PORT = 0x5A
    LOOPBACK = 0x5B
    DRIVE = 0x5C
    READ_ONLY = 0x5D


_WORDS = {
    *(Tag.MESSAGE, Tag.AGENT, Tag.KERNEL, Tag.ENTROPY, Tag.HOSTNAME, Tag.MACHINE_ID, Tag.ITEM),
    *(Tag.BOOT_ID, Tag.HOOKS_FAILED),
    *(Tag.NET_ADDRESS, Tag.NET_GATEWAY, Tag.NET_DNS, Tag.NET_MAC),
    *(Tag.PROCESS_ID, Tag.ARG, Tag.SHELL, Tag.CWD, Tag.ENV, Tag.USER, Tag.COMMAND),
    *(Tag.PATH, Tag.TARGET, Tag.NAME, Tag.KIND, Tag.LINK, Tag.EVENT),
}
NUMBERS = frozenset(set(Tag) - _WORDS)
"""Tags whose value is an integer of 8 bytes; the others hold bytes."""

_TAG = struct.Struct("<BI")
_TAGS = {int(tag): tag for tag in Tag}

Value = bytes | str | int | None
"""What a field is made from; None leaves it out."""


class Shape(Struct, frozen=True):
    """Which fields a payload may hold: each tag once, but `repeated` ones."""

    required: frozenset[Tag] = frozenset()
    optional: frozenset[Tag] = frozenset()
    repeated: frozenset[Tag] = frozenset()


class Fields:
    """The fields of one payload. What its shape requires is there."""

    __slots__ = ("_lists", "_numbers", "_words")

    def __init__(self) -> None:
        self._numbers: dict[Tag, int] = {}
        self._words: dict[Tag, bytes] = {}
        self._lists: dict[Tag, list[bytes]] = {}

    def number(self, tag: Tag, default: int = 0) -> int:
        """The value of an integer field."""
        return self._numbers.get(tag, default)

    def text(self, tag: Tag) -> str:
        """The value of a text field; bytes that are no UTF-8 appear as U+FFFD."""
        return self._words.get(tag, b"").decode(errors="replace")

    def many(self, tag: Tag) -> list[bytes]:
        """The values of a repeated field, in order."""
        return self._lists.get(tag, [])

    def __contains__(self, tag: object) -> bool:
        return tag in self._numbers or tag in self._words or tag in self._lists

    def add(self, tag: Tag, value: bytes, *, repeated: bool = False) -> None:
        """Take one field in; MachineError for a second one or a wrong width."""
        if repeated:
            self._lists.setdefault(tag, []).append(value)
        elif tag in self:
            raise malformed(f"a second {tag.name}")
        elif tag not in NUMBERS:
            self._words[tag] = value
        elif len(value) == 8:
            self._numbers[tag] = int.from_bytes(value, "little")
        else:
            raise malformed(f"{tag.name} of {len(value)} bytes")


def encode_fields(fields: Iterable[tuple[Tag, Value]]) -> bytes:
    """Fields in order; those that are None are left out."""
    parts: list[bytes] = []
    for tag, value in fields:
        if value is None:
            continue
        if isinstance(value, int):
            value = _encode_number(tag, value)
        elif isinstance(value, str):
            value = _encode(tag, value)
        parts += (_TAG.pack(tag, len(value)), value)
    return b"".join(parts)


def environment(env: Mapping[str, str]) -> Iterator[str]:
    """The `K=V` texts of an environment; InvalidRequest for a name that cannot be one."""
    for name, value in env.items():
        if not name or "=" in name:
            raise InvalidRequest(f'"{name}" cannot be the name of an environment variable')
        yield f"{name}={value}"


def _encode_number(tag: Tag, number: int) -> bytes:
    if not 0 <= number < 1 << 64:
        raise InvalidRequest(f"the {_name(tag)} cannot be {number}")
    return number.to_bytes(8, "little")


def _name(tag: Tag) -> str:
    return tag.name.lower().replace("_", " ")


def _encode(tag: Tag, text: str) -> bytes:
    name = _name(tag)
    if "\0" in text:
        raise InvalidRequest(f"the {name} must not contain a NUL character")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"the {name} is not valid Unicode") from None


def decode_fields(payload: bytes, shape: Shape) -> Fields:
    """The fields of a payload, checked against its shape."""
    fields = Fields()
    for tag, value in _parts(payload):
        repeated = tag in shape.repeated
        if not repeated and tag not in shape.required and tag not in shape.optional:
            raise malformed(f"{tag.name} where it does not belong")
        fields.add(tag, value, repeated=repeated)
    for tag in shape.required:
        if tag not in fields:
            raise malformed(f"no {tag.name}")
    return fields


def decode_items(payload: bytes, shape: Shape) -> Iterator[Fields]:
    """The items of an ITEMS frame, one at a time: there may be a hundred thousand in it."""
    for tag, item in _parts(payload):
        if tag is not Tag.ITEM:
            raise malformed(f"{tag.name} where it does not belong")
        yield decode_fields(item, shape)


def _parts(payload: bytes) -> Iterator[tuple[Tag, bytes]]:
    at, end = 0, len(payload)
    while at < end:
        if end - at < _TAG.size:
            raise malformed("a field that is cut short")
        number, length = _TAG.unpack_from(payload, at)
        at += _TAG.size
        if length > end - at:
            raise malformed("a field that is cut short")
        tag = _TAGS.get(number)
        if tag is None:
            raise malformed(f"a field of tag {number:#x}")
        yield tag, payload[at : at + length]
        at += length
