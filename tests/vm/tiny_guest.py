"""A guest of fifty bytes: it counts in its memory and says a letter through its serial port now and then.

It runs wherever a processor does, also where hardware virtualization is emulated and Linux would take hours.
"""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

from msgspec import structs

from pandastack.host.driver import MachineConfig
from pandastack.testing.machines import machine_config

LOAD_AT = 0x100000
COUNTER_AT = 0x200000
MEMORY_MB = 16
FIRST_LETTER = b"A"

CODE = bytes.fromhex(
    "baf8030000"  # mov edx, 0x3f8
    "b041ee"  # mov al, 'A'; out dx, al
    "31c9"  # xor ecx, ecx
    "48ff042500002000"  # again: inc qword [0x200000]
    "488b0c2500002000"  # mov rcx, [0x200000]
    "f7c1ff3f0000"  # test ecx, 0x3fff
    "75e8"  # jnz again
    "c1e90e83e10f"  # shr ecx, 14; and ecx, 15
    "8d4161ee"  # lea eax, [rcx + 'a']; out dx, al
    "ebdc"  # jmp again
)


def kernel() -> bytes:
    """The guest as an ELF file with one segment."""
    head, row = 64, 56
    elf = struct.pack(
        "<16sHHIQQQIHHHHHH",
        *(b"\x7fELF\x02\x01\x01".ljust(16, b"\0"), 2, 62, 1, LOAD_AT, head, 0, 0, head, row, 1, 0, 0, 0),
    )
    size = len(CODE)
    return elf + struct.pack("<IIQQQQQQ", 1, 7, head + row, LOAD_AT, LOAD_AT, size, size, 4096) + CODE


def tiny_config(folder: Path, vm_id: str) -> MachineConfig:
    """A machine that runs it, with a disk of one MiB that has a mark at its beginning."""
    image = folder / "image"
    image.mkdir(exist_ok=True)
    disk = image / "root.img"
    disk.write_bytes(b"a disk of its own".ljust(1 << 20, b"\0"))
    (image / "kernel").write_bytes(kernel())
    (image / "initrd").write_bytes(bytes(4096))
    (image / "empty").touch()
    return structs.replace(
        machine_config(vm_id),
        memory_mb=MEMORY_MB,
        root_disk=disk,
        overlay=image / "empty",
        kernel=image / "kernel",
        initrd=image / "initrd",
    )


def counter_in(memory: Path) -> int:
    """Where the counter stands in a file of the guest's memory."""
    with memory.open("rb") as file:
        return _number(os.pread(file.fileno(), 8, COUNTER_AT))


def counter_of(pid: int) -> int:
    """Where the counter of a running guest stands."""
    with Path(f"/proc/{pid}/mem").open("rb") as file:
        return _number(os.pread(file.fileno(), 8, memory_of(pid) + COUNTER_AT))


def memory_of(pid: int) -> int:
    """The address of a guest's memory in its process: the only mapping of that size."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        start, end = (int(word, 16) for word in re.split(r"[- ]", line)[:2])
        if end - start == MEMORY_MB << 20:
            return start
    raise AssertionError("the process has no guest memory")


def _number(data: bytes) -> int:
    return int(struct.unpack("<Q", data)[0])
