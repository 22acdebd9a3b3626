"""The head of an HTTP/1 request, read strictly: what two parsers could read differently is refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from msgspec import Struct

from pandastack.model.hostname import canonical_name

HEAD_LIMIT = 1 << 16
CHANGED_LIMIT = 2 * HEAD_LIMIT
LINES = 200

_FIRST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) ([\x21-\x7e]+) HTTP/1\.([01])")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\x00-\x08\x0a-\x1f\x7f]*)")
"""With one way to match: two repetitions of the same signs take the square of the time to fail."""
_ABSOLUTE = re.compile(r"http://([^/?#]*)", re.IGNORECASE)
_HOST = re.compile(r"([A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_MAYBE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}(?: [^\r\n]*)?\r?")
_REQUEST = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+[ \t].*HTTP/[0-9].*", re.IGNORECASE)

Change = Callable[[str, str], str]
"""Another value for a field, of its name and its value."""


class Refused(Exception):
    """The request is malformed or could be read in two ways; the message is a sentence."""


class Head(Struct, frozen=True):
    """A request's head. `host` is canonical and None when it names an address or nobody; `length` is that of
    its body, None when it is `chunked`.
    """

    raw: bytes
    method: str
    host: str | None
    fields: tuple[tuple[str, str], ...]
    length: int | None
    upgrade: bool

    def with_values(self, change: Change) -> bytes:
        """The head with each field's value changed; names, order and request line stay. Refused when it
        becomes too long: it is held for as long as its server takes nothing.
        """
        first, *lines = self.raw[: -len(b"\r\n\r\n")].split(b"\r\n")
        changed = b"\r\n".join([first, *(_changed(line, change) for line in lines), b"", b""])
        if len(changed) > CHANGED_LIMIT:
            raise Refused(f"With its secrets the head of a request is at most {CHANGED_LIMIT} bytes.")
        return changed


def could_be_request(data: bytes) -> bool | None:
    """Whether a connection begins with an HTTP/1 request; None when more bytes must tell."""
    data = data.lstrip(b"\r\n")
    line, newline, _ = data.partition(b"\n")
    if newline:
        return bool(_REQUEST.fullmatch(line.rstrip(b"\r")))
    if len(data) > HEAD_LIMIT:
        return False
    return None if not data or _MAYBE.fullmatch(data) else False


def read_head(data: bytes) -> Head | None:
    """The head that `data` begins with; None when it is not complete yet. Refused."""
    end = data.find(b"\r\n\r\n")
    if end < 0 and len(data) <= HEAD_LIMIT:
        return None
    raw = data[: end + 4]
    if end < 0 or len(raw) > HEAD_LIMIT:
        raise Refused(f"The head of a request is at most {HEAD_LIMIT} bytes.")
    first, *lines = raw[:-4].split(b"\r\n")
    found = _FIRST_LINE.fullmatch(first)
    if not found or len(lines) > LINES:
        raise Refused("This is no request of HTTP/1.")
    fields = tuple(_fields(lines))
    method, target = found[1].decode(), found[2].decode()
    host = _host(fields, required=found[3] == b"1")
    _check_target(method, target, host)
    length = _length(fields)
    if length is None and found[3] == b"0":  # which knows no chunks: its server may take them for requests
        raise Refused("The length of this request's body can be read in two ways.")
    upgrade = {token.strip().lower() for value in _all(fields, "upgrade") for token in value.split(",")}
    return Head(raw, method, host, fields, length, bool(upgrade) and not upgrade & {"h2c", "h2"})


def _fields(lines: list[bytes]) -> Iterator[tuple[str, str]]:
    for line in lines:
        found = _FIELD.fullmatch(line)
        if not found:
            raise Refused("A header of this request is malformed.")
        yield found[1].decode().lower(), found[2].decode("latin-1").strip(" \t")


def _all(fields: tuple[tuple[str, str], ...], name: str) -> list[str]:
    return [value for each, value in fields if each == name]


def _host(fields: tuple[tuple[str, str], ...], *, required: bool) -> str | None:
    hosts = _all(fields, "host")
    if len(hosts) > 1 or (required and not hosts):
        raise Refused("A request has one Host.")
    return _named(hosts[0]) if hosts else None


def _named(authority: str) -> str | None:
    found = _HOST.fullmatch(authority)
    if not found:
        raise Refused("The Host of this request is malformed.")
    return canonical_name(found[1])


def _check_target(method: str, target: str, host: str | None) -> None:
    absolute = _ABSOLUTE.match(target)
    if absolute:
        if _named(absolute[1]) != host or not absolute[1]:
            raise Refused("The Host of this request is not the one of its target.")
    elif method.upper() == "CONNECT":
        raise Refused("CONNECT is not passed on.")
    elif not target.startswith("/") and target != "*":
        raise Refused("The target of this request is malformed.")


def _length(fields: tuple[tuple[str, str], ...]) -> int | None:
    lengths, codings = _all(fields, "content-length"), _all(fields, "transfer-encoding")
    if codings:
        if lengths or [coding.lower() for coding in codings] != ["chunked"]:
            raise Refused("The length of this request's body can be read in two ways.")
        return None
    if len(lengths) > 1 or not all(re.fullmatch("[0-9]{1,18}", each) for each in lengths):
        raise Refused("The length of this request's body can be read in two ways.")
    return int(lengths[0]) if lengths else 0


def _changed(line: bytes, change: Change) -> bytes:
    name, colon, value = line.partition(b":")
    text = value.decode("latin-1")
    stripped = text.strip(" \t")
    changed = change(name.decode(), stripped)
    return line if changed == stripped else name + colon + b" " + changed.encode("latin-1")
