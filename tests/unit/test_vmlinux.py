"""Kernels out of the images they are packed in, however they are packed; and what is none."""

from __future__ import annotations

import gzip
import lzma
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from pandastack.errors import BuildFailed
from pandastack.host.paths import Cache
from pandastack.host.vmlinux import ensure_vmlinux, unpacked

KERNEL = b"\x7fELF" + bytes(range(200)) * 40 + b"\0" * 5000


def literal(data: bytes) -> bytes:
    """LZ4: bytes as they are."""
    size, rest = len(data), b""
    if size >= 15:
        rest = b"\xff" * ((size - 15) // 255) + bytes([(size - 15) % 255])
    return bytes([min(size, 15) << 4]) + rest + data


def lz4_block(data: bytes, distance: int, count: int) -> bytes:
    """LZ4: bytes as they are, then `count` bytes from `distance` before, then nothing more."""
    head = literal(data)
    more = count - 4
    rest = b"\xff" * ((more - 15) // 255) + bytes([(more - 15) % 255])
    return bytes([head[0] | 15]) + head[1:] + struct.pack("<H", distance) + rest + bytes([0])


def lz4(kernel: bytes) -> bytes:
    """Two blocks, the first of which copies what overlaps itself; the size of all is behind them."""
    head = kernel[:8004]
    blocks = [lz4_block(head[:204], 200, 7800), literal(kernel[8004:])]
    return b"\x02\x21\x4c\x18" + b"".join(struct.pack("<I", len(one)) + one for one in blocks)


PACKERS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "xz": lzma.compress, "lz4": lz4}


def image(payload: bytes, size: int = len(KERNEL)) -> bytes:
    """A bootable image: one sector, four of set-up, code, the payload and its size."""
    head = bytearray(5 * 512)
    head[0x1F1] = 4
    head[0x202:0x206] = b"HdrS"
    payload += struct.pack("<I", size)
    struct.pack_into("<II", head, 0x248, 100, len(payload))
    return bytes(head) + bytes(100) + payload + bytes(64)


@pytest.mark.parametrize("packer", PACKERS)
def test_it_comes_out_as_it_went_in(packer: str, tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(image(PACKERS[packer](KERNEL)))
    path = ensure_vmlinux(Cache(tmp_path), kernel)
    assert path.read_bytes() == KERNEL
    assert ensure_vmlinux(Cache(tmp_path), kernel) == path
    assert ensure_vmlinux(Cache(tmp_path), path) == path, "it is one already"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"nothing of a kernel".ljust(4096), "neither"),
        (image(b"\x28\xb5\x2f\xfd and more"), "not known here"),
        (image(lzma.compress(KERNEL)[:40]), "not as long"),
        (
            image(b"\x02\x21\x4c\x18" + struct.pack("<I", 9) + b"\x00\x01\x00" + bytes(9)),
            "cannot be unpacked",
        ),
        (image(gzip.compress(b"something else"), size=14), "no ELF"),
    ],
)
def test_what_is_no_kernel(data: bytes, why: str) -> None:
    with pytest.raises(BuildFailed, match=why):
        unpacked(data)
