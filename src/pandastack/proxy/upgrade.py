"""The handshake of a WebSocket, as far as who hands it on must understand it."""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from hashlib import sha1

from pandastack.errors import InvalidRequest, PortClosed
from pandastack.proxy.answer import SWITCHING
from pandastack.proxy.exchange import Answer
from pandastack.proxy.head import Head

KEY = b"sec-websocket-key"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY_BYTES = 16


def wants_websocket(head: Head) -> bool:
    """Whether the request asks for a WebSocket. Errors: InvalidRequest for one that asks in a wrong way."""
    if b"websocket" not in head.lists(b"upgrade") or b"upgrade" not in head.lists(b"connection"):
        return False
    if head.method != "GET" or head.has_body or head.value(b"sec-websocket-version") != b"13":
        raise InvalidRequest("A WebSocket begins with a GET without a body, of version 13.")
    try:
        key = b64decode(head.value(KEY), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != _KEY_BYTES:
        raise InvalidRequest("A WebSocket's key has 16 bytes.")
    return True


def check_consent(answer: Answer, head: Head) -> None:
    """Errors: PortClosed for anything but the service's consent to this very request."""
    if answer.status != SWITCHING:
        raise PortClosed(f"upstream: the service answered {answer.status} to the WebSocket")
    fields = dict(answer.headers)
    proof = b64encode(sha1(head.value(KEY) + _GUID, usedforsecurity=False).digest())
    if fields.get(b"upgrade", b"").lower() != b"websocket" or fields.get(b"sec-websocket-accept") != proof:
        raise PortClosed("upstream: the service's consent to the WebSocket is none")
