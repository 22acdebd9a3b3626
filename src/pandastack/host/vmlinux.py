"""The kernel as a plain ELF file, out of the compressed one of the distribution: some monitors load no other.

Nothing of the kernel is run for it. The compressed file tells where its payload lies, and the payload's first
bytes tell how it is compressed.
"""

from __future__ import annotations

import hashlib
import lzma
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from pandastack.errors import BuildFailed
from pandastack.host.paths import Cache
from pandastack.host.publish import write_whole

ELF = b"\x7fELF"
_BOOT_SIGNATURE = (0x202, b"HdrS")
_SETUP_SECTORS = 0x1F1
_PAYLOAD = 0x248
_SECTOR = 512
_MOST = 256 << 20
"""Bytes of an unpacked kernel; a damaged file must not fill the memory."""


def _xz(packed: bytes) -> bytes:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(packed, _MOST)


def _gzip(packed: bytes) -> bytes:
    return zlib.decompressobj(wbits=31).decompress(packed, _MOST)


def _lz4(packed: bytes) -> bytes:
    """Of the format without frames: blocks, each behind its size. The last word is the size of all."""
    output = bytearray()
    at = 4
    while at + 8 <= len(packed):
        (size,) = struct.unpack_from("<I", packed, at)
        _lz4_block(packed, at + 4, at + 4 + size, output)
        at += 4 + size
        if len(output) > _MOST:
            break
    return bytes(output)


def _lz4_block(packed: bytes, at: int, end: int, output: bytearray) -> None:
    """Literals, and copies of what came before: the last sequence has no copy."""
    while at < end:
        token = packed[at]
        count, at = _lz4_length(packed, at + 1, token >> 4)
        output += packed[at : at + count]
        at += count
        if at >= end:
            return
        distance = packed[at] | packed[at + 1] << 8
        count, at = _lz4_length(packed, at + 2, token & 15)
        count += 4
        start = len(output) - distance
        if distance == 0 or start < 0:
            raise ValueError("a copy from before the beginning")
        while distance < count:  # what is copied is part of itself
            output += output[start:]
            count -= distance
            distance *= 2
        output += output[start : start + count]


def _lz4_length(packed: bytes, at: int, length: int) -> tuple[int, int]:
    """A length, and where it ends: of 15 and more the rest stands in further bytes."""
    more = 255 if length == 15 else 0
    while more == 255:
        more = packed[at]
        length += more
        at += 1
    return length, at


UNPACK: dict[bytes, Callable[[bytes], bytes]] = {
    b"\xfd7zXZ\0": _xz,
    b"\x1f\x8b\x08": _gzip,
    b"\x02\x21\x4c\x18": _lz4,
}


def ensure_vmlinux(cache: Cache, kernel: Path) -> Path:
    """The ELF file of `kernel`, which may be one already; unpacked only when it is not there. BuildFailed."""
    data = kernel.read_bytes()
    if data.startswith(ELF):
        return kernel
    path = cache.vmlinux(hashlib.sha256(data).hexdigest())
    if not path.exists():
        write_whole(path, unpacked(data))
    return path


def unpacked(image: bytes) -> bytes:
    """The ELF file in a bootable image. BuildFailed when it is none, or packed in a way not known here."""
    at, signature = _BOOT_SIGNATURE
    if image[at : at + len(signature)] != signature:
        raise BuildFailed("The kernel is neither an ELF file nor a bootable image.")
    start = (image[_SETUP_SECTORS] + 1) * _SECTOR
    offset, length = struct.unpack_from("<II", image, _PAYLOAD)
    payload = image[start + offset : start + offset + length]
    for magic, unpack in UNPACK.items():
        if payload.startswith(magic):
            return _elf(unpack, payload)
    raise BuildFailed(
        f"The kernel is packed in a way that is not known here (it begins {payload[:6].hex()})."
    )


def _elf(unpack: Callable[[bytes], bytes], payload: bytes) -> bytes:
    try:
        kernel = unpack(payload)
    except (lzma.LZMAError, zlib.error, ValueError, IndexError, struct.error) as error:
        raise BuildFailed(f"The kernel cannot be unpacked: {error}") from error
    if struct.pack("<I", len(kernel)) != payload[-4:]:  # what packs a kernel adds its size
        raise BuildFailed("The kernel is damaged: it is not as long as it says.")
    if not kernel.startswith(ELF):
        raise BuildFailed("What is packed in the kernel is no ELF file.")
    return kernel
