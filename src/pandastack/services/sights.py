"""What a guest holds at a moment, asked of the guest itself: files, processes, listening ports."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Sequence
from ipaddress import IPv4Address, IPv6Address

from msgspec import Struct

from pandastack.errors import FileMissing, FileRefused
from pandastack.model.diff import PortAt, ProcessAt
from pandastack.model.guest import Channel, Command, FileEntry, FileKind, Guest

DEPTH = 64
APART = frozenset({"proc", "sys", "dev", "run"})
"""What lies here below the root is no file of anybody."""

COMPARED = frozenset({FileKind.FILE, FileKind.DIRECTORY, FileKind.LINK})
LISTENING = "0A"
TABLE_BYTES = 4 << 20
HASH_SECONDS = 60.0


class Sight(Struct, frozen=True):
    """Files by their absolute path, processes and listening ports."""

    files: dict[str, FileEntry]
    processes: frozenset[ProcessAt]
    ports: frozenset[PortAt]


async def sight(guest: Guest, path: str) -> Sight:
    """All of it; files below `path`. Errors: FileMissing, FileRefused, and those of a guest."""
    files = {name: entry async for name, entry in _files(guest, path)}
    return Sight(files, frozenset(await _processes(guest)), frozenset(await _ports(guest)))


async def digests(guest: Guest, paths: Sequence[str], process_id: str) -> list[str] | None:
    """The SHA-256 of each of these files; None when the guest cannot tell one of them."""
    words = ("sha256sum", "--", *paths)
    command = Command(process_id=process_id, argv=words, user="root", timeout_ms=round(HASH_SECONDS * 1000))
    told: list[bytes] = []
    try:
        async with guest.run(command) as process:
            async for piece in process.output():
                if piece.channel is Channel.STDOUT:
                    told.append(piece.data)
            ended = await process.wait()
    except (FileMissing, FileRefused):
        return None  # it has no such program
    lines = b"".join(told).splitlines()
    if ended.exit_code != 0 or len(lines) != len(paths):
        return None
    return [line.lstrip(b"\\")[:64].decode("ascii", "replace") for line in lines]


async def _files(guest: Guest, path: str) -> AsyncIterator[tuple[str, FileEntry]]:
    base = path.rstrip("/")
    whole = base != ""
    for entry in await guest.list(path, depth=DEPTH if whole else 1):
        if entry.kind not in COMPARED or (not whole and entry.name in APART):
            continue
        yield f"{base}/{entry.name}", entry
        if entry.kind is FileKind.DIRECTORY and not whole:
            for below in await guest.list(f"/{entry.name}", depth=DEPTH):
                if below.kind in COMPARED:
                    yield f"/{entry.name}/{below.name}", below


async def _processes(guest: Guest) -> list[ProcessAt]:
    """Those that have a command line: all but the kernel's own."""
    pids = [int(entry.name) for entry in await guest.list("/proc") if entry.name.isdigit()]
    lines = [(pid, await _read(guest, f"/proc/{pid}/cmdline")) for pid in pids]
    return [ProcessAt(pid, _command(line)) for pid, line in lines if line]


def _command(line: bytes) -> str:
    return line.rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")


async def _ports(guest: Guest) -> list[PortAt]:
    tables = [await _read(guest, f"/proc/net/{name}") for name in ("tcp", "tcp6")]
    return [port for table in tables for port in listening(table.decode("ascii", "replace"))]


def listening(table: str) -> list[PortAt]:
    """The ports of a table of the kernel (`/proc/net/tcp`, `tcp6`) on which something listens."""
    rows = [line.split() for line in table.splitlines()[1:]]
    return [_port(row[1]) for row in rows if len(row) > 3 and row[3] == LISTENING]


def _port(local: str) -> PortAt:
    """From the kernel's hexadecimal form, whose words are in the order of a little-endian machine."""
    address, _, port = local.partition(":")
    words = struct.unpack(f"<{len(address) // 8}I", bytes.fromhex(address))
    packed = struct.pack(f">{len(words)}I", *words)
    shown = IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)
    return PortAt(int(port, 16), str(shown))


async def _read(guest: Guest, path: str) -> bytes:
    """A file of the kernel's; nothing for one that is gone."""
    parts: list[bytes] = []
    try:
        async with guest.read(path, length=TABLE_BYTES) as reader:
            parts = [part async for part in reader]
    except (FileMissing, FileRefused):
        return b""
    return b"".join(parts)
