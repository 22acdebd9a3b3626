"""The empty copy-on-write layer over a root disk: a qcow2 file of a header and no data.

Made once for an image and copied for each machine, which costs a fraction of a millisecond; starting qemu-img
for it costs ten. The format is QEMU's `docs/interop/qcow2.txt`, version 3.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from pandastack.errors import InvalidRequest

CLUSTER_BITS = 16
CLUSTER = 1 << CLUSTER_BITS
ENTRIES_PER_TABLE = CLUSTER // 8
HEADER_LENGTH = 104
BACKING_FORMAT = 0xE2792ACA
END_OF_EXTENSIONS = (0, 0)

# The file's clusters, in order; the table of mapping tables is last: it may need several, or a part of one.
_HEADER, _REFERENCE_TABLE, _REFERENCE_BLOCK, _MAPPING_TABLE = range(4)


def overlay(size_bytes: int, backing: Path) -> bytes:
    """An empty overlay of `size_bytes` over the raw disk `backing`, whose path is written into it.

    Raises InvalidRequest for a size that is no multiple of 512 or a path longer than the format's 1023 bytes.
    """
    name = os.fsencode(backing)
    if size_bytes % 512 or size_bytes <= 0 or len(name) > 1023:
        raise InvalidRequest(f"There is no overlay of {size_bytes} bytes over {backing}.")
    tables = _clusters(size_bytes, CLUSTER * ENTRIES_PER_TABLE)
    used = _MAPPING_TABLE + _clusters(tables * 8, CLUSTER)
    image = bytearray(_MAPPING_TABLE * CLUSTER + tables * 8)
    _put(image, _HEADER, _header(size_bytes, tables, name))
    _put(image, _REFERENCE_TABLE, struct.pack(">Q", _REFERENCE_BLOCK * CLUSTER))
    _put(image, _REFERENCE_BLOCK, struct.pack(f">{used}H", *[1] * used))
    return bytes(image)


def _clusters(amount: int, each: int) -> int:
    return -(-amount // each)


def _put(image: bytearray, cluster: int, data: bytes) -> None:
    image[cluster * CLUSTER : cluster * CLUSTER + len(data)] = data


def _header(size_bytes: int, tables: int, backing: bytes) -> bytes:
    extension = struct.pack(">II", BACKING_FORMAT, 3) + b"raw".ljust(8, b"\0")
    extension += struct.pack(">II", *END_OF_EXTENSIONS)
    fixed = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        b"QFI\xfb",
        3,  # version
        HEADER_LENGTH + len(extension),  # where the backing file's name is
        len(backing),
        CLUSTER_BITS,
        size_bytes,
        0,  # no encryption
        tables,
        _MAPPING_TABLE * CLUSTER,
        _REFERENCE_TABLE * CLUSTER,
        1,  # clusters of the reference table
        0,  # internal snapshots
        0,  # where they would be
        0,  # incompatible features
        0,  # compatible features
        0,  # features that a writer clears
        4,  # 16-bit reference counts
        HEADER_LENGTH,
    )
    return fixed + extension + backing
