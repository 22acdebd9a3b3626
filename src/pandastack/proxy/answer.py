"""Answers of services in guests: read strictly, told in our own words. A guest may say anything."""

from __future__ import annotations

import re
from collections import deque

import httptools

from pandastack.errors import PortClosed
from pandastack.proxy.head import Headers

HEAD_BYTES, HEADERS_MOST = 64 << 10, 200
INTERIM_MOST = 16
SWITCHING = 101
BODILESS = frozenset((204, 304))

_OF_ONE_HOP = frozenset(
    b"connection keep-alive proxy-connection te trailer transfer-encoding upgrade content-length "
    b"proxy-authenticate alt-svc".split()
)
_OF_THE_ORIGIN = frozenset(
    b"set-cookie clear-site-data service-worker-allowed strict-transport-security".split()
)
"""What would change how a browser treats everything of an origin."""

SANDBOX = (
    b"content-security-policy",
    b"sandbox allow-downloads allow-forms allow-modals allow-pointer-lock allow-popups allow-scripts",
)
"""Pages of guests have no origin where they are shown at one of ours: they can read nothing of it."""

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_DOMAIN = re.compile(rb";[ \t]*domain[ \t]*=[^;]*", re.IGNORECASE)


class Reader:
    """Takes the bytes of one answer; `head` is there once it is `ready`, its body in `pieces`."""

    def __init__(self, method: str) -> None:
        self.status = 0
        self.headers: Headers = ()
        self.ready = False
        self.complete = False
        self.pieces: deque[bytes] = deque()
        self.rest = b""
        """What came behind the head of an answer that switches protocols."""
        self._method = method
        self._fields: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._interims = 0
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """Take what came. Errors: PortClosed for what is no answer."""
        if not self.ready:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.rest = data[upgrade.args[0] :]
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            raise cause if isinstance(cause, PortClosed) else _nonsense("it cannot be read") from error
        except httptools.HttpParserError as error:
            if not self.complete:  # what comes behind the end is nobody's
                raise _nonsense(str(error)) from error
        if not self.ready and self._head_bytes > HEAD_BYTES * (self._interims + 1):
            raise _nonsense("its head does not end")

    def end(self) -> None:
        """Nothing more will come. Errors: PortClosed when the answer is not whole."""
        if self.complete:
            return
        if not self.ready or self._bounded():
            raise PortClosed("upstream: the service closed the connection before its answer was whole")
        self.complete = True

    @property
    def bodiless(self) -> bool:
        """Whether nothing comes behind the head, whatever that says."""
        return self._method == "HEAD" or self.status in BODILESS or self.status == SWITCHING

    # -- called by the parser

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer, which is dropped."""
        if self.ready:
            return
        if len(self._fields) >= HEADERS_MOST:
            raise _nonsense("it has too many headers")
        self._fields.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        """The head, or that of an interim answer, which is passed over."""
        if self.complete:
            return
        self.status = self._parser.get_status_code()
        if 100 <= self.status < 200 and self.status != SWITCHING:
            self._interims += 1
            self._fields = []
            if self._interims > INTERIM_MOST:
                raise _nonsense("it never comes to the point")
            return
        _check(self.status, self._fields)
        self.headers = tuple(self._fields)
        self.ready = True
        self.complete = self.bodiless

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if self.ready and not self.complete:
            self.pieces.append(body)

    def on_message_complete(self) -> None:
        """The end, if it is that of the answer itself."""
        self.complete = self.complete or self.ready

    def _bounded(self) -> bool:
        return any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers)


def _nonsense(why: str) -> PortClosed:
    return PortClosed(f"upstream: what the service says is no HTTP answer: {why}")


def _check(status: int, fields: list[tuple[bytes, bytes]]) -> None:
    if not 200 <= status <= 599 and status != SWITCHING:
        raise _nonsense(f"its status is {status}")
    for name, value in fields:
        if not _TOKEN.fullmatch(name) or _CONTROL.search(value):
            raise _nonsense("a header of it has letters that none may have")
    lengths = [value for name, value in fields if name == b"content-length"]
    encodings = [value for name, value in fields if name == b"transfer-encoding"]
    if len(lengths) + len(encodings) > 1 or (encodings and encodings[0].lower() != b"chunked"):
        raise _nonsense("it says in two ways how long it is")


def told(headers: Headers, *, own_origin: bool) -> list[tuple[bytes, bytes]]:
    """The headers for the client, without their length.

    Unless the guest has an `own_origin`, nothing of them can change how a browser treats ours.
    """
    named = {
        member.strip().lower()
        for name, value in headers
        if name == b"connection"
        for member in value.split(b",")
    }
    kept: list[tuple[bytes, bytes]] = []
    for name, value in headers:
        if name in _OF_ONE_HOP or name in named or (not own_origin and name in _OF_THE_ORIGIN):
            continue
        kept.append((name, _DOMAIN.sub(b"", value) if name == b"set-cookie" else value))
    return kept if own_origin else [*kept, SANDBOX]
