"""The memory of a machine: an immutable base file, mapped privately, and the pages that it has written.

A restored guest's memory is a private mapping of its base. What it wrote are anonymous pages of the VMM's
process, which the kernel tells apart (`PAGEMAP_SCAN`, Linux 6.7; else `/proc/PID/pagemap`). A snapshot stores
those alone, in one file: a header of runs, then the pages. Putting them into a fresh mapping of the same base
gives the memory back exactly; pages that are not in the file are the base's.

Linux, admin-guide/mm/pagemap.rst.
"""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Struct

from pandastack.errors import MachineError, SnapshotRefused
from pandastack.host.growing import Growing
from pandastack.host.marks import FileMark

PAGE = 4096
MAGIC = b"PNDAPAGE"
_HEADER = struct.Struct("<8sIIQ")
"""Magic, page size, number of runs, number of pages."""
_RUN = struct.Struct("<II")
"""First page, number of pages."""
_BATCH_BYTES = 4 << 20
_BATCH_PIECES = 1024
"""What one system call transfers at most; the latter is the kernel's limit (IOV_MAX)."""

_PAGEMAP_SCAN = 0xC0606610
_SCAN = struct.Struct("<12Q")
_FILE, _PRESENT, _SWAPPED = 1 << 2, 1 << 3, 1 << 4
_REGIONS = 4096
_ENTRY_FILE, _ENTRY_SWAPPED, _ENTRY_PRESENT = 1 << 61, 1 << 62, 1 << 63

Run = tuple[int, int]
"""First page and number of pages, counted from the beginning of the guest's memory."""


class Mapping(Struct, frozen=True):
    """A part of the guest's memory in its VMM's address space. Bytes."""

    start: int
    end: int
    offset: int
    """Where it begins in the guest's memory."""


def mappings(pid: int, base: Path) -> list[Mapping]:
    """Where process `pid` has mapped the file `base`, or another link to it or copy of it. MachineError when
    it has not, or has ended.
    """
    ending = mark(base)
    found = []
    try:
        with Path(f"/proc/{pid}/maps").open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.rstrip().removesuffix(" (deleted)").endswith(ending):
                    span, _, offset, *_ = line.split(maxsplit=3)
                    start, end = (int(part, 16) for part in span.split("-"))
                    found.append(Mapping(start, end, int(offset, 16)))
    except (FileNotFoundError, ProcessLookupError) as error:
        raise MachineError(f"The process {pid} has ended.") from error
    if not found:
        raise MachineError(f"The process {pid} has not mapped its snapshot's memory.")
    return found


def mark(base: Path) -> str:
    """How the path of a mapped base ends, wherever it lies: in the folder that is named by what it is."""
    return f"/{base.parent.name}/{base.name}"


def private_runs(pid: int, parts: list[Mapping]) -> list[Run]:
    """The pages that the process has of its own, in order. It must stand still to be exact."""
    runs: list[Run] = []
    with Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as pagemap:
        for part in sorted(parts, key=lambda part: part.offset):
            shift = (part.offset - part.start) // PAGE
            try:
                found = list(_scanned(pagemap.fileno(), part))
            except OSError as error:
                if error.errno not in (errno.ENOTTY, errno.EINVAL):
                    raise
                found = list(_read(pagemap.fileno(), part))
            runs += [(start // PAGE + shift, (end - start) // PAGE) for start, end in found]
    return runs


def _scanned(pagemap: int, part: Mapping) -> Iterator[tuple[int, int]]:
    """Addresses by the kernel's own scan: 0.4 ms for 512 MiB."""
    regions = (ctypes.c_uint64 * (3 * _REGIONS))()
    start = part.start
    while start < part.end:
        wanted = (_FILE, _FILE, _PRESENT | _SWAPPED, _PRESENT | _SWAPPED)
        order = bytearray(
            _SCAN.pack(_SCAN.size, 0, start, part.end, 0, ctypes.addressof(regions), _REGIONS, 0, *wanted)
        )
        count = fcntl.ioctl(pagemap, _PAGEMAP_SCAN, order, True)
        for index in range(0, 3 * count, 3):
            yield regions[index], regions[index + 1]
        start = _SCAN.unpack(order)[4]


def _read(pagemap: int, part: Mapping) -> Iterator[tuple[int, int]]:
    """Addresses by reading all entries, for older kernels: some 20 ms for 512 MiB."""
    entries = array.array("Q", os.pread(pagemap, (part.end - part.start) // PAGE * 8, part.start // PAGE * 8))
    begun: int | None = None
    for number, entry in enumerate(entries):
        own = not entry & _ENTRY_FILE and bool(entry & (_ENTRY_PRESENT | _ENTRY_SWAPPED))
        if own and begun is None:
            begun = number
        elif not own and begun is not None:
            yield part.start + begun * PAGE, part.start + number * PAGE
            begun = None
    if begun is not None:
        yield part.start + begun * PAGE, part.end


def save(pid: int, base: Path, target: Path) -> FileMark:
    """Write the private pages of process `pid`, which stands still, to `target`; its mark, and it is already
    on its way to the disk.

    Beyond them the file takes eight bytes a run and less than a page.
    """
    parts = mappings(pid, base)
    runs = private_runs(pid, parts)
    pages = sum(count for _, count in runs)
    head = _HEADER.pack(MAGIC, PAGE, len(runs), pages) + b"".join(_RUN.pack(*run) for run in runs)
    with Growing(target) as growing:
        growing.add(head.ljust(_pages_at(len(runs)), b"\0"))
        for batch, size in _batches(parts, runs, growing.room):
            _transfer(_libc.process_vm_readv, pid, growing.address(), batch, size)
            growing.grown(size)
        return growing.mark()


def load(pid: int, base: Path, source: Path) -> int:
    """Write the pages in `source` into the memory of process `pid`, whose guest has not run; their number."""
    parts = mappings(pid, base)
    runs = read_runs(source)
    buffer = bytearray(_BATCH_BYTES)
    address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    with source.open("rb", buffering=0) as file:
        file.seek(_pages_at(len(runs)))
        for batch, size in _batches(parts, runs, lambda: _BATCH_BYTES):
            _all(file.readinto(memoryview(buffer)[:size]) or 0, size)
            _transfer(_libc.process_vm_writev, pid, address, batch, size)
    return sum(count for _, count in runs)


def read_runs(source: Path) -> list[Run]:
    """What a file of pages holds; SnapshotRefused when it is none or was cut."""
    size = source.stat().st_size
    with source.open("rb") as file:
        head = file.read(_HEADER.size)
        if len(head) < _HEADER.size:
            raise SnapshotRefused(f"The memory file {source.name} is cut short.")
        magic, page, count, pages = _HEADER.unpack(head)
        if magic != MAGIC or page != PAGE or size != _pages_at(count) + pages * PAGE:
            raise SnapshotRefused(f"The memory file {source.name} is no whole file of pages.")
        return list(_RUN.iter_unpack(file.read(count * _RUN.size)))


def _pages_at(runs: int) -> int:
    """Where the pages begin, on a page of the file."""
    return -(-(_HEADER.size + runs * _RUN.size) // PAGE) * PAGE


def _batches(
    parts: list[Mapping], runs: list[Run], room: Callable[[], int]
) -> Iterator[tuple[list[int], int]]:
    """What one system call transfers: addresses and sizes in turn, and the bytes of all, in the file's order.
    There is room for so many bytes when the last one was done.
    """
    batch: list[int] = []
    total, most = 0, room()
    for address, size in _pieces(parts, runs):
        while size:
            part = min(size, most - total)
            batch += (address, part)
            address, size, total = address + part, size - part, total + part
            if total == most or len(batch) == 2 * _BATCH_PIECES:
                yield batch, total
                batch, total, most = [], 0, room()
    if batch:
        yield batch, total


def _pieces(parts: list[Mapping], runs: list[Run]) -> Iterator[tuple[int, int]]:
    """Address and size of what the runs are in the process, at most a buffer at a time, in the file's order.
    SnapshotRefused for pages that the machine does not have.
    """
    for first, count in runs:
        at, end = first * PAGE, (first + count) * PAGE
        while at < end:
            part = next((p for p in parts if p.offset <= at < p.offset + p.end - p.start), None)
            if part is None:
                raise SnapshotRefused("The memory file holds pages beyond the machine's memory.")
            size = min(end - at, _BATCH_BYTES, part.offset + part.end - part.start - at)
            yield part.start + at - part.offset, size
            at += size


def _transfer(call: Callable[..., int], pid: int, address: int, batch: list[int], size: int) -> None:
    """Between our memory and that of the process, in one call. MachineError when it has ended."""
    here = (ctypes.c_uint64 * 2)(address, size)
    there = (ctypes.c_uint64 * len(batch))(*batch)
    done = call(pid, here, 1, there, len(batch) // 2, 0)
    if done < 0:
        raise MachineError(f"A machine's memory cannot be copied: {os.strerror(ctypes.get_errno())}.")
    _all(done, size)


def _all(done: int, wanted: int) -> None:
    """A regular file and a process's memory give all or fail: anything else is a fault of the machine."""
    if done != wanted:
        raise MachineError(f"Only {done} of {wanted} bytes of a machine's memory could be copied.")


def _load_libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    for call in (libc.process_vm_readv, libc.process_vm_writev):
        call.restype = ctypes.c_ssize_t
        here, there = (ctypes.c_void_p, ctypes.c_ulong), (ctypes.c_void_p, ctypes.c_ulong)
        call.argtypes = (ctypes.c_int, *here, *there, ctypes.c_ulong)
    return libc


_libc = _load_libc()
