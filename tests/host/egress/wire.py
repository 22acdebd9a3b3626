"""First words of connections, well-formed and not."""

from __future__ import annotations

from collections.abc import Sequence

ECH = (0xFE0D, b"\x00\x00\x01\x00\x01\x07\x00\x20" + b"e" * 32 + b"\x00\x10" + b"p" * 16)
PADDING = (21, bytes(4096))

Extension = tuple[int, bytes]


def server_name(name: bytes) -> Extension:
    """The extension that tells a name."""
    return 0, _block(2, b"\x00" + _block(2, name))


def body(extensions: Sequence[Extension]) -> bytes:
    """The body of a ClientHello."""
    packed = b"".join(kind.to_bytes(2, "big") + _block(2, data) for kind, data in extensions)
    ciphers = b"\x13\x01\x13\x02\xc0\x2b"
    return (
        b"\x03\x03"
        + bytes(32)
        + _block(1, b"s" * 32)
        + _block(2, ciphers)
        + _block(1, b"\x00")
        + _block(2, packed)
    )


def record(payload: bytes) -> bytes:
    """One record of a handshake."""
    return b"\x16\x03\x01" + _block(2, payload)


def hello(name: bytes | str | None, *more: Extension, records: int = 1) -> bytes:
    """A ClientHello that tells `name`, in so many records."""
    raw = name.encode() if isinstance(name, str) else name
    extensions = [*([server_name(raw)] if raw is not None else []), (43, b"\x02\x03\x04"), *more]
    message = b"\x01" + _block(3, body(extensions))
    size = -(-len(message) // records)
    return b"".join(record(message[at : at + size]) for at in range(0, len(message), size))


def get(host: str, target: str = "/", *lines: str) -> bytes:
    """A request."""
    head = [f"GET {target} HTTP/1.1", f"Host: {host}", *lines, "", ""]
    return "\r\n".join(head).encode()


def _block(size: int, data: bytes) -> bytes:
    return len(data).to_bytes(size, "big") + data
