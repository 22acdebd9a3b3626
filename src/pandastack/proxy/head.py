"""The head of a request: read so that nobody can read it in another way, and written anew for the guest.

What is handed on is made from what was understood, never copied: one request in is at most one request out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from msgspec import Struct

from pandastack.errors import InvalidRequest

HEADERS_MOST, HEAD_BYTES, TARGET_BYTES = 100, 16 << 10, 8 << 10

Headers = tuple[tuple[bytes, bytes], ...]

_TOKEN = re.compile(rb"[!#$%&'*+.^`|~0-9A-Za-z-]+")  # RFC 9110 without "_", which some servers read as "-"
_TARGET = re.compile(rb"/[\x21-\x7e]*")
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(/?[^#]*)", re.IGNORECASE)
_HOST = re.compile(rb"(?:[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_LENGTH = re.compile(rb"[0-9]{1,18}")

_OF_ONE_HOP = frozenset(
    b"connection keep-alive proxy-connection te trailer transfer-encoding upgrade content-length host expect "
    b"proxy-authorization proxy-authenticate http2-settings".split()
)
_OURS = frozenset(b"x-api-key x-node-token x-stub-user x-real-ip forwarded via".split())
_OUR_FAMILIES = (b"x-forwarded-", b"x-pandastack-", b"x-fcs-")
_SECRET = re.compile(rb"\bpds_[0-9A-Za-z_]{8,}")
BROKER = b"x-pandastack-broker-auth"
"""What it says reaches the guest as Authorization, where ours takes that header."""


class Head(Struct, frozen=True):
    """A request head that has only one meaning. Names of headers are lower case; `target` begins with `/`."""

    method: str
    target: bytes
    host: bytes
    headers: Headers
    length: int | None = None
    """Of the body; None when there is none, or when it comes in chunks."""
    chunked: bool = False

    @property
    def has_body(self) -> bool:
        return self.chunked or bool(self.length)

    def value(self, name: bytes) -> bytes:
        """The only value of a header, or nothing when there is none or more than one."""
        found = [value for known, value in self.headers if known == name]
        return found[0] if len(found) == 1 else b""

    def lists(self, name: bytes) -> frozenset[bytes]:
        """The members of a header that is a list, in lower case."""
        values = b",".join(value for known, value in self.headers if known == name)
        return frozenset(member for part in values.lower().split(b",") if (member := part.strip()))


class Site(Struct, frozen=True):
    """By which way a request came in, and where it is to go."""

    sandbox_id: str
    port: int
    scheme: str
    client: str
    prefix: bytes = b""
    """What was taken off the path."""
    keyed: bool = False
    """It came with a key of ours: its Authorization is for us alone."""
    cookies: frozenset[bytes] = frozenset()
    """Cookies of this origin that are ours."""


def read_head(
    method: str, target: bytes, headers: Iterable[tuple[bytes, bytes]], *, old: bool = False
) -> Head:
    """The head as it was sent; `old` for HTTP/1.0. Errors: InvalidRequest for one that could be read in two
    ways.
    """
    fields = tuple((name.lower(), value.strip(b" \t")) for name, value in headers)
    _check_fields(fields)
    host = _only(fields, b"host")
    if host is None or not _HOST.fullmatch(host):
        raise InvalidRequest("A request names its host in one Host header.")
    if absolute := _ABSOLUTE.fullmatch(target):
        if absolute[1].lower() != host.lower():
            raise InvalidRequest("The host of the request line is not that of the Host header.")
        target = absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2]
    if len(target) > TARGET_BYTES or not _TARGET.fullmatch(target) or b"#" in target:
        raise InvalidRequest(f"A request's target is a plain path of at most {TARGET_BYTES} bytes.")
    length, chunked = _framing(fields)
    if old and chunked:
        raise InvalidRequest("A request in chunks is HTTP/1.1.")
    return Head(method, target, host, fields, length, chunked)


def _check_fields(fields: Headers) -> None:
    if len(fields) > HEADERS_MOST or sum(len(name) + len(value) + 4 for name, value in fields) > HEAD_BYTES:
        raise InvalidRequest(f"A request has at most {HEADERS_MOST} headers of {HEAD_BYTES} bytes in all.")
    for name, value in fields:
        if not _TOKEN.fullmatch(name):
            raise InvalidRequest("A header's name has letters, digits and dashes.")
        if _CONTROL.search(value):
            raise InvalidRequest("A header's value has no control characters.")


def _framing(fields: Headers) -> tuple[int | None, bool]:
    length, encoding = _only(fields, b"content-length"), _only(fields, b"transfer-encoding")
    if encoding is not None and (length is not None or encoding.lower() != b"chunked"):
        raise InvalidRequest("A body has either a Content-Length or the Transfer-Encoding chunked.")
    if length is not None and not _LENGTH.fullmatch(length):
        raise InvalidRequest("A Content-Length is a plain number.")
    return (None if length is None else int(length)), encoding is not None


def _only(fields: Headers, name: bytes) -> bytes | None:
    found = [value for known, value in fields if known == name]
    if len(found) > 1:
        raise InvalidRequest(f"A request has one {name.decode()} header.")
    return found[0] if found else None


def write_head(head: Head, target: bytes, site: Site, *, websocket: bool = False) -> bytes:
    """The head as the guest is sent it: of what is ours nothing, and who asks told by us alone."""
    lines = [head.method.encode() + b" " + target + b" HTTP/1.1", b"host: " + head.host]
    named = head.lists(b"connection")
    for name, value in head.headers:
        if name in named or name in _OF_ONE_HOP or _is_ours(name):
            continue
        if name == b"cookie":
            value = _without(value, site.cookies)
        if name == b"authorization" and (site.keyed or _SECRET.search(value)):
            continue
        if value or name != b"cookie":
            lines.append(name + b": " + value)
    lines += _about(head, site)
    lines += [b"connection: Upgrade", b"upgrade: websocket"] if websocket else [b"connection: close"]
    if head.chunked:
        lines.append(b"transfer-encoding: chunked")
    elif head.length is not None:
        lines.append(b"content-length: %d" % head.length)
    return b"\r\n".join([*lines, b"", b""])


def _about(head: Head, site: Site) -> list[bytes]:
    told = [
        b"x-forwarded-for: " + site.client.encode("ascii", "replace"),
        b"x-forwarded-host: " + head.host,
        b"x-forwarded-proto: " + site.scheme.encode(),
        b"x-fcs-sandbox: " + site.sandbox_id.encode(),
    ]
    if site.prefix:
        told.append(b"x-forwarded-prefix: " + site.prefix)
    if site.keyed and (broker := head.value(BROKER)):
        told.append(b"authorization: " + broker)
    return told


def _is_ours(name: bytes) -> bool:
    return name in _OURS or name.startswith(_OUR_FAMILIES)


def _without(cookies: bytes, ours: frozenset[bytes]) -> bytes:
    """The cookies but ours, and but those that hold a key of ours."""
    kept = [
        part.strip()
        for part in cookies.split(b";")
        if part.partition(b"=")[0].strip() not in ours and not _SECRET.search(part)
    ]
    return b"; ".join(part for part in kept if part)


def without_key(target: bytes) -> bytes:
    """The target without the query parameter that carries a key."""
    path, mark, query = target.partition(b"?")
    kept = [pair for pair in query.split(b"&") if not _KEY.match(pair)]
    return path + mark + b"&".join(kept) if any(kept) else path


_KEY = re.compile(
    b"".join(b"(?:%c|%%%02x)" % (letter, letter) for letter in b"access_token") + b"(?:=|$)", re.IGNORECASE
)
